"""Groups that share their indices, against a dense layer with the same entries, on every backend that runs here."""

import copy
import tracemalloc

import numpy as np
import pytest
import torch
from dense_for_tests import HERE, TOLERANCE, USABLE, autocast, close, dense_result, generator
from torch.nn.functional import linear

import xmc_explore as xe
from xmc_explore.layers import HeadTail, grouped_fixed_fan_in
from xmc_explore.logit_free import logit_gradient, loss_by_chunks, step_in_place, top_labels
from xmc_explore.losses import LOSSES

SHAPES = [(1, 1, 1, 1, 1), (3, 5, 7, 2, 3), (64, 96, 33, 8, 16), (5, 17, 300, 17, 16), (2, 8, 1, 3, 4),
          (33, 100, 1000, 31, 7), (0, 6, 4, 2, 2), (130, 40, 96, 16, 32), (17, 9, 64, 4, 1),
          (5, 12, 150, 4, 130)]  # B, D, L, K, G; the last of more labels than a Triton program takes
OP, BACKWARD = torch.ops.xmc_explore.grouped_fixed_fan_in, torch.ops.xmc_explore.grouped_fixed_fan_in_backward


def make(d, n_labels, k, size, dtype=torch.float64, backend="reference", shuffled=True, **options):
    g = generator()
    order = torch.randperm(n_labels, generator=g) if shuffled else None
    layer = xe.GroupedFixedFanIn(d, n_labels, k, size, order=order, backend=backend, generator=g, dtype=dtype,
                                 **options)
    if layer.bias is not None:
        with torch.no_grad():
            layer.bias.uniform_(-1, 1, generator=g)
    return layer


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_a_dense_layer_with_the_same_entries(backend, dtype, shape):
    b, *sizes = shape
    layer = make(*sizes, dtype, backend)
    x = torch.randn(b, sizes[0], dtype=dtype, requires_grad=True)
    grad = torch.randn(b, sizes[1], dtype=dtype)
    y = layer(x)
    assert y.shape == (b, sizes[1]) and y.dtype == dtype
    y.backward(grad)
    for found, want in zip((y.detach(), x.grad, layer.weight.grad, layer.bias.grad), dense_result(layer, x, grad),
                           strict=True):
        assert found.dtype == dtype
        close(found, want, dtype)


@pytest.mark.parametrize("backend", USABLE)
def test_inputs_and_gradients_that_are_not_contiguous_and_leading_shapes(backend):
    layer = make(12, 21, 5, 4, backend=backend)
    x = torch.randn(12, 9, dtype=torch.float64).t().requires_grad_()
    grad = torch.randn(42, 9, dtype=torch.float64).t()[:, ::2]
    y = layer(x)
    y.backward(grad)
    for found, want in zip((y.detach(), x.grad, layer.weight.grad, layer.bias.grad), dense_result(layer, x, grad),
                           strict=True):
        close(found, want, torch.float64)
    for lead in ((), (4,), (2, 3), (2, 0)):
        x = torch.randn(*lead, 12, dtype=torch.float64)
        torch.testing.assert_close(layer(x), linear(x, layer.to_dense(), layer.bias))


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("n_labels", [21, 4])
def test_index_tensors_that_are_not_contiguous(backend, n_labels):
    """Kernels take pointers: an order with other numbers between its own must not be read as it lies."""
    layer = make(12, n_labels, 5, 4, torch.float32, backend)
    x, grad = torch.randn(6, 12), torch.randn(6, n_labels)
    order = torch.stack([layer.order, layer.order.flip(0)], 1)[:, 0]
    indices = layer.indices.t().contiguous().t()
    found = []
    for idx, which in ((layer.indices, layer.order), (indices, order)):
        wide = x.clone().requires_grad_()
        y = grouped_fixed_fan_in(wide, layer.weight, idx, which, 4, layer.bias, backend=backend)
        found.append([y.detach(), *torch.autograd.grad(y, [wide, layer.weight, layer.bias], grad)])
    assert not order.is_contiguous()
    torch.testing.assert_close(*found)


def test_a_compiled_step_reads_an_order_that_is_not_contiguous():
    layer, rows = make(12, 21, 5, 4, torch.float32, "cpu"), torch.arange(6)
    twin, x = copy.deepcopy(layer), torch.randn(6, 12)
    twin.order = torch.stack([layer.order, layer.order.flip(0)], 1)[:, 0]
    for one in (layer, twin):
        step_in_place(one, torch.optim.SGD(one.parameters(), lr=0.1), x, rows, rows)
    assert torch.equal(twin.weight, layer.weight) and torch.equal(twin.bias, layer.bias)


@pytest.mark.parametrize("backend", USABLE)
def test_groups_of_one_are_the_layer_of_labels(backend):
    layer = make(12, 21, 5, 1, backend=backend)
    alone = xe.FixedFanIn(12, 21, 5, backend=backend, dtype=torch.float64)
    alone.load_state_dict({"weight": layer.weight, "bias": layer.bias, "indices": layer.indices_of(slice(None))})
    x = torch.randn(6, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), alone(x))


def test_labels_of_a_group_read_the_same_and_order_says_which_they_are():
    order = torch.tensor([4, 0, 3, 1, 2])
    layer = xe.GroupedFixedFanIn(30, 5, 4, 2, order=order)
    assert layer.indices.shape == (3, 4) and layer.group_of_label.tolist() == [0, 1, 2, 1, 0]
    read = [set(row.nonzero().flatten().tolist()) for row in layer.to_dense()]
    assert read[4] == read[0] != read[3] and read[3] == read[1] and len(read[2]) == 4
    assert xe.GroupedFixedFanIn(30, 5, 4, 2).order.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", USABLE)
def test_gradcheck_and_only_the_gradients_that_are_needed(backend):
    layer = make(7, 11, 3, 4, backend=backend)
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: grouped_fixed_fan_in(x, w, layer.indices, layer.order, 4, b, backend=backend),
        (x, layer.weight, layer.bias))
    layer.weight.requires_grad_(False)
    layer(x.detach()).sum().backward()
    assert layer.weight.grad is None and torch.equal(layer.bias.grad, torch.full((11,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(backend, bias):
    for b, n_labels, size in ((3, 11, 4), (1, 8, 2), (0, 5, 3)):
        layer = make(7, n_labels, 4, size, torch.float32, backend, bias=bias)
        x = torch.randn(7, b).t().requires_grad_()
        torch.library.opcheck(OP.default, (x, layer.weight, layer.indices, layer.order, size, layer.bias, backend))
        for needs in ([True, True, True], [False, True, False]):
            torch.library.opcheck(BACKWARD.default, (torch.randn(b, n_labels), x.detach(), layer.weight.detach(),
                                                     layer.indices, layer.order, size, needs, backend))


@pytest.mark.parametrize("backend", USABLE)
def test_compiled_and_under_autocast(backend):
    layer = make(7, 11, 4, 4, torch.float32, backend)
    torch._dynamo.reset()  # the limit on recompilations is one for all parameters of this test
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (3, 5):
        x = torch.randn(b, 7)
        torch.testing.assert_close(compiled(x), layer(x))
    x = x.bfloat16().requires_grad_()
    with autocast():
        y = compiled(x)
    y.sum().backward()
    assert y.dtype == torch.float32 and x.grad.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y, layer(x.float()))
    layer.indices[1] = (layer.indices[1] + 1) % 7
    torch.testing.assert_close(compiled(x.float()), layer(x.float()))
    dx, = torch.autograd.grad(layer(x.float()).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        dx.sum().backward()


# --- without logits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("chunk", [None, 1, 8, 10])
def test_the_step_without_logits_gives_the_numbers_of_the_plain_path(loss, shuffled, chunk):
    layer = make(13, 37, 5, 4, shuffled=shuffled, backend="auto")
    x = torch.randn(6, 13, dtype=torch.float64)
    rows, columns = (torch.rand(6, 37) < 0.15).nonzero(as_tuple=True)
    plain_x = x.clone().requires_grad_()
    plain = LOSSES[loss](layer(plain_x), rows, columns)
    expected = torch.autograd.grad(plain, [plain_x, layer.weight, layer.bias])
    x.requires_grad_()
    value = loss_by_chunks(layer, x, rows, columns, loss=loss, chunk=chunk)
    value.backward()
    torch.testing.assert_close(value, plain)
    for found, want in zip((x.grad, layer.weight.grad, layer.bias.grad), expected, strict=True):
        torch.testing.assert_close(found, want)
    twin, labels = copy.deepcopy(layer), torch.tensor([30, 2, 17])
    optimizers = [torch.optim.Adam(part.parameters(), lr=0.01) for part in (layer, twin)]
    optimizers[0].step()
    step_in_place(twin, optimizers[1], x, rows, columns, loss=loss, chunk=chunk)
    torch.testing.assert_close(twin.weight, layer.weight)
    logits = layer(x).detach().requires_grad_()
    LOSSES[loss](logits, rows, columns).backward()
    torch.testing.assert_close(logit_gradient(layer, x, labels, rows, columns, loss=loss), logits.grad[:, labels])
    scores, found = top_labels(layer, x, 3, chunk=chunk)
    torch.testing.assert_close(scores, layer(x).topk(3).values)


OPTIMIZERS = {
    "none": None,
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=0.02),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1, eps=1e-3),
}
UNEVEN = [(1, 9, 40, 4, 3), (31, 17, 1000, 7, 16), (70, 23, 301, 9, 5), (130, 64, 2000, 32, 16), (5, 9, 3, 4, 7),
          (0, 9, 20, 4, 4), (17, 9, 64, 4, 1)]  # B, D, L, K, G


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", UNEVEN, ids=str)
def test_the_compiled_step_is_that_of_autograd_and_torch_in_float64(shape, name, loss):
    batch, *sizes = shape
    layer = make(*sizes, torch.float32, "auto")
    exact = copy.deepcopy(layer).double()
    optimizers = [OPTIMIZERS[name](list(m.parameters())) for m in (layer, exact) if OPTIMIZERS[name]]
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, sizes[0], generator=g).requires_grad_()
        rows, columns = (torch.rand(batch, sizes[1], generator=g) < 0.1).nonzero(as_tuple=True)
        wide, want_loss = x.detach().double().requires_grad_(), seed != 1
        exact.zero_grad(), layer.zero_grad()
        expected = LOSSES[loss](exact(wide), rows, columns)
        expected.backward()
        if optimizers:
            optimizers[1].step()
            dx, value = step_in_place(layer, optimizers[0], x, rows, columns, loss=loss, want_loss=want_loss)
            pairs = zip(layer.parameters(), exact.parameters(), strict=True)
        else:
            value = loss_by_chunks(layer, x, rows, columns, loss=loss, want_loss=want_loss)
            value.backward()
            dx, value = x.grad, value.detach() if want_loss else None
            pairs = ((p.grad, q.grad) for p, q in zip(layer.parameters(), exact.parameters(), strict=True))
        assert (value is None) == (not want_loss)
        if want_loss:
            torch.testing.assert_close(value.double(), expected.detach(), rtol=2e-6, atol=5e-6)
        torch.testing.assert_close(dx.double(), wide.grad, rtol=2e-5, atol=2e-5)
        for found, want in pairs:
            torch.testing.assert_close(found.double(), want, rtol=2e-5, atol=2e-5)


def test_the_compiled_step_is_the_one_that_runs_and_holds_no_logits(monkeypatch):
    cpu_grouped = pytest.importorskip("xmc_explore.layers.cpu_grouped")
    layer = make(24, 4000, 5, 16, torch.float32, "cpu")
    seen, step = [], cpu_grouped.fused_step
    monkeypatch.setattr(cpu_grouped, "fused_step", lambda *a, **k: seen.append(k["update"].kind) or step(*a, **k))
    x, rows = torch.randn(64, 24), torch.arange(64)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    step_in_place(layer, sgd, x, rows, rows * 60)  # compiles
    tracemalloc.start()  # sees what NumPy takes
    step_in_place(layer, sgd, x, rows, rows * 60)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 * 4000 * 4 / 4
    loss_by_chunks(layer, x.requires_grad_(), rows, rows * 60).backward()
    both = HeadTail(torch.nn.Linear(24, 10), layer, torch.arange(10))
    step_in_place(both, torch.optim.SGD(both.parameters(), lr=0.1), x, rows, rows * 60)
    assert seen == ["sgd", "sgd", "none", "sgd"]


def test_a_step_refuses_weights_that_it_cannot_change_in_place():
    cpu_grouped = pytest.importorskip("xmc_explore.layers.cpu_grouped")
    layer, none = make(8, 10, 3, 4, torch.float32, "cpu"), torch.empty(0, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"indices must be a contiguous torch.int16 tensor \[3, 3\]"):
        cpu_grouped.fused_step(torch.randn(2, 8), layer.weight, layer.indices[:2], layer.bias, (none, none),
                               groups=(layer.order, layer.group_of_label, 4), loss="bce", scale=1.0, want_loss=False,
                               update=cpu_grouped.Update("sgd", lr=0.1))


def test_low_precision_weights_take_a_step_in_place():
    layer = make(13, 37, 5, 4, torch.float32).to(torch.bfloat16)
    layer.bias.data = layer.bias.data.float()
    before = layer.weight.clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    step_in_place(layer, optimizer, torch.randn(6, 13), torch.tensor([0, 3]), torch.tensor([5, 9]),
                  rounding=torch.Generator().manual_seed(0))
    assert layer.weight.dtype == torch.bfloat16 and (layer.weight != before).any()


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, words", [
    ((8, 4, 9), "fan_in=9 exceeds in_features=8"), ((0, 4, 1), "in_features must be at least 1"),
    ((8, 4, 2, 0), "group_size must be at least 1"),
])
def test_impossible_sizes(arguments, words):
    with pytest.raises(ValueError, match=words):
        xe.GroupedFixedFanIn(*arguments)


@pytest.mark.parametrize("order, words", [([0, 1, 2], "of shape"), ([0, 1, 1, 3], "position 1 is wrong"),
                                          ([0, 1, 2, 4], "each of the labels 0..3 once")])
def test_an_order_that_is_no_permutation(order, words):
    with pytest.raises(ValueError, match=words):
        xe.GroupedFixedFanIn(8, 4, 2, 2, order=torch.tensor(order))


@pytest.mark.parametrize("backend", USABLE)
def test_buffers_written_by_hand_are_checked_before_a_kernel_reads_them(backend):
    layer = make(8, 6, 3, 2, backend=backend)
    x = torch.randn(2, 8, dtype=torch.float64)
    layer(x)
    layer.indices[1, 0] = 8
    with pytest.raises(ValueError, match="row 1 holds"):
        layer(x)
    layer = make(8, 6, 3, 2, backend=backend)
    layer(x)
    layer.order[0] = 6
    with pytest.raises(ValueError, match="once"):
        layer(x)


def test_bad_input_says_what_is_wrong():
    layer = make(8, 4, 3, 2)
    with pytest.raises(ValueError, match=r"reads 8 features; x has shape \[2, 7\]"):
        layer(torch.randn(2, 7, dtype=torch.float64))
    with pytest.raises(TypeError, match="float32, torch.float64"):
        layer(torch.randn(2, 8))
    with pytest.raises(ValueError, match=r"ceil\(L / G\), K\] with G=3; got \[4, 3\] and \[1, 3\]"):
        grouped_fixed_fan_in(torch.randn(2, 8), layer.weight, layer.indices[:1], layer.order, 3)
    with pytest.raises(ValueError, match=r"order must be int32 \[L\] = \[4\]"):
        grouped_fixed_fan_in(torch.randn(2, 8), layer.weight, layer.indices, layer.order.long(), 2)


def test_state_dict_round_trip_keeps_the_groups():
    layer, other = make(9, 12, 4, 5), make(9, 12, 4, 5, shuffled=False)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, 9, dtype=torch.float64)
    assert torch.equal(layer(x), other(x)) and torch.equal(other.group_of_label, layer.group_of_label)
    assert layer.extra_repr().startswith("in_features=9, out_features=12, fan_in=4, group_size=5")
    assert layer.sparsity == pytest.approx(5 / 9)


@pytest.mark.parametrize("options, words", [
    ({"group_size": None}, "group_size .* got None"), ({"group_size": 2.5}, "group_size .* got 2.5"),
    ({"out_features": "4"}, "out_features .* got '4'"), ({"order": torch.ones(4)}, "got torch.float32 of"),
])
def test_groups_that_cannot_be_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        xe.GroupedFixedFanIn(**{"in_features": 8, "out_features": 4, "fan_in": 2, **options})


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("name, words", [
    ("x", f"must be on one device; got meta, {HERE}, {HERE}, {HERE}"),
    ("weight", rf"order must be int32 \[L\] = \[4\] on meta; got torch.int32 \[4\] on {HERE}"),
    ("indices", f"must be on one device; got {HERE}, {HERE}, meta, {HERE}"),
    ("bias", f"must be on one device; got {HERE}, {HERE}, {HERE}, meta"),
    ("order", rf"order must be int32 \[L\] = \[4\] on {HERE}; got torch.int32 \[4\] on meta")])
def test_groups_refuse_tensors_on_several_devices(backend, name, words):
    layer = make(8, 4, 3, 2, backend=backend)
    given = {"x": torch.randn(2, 8, dtype=torch.float64), "weight": layer.weight, "indices": layer.indices,
             "order": layer.order, "bias": layer.bias}
    grouped_fixed_fan_in(**given, group_size=2, backend=backend)
    with pytest.raises(ValueError, match=words):
        grouped_fixed_fan_in(**{**given, name: given[name].to("meta")}, group_size=2, backend=backend)


@pytest.mark.parametrize("backend", USABLE)
def test_groups_take_tensors_only(backend):
    layer = xe.GroupedFixedFanIn(8, 4, 2, 2, backend=backend)
    for wrong in (None, [1.0], np.zeros((2, 8))):
        with pytest.raises(TypeError, match=f"x must be a tensor; got {type(wrong).__name__}"):
            layer(wrong)
