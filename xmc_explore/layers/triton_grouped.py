"""The formulas of labels in groups as Triton kernels, with matrix units (`tl.dot`); layout as in `triton_kernels.py`.

A program has one group and a tile of documents: the K features of the group are gathered once, [K, B] lines of x, and
all G labels take their part of them in one matrix product. `tl.dot` wants at least 16 of everything, so smaller groups
are filled up with nothing; one of more than 64 is gathered for every 64 of its labels. float32 goes through tensor
cores in three parts (TF32 x 3), which keeps its precision.

The gradient of x meets in one feature what many groups send, by atomic additions: G times fewer of them than labels of
their own would send, so it has no transposed index; its last bits differ from run to run.
float64 takes the reference: not every matrix unit has it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference

LEAST, MOST = 16, 64  # of each side of a matrix product: what `tl.dot` takes, what fits the fast memory of any GPU


@triton.jit
def _members(GROUP: tl.constexpr, BLOCK_G: tl.constexpr):
    """The group of this program, and which BLOCK_G of its labels: axis 0 counts the parts of groups."""
    parts: tl.constexpr = (GROUP + BLOCK_G - 1) // BLOCK_G
    group = (tl.program_id(0) // parts).to(tl.int64)
    return group, tl.program_id(0) % parts * BLOCK_G + tl.arange(0, BLOCK_G)


@triton.jit
def forward_kernel(x, weight, indices, order, bias, y, n_labels, batch, GROUP: tl.constexpr, FAN_IN: tl.constexpr,
                   BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, DOT: tl.constexpr):
    """A tile of y [L, B]: BLOCK_G labels of one group by BLOCK_B documents; x is [D, B]."""
    group, member = _members(GROUP, BLOCK_G)
    doc = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    is_doc = doc < batch
    is_label = (member < GROUP) & (group * GROUP + member < n_labels)
    row = tl.load(order + group * GROUP + member, is_label, 0).to(tl.int64)
    total = tl.full((BLOCK_G, BLOCK_B), 0, tl.float32)
    for start in range(0, FAN_IN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        is_slot = k < FAN_IN
        feature = tl.load(indices + group * FAN_IN + k, is_slot, 0).to(tl.int64)
        w = tl.load(weight + row[:, None] * FAN_IN + k[None, :], is_label[:, None] & is_slot[None, :], 0)
        read = tl.load(x + feature[:, None] * batch + doc[None, :], is_slot[:, None] & is_doc[None, :], 0)
        total = tl.dot(w.to(DOT), read.to(DOT), total, input_precision="tf32x3")
    if bias is not None:
        total += tl.load(bias + row, is_label, 0).to(tl.float32)[:, None]
    tl.store(y + row[:, None] * batch + doc[None, :], total, is_label[:, None] & is_doc[None, :])


@triton.jit
def weight_gradient_kernel(grad, x, indices, order, dweight, dbias, n_labels, batch, GROUP: tl.constexpr,
                           FAN_IN: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr,
                           DOT: tl.constexpr):
    """The gradients of weight [L, K], BLOCK_K slots of one group, and of bias; grad is [L, B], x is [D, B]."""
    group, member = _members(GROUP, BLOCK_G)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_slot = k < FAN_IN
    is_label = (member < GROUP) & (group * GROUP + member < n_labels)
    row = tl.load(order + group * GROUP + member, is_label, 0).to(tl.int64)
    feature = tl.load(indices + group * FAN_IN + k, is_slot, 0).to(tl.int64)
    total = tl.full((BLOCK_G, BLOCK_K), 0, tl.float32)
    total_bias = tl.full((BLOCK_G, BLOCK_B), 0, tl.float32)
    for start in range(0, batch, BLOCK_B):
        doc = start + tl.arange(0, BLOCK_B)
        is_doc = doc < batch
        g = tl.load(grad + row[:, None] * batch + doc[None, :], is_label[:, None] & is_doc[None, :], 0)
        read = tl.load(x + feature[None, :] * batch + doc[:, None], is_slot[None, :] & is_doc[:, None], 0)
        total = tl.dot(g.to(DOT), read.to(DOT), total, input_precision="tf32x3")
        total_bias += g.to(tl.float32)
    tl.store(dweight + row[:, None] * FAN_IN + k[None, :], total, is_label[:, None] & is_slot[None, :])
    if tl.program_id(1) == 0:
        tl.store(dbias + row, tl.sum(total_bias, 1), is_label)


@triton.jit
def x_gradient_kernel(grad, weight, indices, order, dx, n_labels, batch, GROUP: tl.constexpr, FAN_IN: tl.constexpr,
                      BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, DOT: tl.constexpr):
    """What BLOCK_G labels of one group send to the gradient of x [D, B], for BLOCK_B documents; grad is [L, B]."""
    group, member = _members(GROUP, BLOCK_G)
    doc = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    is_doc = doc < batch
    is_label = (member < GROUP) & (group * GROUP + member < n_labels)
    row = tl.load(order + group * GROUP + member, is_label, 0).to(tl.int64)
    g = tl.load(grad + row[:, None] * batch + doc[None, :], is_label[:, None] & is_doc[None, :], 0)
    for start in range(0, FAN_IN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        is_slot = k < FAN_IN
        feature = tl.load(indices + group * FAN_IN + k, is_slot, 0).to(tl.int64)
        w = tl.load(weight + row[None, :] * FAN_IN + k[:, None], is_label[None, :] & is_slot[:, None], 0)
        sent = tl.dot(w.to(DOT), g.to(DOT), input_precision="tf32x3")
        tl.atomic_add(dx + feature[:, None] * batch + doc[None, :], sent, is_slot[:, None] & is_doc[None, :],
                      sem="relaxed")


def _tiles(group_size: int, fan_in: int, batch: int, dtype: torch.dtype) -> dict[str, object]:
    """Sides of the products, up to 64 labels of a group, slots and documents; and what they are made in."""
    dot = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]
    if type(forward_kernel).__name__ == "InterpretedFunction":
        dot = tl.float32  # the interpreter takes bfloat16 in a product for whole numbers
    sides = {"BLOCK_G": group_size, "BLOCK_K": fan_in, "BLOCK_B": batch}
    return {"GROUP": group_size, "FAN_IN": fan_in, "DOT": dot,
            **{name: min(MOST, max(LEAST, triton.next_power_of_2(n))) for name, n in sides.items()}}


def _parts(indices: Tensor, tiles: dict[str, object]) -> int:
    """How many programs the labels take: groups, and parts of those that are larger than a tile."""
    return len(indices) * triton.cdiv(tiles["GROUP"], tiles["BLOCK_G"])


def grouped_forward(x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int, bias: Tensor | None
                    ) -> Tensor:
    """y [B, L], the transpose of an [L, B] block, from weight [L, K], indices [ceil(L / G), K] and order [L]."""
    (n_labels, fan_in), batch = weight.shape, x.shape[0]
    if x.dtype == torch.float64 or batch == 0:
        return reference.grouped_forward(x, weight, indices, order, group_size, bias)
    tiles, y = _tiles(group_size, fan_in, batch, x.dtype), x.new_empty((n_labels, batch))
    bias = None if bias is None else bias.contiguous()
    with torch.cuda.device_of(x):
        forward_kernel[_parts(indices, tiles), triton.cdiv(batch, tiles["BLOCK_B"])](
            x.t().contiguous(), weight.contiguous(), indices.contiguous(), order.contiguous(), bias, y, n_labels,
            batch, **tiles)
    return y.t()


def grouped_backward(
    grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [B, D], weight [L, K] and bias [L] from grad [B, L]; `needs` says which."""
    (n_labels, fan_in), (batch, in_features) = weight.shape, x.shape
    if x.dtype == torch.float64 or batch == 0:
        return reference.grouped_backward(grad, x, weight, indices, order, group_size, needs)
    need_x, need_weight, need_bias = needs
    tiles, dx, dweight, dbias = _tiles(group_size, fan_in, batch, x.dtype), None, None, None
    grad, weight, indices, order = (t.contiguous() for t in (grad.t(), weight, indices, order))
    with torch.cuda.device_of(x):
        if need_x:
            sent = torch.zeros((in_features, batch), dtype=torch.float32, device=x.device)
            x_gradient_kernel[_parts(indices, tiles), triton.cdiv(batch, tiles["BLOCK_B"])](
                grad, weight, indices, order, sent, n_labels, batch, **tiles)
            dx = sent.to(x.dtype).t()
        if need_weight or need_bias:
            dweight, dbias = torch.empty_like(weight), weight.new_empty(n_labels)
            weight_gradient_kernel[_parts(indices, tiles), triton.cdiv(fan_in, tiles["BLOCK_K"])](
                grad, x.t().contiguous(), indices, order, dweight, dbias, n_labels, batch, **tiles)
    return dx, dweight if need_weight else None, dbias if need_bias else None
