"""The fixed fan-in op: checks, backend choice, autograd. The arithmetic is in the backends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backends import pick

CHECKED_AT_ONCE = 1 << 22  # indices


class _FixedFanIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, indices, bias, backend):
        ctx.backend = backend
        ctx.save_for_backward(x, weight, indices)
        return backend.module.forward(x, weight, indices, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, indices = ctx.saved_tensors
        need_x, need_weight, _, need_bias, _ = ctx.needs_input_grad
        dx, dweight, dbias = ctx.backend.module.backward(grad, x, weight, indices, (need_x, need_weight, need_bias))
        return dx, dweight, None, dbias, None


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


def fixed_fan_in(
    x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None = None, *, backend: str = "auto",
    checked: bool = False,
) -> Tensor:
    """y[..., l] = bias[l] + sum_k weight[l, k] * x[..., indices[l, k]]  (SPARTEX, section 3).

    Shapes: x [..., D], weight [L, K], indices [L, K] (int16 or int32, distinct in each row), bias [L] or None;
    y [..., L], not always contiguous. Gradients flow to x, weight and bias; no [L, D] tensor is made.
    `checked=True` skips the look at the values of `indices`: a wrong one then reads memory it should not.
    Raises ValueError or TypeError, naming shapes, dtypes or devices, for arguments that do not fit together.
    """
    if weight.shape != indices.shape or weight.dim() != 2:
        raise ValueError(f"weight and indices must both be [L, K]; got {list(weight.shape)} and {list(indices.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [L] = [{weight.shape[0]}]; got {list(bias.shape)}")
    if x.dim() == 0:
        raise ValueError("x must be [..., D]; got a scalar")
    if indices.dtype not in (torch.int16, torch.int32):
        raise TypeError(f"indices must be int16 or int32; got {indices.dtype}")
    given = [t for t in (x, weight, indices, bias) if t is not None]
    if any(t.device != x.device for t in given):
        raise ValueError("x, weight, indices and bias must be on one device; got "
                         + ", ".join(str(t.device) for t in given))
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)  # the weights keep their precision: they are few, and read once
    if not x.is_floating_point() or x.dtype != weight.dtype or (bias is not None and bias.dtype != x.dtype):
        raise TypeError(f"x, weight and bias must share one floating dtype; got {x.dtype}, {weight.dtype}"
                        + (f", {bias.dtype}" if bias is not None else "") + "; convert with .to(dtype)")
    if not checked:
        check_indices(indices, x.shape[-1])
    y = _FixedFanIn.apply(x.reshape(-1, x.shape[-1]), weight, indices, bias, pick(backend, x.device))
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], weight.shape[0])
