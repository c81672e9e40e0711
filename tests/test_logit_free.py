"""The step without logits: the numbers of the plain path, chunk by chunk, and nothing of shape [B, L]."""

import copy
import tracemalloc

import pytest
import torch
from dense_for_tests import USABLE, generator
from torch.utils._python_dispatch import TorchDispatchMode

import xmc_explore as xe
from xmc_explore.logit_free import logit_gradient, loss_by_chunks, part_of, step_in_place, top_labels
from xmc_explore.losses import LOSSES

D, L, K = 13, 37, 5


def make(kind, dtype=torch.float64, bias=True, backend="auto", n_labels=L):
    g = generator(1)
    layer = (torch.nn.Linear(D, n_labels, bias=bias, dtype=dtype) if kind == "dense"
             else xe.FixedFanIn(D, n_labels, K, bias=bias, dtype=dtype, generator=g, backend=backend))
    if bias:
        with torch.no_grad():
            layer.bias.normal_(generator=g)
    return layer


def batch(size=6, dtype=torch.float64, n_labels=L, seed=2, share=0.15):
    g = generator(seed)
    y = torch.rand(size, n_labels, generator=g) < share
    rows, columns = y.nonzero(as_tuple=True)
    shuffled = torch.randperm(len(rows), generator=g)
    return torch.randn(size, D, dtype=dtype, generator=g), rows[shuffled], columns[shuffled]


LAYERS = [("dense", "auto"), *(("sparse", name) for name in USABLE)]


@pytest.mark.parametrize("chunk", [None, 1, 7, 37, 100])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind, backend", LAYERS)
def test_gradients_handed_over_are_those_of_the_plain_path(kind, backend, loss, chunk):
    layer = make(kind, backend=backend)
    x, rows, columns = batch()
    plain_x, x = x.clone().requires_grad_(), x.requires_grad_()
    plain = LOSSES[loss](layer(plain_x), rows, columns)
    expected = torch.autograd.grad(0.3 * plain, [plain_x, layer.weight, layer.bias])
    value = loss_by_chunks(layer, x, rows, columns, loss=loss, chunk=chunk)
    torch.testing.assert_close(value, plain.detach(), rtol=1e-12, atol=1e-12)
    (0.3 * value).backward()
    for found, wanted in zip((x.grad, layer.weight.grad, layer.bias.grad), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind, backend", LAYERS)
def test_a_part_gives_the_gradients_that_are_needed_and_no_others(kind, backend):
    layer, (x, *_), labels = part_of(make(kind, backend=backend)), batch(), torch.tensor([30, 2, 7])
    grad = torch.randn(6, 3, dtype=torch.float64)
    every = layer.part_gradients(grad, x, labels)
    for i, needs in enumerate([(True, False, False), (False, True, False), (False, False, True)]):
        found = layer.part_gradients(grad, x, labels, needs)
        assert torch.equal(found[i], every[i]) and [g is None for g in found] == [not n for n in needs]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_float32_stays_within_its_rounding_of_float64(kind, loss):
    exact = make(kind, n_labels=3001)
    layer = copy.deepcopy(exact).float()
    x, rows, columns = batch(33, n_labels=3001)
    small = x.float().requires_grad_()
    exact_x = small.detach().double().requires_grad_()
    exact.load_state_dict(layer.state_dict())  # the float32 numbers, exactly
    LOSSES[loss](exact(exact_x), rows, columns).backward()
    value = loss_by_chunks(layer, small, rows, columns, loss=loss)
    value.backward()
    for found, wanted in ((small.grad, exact_x.grad), (layer.weight.grad, exact.weight.grad),
                          (layer.bias.grad, exact.bias.grad)):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_layer_without_bias_and_an_empty_batch_and_no_positive(kind):
    layer = make(kind, bias=False)
    for size, keep in ((6, slice(None)), (0, slice(0, 0)), (6, slice(0, 0))):
        x, rows, columns = batch(6)
        x, rows, columns = x[:size].clone().requires_grad_(), rows[keep], columns[keep]
        layer.zero_grad()
        value = loss_by_chunks(layer, x, rows, columns, chunk=10)
        value.backward()
        expected_x = x.detach().clone().requires_grad_()
        plain = LOSSES["bce"](layer(expected_x), rows, columns)
        expected = torch.autograd.grad(plain, [expected_x, layer.weight])
        torch.testing.assert_close(value, plain.detach())
        torch.testing.assert_close([x.grad, layer.weight.grad], list(expected))
        sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
        before = layer.weight.detach().clone()
        step_in_place(layer, sgd, x, rows, columns, chunk=10)
        torch.testing.assert_close(layer.weight.detach(), before - 0.1 * expected[1])


def test_the_value_is_nan_where_it_was_not_asked_for_and_the_gradients_are_the_same():
    layer = make("sparse")
    x, rows, columns = batch()
    x.requires_grad_()
    with_value = torch.autograd.grad(loss_by_chunks(layer, x, rows, columns), [x, layer.weight, layer.bias])
    value = loss_by_chunks(layer, x, rows, columns, want_loss=False)
    assert value.isnan()
    torch.testing.assert_close(torch.autograd.grad(value, [x, layer.weight, layer.bias]), with_value)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    assert step_in_place(layer, sgd, x, rows, columns, want_loss=False).loss is None


def test_a_loss_that_is_not_finite_is_handed_back_for_the_caller_to_look_at():
    layer, (x, rows, columns) = make("sparse"), batch()
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    with torch.no_grad():
        layer.weight[2, 1] = torch.nan
    assert loss_by_chunks(layer, x, rows, columns).isnan() and step_in_place(layer, sgd, x, rows, columns).loss.isnan()


def test_gradients_go_to_those_who_need_them_once():
    layer = make("sparse")
    x, rows, columns = batch()
    with torch.no_grad():
        assert not loss_by_chunks(layer, x, rows, columns).requires_grad
    layer.bias.requires_grad_(False)
    value = loss_by_chunks(layer, x, rows, columns)
    value.backward(retain_graph=True)
    assert layer.weight.grad is not None and layer.bias.grad is None and x.grad is None
    with pytest.raises(RuntimeError, match="backward runs once"):
        value.backward()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=0.02),
    "sgd, momentum": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, weight_decay=0.02),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-6),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1, fused=True),
    "adamw, two groups": lambda p: torch.optim.AdamW([{"params": p[:1]}, {"params": p[1:], "weight_decay": 0.0}],
                                                     lr=0.02),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind, backend", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_step_in_place_is_the_step_of_the_optimizer(kind, backend, name, loss, dtype):
    plain = make(kind, dtype, backend=backend)
    layer = copy.deepcopy(plain)
    theirs, ours = (OPTIMIZERS[name](list(m.parameters())) for m in (plain, layer))
    close = dict(rtol=1e-11, atol=1e-12) if dtype == torch.float64 else dict(rtol=2e-4, atol=2e-5)
    for seed in range(5 if backend != "triton" else 2):  # whose interpreter is slow
        x, rows, columns = batch(dtype=dtype, seed=seed)
        plain_x = x.clone().requires_grad_()
        theirs.zero_grad()
        value = 0.7 * LOSSES[loss](plain(plain_x), rows, columns)
        value.backward()
        theirs.step()
        done = step_in_place(layer, ours, x, rows, columns, loss=loss, scale=0.7, chunk=10)
        torch.testing.assert_close(done.dx, plain_x.grad, **close)
        torch.testing.assert_close(done.loss, value.detach(), **close)
        torch.testing.assert_close(list(layer.parameters()), list(plain.parameters()), **close)
        ours.step()  # skips what has no gradient
    assert layer.weight.grad is None
    for mine, other in zip(layer.parameters(), plain.parameters(), strict=True):
        assert ours.state[mine].keys() == {k for k, v in theirs.state[other].items() if v is not None}
        for key, value in ours.state[mine].items():
            torch.testing.assert_close(value, theirs.state[other][key], **close)
    again = OPTIMIZERS[name](list(layer.parameters()))
    again.load_state_dict(ours.state_dict())  # and so a checkpoint is one


@pytest.mark.parametrize("make_optimizer, words", [
    (lambda m: torch.optim.SGD(m.parameters(), lr=1, momentum=0.9, nesterov=True), "does not know nesterov=True"),
    (lambda m: torch.optim.Adam(m.parameters(), lr=1, amsgrad=True), "does not know amsgrad=True"),
    (lambda m: torch.optim.Adagrad(m.parameters()), "follows SGD, Adam or AdamW; got Adagrad"),
    (lambda m: torch.optim.SGD([m.bias], lr=1), r"does not have the layer's parameter of shape \[37, 5\]"),
])
def test_an_optimizer_that_does_something_else_is_refused(make_optimizer, words):
    layer = make("sparse")
    with pytest.raises(ValueError, match=words):
        step_in_place(layer, make_optimizer(layer), *batch())


def test_arguments_that_do_not_fit_are_named():
    layer = make("sparse")
    x, rows, columns = batch()
    with pytest.raises(ValueError, match=r"x must be \[B, 13\]; got \[6, 12\]"):
        loss_by_chunks(layer, x[:, 1:], rows, columns)
    with pytest.raises(ValueError, match="loss='softmax'.*choose one of"):
        loss_by_chunks(layer, x, rows, columns, loss="softmax")
    with pytest.raises(ValueError, match="rows and columns of the positive pairs"):
        loss_by_chunks(layer, x, rows, columns[1:])
    with pytest.raises(TypeError, match="ReLU cannot be gone through label by label"):
        loss_by_chunks(torch.nn.ReLU(), x, rows, columns)
    with pytest.raises(ValueError, match=r"a positive pair names document 6 .* 6 documents"):
        loss_by_chunks(layer, x, rows.clone().fill_(6), columns)
    with pytest.raises(ValueError, match=r"a positive pair names .*label -1"):
        loss_by_chunks(layer, x, rows, columns.clone().fill_(-1))
    for name, given in (("x", (x.numpy(), rows, columns)), ("rows", (x, None, columns)),
                        ("columns", (x, rows, columns.tolist()))):
        for call in (loss_by_chunks, lambda layer, *given: step_in_place(layer, None, *given),
                     lambda layer, x, rows, columns: logit_gradient(layer, x, rows, rows, columns)):
            with pytest.raises(TypeError, match=f"{name} must be a tensor; got (ndarray|NoneType|list)"):
                call(layer, *given)
    with pytest.raises(TypeError, match="x must be a tensor; got NoneType"):
        step_in_place(layer, None, None, rows, columns)
    with pytest.raises(TypeError, match="x must be a tensor; got NoneType"):
        top_labels(layer, None, 3)
    with pytest.raises(TypeError, match="whole numbers; got torch.float32 and torch.int64"):
        loss_by_chunks(layer, x, rows.float(), columns)
    for place, words in ((0, "meta, cpu, cpu and cpu"), (1, "cpu, meta, cpu and cpu"), (2, "cpu, cpu, meta and cpu")):
        given = [t.to("meta") if i == place else t for i, t in enumerate((x, rows, columns))]
        with pytest.raises(ValueError, match=f"the layer must be on one device; got {words}"):
            step_in_place(layer, None, *given)
    with pytest.raises(ValueError, match="the layer must be on one device; got meta, cpu, cpu and cpu"):
        top_labels(layer, x.to("meta"), 3)
    layer.indices[3, 0] = 99
    with pytest.raises(ValueError, match="indices must lie in 0..12"):
        loss_by_chunks(layer, x, rows, columns)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor holds that was made meanwhile; views of others are not."""

    elements = 0

    def __init__(self, *known):
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in known}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if torch.is_tensor(t) and t.untyped_storage().data_ptr() not in self.known:
                self.elements = max(self.elements, t.untyped_storage().nbytes() // t.element_size())
        return out


@pytest.mark.parametrize("kind, backend", [("dense", "auto"), ("sparse", "auto"), ("sparse", "reference")])
def test_no_tensor_of_batch_times_labels_and_in_place_none_of_the_weights_is_made(kind, backend):
    layer = make(kind, torch.float32, backend=backend, n_labels=4000)
    most = 64 * 500 * (K if backend == "reference" else 1)  # which gathers what a chunk of labels reads
    x, rows, columns = batch(64, torch.float32, n_labels=4000, share=0.01)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    known = [*layer.parameters(), *layer.buffers()]
    with Largest(*known) as plain:
        LOSSES["bce"](layer(x), rows, columns).backward()
    assert plain.elements >= 64 * 4000
    with Largest(*known) as handed:
        loss_by_chunks(layer, x, rows, columns, chunk=500).backward()
    assert handed.elements <= max(layer.weight.numel(), most)
    layer.zero_grad()
    with Largest(*known) as in_place:
        step_in_place(layer, sgd, x, rows, columns, chunk=500)
        top_labels(layer, x, 5, chunk=500)
    assert in_place.elements <= most
    assert backend != "reference" or handed.elements == in_place.elements == most  # the chunks were seen


def test_the_compiled_step_is_the_one_that_runs_and_holds_no_logits(monkeypatch):
    """It is NumPy's memory that it takes, which torch does not see."""
    cpu = pytest.importorskip("xmc_explore.layers.cpu")
    layer, (x, rows, columns) = make("sparse", torch.float32, n_labels=4000, backend="cpu"), batch(
        64, torch.float32, n_labels=4000, share=0.01)
    seen, step = [], cpu.fused_step
    monkeypatch.setattr(cpu, "fused_step", lambda *a, **k: seen.append(k["update"].kind) or step(*a, **k))
    works = [lambda: step_in_place(layer, sgd, x, rows, columns), lambda: step_in_place(layer, adam, x, rows, columns),
             lambda: loss_by_chunks(layer, x.requires_grad_(), rows, columns).backward()]
    sgd, adam = torch.optim.SGD(layer.parameters(), lr=0.1), torch.optim.AdamW(layer.parameters())
    for work in works:
        work()  # compiles
        tracemalloc.start()
        work()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 64 * 4000 * 4 / 4
    assert seen == ["sgd", "sgd", "adam", "adam", "none", "none"]


# --- RigL, evaluation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_gradient_of_some_logits_is_that_part_of_the_whole(kind, loss):
    layer = make(kind)
    x, rows, columns = batch()
    logits = layer(x).detach().requires_grad_()
    LOSSES[loss](logits, rows, columns).backward()
    for labels in (torch.arange(L), torch.tensor([30, 2, 9]), torch.tensor([], dtype=torch.int64)):
        torch.testing.assert_close(logit_gradient(layer, x, labels, rows, columns, loss=loss), logits.grad[:, labels])


def test_rigl_grows_the_same_connections_from_chunks():
    layers = [make("sparse") for _ in range(2)]
    x, rows, columns = batch()
    rewirers = [xe.Rewirer(m, None, grow="gradient", interval=1, fraction=0.4, schedule="constant") for m in layers]
    LOSSES["bce"](layers[0](x), rows, columns).backward()  # no optimizer steps between: both see the same weights
    assert rewirers[1].wants_batch
    rewirers[1].watch(x, lambda labels: logit_gradient(layers[1], x, labels, rows, columns))
    events = [r.step() for r in rewirers]
    assert torch.equal(events[0].slots, events[1].slots) and torch.equal(events[0].new, events[1].new)
    assert len(events[0].new) == int(0.4 * L * K)


@pytest.mark.parametrize("chunk", [None, 1, 4, 36, 100])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_top_labels_are_those_of_all_scores(kind, chunk):
    layer = make(kind)
    x, *_ = batch()
    for k in (1, 5, L):
        scores, labels = top_labels(layer, x, k, chunk=chunk)
        expected = layer(x).detach().topk(k)
        torch.testing.assert_close(scores, expected.values)
        assert torch.equal(labels, expected.indices)
    with pytest.raises(ValueError, match=r"k must be in 1..37, the number of labels; got 38"):
        top_labels(layer, x, 38)
    with torch.no_grad():
        layer.weight[20] = torch.nan
    with pytest.raises(ValueError, match="highest scores are NaN or infinite"):
        top_labels(layer, x, 5, chunk=chunk)
