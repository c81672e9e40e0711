"""The fixed fan-in formulas as Triton kernels: compiled for CUDA, or run by Triton's interpreter on any machine.

**Three layers**: a kernel says what one program does with its tile, a launcher chooses tiles and grid, and `forward`,
`backward` and `plan` are the backend. What PyTorch has to know (autograd, compile) stands once, in `op.py`.

**Layout.** x and the gradient of y go through the kernels as [D, B] and [L, B]: a label reads one feature of *all*
documents, so the documents of a feature must lie side by side, and the gather of a slot is then whole lines of 128
bytes in place of 32 numbers from 32 lines. Turning x around costs B x D numbers, once, against B x L x K that are read.
y, and so the gradient a loss hands back, lies that way already.

**Programs.** Axis 0 counts labels and runs fastest, axis 1 counts documents: programs that run at the same time share
their columns of x, BLOCK_B x D numbers, which fit the first-level cache of a GPU. All sums are float32 (float64 for
float64) and stay in registers; masks cut off what sticks out of a tile at the ragged ends.

**The gradient of x** meets in one feature what many labels send. Atomic additions would queue there, so the slots are
sorted by feature (`plan`, kept until a rewire) and each run of slots is a sum in registers, the same bits each time.
Predictions, and what else was considered: benchmarks/NOTES.md.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LINE = 128  # bytes of a line of a GPU's cache: so wide is a tile along the documents
TILE = 1024  # numbers of a tile: 8 in each thread of 4 warps
SEGMENT = 512  # slots that one program sums: a feature that all labels read is then the work of many


# --- kernels: what one program does -------------------------------------------------------------------------------


@triton.jit
def forward_kernel(x, weight, indices, bias, y, n_labels, batch, FAN_IN: tl.constexpr,
                   BLOCK_L: tl.constexpr, BLOCK_B: tl.constexpr, SUM: tl.constexpr):
    """A tile of y [L, B]: BLOCK_L labels by BLOCK_B documents, slot by slot; x is [D, B]."""
    label = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    doc = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    is_label = label < n_labels
    inside = is_label[:, None] & (doc < batch)[None, :]
    row = label.to(tl.int64)  # L x B and L x K may be more than 32 bits can count
    total = tl.full((BLOCK_L, BLOCK_B), 0, SUM)
    for k in range(FAN_IN):
        feature = tl.load(indices + row * FAN_IN + k, is_label, 0).to(tl.int64)
        w = tl.load(weight + row * FAN_IN + k, is_label, 0).to(SUM)
        read = tl.load(x + feature[:, None] * batch + doc[None, :], inside, 0).to(SUM)
        total += w[:, None] * read
    if bias is not None:
        total += tl.load(bias + label, is_label, 0).to(SUM)[:, None]
    tl.store(y + row[:, None] * batch + doc[None, :], total, inside)


@triton.jit
def weight_gradient_kernel(grad, x, indices, dweight, dbias, n_labels, batch, FAN_IN: tl.constexpr,
                           BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr, SUM: tl.constexpr):
    """A tile of the gradients of weight [L, K], and of bias; grad is [L, B], x is [D, B].

    The documents go by in blocks and are summed up once, at the end: sums across threads are what is slow here.
    """
    label = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_label = label < n_labels
    is_slot = is_label[:, None] & (k < FAN_IN)[None, :]
    row = label.to(tl.int64)
    slot = row[:, None] * FAN_IN + k[None, :]
    feature = tl.load(indices + slot, is_slot, 0).to(tl.int64)
    total = tl.full((BLOCK_L, BLOCK_K, BLOCK_B), 0, SUM)
    total_bias = tl.full((BLOCK_L, BLOCK_B), 0, SUM)
    for start in range(0, batch, BLOCK_B):
        doc = start + tl.arange(0, BLOCK_B)
        is_doc = doc < batch
        g = tl.load(grad + row[:, None] * batch + doc[None, :], is_label[:, None] & is_doc[None, :], 0).to(SUM)
        read = tl.load(x + feature[:, :, None] * batch + doc[None, None, :],
                       is_slot[:, :, None] & is_doc[None, None, :], 0).to(SUM)
        total += g[:, None, :] * read
        total_bias += g
    tl.store(dweight + slot, tl.sum(total, 2), is_slot)
    if tl.program_id(1) == 0:
        tl.store(dbias + label, tl.sum(total_bias, 1), is_label)


@triton.jit
def segment_kernel(grad, weight, order, start, stop, place, partial, batch,
                   FAN_IN: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_B: tl.constexpr, SUM: tl.constexpr):
    """What the slots order[start..stop] of one feature send to the gradient of x: a row of `partial`."""
    segment = tl.program_id(0)
    doc = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    is_doc = doc < batch
    last = tl.load(stop + segment)
    total = tl.full((BLOCK_S, BLOCK_B), 0, SUM)
    for first in range(tl.load(start + segment), last, BLOCK_S):
        at = first + tl.arange(0, BLOCK_S)
        is_slot = at < last
        slot = tl.load(order + at, is_slot, 0).to(tl.int64)
        w = tl.load(weight + slot, is_slot, 0).to(SUM)
        g = tl.load(grad + (slot // FAN_IN)[:, None] * batch + doc[None, :],
                    is_slot[:, None] & is_doc[None, :], 0).to(SUM)
        total += w[:, None] * g
    tl.store(partial + tl.load(place + segment).to(tl.int64) * batch + doc, tl.sum(total, 0), is_doc)


@triton.jit
def combine_kernel(partial, ends, dx, in_features, batch,
                   BLOCK_F: tl.constexpr, BLOCK_B: tl.constexpr, SUM: tl.constexpr):
    """A tile of the gradient of x [D, B]: feature j is the sum of the rows ends[j]..ends[j + 1] of `partial`."""
    feature = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    doc = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    is_feature = feature < in_features
    is_doc = doc < batch
    first = tl.load(ends + feature, is_feature, 0)
    last = tl.load(ends + feature + 1, is_feature, 0)
    total = tl.full((BLOCK_F, BLOCK_B), 0, SUM)
    for n in range(tl.max(last - first, 0)):
        row = (first + n).to(tl.int64)
        total += tl.load(partial + row[:, None] * batch + doc[None, :],
                         (first + n < last)[:, None] & is_doc[None, :], 0)
    tl.store(dx + feature.to(tl.int64)[:, None] * batch + doc[None, :], total, is_feature[:, None] & is_doc[None, :])


@triton.jit
def scatter_kernel(grad, weight, indices, dx, n_labels, batch,
                   FAN_IN: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_B: tl.constexpr, SUM: tl.constexpr):
    """A tile of grad [L, B] sent to the gradient of x [D, B] by atomic additions, whose order nobody knows."""
    label = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    doc = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    is_label = label < n_labels
    inside = is_label[:, None] & (doc < batch)[None, :]
    row = label.to(tl.int64)
    g = tl.load(grad + row[:, None] * batch + doc[None, :], inside, 0).to(SUM)
    for k in range(FAN_IN):
        feature = tl.load(indices + row * FAN_IN + k, is_label, 0).to(tl.int64)
        w = tl.load(weight + row * FAN_IN + k, is_label, 0).to(SUM)
        tl.atomic_add(dx + feature[:, None] * batch + doc[None, :], w[:, None] * g, inside, sem="relaxed")


# --- launchers: tiles and grids -----------------------------------------------------------------------------------


def _documents(batch: int, dtype: torch.dtype) -> int:
    """Documents of a tile: a line of the cache, or as many as there are."""
    return min(LINE // dtype.itemsize, triton.next_power_of_2(batch))


def _sum_type(dtype: torch.dtype) -> tuple[tl.dtype, torch.dtype]:
    return (tl.float64, torch.float64) if dtype == torch.float64 else (tl.float32, torch.float32)


def _scores(x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None) -> Tensor:
    """y [L, B] from x [D, B]."""
    (n_labels, fan_in), batch = weight.shape, x.shape[1]
    y = x.new_empty((n_labels, batch))
    block_b = _documents(batch, x.dtype)
    block_l = min(256, TILE // block_b)
    grid = triton.cdiv(n_labels, block_l), triton.cdiv(batch, block_b)
    forward_kernel[grid](x, weight, indices, bias, y, n_labels, batch, FAN_IN=fan_in, BLOCK_L=block_l,
                         BLOCK_B=block_b, SUM=_sum_type(x.dtype)[0])
    return y


def _gradient_of_weight(grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight [L, K] and bias [L] from grad [L, B] and x [D, B]."""
    (n_labels, fan_in), batch = weight.shape, x.shape[1]
    dweight, dbias = weight.new_empty(weight.shape), weight.new_empty(n_labels)
    block_b = _documents(batch, x.dtype)
    block_k = min(16, triton.next_power_of_2(fan_in))
    block_l = max(1, min(256, 2 * TILE // (block_b * block_k)))
    grid = triton.cdiv(n_labels, block_l), triton.cdiv(fan_in, block_k)
    weight_gradient_kernel[grid](grad, x, indices, dweight, dbias, n_labels, batch, FAN_IN=fan_in, BLOCK_L=block_l,
                                 BLOCK_K=block_k, BLOCK_B=block_b, SUM=_sum_type(x.dtype)[0])
    return dweight, dbias


def _gradient_of_x(grad: Tensor, weight: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
    """The gradient of x [D, B] from grad [L, B]: sums over segments of slots, then over the segments of a feature."""
    order, start, stop, place, ends = plan
    fan_in, (_, batch), in_features = weight.shape[1], grad.shape, len(ends) - 1
    kind, wide = _sum_type(grad.dtype)
    block_b = _documents(batch, grad.dtype)
    block_f = min(256, TILE // block_b)
    partial = grad.new_empty((len(start), batch), dtype=wide)
    dx = grad.new_empty((in_features, batch))
    blocks = triton.cdiv(batch, block_b)
    segment_kernel[(len(start), blocks)](grad, weight, order, start, stop, place, partial, batch, FAN_IN=fan_in,
                                         BLOCK_S=min(32, TILE // block_b), BLOCK_B=block_b, SUM=kind)
    combine_kernel[(triton.cdiv(in_features, block_f), blocks)](partial, ends, dx, in_features, batch, BLOCK_F=block_f,
                                                                BLOCK_B=block_b, SUM=kind)
    return dx


def _scattered(grad: Tensor, weight: Tensor, indices: Tensor, in_features: int) -> Tensor:
    """The gradient of x [D, B] by atomic additions: for labels that no plan is at hand for."""
    (n_labels, fan_in), batch = weight.shape, grad.shape[1]
    kind, wide = _sum_type(grad.dtype)
    dx = torch.zeros((in_features, batch), dtype=wide, device=grad.device)
    block_b = _documents(batch, grad.dtype)
    block_l = min(256, TILE // block_b)
    grid = triton.cdiv(n_labels, block_l), triton.cdiv(batch, block_b)
    scatter_kernel[grid](grad, weight, indices, dx, n_labels, batch, FAN_IN=fan_in, BLOCK_L=block_l, BLOCK_B=block_b,
                         SUM=kind)
    return dx.to(grad.dtype)


# --- the backend --------------------------------------------------------------------------------------------------


def forward(x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None) -> Tensor:
    """y [B, L], the transpose of a contiguous [L, B] block, from x [B, D], weight [L, K], indices [L, K], bias [L]."""
    if x.shape[0] == 0:
        return x.new_empty((weight.shape[0], 0)).t()
    bias = None if bias is None else bias.contiguous()
    with torch.cuda.device_of(x):  # Triton launches on the current device, whichever holds the tensors
        return _scores(x.t().contiguous(), weight.contiguous(), indices.contiguous(), bias).t()


def plan(indices: Tensor, in_features: int) -> tuple[Tensor, ...]:
    """The slots of indices [L, K] by feature, in segments: (order, start, stop, place, ends).

    `order` [L * K] holds the slots (label * K + k) feature by feature, in the order of their labels. A segment is at
    most SEGMENT of them, order[start..stop]; its sum goes to row `place` of the partial sums, and the rows of feature
    j are ends[j]..ends[j + 1]. Segments come by their first label: those summed at the same time read the same rows of
    the gradient, from the cache. 4 bytes a slot stay (8 from 2^31 slots on), and as much again as 20 while it is made.
    """
    flat = indices.flatten()
    slot_type = torch.int32 if len(flat) <= torch.iinfo(torch.int32).max else torch.int64
    order = flat.argsort(stable=True).to(slot_type)
    degree = torch.bincount(flat, minlength=in_features)
    pieces = (degree + SEGMENT - 1) // SEGMENT
    ends = torch.nn.functional.pad(pieces.cumsum(0), (1, 0))
    feature = torch.repeat_interleave(pieces)  # of each segment
    run_end = degree.cumsum(0)[feature]
    start = run_end - degree[feature] + SEGMENT * (torch.arange(len(feature), device=flat.device) - ends[feature])
    place = order[start].argsort(stable=True)
    start, stop = start[place], torch.minimum(start + SEGMENT, run_end)[place]
    return order, start.to(slot_type), stop.to(slot_type), place.to(torch.int32), ends.to(torch.int32)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, needs: tuple[bool, bool, bool],
    plan: tuple[Tensor, ...] = (),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [B, D] (laid out as y), weight [L, K] and bias [L] from grad [B, L]; `needs` says which.

    Without a plan the gradient of x is made by atomic additions, whose sums differ in the last bits from run to run.
    """
    need_x, need_weight, need_bias = needs
    (batch, in_features), dx, dweight, dbias = x.shape, None, None, None
    if batch == 0:
        return (x.new_empty((in_features, 0)).t() if need_x else None,
                torch.zeros_like(weight) if need_weight else None,
                weight.new_zeros(weight.shape[0]) if need_bias else None)
    grad, weight, indices = grad.t().contiguous(), weight.contiguous(), indices.contiguous()
    with torch.cuda.device_of(x):
        if need_x:
            dx = (_gradient_of_x(grad, weight, plan) if plan else _scattered(grad, weight, indices, in_features)).t()
        if need_weight or need_bias:
            dweight, dbias = _gradient_of_weight(grad, x.t().contiguous(), weight, indices)
    return dx, dweight if need_weight else None, dbias if need_bias else None
