"""The fixed fan-in op: what a caller sees, and what PyTorch has to know about it. The arithmetic is in the backends.

    fixed_fan_in()                              shapes, dtypes, devices, autocast
      torch.ops.xmc_explore.fixed_fan_in          the values of the indices; backend.forward
        autograd
          torch.ops.xmc_explore.fixed_fan_in_backward     backend.plan, backend.backward

PyTorch never looks inside the two ops: torch.compile, autocast, gradcheck and export see functions of tensors with
known shapes and strides. One rule holds for all backends: y [B, L] and the gradient of x [B, D] are transposes of
contiguous [L, B] and [D, B] blocks, because the kernels go label by label with the batch innermost.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .backends import pick

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # that the kernels compute in
CHECKED_AT_ONCE = 1 << 22  # indices


def check_indices(indices: Tensor, in_features: int) -> None:
    """Raise ValueError unless every row of indices [L, K] holds K distinct numbers in 0..in_features-1."""
    if indices.numel() == 0:
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= in_features:
        row = int(((indices < 0) | (indices >= in_features)).any(1).nonzero()[0])
        raise ValueError(f"indices must lie in 0..{in_features - 1} (in_features={in_features}); "
                         f"row {row} holds {indices[row].tolist()}")
    # In chunks: `sort` makes positions of 8 bytes beside indices of 2, a gigabyte of them for 3 million labels.
    for start, chunk in enumerate(indices.split(size := max(1, CHECKED_AT_ONCE // indices.shape[1]))):
        ordered = chunk.sort(1).values
        double = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if double.any():
            row = start * size + int(double.nonzero()[0])
            raise ValueError(f"indices of a label must be distinct; row {row} holds {indices[row].tolist()}")


@dataclass
class _Seen:
    """What is known of an index tensor as it was when `state` was taken."""

    state: tuple[int, int, int]
    plans: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)


_seen = WeakTensorKeyDictionary()  # forgets a tensor when the last reference to it goes


def look(indices: Tensor, in_features: int, module: ModuleType | None = None) -> tuple[Tensor, ...]:
    """Check indices [L, K] and return the plan that `module` (a backend) makes of them: () without one.

    Kernels trust the indices, and looking at every one of them costs as much as a small step, so both are done again
    only when somebody has written to the tensor. Called from inside an op, where indices are real numbers even
    if the model around it is compiled: so a compiled model notices a rewire as well.
    Raises ValueError as `check_indices` does.
    """
    if indices.is_inference():  # such a tensor does not count its writes
        check_indices(indices, in_features)
        return module.plan(indices, in_features) if hasattr(module, "plan") else ()
    state = (indices.data_ptr(), indices._version, in_features)
    seen = _seen.get(indices)
    if seen is None or seen.state != state:
        check_indices(indices, in_features)
        seen = _seen[indices] = _Seen(state)
    if not hasattr(module, "plan"):
        return ()
    if module.__name__ not in seen.plans:
        seen.plans[module.__name__] = tuple(module.plan(indices, in_features))
    return seen.plans[module.__name__]


def plan_bytes(indices: Tensor) -> int:
    """Bytes of the plans that backends keep of an index tensor by now."""
    seen = _seen.get(indices)
    return 0 if seen is None else sum(t.numel() * t.element_size() for plan in seen.plans.values() for t in plan)


def look_order(order: Tensor) -> None:
    """Check, after a write to it, that `order` [L] holds each label 0..L-1 once. Raises ValueError if it does not."""
    state = (order.data_ptr(), -1 if order.is_inference() else order._version, len(order))
    seen = _seen.get(order)
    if order.is_inference() or seen is None or seen.state != state:
        counts = torch.bincount(order.clamp(0, max(len(order) - 1, 0)), minlength=len(order))
        wrong = (counts != 1) | ((order < 0) | (order >= len(order)))
        if wrong.any():
            raise ValueError(f"order must hold each of the labels 0..{len(order) - 1} once; position "
                             f"{int(wrong.nonzero()[0])} is wrong, or its label is there twice or not at all")
        _seen[order] = _Seen(state)


def exact(x: Tensor) -> AbstractContextManager:
    """Autocast switched off: the public function has chosen the dtype, and a backend may use matrix products inside."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


# A recorded CUDA graph would replay the kernels without ever looking at the indices again.
TAGS = tuple(getattr(torch.Tag, name) for name in ("cudagraph_unsafe",) if hasattr(torch.Tag, name))


@torch.library.custom_op("xmc_explore::fixed_fan_in", mutates_args=(), tags=TAGS)
def _forward(x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    module = pick(backend, x.device).module
    look(indices, x.shape[1])
    with exact(x):
        return module.forward(x, weight, indices, bias)


@torch.library.custom_op("xmc_explore::fixed_fan_in_backward", mutates_args=(), tags=TAGS)
def _backward(grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, needs: list[bool], backend: str
              ) -> list[Tensor]:
    """The needed ones of the gradients of x, weight and bias, in this order."""
    module = pick(backend, x.device).module
    plan = look(indices, x.shape[1], module)
    with exact(x):
        return [g for g in module.backward(grad, x, weight, indices, tuple(needs), plan) if g is not None]


@_forward.register_fake
def _(x, weight, indices, bias, backend):
    return x.new_empty((weight.shape[0], x.shape[0])).t()


def empty_gradients(x: Tensor, weight: Tensor, needs: list[bool]) -> list[Tensor]:
    """The needed ones of the gradients of x, weight and bias, in shape and layout alone."""
    made = (lambda: x.new_empty((x.shape[1], x.shape[0])).t(), lambda: weight.new_empty(weight.shape),
            lambda: weight.new_empty(weight.shape[:1]))
    return [make() for make, need in zip(made, needs, strict=True) if need]


@_backward.register_fake
def _(grad, x, weight, indices, needs, backend):
    return empty_gradients(x, weight, needs)


def _keep(ctx, inputs, output):
    x, weight, indices, _, ctx.backend = inputs
    ctx.save_for_backward(x, weight, indices)


def _derive(ctx, grad):
    need_x, need_weight, _, need_bias, _ = ctx.needs_input_grad
    needs = [need_x, need_weight, need_bias]
    found = iter(torch.ops.xmc_explore.fixed_fan_in_backward(grad, *ctx.saved_tensors, needs, ctx.backend))
    dx, dweight, dbias = (next(found) if need else None for need in needs)
    return dx, dweight, None, dbias, None


def refuse(ctx, grads):
    raise RuntimeError("the fixed fan-in layer has no second derivative: its gradients cannot be differentiated again "
                       "(use a dense layer, layer.to_dense(), for that)")


_forward.register_autograd(_derive, setup_context=_keep)
_backward.register_autograd(refuse, setup_context=lambda ctx, inputs, output: None)


def check_tensors(**given: Tensor | None) -> None:
    """Raise TypeError for what is no tensor; `bias` may be None."""
    for name, one in given.items():
        if not isinstance(one, Tensor) and (one is not None or name != "bias"):
            raise TypeError(f"{name} must be a tensor; got {type(one).__name__}")


def fit(x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None) -> Tensor:
    """x in the dtype that it is computed in, if these arguments go together. Raises ValueError or TypeError if not."""
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [L] = [{weight.shape[0]}]; got {list(bias.shape)}")
    if x.dim() == 0:
        raise ValueError("x must be [..., D]; got a scalar")
    if weight.shape[1] < 1:
        raise ValueError(f"fan_in must be at least 1; got weights of shape {list(weight.shape)}")
    if weight.shape[1] > x.shape[-1]:
        raise ValueError(f"fan_in={weight.shape[1]} exceeds in_features={x.shape[-1]}: a label cannot read more "
                         f"features than there are")
    if indices.dtype not in (torch.int16, torch.int32):
        raise TypeError(f"indices must be int16 or int32; got {indices.dtype}")
    given = [t for t in (x, weight, indices, bias) if t is not None]
    if any(t.device != x.device for t in given):
        raise ValueError("x, weight, indices and bias must be on one device; got "
                         + ", ".join(str(t.device) for t in given))
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)  # the weights keep their precision: they are few, and read once
    if x.dtype not in DTYPES or x.dtype != weight.dtype or (bias is not None and bias.dtype != x.dtype):
        raise TypeError(f"x, weight and bias must share one floating dtype, of 16 bits or more; got {x.dtype}, "
                        f"{weight.dtype}" + (f", {bias.dtype}" if bias is not None else "")
                        + "; convert with .to(dtype)")
    return x


def fixed_fan_in(
    x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """y[..., l] = bias[l] + sum_k weight[l, k] * x[..., indices[l, k]]  (SPARTEX, section 3).

    Shapes: x [..., D], weight [L, K], indices [L, K] (int16 or int32, distinct in each row), bias [L] or None;
    y [..., L], not always contiguous. Gradients flow to x, weight and bias, once; no [L, D] tensor is made.
    Under autocast x is converted to the dtype of the weights.
    Raises ValueError or TypeError, naming shapes, dtypes, devices or the first bad row of indices, for arguments that
    do not fit together. Indices are looked at again only after a write to them.
    """
    check_tensors(x=x, weight=weight, indices=indices, bias=bias)
    if weight.shape != indices.shape or weight.dim() != 2:
        raise ValueError(f"weight and indices must both be [L, K]; got {list(weight.shape)} and {list(indices.shape)}")
    x = fit(x, weight, indices, bias)
    y = torch.ops.xmc_explore.fixed_fan_in(x.reshape(-1, x.shape[-1]), weight, indices, bias, backend)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], weight.shape[0])
