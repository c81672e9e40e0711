"""Rounding to few bits: right on average when by chance, to the nearest otherwise, never anything but a neighbour."""

import math

import pytest
import torch

from xmc_explore.rounding import round_to

FORMATS = [torch.bfloat16, torch.float8_e4m3fn]
EACH_FORMAT = pytest.mark.parametrize("dtype", FORMATS, ids=str)
# Just above, between and just below two values, the step into the next power of two, and numbers of some size; then
# what lies below the smallest normal number, and below the smallest of all.
NORMAL = [1.001, 1.0390625 + 0.01, 1.9999, 0.3, 1 / 3, 37.7, 300.1, 446.9, 0.0157, 2.0**-6 * 1.01]
SUBNORMAL = {torch.bfloat16: [1e-38, 3.3e-39, 2.0**-126 * 0.999, 2.0**-133 * 1.3, 5e-41],
             torch.float8_e4m3fn: [0.0153, 0.007, 2.0**-9 * 1.4, 0.0003, 1.9e-3]}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def values(dtype):
    """Every finite number of a format, in float64, ascending, each once."""
    size = torch.int16 if dtype == torch.bfloat16 else torch.int8
    info = torch.iinfo(size)
    every = torch.arange(info.min, info.max + 1).to(size).view(dtype).double()
    return every[every.isfinite()].unique()


def neighbours(x, dtype):
    """The nearest numbers of the format at or below, and at or above x [n], in float64."""
    every = values(dtype)
    at = torch.searchsorted(every, x.double())
    exact = every[at] == x.double()
    return torch.where(exact, every[at], every[at - 1]), every[at]


@EACH_FORMAT
@pytest.mark.parametrize("sign", [1, -1])
def test_by_chance_it_is_right_on_average_and_gives_the_two_neighbours_alone(dtype, sign):
    n = 100_000
    x = sign * torch.tensor([*NORMAL, *SUBNORMAL[dtype]])
    below, above = neighbours(x, dtype)
    assert (below < above).all()
    found = round_to(x[:, None].expand(-1, n), dtype, gen()).double()
    assert found.shape == (len(x), n)
    assert ((found == below[:, None]) | (found == above[:, None])).all()
    spacing, chance = above - below, (x.double() - below) / (above - below)
    error = spacing * (chance * (1 - chance) / n).sqrt()  # standard, of the mean
    assert ((found.mean(1) - x.double()).abs() < 5 * error).all()


@EACH_FORMAT
def test_a_weight_that_takes_small_steps_arrives_by_chance_and_stays_where_it_is_otherwise(dtype):
    w = {name: torch.ones(10_000).to(dtype) for name in ("chance", "nearest")}
    g = gen()
    for _ in range(100):
        for name, held in w.items():
            w[name] = round_to(held.float() + 1e-3, dtype, g if name == "chance" else None)
    assert (w["nearest"] == 1).all()
    # 100 steps of 1e-3, each with a deviation of at most half a spacing
    assert w["chance"].double().mean() == pytest.approx(1.1, abs=5 * 10 * torch.finfo(dtype).eps / 2 / 10_000**0.5)


@EACH_FORMAT
@pytest.mark.parametrize("generator", [None, gen()], ids=["nearest", "chance"])
def test_what_the_format_holds_stays_to_the_sign_of_zero(dtype, generator):
    every = torch.cat([values(dtype).float(), torch.tensor([-0.0, 0.0])])
    found = round_to(every, dtype, generator)
    assert found.dtype == dtype and torch.equal(found.float(), every)
    assert torch.equal(found.float().signbit(), every.signbit())


@EACH_FORMAT
def test_to_the_nearest_it_is_the_nearer_neighbour_and_in_the_middle_the_even_one(dtype):
    x = torch.tensor([*NORMAL, *SUBNORMAL[dtype]])
    x = torch.cat([x, -x])
    below, above = neighbours(x, dtype)
    nearer = torch.where(x.double() - below < above - x.double(), below, above)
    assert torch.equal(round_to(x, dtype).double(), nearer)
    eps = torch.finfo(dtype).eps
    middles = torch.tensor([1 + eps / 2, 1 + 1.5 * eps, -1 - eps / 2])
    assert round_to(middles, dtype).tolist() == [1, 1 + 2 * eps, -1]


@EACH_FORMAT
@pytest.mark.parametrize("generator", [None, gen()], ids=["nearest", "chance"])
def test_what_is_too_large_becomes_the_largest_and_infinity_stays_where_there_is_one(dtype, generator):
    largest, infinity = torch.finfo(dtype).max, math.inf
    beyond = {torch.bfloat16: [torch.finfo(torch.float32).max, 3.3961e38],  # between the largest of the two formats
              torch.float8_e4m3fn: [449.0, 479.9, 480.0, 600.0, 1e30]}[dtype]
    x = torch.tensor(beyond)[:, None].expand(-1, 1000)
    assert (round_to(x, dtype, generator).float() == largest).all()
    assert (round_to(-x, dtype, generator).float() == -largest).all()
    kept = infinity if dtype == torch.bfloat16 else largest
    assert round_to(torch.tensor([infinity, -infinity]), dtype, generator).tolist() == [kept, -kept]


@EACH_FORMAT
@pytest.mark.parametrize("generator", [None, gen()], ids=["nearest", "chance"])
def test_nan_stays_nan_whatever_bits_it_carries(dtype, generator):
    bits = torch.tensor([0x7f800001, 0x7fc00000, 0x7fffffff, -1, -0x7fffff], dtype=torch.int64).to(torch.int32)
    x = bits.view(torch.float32)[:, None].expand(-1, 1000)
    assert x.isnan().all() and round_to(x, dtype, generator).float().isnan().all()


@EACH_FORMAT
def test_a_generator_of_the_same_seed_gives_the_same_bits_in_any_layout(dtype):
    x = torch.randn(7, 5, generator=gen())
    first, second, other = (round_to(x, dtype, gen(seed)).float() for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    below, above = (t.reshape(5, 7) for t in neighbours(x.t().flatten(), dtype))
    turned = round_to(x.t(), dtype, gen()).double()
    assert ((turned == below) | (turned == above)).all()
    assert round_to(torch.empty(0, 3), dtype, gen()).shape == (0, 3) and round_to(x[0, 0], dtype, gen()).shape == ()


def test_float32_is_not_rounded():
    x = torch.randn(5)
    assert round_to(x, torch.float32) is x and round_to(x, torch.float32, gen()) is x


@pytest.mark.parametrize("generator", [None, gen()], ids=["nearest", "chance"])
@pytest.mark.parametrize("given, dtype", [
    (torch.float32, torch.float16), (torch.float32, torch.float8_e5m2), (torch.float32, torch.int8),
    (torch.float64, torch.bfloat16), (torch.bfloat16, torch.float8_e4m3fn), (torch.float64, torch.float32),
    (torch.int64, torch.float32), (torch.bfloat16, torch.float32)], ids=str)
def test_other_dtypes_are_refused_in_words(given, dtype, generator):
    with pytest.raises(TypeError, match=f"float32 to bfloat16 or float8_e4m3fn; got {given} to {dtype}"):
        round_to(torch.ones(3).to(given), dtype, generator)
