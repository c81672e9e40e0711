"""`GroupedFixedFanIn`: groups of G labels read the same K of the D inputs, each label with weights of its own.

    y[b, l] = bias[l] + sum_k weight[l, k] * x[b, indices[group of l, k]]       (HASTE, ICML 2026)

The K features of a group are gathered once, and what remains is a dense product of [G, K] and [K, B]. `order` [L] says
which labels make a group: the first G of it are group 0, and so on; the last group may be smaller. As the op of labels
alone (`op.py`), this one is a function of tensors to PyTorch; y and the gradient of x are laid out as there.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from . import reference
from .backends import pick
from .fixed_fan_in import FanIn, checked_size
from .op import TAGS, check_tensors, empty_gradients, exact, fit, look, look_order, refuse

KERNELS = {"cpu": "cpu_grouped", "triton": "triton_grouped"}  # the modules of the backends that have kernels for groups


def kernels(backend: str, x: Tensor):
    """The kernels of a backend, or the reference where it has none for groups."""
    name = pick(backend, x.device).name
    return import_module(f".{KERNELS[name]}", __package__) if name in KERNELS else reference


@torch.library.custom_op("xmc_explore::grouped_fixed_fan_in", mutates_args=(), tags=TAGS)
def _forward(x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int, bias: Tensor | None,
             backend: str) -> Tensor:
    look(indices, x.shape[1])
    look_order(order)
    with exact(x):
        return kernels(backend, x).grouped_forward(x, weight, indices, order, group_size, bias)


@torch.library.custom_op("xmc_explore::grouped_fixed_fan_in_backward", mutates_args=(), tags=TAGS)
def _backward(grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int,
              needs: list[bool], backend: str) -> list[Tensor]:
    """The needed ones of the gradients of x, weight and bias, in this order."""
    look(indices, x.shape[1])
    look_order(order)
    with exact(x):
        found = kernels(backend, x).grouped_backward(grad, x, weight, indices, order, group_size, tuple(needs))
    return [g for g in found if g is not None]


@_forward.register_fake
def _(x, weight, indices, order, group_size, bias, backend):
    return x.new_empty((weight.shape[0], x.shape[0])).t()


@_backward.register_fake
def _(grad, x, weight, indices, order, group_size, needs, backend):
    return empty_gradients(x, weight, needs)


def _keep(ctx, inputs, output):
    x, weight, indices, order, ctx.group_size, _, ctx.backend = inputs
    ctx.save_for_backward(x, weight, indices, order)


def _derive(ctx, grad):
    need_x, need_weight, need_bias = (ctx.needs_input_grad[i] for i in (0, 1, 5))
    needs = [need_x, need_weight, need_bias]
    found = iter(torch.ops.xmc_explore.grouped_fixed_fan_in_backward(grad, *ctx.saved_tensors, ctx.group_size, needs,
                                                                     ctx.backend))
    dx, dweight, dbias = (next(found) if need else None for need in needs)
    return dx, dweight, None, None, None, dbias, None


_forward.register_autograd(_derive, setup_context=_keep)
_backward.register_autograd(refuse, setup_context=lambda ctx, inputs, output: None)


def grouped_fixed_fan_in(x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int,
                         bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """y[..., l] = bias[l] + sum_k weight[l, k] * x[..., indices[g, k]], where label l is among order[g G:(g + 1) G].

    Shapes: x [..., D], weight [L, K], indices [ceil(L / G), K] (int16 or int32, distinct in each row), order [L]
    (int32, each label once), bias [L] or None; y [..., L], not always contiguous. Gradients flow to x, weight and bias,
    once; no [L, D] tensor is made. Under autocast x is converted to the dtype of the weights.
    Raises ValueError or TypeError as `fixed_fan_in` does, and ValueError for an order that is no permutation.
    """
    check_tensors(x=x, weight=weight, indices=indices, order=order, bias=bias)
    n_groups = -(-len(weight) // group_size) if group_size > 0 and weight.dim() == 2 else -1
    if weight.dim() != 2 or indices.shape != (n_groups, weight.shape[1]):
        raise ValueError(f"weight must be [L, K] and indices [ceil(L / G), K] with G={group_size}; got "
                         f"{list(weight.shape)} and {list(indices.shape)}")
    if order.shape != weight.shape[:1] or order.dtype != torch.int32 or order.device != weight.device:
        raise ValueError(f"order must be int32 [L] = [{len(weight)}] on {weight.device}; got {order.dtype} "
                         f"{list(order.shape)} on {order.device}")
    x = fit(x, weight, indices, bias)
    y = torch.ops.xmc_explore.grouped_fixed_fan_in(x.reshape(-1, x.shape[-1]), weight, indices, order, group_size, bias,
                                                   backend)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], weight.shape[0])


class GroupedFixedFanIn(FanIn):
    """Sparse linear layer whose labels read the same K inputs as the others of their group of `group_size` labels.

    Parameters `weight` [L, K] and `bias` [L]; buffers `indices` [n_groups, K], int16 while D fits, else int32, distinct
    in every row, `order` [L] and `group_of_label` [L], int32. `order` says which labels make a group, G after G;
    without one, labels are taken as they are numbered. Weights start uniform in +-1/sqrt(K) and biases at zero;
    `generator` draws indices and weights.
    Raises ValueError if a size is not positive, `fan_in` exceeds `in_features`, or `order` is no permutation.
    """

    def __init__(self, in_features: int, out_features: int, fan_in: int, group_size: int = 16, bias: bool = True, *,
                 order: Tensor | None = None, backend: str = "auto", generator: torch.Generator | None = None,
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        out_features = checked_size("out_features", out_features)
        group_size = checked_size("group_size", group_size)
        n_groups = -(-out_features // group_size)
        super().__init__(in_features, out_features, fan_in, n_groups, bias, backend, device, dtype)
        order = torch.arange(out_features) if order is None else torch.as_tensor(order)
        if order.shape != (out_features,) or order.is_floating_point():
            raise ValueError(f"order must name each of the {out_features} labels once; got {order.dtype} of shape "
                             f"{list(order.shape)}")
        look_order(order)
        self.group_size, self.n_groups = group_size, n_groups
        self.register_buffer("order", order.to(self.weight.device, torch.int32))
        group = torch.empty_like(self.order)
        group[self.order.long()] = torch.arange(out_features, dtype=torch.int32, device=group.device) // group_size
        self.register_buffer("group_of_label", group)
        self.reset_parameters(generator)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., L]."""
        if torch.is_tensor(x) and x.shape[-1:] != (self.in_features,):
            raise ValueError(f"GroupedFixedFanIn reads {self.in_features} features; x has shape {list(x.shape)}")
        return grouped_fixed_fan_in(x, self.weight, self.indices, self.order, self.group_size, self.bias,
                                    backend=self.backend)

    def check(self) -> None:
        """Look at indices and order if somebody has written to them, as kernels trust them. Raises ValueError."""
        super().check()
        look_order(self.order)

    def indices_of(self, labels: slice | Tensor) -> Tensor:
        """What some labels read, [n, K]: the rows of their groups; so parts go through the kernels for labels."""
        return self.indices[self.group_of_label[labels].long()]

    def labels_of(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """The labels [m] of some groups [n], and for each of them which of these groups, 0..n-1, is its own."""
        places = groups.long().unsqueeze(1) * self.group_size + torch.arange(self.group_size, device=groups.device)
        there = places < self.out_features  # the last group may be smaller
        return self.order[places[there]].long(), there.nonzero()[:, 0]

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, fan_in={self.fan_in}, "
                f"group_size={self.group_size}, bias={self.bias is not None}, sparsity={self.sparsity:.1%}, "
                f"backend={self.backend!r}")
