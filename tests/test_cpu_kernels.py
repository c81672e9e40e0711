"""The CPU kernels, each against the same formula in float64: layouts, panels, threads, and the step without logits."""

import math
import re
import threading

import numpy as np
import pytest
import torch
from llvmlite import binding
from numba import cfunc, njit, types

from xmc_explore.layers import cpu, reference, simd
from xmc_explore.layers.fixed_fan_in import random_indices
from xmc_explore.losses import LOSSES

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def make(batch, n_features, n_labels, fan_in, dtype=torch.float32, index=torch.int16, seed=0):
    """x [B, D], weight [L, K], indices [L, K], bias [L]."""
    g = torch.Generator().manual_seed(seed)
    indices = random_indices(n_labels, n_features, fan_in, generator=g).to(index)
    return (torch.randn(batch, n_features, generator=g, dtype=dtype),
            torch.randn(n_labels, fan_in, generator=g, dtype=dtype), indices,
            torch.randn(n_labels, generator=g, dtype=dtype))


def close(found, expected, tolerance):
    assert found.shape == expected.shape
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance * scale)


# --- vectors ------------------------------------------------------------------------------------------------------


@njit
def _apply_exp(values, found):
    for i in range(0, values.size, 16):
        simd.store(simd.at(found, 0), i, simd.exp(simd.load(simd.at(values, i), 0, simd.splat(np.float32(0), 16))))


@njit
def _sums(values, found):
    like, start = simd.splat(values[0], 64), simd.at(values, 0)
    a, b = simd.load(start, 0, like), simd.load(start, 64, like)
    c, d = simd.load(start, 128, like), simd.load(start, 192, like)
    simd.store(simd.at(found, 0), 0, simd.totals(a, b, c, d))
    found[4], found[5] = simd.total(simd.relu(a)), simd.width(a)


def test_exp_of_a_vector_is_right_to_the_last_bits_and_keeps_nan():
    values = np.concatenate([np.linspace(-87, 88, 20_000 - 3), [0, -1e-30, np.nan]]).astype(np.float32)
    found = np.empty_like(values)
    _apply_exp(values, found)
    expected = np.exp(values.astype(np.float64))
    assert np.abs(found / expected - 1)[:-1].max() < 2e-7 and np.isnan(found[-1]) and found[-3] == 1
    payloads = np.array([0x7f800001, 0xffc001ff, 0x7fffffff, 0xff8fffff] * 4, np.uint32)
    found = np.empty(16, np.float32)
    _apply_exp(payloads.view(np.float32), found)
    assert np.isnan(found).all()  # whatever bits a NaN carries: they reach the exponent of a power of 2
    beyond, found = np.array([-1e9, -np.inf, 1e9, np.inf] * 4, np.float32), np.empty(16, np.float32)
    _apply_exp(beyond, found)
    assert np.isfinite(found).all() and (found[:2] < 2e-38).all() and (found[2:4] > 1e38).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_four_sums_at_once_stay_apart(dtype):
    values, found = np.random.default_rng(0).standard_normal(256).astype(dtype), np.empty(6, dtype)
    _sums(values, found)
    parts = values.reshape(4, 64).astype(np.float64)
    np.testing.assert_allclose(found[:4], parts.sum(1), atol=1e-5)
    np.testing.assert_allclose(found[4:], [parts[0].clip(0).sum(), 64], atol=1e-5)


def test_the_score_of_a_label_becomes_neon_code():
    """On an ARM processor that is not here: multiply-add of four floats by one of four weights, and no call."""
    binding.initialize_all_targets(), binding.initialize_all_asmprinters()
    floats = types.CPointer(types.float32)

    @cfunc(types.void(floats, floats, types.CPointer(types.int16), floats, floats), fastmath={"contract"})
    def score(x, weight, indices, bias, y):
        simd.store(y, 0, cpu._score(x, weight, indices, bias, 32, 0, simd.splat(np.float32(0), 32)))

    triple = "aarch64-unknown-linux-gnu"
    try:
        machine = binding.Target.from_triple(triple).create_target_machine(cpu="neoverse-n1", opt=3)
    except RuntimeError as error:
        pytest.skip(f"this LLVM makes no code for ARM: {error}")
    code = re.sub(r"target triple = .*", f'target triple = "{triple}"', score.inspect_llvm())
    code = re.sub(r"target datalayout = .*", f'target datalayout = "{machine.target_data}"', code)
    made = machine.emit_assembly(binding.parse_assembly(code))
    assert "llvm.arithmetic.fence" in code and "fence" not in made
    assert len(re.findall(r"\tfmla\tv\d+\.4s, v\d+\.4s, v\d+\.s\[[0-3]\]", made)) >= 32
    assert "\tfmadd\t" not in made


# --- forward and backward -----------------------------------------------------------------------------------------

# B, D, L, K around the edges: a panel not full, one document over, fan-in no multiple of four, features that no label
# of a block reads, more features than slots, one label, threads that get unequal shares.
SHAPES = [(1, 40, 300, 8), (16, 7, 33, 7), (17, 50, 131, 5), (32, 64, 1000, 9), (33, 20, 257, 13), (64, 96, 700, 32),
          (65, 30, 1030, 11), (130, 33, 290, 17), (70, 5000, 40, 3), (200, 12, 1, 12), (3, 5, 0, 2)]


@pytest.mark.parametrize("dtype, index", [(torch.float32, torch.int16), (torch.float64, torch.int32)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_equal_the_reference(shape, dtype, index):
    x, weight, indices, bias = make(*shape, dtype, index)
    grad = torch.randn(len(weight), len(x), dtype=dtype).t()
    wide = x.double(), weight.double(), indices
    close(cpu.forward(x, weight, indices, bias), reference.forward(*wide, bias.double()), TOLERANCE[dtype])
    close(cpu.forward(x, weight, indices, None), reference.forward(*wide, None), TOLERANCE[dtype])
    expected = reference.backward(grad.double(), *wide, (True, True, True))
    for found, want in zip(cpu.backward(grad, x, weight, indices, (True, True, True)), expected, strict=True):
        close(found, want, TOLERANCE[dtype])


@pytest.mark.parametrize("batch", [1, 5, 70, 128])
def test_the_gradient_may_come_in_any_layout(batch):
    x, weight, indices, _ = make(batch, 31, 150, 9)
    whole = torch.randn(2, 151, 3, batch + 5)
    for grad in (whole[0, 1:, 0, :batch].t(), whole[:, :150, :1, 2].reshape(2, 150)[:1].expand(batch, 150),
                 torch.randn(batch, 150), torch.randn(batch, 300)[:, ::2], torch.ones(()).expand(batch, 150)):
        expected = reference.backward(grad.double(), x.double(), weight.double(), indices, (True, True, True))
        for found, want in zip(cpu.backward(grad, x, weight, indices, (True, True, True)), expected, strict=True):
            close(found, want, 1e-5)


@pytest.mark.parametrize("batch", [5, 70])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(monkeypatch, batch, threads):
    monkeypatch.setattr(cpu, "parts", lambda work: threads)
    test_kernels_equal_the_reference((batch, 31, 1000, 9), torch.float32, torch.int16)
    step("bce", "adam", (batch, 31, 1000, 9))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_labels_and_the_caller_is_one_of_them(monkeypatch, threads):
    monkeypatch.setattr(cpu, "parts", lambda work: threads)
    for n_labels in (0, 1, 16, 1000):
        found = cpu._over_labels(lambda *part: (*part, threading.get_ident()), n_labels, 0)
        assert [part[0] for part in found] == list(range(threads))
        assert [label for _, start, stop, _ in found for label in range(start, stop)] == list(range(n_labels))
        assert found[0][3] == threading.get_ident() and all(part[3] != found[0][3] for part in found[1:])


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("by_feature", [True, False])
def test_any_way_through_is_right(monkeypatch, size, by_feature):
    """Also the ways that this machine would not take: panels are narrower where registers are."""
    monkeypatch.setattr(cpu._Way, "best", lambda *_, **__: cpu._Way(size, 24, by_feature))
    test_kernels_equal_the_reference((70, 31, 200, 9), torch.float32, torch.int16)


def test_by_feature_for_many_documents_where_features_are_read_often():
    assert cpu._Way.best(65, 768, 10_000, 32).by_feature and cpu._Way.best(256, 384, 10_000, 8).by_feature
    assert not cpu._Way.best(64, 768, 10_000, 32).by_feature and not cpu._Way.best(256, 70_000, 9, 70_000).by_feature
    assert not cpu._Way.best(256, 100_000, 10_000, 4).by_feature and not cpu._Way.best(256, 768, 10, 32).by_feature
    assert [cpu._Way.best(b, 768, 10_000, 32).size for b in (1, 16, 17, 32, 33)] == [16, 16, 32, 32, cpu.WIDE]


def test_the_values_of_a_nan_reach_their_documents_only():
    x, weight, indices, bias = make(70, 12, 50, 3)
    x[1, 2] = math.nan
    bad = (indices == 2).any(1)
    y = cpu.forward(x, weight, indices, bias)
    assert y[1, bad].isnan().all() and y[1, ~bad].isfinite().all() and y[2].isfinite().all()
    dx, dweight, dbias = cpu.backward(torch.ones_like(y), x, weight, indices, (True, True, True))
    assert dx.isfinite().all() and torch.equal(dweight.isnan(), indices == 2) and dbias.isfinite().all()


# --- the step without logits --------------------------------------------------------------------------------------


def pairs_of(batch, n_labels, seed=0):
    """Some positives: label, row, sorted; labels on both ends carry one."""
    g = torch.Generator().manual_seed(seed)
    flat = torch.unique(torch.cat([torch.randint(0, batch * n_labels, (3 * batch,), generator=g),
                                   torch.tensor([0, batch * n_labels - 1])]))
    return (flat // batch).int(), (flat % batch).int()


def step(loss, kind, shape, *, bias=True, index=torch.int16):
    """`fused_step` three times, against autograd and torch's optimizers in float64."""
    x, weight, indices, b = make(*shape, torch.float32, index)
    labels, rows = pairs_of(shape[0], shape[2])
    wide = weight.double().requires_grad_()
    wide_b = b.double().requires_grad_() if bias else None
    parameters = [wide, wide_b] if bias else [wide]
    b = b if bias else None
    zeros = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    options = {"lr": 0.03, "weight_decay": 0.1}
    optimizer, state = None, zeros
    if kind == "sgd":
        optimizer, state = torch.optim.SGD(parameters, **options), []
    elif kind == "momentum":
        options["momentum"] = 0.9
        optimizer = torch.optim.SGD(parameters, **options)
    elif kind == "adam":
        options |= {"betas": (0.8, 0.95), "eps": 1e-3}  # a tiny eps lets the rounding of a zero gradient move a weight
        optimizer, state = torch.optim.AdamW(parameters, **options), [t for z in zeros for t in (z, z.clone())]
    for n in range(1, 4):
        x = x + 0.1
        wide_x = x.double().requires_grad_()
        y = reference_with_gradient(wide_x, wide, indices, wide_b)
        value = LOSSES[loss](y, rows.long(), labels.long())
        gradients = torch.autograd.grad(value, [wide_x, *parameters])
        found_dx, found = cpu.fused_step(
            x, weight, indices, b, (labels, rows), loss=loss, scale=1 / len(x), want_loss=n != 2,
            update=cpu.Update(kind if kind != "momentum" else "sgd", step=n, state=tuple(state), **options))
        close(found_dx, gradients[0], 2e-5)
        if n == 2:
            assert found is None
        else:
            assert math.isclose(found, value.item(), rel_tol=2e-6, abs_tol=5e-6)
        if kind == "none":
            for got, want in zip(state, gradients[1:], strict=True):
                close(got, want, 1e-5)
            return
        for p, gradient in zip(parameters, gradients[1:], strict=True):
            p.grad = gradient
        optimizer.step()
        for got, want in zip([weight, b] if bias else [weight], parameters, strict=True):
            close(got, want.detach(), 2e-5)


def reference_with_gradient(x, weight, indices, bias):
    y = torch.einsum("blk,lk->bl", x[:, indices.long()], weight)
    return y if bias is None else y + bias


@pytest.mark.parametrize("loss", cpu.LOSSES)
@pytest.mark.parametrize("kind", ["none", "sgd", "momentum", "adam"])
@pytest.mark.parametrize("shape", [(1, 9, 40, 4), (31, 17, 1000, 7), (70, 23, 300, 9)], ids=str)
def test_step_without_logits_equals_autograd_and_the_optimizers_of_torch(loss, kind, shape):
    step(loss, kind, shape)


@pytest.mark.parametrize("loss", cpu.LOSSES)
def test_step_without_bias_and_with_one_label(loss):
    step(loss, "adam", (5, 9, 1, 4), bias=False)
    step(loss, "none", (5, 9, 1, 9), index=torch.int32)


def test_loss_of_confident_labels_keeps_its_digits():
    """1e5 labels at a logit of -14 lose 0.083 together; log(1 + e) in float32 would lose the digits of each e."""
    x, weight, indices, _ = make(4, 8, 100_000, 2)
    bias = torch.full((100_000,), -14.0)
    weight.zero_()
    none = torch.empty(0, dtype=torch.int32)
    state = (torch.empty_like(weight), torch.empty_like(bias))
    _, value = cpu.fused_step(x, weight, indices, bias, (none, none), loss="bce", scale=0.25, want_loss=True,
                              update=cpu.Update("none", state=state))
    assert math.isclose(value, 100_000 * math.log1p(math.exp(-14)), rel_tol=1e-5)


@pytest.mark.parametrize("batch", [3, 64])
def test_gradients_of_logits_over_the_whole_range(batch):
    """Of label l at a logit of bias[l], which one document carries and the others do not."""
    bias = torch.cat([torch.linspace(-100, 100, 2000), torch.tensor([0.0, -0.0, 1e-30, math.inf, -math.inf, math.nan])])
    n_labels = len(bias)
    x, weight, indices = torch.zeros(batch, 4), torch.zeros(n_labels, 2), random_indices(n_labels, 4, 2).short()
    everywhere = torch.arange(n_labels, dtype=torch.int32)

    def gradient(loss, pairs):
        state = torch.empty_like(weight), torch.empty_like(bias)
        cpu.fused_step(x, weight, indices, bias, pairs, loss=loss, scale=1.0, want_loss=False,
                       update=cpu.Update("none", state=state))
        return state[1].double()

    wide, none = bias.double(), (everywhere[:0], everywhere[:0])
    one = everywhere, torch.full_like(everywhere, batch - 1)
    sigmoid = wide.sigmoid()
    torch.testing.assert_close(gradient("bce", none), batch * sigmoid, rtol=5e-7, atol=batch * 1e-38, equal_nan=True)
    torch.testing.assert_close(gradient("bce", one), batch * sigmoid - 1, rtol=5e-7, atol=5e-7, equal_nan=True)
    above, below = 2 * (1 + wide).relu(), -2 * (1 - wide).relu()
    torch.testing.assert_close(gradient("squared_hinge", none), batch * above, rtol=5e-7, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(gradient("squared_hinge", one), (batch - 1) * above + below, rtol=5e-7, atol=1e-6,
                               equal_nan=True)


@pytest.mark.parametrize("loss", cpu.LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_step_with_numbers_that_are_not_finite(bad, loss):
    """They show in the loss, in the gradient of x where they were, and in no other document's."""
    x, weight, indices, bias = make(20, 12, 50, 3)
    x[1] = bad
    pairs = torch.arange(50, dtype=torch.int32), torch.ones(50, dtype=torch.int32)  # the bad one carries every label
    dx, value = cpu.fused_step(x, weight, indices, bias, pairs, loss=loss, scale=1.0, want_loss=True,
                               update=cpu.Update("none", state=(torch.empty_like(weight), torch.empty_like(bias))))
    assert not math.isfinite(value) and dx[[0, *range(2, 20)]].isfinite().all()
    if math.isnan(bad):
        assert dx[1].isnan().all()


def test_step_is_seen_by_autograd():
    x, weight, indices, bias = make(4, 8, 10, 3)
    weight.requires_grad_()
    later = (weight * weight).sum()
    none = torch.empty(0, dtype=torch.int32)
    cpu.fused_step(x, weight, indices, bias, (none, none), loss="bce", scale=1.0, want_loss=False,
                   update=cpu.Update("sgd", lr=0.1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        later.backward()


def test_step_with_no_documents_leaves_the_gradient_zero():
    x, weight, indices, bias = make(0, 12, 50, 3)
    none = torch.empty(0, dtype=torch.int32)
    state = torch.full_like(weight, 7), torch.full_like(bias, 7)
    dx, value = cpu.fused_step(x, weight, indices, bias, (none, none), loss="bce", scale=1.0, want_loss=True,
                               update=cpu.Update("none", state=state))
    assert dx.shape == (0, 12) and value == 0 and not state[0].any() and not state[1].any()


def test_step_refuses_what_it_cannot_change_in_place():
    x, weight, indices, bias = make(4, 8, 10, 3)
    none = torch.empty(0, dtype=torch.int32)

    def call(weight=weight, loss="bce", **update):
        cpu.fused_step(x, weight, indices, bias, (none, none), loss=loss, scale=1.0, want_loss=False,
                       update=cpu.Update(**({"kind": "sgd", "lr": 0.1} | update)))

    with pytest.raises(ValueError, match="weight must be a contiguous torch.float32 .* got torch.float64"):
        call(weight.double())
    with pytest.raises(ValueError, match="not contiguous"):
        call(weight.t().contiguous().t())
    with pytest.raises(ValueError, match="choose one of"):
        call(loss="hinge")
    with pytest.raises(ValueError, match="choose one of 'none', 'sgd', 'adam'"):
        call(kind="lion")
    with pytest.raises(ValueError, match="must hold 4 tensors"):
        call(kind="adam")
    with pytest.raises(ValueError, match=r"update.state\[0\] must be"):
        call(momentum=0.9, state=(bias, bias))
