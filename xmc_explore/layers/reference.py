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


# --- labels in groups: one row of indices for the G labels order[g G:(g + 1) G] -----------------------------------


def _groups(n_groups: int, n_labels: int, group_size: int, elements: int) -> Iterator[tuple[slice, slice, int]]:
    """(groups, their part of the order, labels a group): runs of whole groups, then a last one that is not full."""
    full = n_labels // group_size
    for groups in _chunks(full, elements):
        yield groups, slice(groups.start * group_size, groups.stop * group_size), group_size
    if full < n_groups:
        yield slice(full, n_groups), slice(full * group_size, n_labels), n_labels - full * group_size


def grouped_forward(x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int, bias: Tensor | None
                    ) -> Tensor:
    """y [B, L], laid out as by `forward`, from weight [L, K] and indices [ceil(L / G), K]: a product for each group."""
    (n_labels, fan_in), batch, wide = weight.shape, x.shape[0], _wide(x.dtype)
    yt, xt = x.new_empty((n_labels, batch)), x.t().to(wide).contiguous()
    for groups, places, size in _groups(len(indices), n_labels, group_size, batch * (fan_in + group_size)):
        labels = order[places].long()
        gathered = xt[indices[groups].long()]  # [n, K, B]
        out = torch.bmm(weight[labels].to(wide).view(-1, size, fan_in), gathered).flatten(0, 1)
        yt[labels] = (out if bias is None else out + bias[labels].to(wide).unsqueeze(1)).to(x.dtype)
    return yt.t()


def grouped_backward(
    grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [B, D] (laid out as y), weight [L, K] and bias [L] from grad [B, L]; `needs` says which."""
    (n_labels, fan_in), batch, wide = weight.shape, x.shape[0], _wide(x.dtype)
    need_x, need_weight, need_bias = needs
    xt = x.t().to(wide).contiguous()
    dx = torch.zeros_like(xt) if need_x else None
    dweight = weight.new_empty(weight.shape) if need_weight else None
    for groups, places, size in _groups(len(indices), n_labels, group_size, batch * (fan_in + group_size)):
        labels, rows = order[places].long(), indices[groups].long()
        g = grad.t()[labels].to(wide).unflatten(0, (-1, size))
        if need_weight:
            dweight[labels] = torch.bmm(g, xt[rows].transpose(1, 2)).to(weight.dtype).view(-1, fan_in)
        if need_x:
            part = torch.bmm(weight[labels].to(wide).view(-1, size, fan_in).transpose(1, 2), g)  # [n, K, B]
            dx.index_add_(0, rows.flatten(), part.flatten(0, 1))
    dbias = grad.to(wide).sum(0).to(grad.dtype) if need_bias else None
    return (dx.to(x.dtype).t() if need_x else None), dweight, dbias
