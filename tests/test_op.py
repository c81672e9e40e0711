"""The op as PyTorch sees it: opcheck, torch.compile, autocast, second derivatives, when the indices are looked at."""

import gc
from types import SimpleNamespace

import pytest
import torch
from dense_for_tests import USABLE, autocast, generator

import xmc_explore as xe
from xmc_explore.layers import op

OP, BACKWARD = torch.ops.xmc_explore.fixed_fan_in, torch.ops.xmc_explore.fixed_fan_in_backward


def make(backend, d=7, n_labels=11, k=4, dtype=torch.float32):
    return xe.FixedFanIn(d, n_labels, k, backend=backend, dtype=dtype, generator=generator())


@pytest.fixture
def checks(monkeypatch) -> list:
    """One entry for each time that the values of some indices were looked at."""
    seen, original = [], op.check_indices
    monkeypatch.setattr(op, "check_indices", lambda *arguments: (seen.append(1), original(*arguments)))
    return seen


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("shape", [(3, 7, 11, 4), (1, 6, 1, 2), (0, 7, 11, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(backend, shape, bias):
    b, d, n_labels, k = shape
    layer = make(backend, d, n_labels, k)
    x = torch.randn(d, b).t().requires_grad_()
    torch.library.opcheck(OP.default, (x, layer.weight, layer.indices, layer.bias if bias else None, backend))
    for needs in ([True, True, True], [False, True, False]):
        torch.library.opcheck(BACKWARD.default, (torch.randn(b, n_labels), x.detach(), layer.weight.detach(),
                                                 layer.indices, needs, backend))


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("b", [1, 5])
def test_y_and_the_gradient_of_x_are_transposes_of_contiguous_blocks(backend, b):
    layer = make(backend)
    x = torch.randn(b, 7, requires_grad=True)
    y = layer(x)
    dx, dweight, dbias = BACKWARD(torch.randn(b, 11), x, layer.weight, layer.indices, [True] * 3, backend)
    assert y.stride() == torch.empty(11, b).t().stride() and dx.stride() == torch.empty(7, b).t().stride()
    assert dweight.is_contiguous() and dbias.is_contiguous()


@pytest.mark.parametrize("backend", USABLE)
def test_a_compiled_model_is_one_graph_gives_the_same_and_notices_a_rewire(backend, checks):
    layer = make(backend)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), layer)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 5)

    def results(run):
        model.zero_grad()
        y = run(x)
        y.square().sum().backward()
        return [y.detach(), *(p.grad for p in model.parameters())]

    for _ in range(3):
        torch.testing.assert_close(results(compiled), results(model))
    assert len(checks) == 1
    layer.indices.copy_((layer.indices + 1) % 7)
    torch.testing.assert_close(results(compiled), results(model))
    assert len(checks) == 2
    layer.indices[3, 0] = 7
    with pytest.raises(ValueError, match=r"must lie in 0\.\.6 .* row 3 holds"):
        compiled(x)


@pytest.mark.slow  # the first use of a C++ compiler takes most of it
def test_compiled_to_machine_code():
    """Inductor plans memory by the strides that the op promises."""
    layer = make("auto")
    x = torch.randn(6, 7)
    compiled = torch.compile(lambda x: layer(x).sigmoid().sum(0), fullgraph=True)
    try:
        y = compiled(x)
    except Exception as error:
        if "compiler" in str(error).lower():
            pytest.skip("no C++ compiler here")
        raise
    torch.testing.assert_close(y, layer(x).sigmoid().sum(0))


@pytest.mark.parametrize("backend", USABLE)
def test_dynamic_batch_sizes_compile_once(backend):
    layer = make(backend)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (3, 5, 8):
        x = torch.randn(b, 7)
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_casts_the_input_to_the_weights(backend, compiled):
    layer = make(backend)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    x = torch.randn(2, 7).bfloat16().requires_grad_()
    with autocast():
        y = run(x)
    y.sum().backward()
    assert y.dtype == torch.float32 and x.grad.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y, layer(x.float()))


@pytest.mark.parametrize("backend", USABLE)
def test_a_second_derivative_is_refused_in_words(backend):
    layer = make(backend)
    x = torch.randn(2, 7, requires_grad=True)
    dx, = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        dx.sum().backward()


@pytest.mark.parametrize("backend", USABLE)
def test_exported(backend):
    layer = make(backend)
    x = torch.randn(2, 7)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


# --- when the indices are looked at -------------------------------------------------------------------------------


def test_indices_are_looked_at_once_and_again_after_a_write(checks):
    layer, x = make("reference"), torch.randn(2, 7, requires_grad=True)
    for _ in range(3):
        layer(x).sum().backward()
    assert len(checks) == 1
    for write in (lambda: layer.indices.copy_(layer.indices.flip(1)), layer.reset_parameters,
                  lambda: layer.load_state_dict(make("reference").state_dict()),
                  lambda: setattr(layer, "indices", layer.indices.clone())):
        before = len(checks)
        write()
        layer(x), layer(x)
        assert len(checks) == before + 1


def test_the_same_indices_for_an_input_of_another_width_are_looked_at_again():
    layer = make("reference")
    op.fixed_fan_in(torch.randn(2, 7), layer.weight, layer.indices)
    with pytest.raises(ValueError, match=r"0\.\.4"):
        op.fixed_fan_in(torch.randn(2, 5), layer.weight, layer.indices)


def test_indices_made_in_inference_mode_are_looked_at_every_time(checks):
    with torch.inference_mode():
        layer = make("reference")
        layer(torch.randn(2, 7))
        layer.indices[0, 0] = 9
        with pytest.raises(ValueError, match=r"0\.\.6"):
            layer(torch.randn(2, 7))
    assert len(checks) == 2


def test_a_plan_is_made_once_for_each_version_of_the_indices_and_forgotten_with_them():
    made = []
    module = SimpleNamespace(__name__="mine", plan=lambda indices, d: made.append(d) or (indices.flatten().argsort(),))
    indices = make("reference").indices.clone()
    first, = op.look(indices, 7, module)
    assert op.look(indices, 7, module)[0] is first and made == [7]
    indices[0] = torch.tensor([3, 2, 1, 0])
    second, = op.look(indices, 7, module)
    assert made == [7, 7] and torch.equal(second, indices.flatten().argsort())
    assert op.look(indices, 7) == () and op.look(indices, 7, SimpleNamespace(__name__="without")) == ()
    gc.collect()
    before = len(op._seen)
    del indices
    gc.collect()
    assert len(op._seen) == before - 1


def test_nothing_of_this_is_in_the_state_of_the_layer():
    layer = make("reference")
    layer(torch.randn(2, 7))
    assert set(layer.state_dict()) == {"weight", "bias", "indices"}
    assert set(dict(layer.named_buffers())) == {"indices"}
    assert not layer.indices.__dict__
