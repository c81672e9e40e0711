"""The layer against a dense one with the same entries, in float64, on every backend that runs here."""

import copy
import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from corpus_for_tests import tiny_corpus
from dense_for_tests import DEVICES, HERE, TOLERANCE, USABLE, close, dense_result, generator
from hypothesis import given, settings
from hypothesis import strategies as st

import xmc_explore as xe
from xmc_explore.layers import fixed_fan_in
from xmc_explore.layers.fixed_fan_in import index_dtype, random_indices
from xmc_explore.memory import peak_resident
from xmc_explore.training import Run, TrainingError

SHAPES = [(1, 1, 1, 1), (3, 5, 7, 2), (64, 96, 33, 8), (5, 17, 300, 17), (2, 8, 1, 3), (33, 100, 1000, 31),
          (0, 6, 4, 2)]
# Triton's interpreter takes some 50 microseconds for each operation of each program; test_triton.py has its own shapes.
CASES = [(name, shape) for name in USABLE for shape in SHAPES
         if name != "triton" or DEVICES[name] == "cuda" or max(shape) < 100]


def make(d, n_labels, k, dtype=torch.float64, backend="reference", seed=0):
    g = generator(seed)
    layer = xe.FixedFanIn(d, n_labels, k, backend=backend, generator=g, dtype=dtype)
    with torch.no_grad():
        layer.bias.uniform_(-1, 1, generator=g)
    return layer


@pytest.mark.parametrize(("backend", "shape"), CASES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_a_dense_layer_with_the_same_entries(backend, dtype, shape):
    b, d, n_labels, k = shape
    layer = make(d, n_labels, k, dtype, backend)
    x = torch.randn(b, d, dtype=dtype, requires_grad=True)
    grad = torch.randn(b, n_labels, dtype=dtype)
    y = layer(x)
    assert y.shape == (b, n_labels) and y.dtype == dtype
    y.backward(grad)
    expected = dense_result(layer, x, grad)
    for found, want in zip((y.detach(), x.grad, layer.weight.grad, layer.bias.grad), expected, strict=True):
        assert found.dtype == dtype
        close(found, want, dtype)


@pytest.mark.parametrize("backend", USABLE)
def test_inputs_and_gradients_that_are_not_contiguous(backend):
    layer = make(12, 20, 5, backend=backend)
    x = torch.randn(12, 9, dtype=torch.float64).t().requires_grad_()
    grad = torch.randn(40, 9, dtype=torch.float64).t()[:, ::2]
    y = layer(x)
    y.backward(grad)
    for found, want in zip((y.detach(), x.grad, layer.weight.grad, layer.bias.grad), dense_result(layer, x, grad),
                           strict=True):
        close(found, want, torch.float64)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (2, 0)], ids=str)
def test_any_leading_shape(backend, lead):
    layer = make(6, 9, 3, backend=backend)
    x = torch.randn(*lead, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.to_dense(), layer.bias))


@pytest.mark.parametrize("backend", USABLE)
def test_without_bias_and_with_int32_indices(backend):
    indices = random_indices(7, 40_000, 3)
    assert indices.dtype == torch.int32
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 40_000, dtype=torch.float64, requires_grad=True)
    y = fixed_fan_in(x, weight, indices, backend=backend)
    y.sum().backward()
    dense = torch.zeros(7, 40_000, dtype=torch.float64).scatter_(1, indices.long(), weight.detach())
    torch.testing.assert_close(y.detach(), x.detach() @ dense.t())
    torch.testing.assert_close(x.grad, dense.sum(0).expand(2, -1))


@pytest.mark.parametrize("backend", USABLE)
def test_gradcheck(backend):
    layer = make(7, 11, 3, backend=backend)
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: fixed_fan_in(x, w, layer.indices, b, backend=backend), (x, layer.weight, layer.bias))


@pytest.mark.parametrize("backend", USABLE)
def test_only_the_gradients_that_are_needed(backend):
    layer = make(7, 11, 3, backend=backend)
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 7, dtype=torch.float64)
    layer(x).sum().backward()
    assert layer.weight.grad is None and torch.equal(layer.bias.grad, torch.full((11,), 4.0, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 40), n_labels=st.integers(1, 60), data=st.data())
def test_indices_are_distinct_and_in_range(d, n_labels, data):
    k = data.draw(st.integers(1, d))
    indices = random_indices(n_labels, d, k, generator=torch.Generator().manual_seed(d))
    assert all(len(set(row)) == k and 0 <= min(row) and max(row) < d for row in indices.tolist())


def test_indices_are_drawn_uniformly():
    counts = torch.bincount(random_indices(20_000, 10, 3, generator=torch.Generator().manual_seed(0)).flatten().long())
    expected = 20_000 * 3 / 10
    assert ((counts - expected).abs() < 5 * (expected * 0.7) ** 0.5).all()  # five standard deviations


def test_two_backends_and_two_runs_agree_bit_for_bit_on_the_draw():
    a, b = make(30, 50, 4, backend="reference"), make(30, 50, 4, backend="cpu")
    assert torch.equal(a.indices, b.indices) and torch.equal(a.weight, b.weight)


@pytest.mark.parametrize("kind", [xe.FixedFanIn, xe.GroupedFixedFanIn])
def test_weights_start_uniform_within_one_over_the_root_of_the_fan_in_and_biases_at_zero(kind):
    layer = kind(100, 2000, 16, generator=torch.Generator().manual_seed(0))
    assert layer.weight.abs().max() <= 1 / 4 and not layer.bias.any()
    assert float(layer.weight.detach().std()) == pytest.approx(1 / 4 / 3**0.5, rel=0.02)


def test_two_threads_may_use_the_compiled_kernels_at_once():
    from concurrent.futures import ThreadPoolExecutor

    layer = make(64, 5000, 16, torch.float32, "cpu")
    x = torch.randn(32, 64)
    alone = layer(x)
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(layer, [x] * 16):
            assert torch.equal(y, alone)


def test_index_dtype_is_the_smallest_that_holds_the_width():
    assert index_dtype(32768) == torch.int16 and index_dtype(32769) == torch.int32
    layer = xe.FixedFanIn(32768, 2, 32768)
    assert layer.indices.max() == 32767
    x = torch.randn(2, 32768)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.to_dense(), layer.bias), rtol=1e-3,
                               atol=1e-3)


def test_no_dense_matrix_is_made():
    """A layer whose dense twin would need 37 GiB trains a step in well under 1 GiB."""
    layer = xe.FixedFanIn(100_000, 100_000, 4)
    x = torch.randn(2, 100_000, requires_grad=True)
    before = peak_resident()
    layer(x).square().sum().backward()
    assert peak_resident() - before < 500_000 * 1024


def test_state_dict_round_trip_and_deepcopy():
    layer, other = make(9, 12, 4, seed=1), make(9, 12, 4, seed=2)
    x = torch.randn(3, 9, dtype=torch.float64)
    assert not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x)) and torch.equal(layer(x), copy.deepcopy(layer)(x))
    assert set(layer.state_dict()) == {"weight", "bias", "indices"}


def test_autocast_casts_the_input_to_the_weights():
    layer = make(9, 12, 4, torch.float32, "auto")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 9).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("arguments, words", [
    ((8, 4, 9), "fan_in=9 exceeds in_features=8"), ((0, 4, 1), "in_features must be at least 1"),
    ((8, 0, 1), "out_features must be at least 1"), ((8, 4, 0), "fan_in must be at least 1"),
])
def test_impossible_sizes(arguments, words):
    with pytest.raises(ValueError, match=words):
        xe.FixedFanIn(*arguments)


def test_bad_input_says_what_is_wrong():
    layer = make(8, 4, 3)
    with pytest.raises(ValueError, match=r"reads 8 features; x has shape \[2, 7\]"):
        layer(torch.randn(2, 7, dtype=torch.float64))
    with pytest.raises(TypeError, match="float32, torch.float64"):
        layer(torch.randn(2, 8))
    with pytest.raises(TypeError, match="int16 or int32"):
        fixed_fan_in(torch.randn(2, 8), torch.randn(4, 3), torch.zeros(4, 3).long())
    with pytest.raises(ValueError, match=r"\[4, 3\] and \[4, 2\]"):
        fixed_fan_in(torch.randn(2, 8), torch.randn(4, 3), torch.zeros(4, 2, dtype=torch.int16))
    with pytest.raises(ValueError, match="one device"):
        fixed_fan_in(torch.randn(2, 8, device="meta"), layer.weight, layer.indices)
    with pytest.raises(ValueError, match=r"bias must be \[L\] = \[4\]"):
        fixed_fan_in(torch.randn(2, 8).double(), layer.weight, layer.indices, torch.zeros(3).double())


def refused(layer, x, name):
    """Do one thing wrong with a float64 layer of 8 features, 4 labels and fan-in 3."""
    indices = layer.indices.clone()
    if name == "index too large":
        layer.indices[1, 0] = 8
    elif name == "index negative":
        layer.indices[1, 0] = -1
    elif name == "index twice":
        layer.indices[1, 0] = layer.indices[1, 1]
    elif name == "x of another dtype":
        x = x.float()
    elif name == "bias of another dtype":
        layer.bias.data = layer.bias.data.float()
    elif name == "x on another device":
        x = x.to("meta")
    elif name == "indices on another device":
        indices = indices.to("meta")
        return fixed_fan_in(x, layer.weight, indices, layer.bias, backend=layer.backend)
    elif name == "indices of 64 bits":
        return fixed_fan_in(x, layer.weight, indices.long(), layer.bias, backend=layer.backend)
    elif name == "fan-in too large":
        return fixed_fan_in(x[:, :2], layer.weight, indices, layer.bias, backend=layer.backend)
    return layer(x)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("name, error, words", [
    ("index too large", ValueError, r"must lie in 0\.\.7 \(in_features=8\); row 1 holds \[8, "),
    ("index negative", ValueError, r"must lie in 0\.\.7 \(in_features=8\); row 1 holds \[-1, "),
    ("index twice", ValueError, r"must be distinct; row 1 holds \["),
    ("x of another dtype", TypeError, r"got torch\.float32, torch\.float64, torch\.float64; convert with"),
    ("bias of another dtype", TypeError, r"got torch\.float64, torch\.float64, torch\.float32; convert with"),
    ("x on another device", ValueError, f"must be on one device; got meta, {HERE}, {HERE}, {HERE}"),
    ("indices on another device", ValueError,
     f"must be on one device; got {HERE}, {HERE}, meta, {HERE}"),
    ("indices of 64 bits", TypeError, r"indices must be int16 or int32; got torch\.int64"),
    ("fan-in too large", ValueError, "fan_in=3 exceeds in_features=2"),
])
def test_bad_input_is_refused_by_every_backend_before_a_kernel_reads_it(backend, name, error, words):
    layer = make(8, 4, 3, backend=backend)
    x = torch.randn(2, 8, dtype=torch.float64)
    layer(x)
    with pytest.raises(error, match=words):
        refused(layer, x, name)


@pytest.mark.parametrize("backend", USABLE)
def test_a_loss_that_is_not_finite_is_noticed_with_every_backend(backend):
    """A weight that is NaN reaches the loss through each backend's kernels, and the run says so."""
    recipe = xe.Recipe(encoder="features", aux_weight=0.0, fan_in=3, batch_size=8)
    torch.set_default_device(None)  # a run says itself where its tensors are
    run = Run(tiny_corpus(20, 8, texts=False), recipe, steps=2, device=DEVICES[backend])
    run.model.output.backend = backend
    with torch.no_grad():
        run.model.output.weight[2, 1] = float("nan")
    with pytest.raises(TrainingError, match="the loss is nan at step 1: the run has diverged"):
        run.step()


@pytest.mark.parametrize("changed, words", [
    (dict(find_spec=lambda name: None), "Triton is not installed"),
    (dict(interpret="0", cuda=False), "no CUDA device; with TRITON_INTERPRET=1"),
    (dict(interpret="1", error=RuntimeError("no driver")), r"does not load \(RuntimeError: no driver\)"),
])
def test_why_there_is_no_triton_is_said_in_words(monkeypatch, changed, words):
    module = sys.modules["xmc_explore.layers.backends"]
    monkeypatch.setattr(module, "find_spec", changed.get("find_spec", lambda name: True))
    monkeypatch.setenv("TRITON_INTERPRET", changed.get("interpret", "0"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: changed.get("cuda", False))
    if "error" in changed:
        monkeypatch.setattr(module, "import_module", lambda *arguments: (_ for _ in ()).throw(changed["error"]))
    found = module._find_triton()
    assert not found.usable and re.search(words, found.reason)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_an_interpreter_asked_for_too_late_is_not_used():
    code = ("import os, triton; os.environ['TRITON_INTERPRET'] = '1'; import xmc_explore as xe; "
            "print(xe.backends()['triton'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"})
    assert "usable=False" in done.stdout and "set it before Python starts" in done.stdout, done.stderr


def test_backends_are_listed_with_reasons_and_refused_in_words():
    known = xe.backends()
    assert known["reference"].usable and known["cpu"].usable
    assert all(b.reason for b in known.values())
    assert "reference" in repr(known)
    with pytest.raises(ValueError, match="'nonsense' is not known"):
        xe.FixedFanIn(8, 4, 2, backend="nonsense")
    unusable = [n for n, b in known.items() if not b.usable]
    for name in unusable:
        with pytest.raises(RuntimeError, match="cannot be used here"):
            xe.FixedFanIn(8, 4, 2, backend=name)
    assert xe.FixedFanIn(8, 4, 2).extra_repr().startswith("in_features=8, out_features=4, fan_in=2")
    assert np.isclose(xe.FixedFanIn(8, 4, 2).sparsity, 0.75)


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("change, error, words", [
    ({"x": None}, TypeError, "x must be a tensor; got NoneType"),
    ({"x": np.zeros((2, 8))}, TypeError, "x must be a tensor; got ndarray"),
    ({"weight": [[1.0]]}, TypeError, "weight must be a tensor; got list"),
    ({"indices": None}, TypeError, "indices must be a tensor; got NoneType"),
    ({"x": torch.zeros(2, 8).double()}, TypeError, "share one floating dtype"),
    ({"x": torch.zeros(2, 8).long()}, TypeError, "share one floating dtype"),
    ({"x": torch.zeros(2, 8, device="meta")}, ValueError, f"on one device; got meta, {HERE}, {HERE}, {HERE}"),
    ({"x": torch.zeros(2, 1)}, ValueError, "fan_in=2 exceeds in_features=1"),
    ({"indices": torch.tensor([[0, 8], [1, 2]], dtype=torch.int16)}, ValueError, r"0..7 .* row 0 holds \[0, 8\]"),
    ({"indices": torch.tensor([[0, 1], [-1, 2]], dtype=torch.int16)}, ValueError, r"0..7 .* row 1 holds \[-1, 2\]"),
    ({"indices": torch.tensor([[0, 1], [2, 2]], dtype=torch.int16)}, ValueError, r"distinct; row 1 holds \[2, 2\]"),
    ({"indices": torch.tensor([[0, 1], [2, 3]])}, TypeError, "int16 or int32; got torch.int64"),
    ({"weight": torch.zeros(2, 0), "indices": torch.zeros(2, 0, dtype=torch.int16)}, ValueError, "fan_in must be"),
    ({"x": torch.zeros(2, 8).to(torch.float8_e4m3fn), "weight": torch.zeros(2, 2).to(torch.float8_e4m3fn),
      "bias": None}, TypeError, "of 16 bits or more; got torch.float8_e4m3fn"),
])
def test_every_backend_refuses_the_same_in_the_same_words(backend, change, error, words):
    given = {"x": torch.zeros(2, 8), "weight": torch.zeros(2, 2), "bias": torch.zeros(2),
             "indices": torch.tensor([[0, 1], [2, 3]], dtype=torch.int16)}
    change = {k: v.to(given["x"].device) if torch.is_tensor(v) and v.device.type != "meta" else v
              for k, v in change.items()}  # made on the CPU, before the test's device is the default
    with pytest.raises(error, match=words):
        fixed_fan_in(**{**given, **change}, backend=backend)


@pytest.mark.parametrize("options, error, words", [
    ({"dtype": torch.int32}, TypeError, "dtype must be one of torch.float32, .*; got torch.int32"),
    ({"dtype": "float32"}, TypeError, "dtype must be one of torch.float32, .*; got float32"),
    ({"device": "cudaa"}, ValueError, "device='cudaa' cannot be used here"),
    ({"fan_in": 2.5}, ValueError, "fan_in must be at least 1, a whole number; got 2.5"),
    ({"fan_in": True}, ValueError, "got True"), ({"out_features": None}, ValueError, "out_features .* got None"),
    ({"in_features": "8"}, ValueError, "in_features .* got '8'"),
])
def test_a_layer_that_cannot_be_is_refused_in_words(options, error, words):
    with pytest.raises(error, match=words):
        xe.FixedFanIn(**{"in_features": 8, "out_features": 4, "fan_in": 2, **options})


def test_sizes_of_numpy_and_a_device_that_is_there_will_do():
    layer = xe.FixedFanIn(np.int64(8), np.int32(4), np.int64(2), device="cpu")
    assert layer(torch.zeros(3, 8)).shape == (3, 4) and type(layer.fan_in) is int
