"""The fixed fan-in formulas in plain PyTorch: any device, any dtype, slow and easy to read.

    y[b, l]  = bias[l] + sum_k w[l, k] * x[b, idx[l, k]]
    dw[l, k] = sum_b g[b, l] * x[b, idx[l, k]]
    dx[b, j] = sum of g[b, l] * w[l, k] over all (l, k) with idx[l, k] = j
    db[l]    = sum_b g[b, l]

Labels go by in chunks, so the gathered block x[:, idx] of shape [B, chunk, K] stays small.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

GATHER_ELEMENTS = 1 << 22  # size of one gathered block: 16 MiB in float32


def _chunks(n_rows: int, elements_per_row: int) -> Iterator[slice]:
    size = max(1, GATHER_ELEMENTS // max(1, elements_per_row))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Half types are summed in float32, as the other backends do."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def forward(x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None) -> Tensor:
    """y [B, L], the transpose of a contiguous [L, B] block, from x [B, D], weight [L, K], indices [L, K], bias [L]."""
    wide = _wide(x.dtype)
    y = x.new_empty((weight.shape[0], x.shape[0])).t()
    for rows in _chunks(weight.shape[0], x.shape[0] * weight.shape[1]):
        gathered = x[:, indices[rows].long()].to(wide)  # [B, chunk, K]
        out = torch.einsum("blk,lk->bl", gathered, weight[rows].to(wide))
        y[:, rows] = (out if bias is None else out + bias[rows].to(wide)).to(x.dtype)
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, needs: tuple[bool, bool, bool],
    plan: tuple[Tensor, ...] = (),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [B, D] (laid out as y), weight [L, K] and bias [L] from grad [B, L]; `needs` says which."""
    wide = _wide(x.dtype)
    need_x, need_weight, need_bias = needs
    dx = torch.zeros((x.shape[1], x.shape[0]), dtype=wide, device=x.device) if need_x else None
    dweight = weight.new_empty(weight.shape) if need_weight else None
    for rows in _chunks(weight.shape[0], x.shape[0] * weight.shape[1]):
        flat = indices[rows].long()  # [chunk, K]
        g = grad[:, rows].to(wide)  # [B, chunk]
        if need_weight:
            dweight[rows] = torch.einsum("bl,blk->lk", g, x[:, flat].to(wide)).to(weight.dtype)
        if need_x:
            contribution = g.t().unsqueeze(1) * weight[rows].to(wide).unsqueeze(2)  # [chunk, K, B]
            dx.index_add_(0, flat.flatten(), contribution.flatten(0, 1))
    dbias = grad.to(wide).sum(0).to(grad.dtype) if need_bias else None
    return (dx.to(x.dtype).t() if need_x else None), dweight, dbias
