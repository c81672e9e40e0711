"""The formulas of labels in groups (`reference.grouped_forward`) compiled for the CPU; parts and layout as in `cpu.py`.

The labels of a group read the same rows of a panel. Forward, a row that is loaded serves four labels at once; backward,
four rows of the gradient of x stay in registers while the labels of a group add to them. Weights, scores and their
gradients lie by label, wherever the order of the groups says, so those of the next group are asked for early.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .cpu import (
    FAR,
    FAST_MATH,
    LINE,
    WIDE,
    _array,
    _empty,
    _from_panels,
    _get,
    _over_labels,
    _panels,
    _result,
    _set,
    _widened,
    inline,
    parts,
)
from .simd import (
    at,
    fence,
    item,
    load,
    prefetch,
    put,
    splat,
    store,
    stream,
    total,
    totals,
    width,
)

# Four sums of a panel's width stay in registers while a group goes by: AVX-512 has 32 of them, AVX2 half as many.
SIZE = WIDE if WIDE == 64 else 16


@inline
def _ask(memory, order, first, n, row, step):
    """Ask for the rows of the labels order[first:first + n], which lie anywhere; `step` is one line of the cache."""
    for i in range(first, first + n):
        start = np.int64(item(order, i)) * row
        for place in range(start, start + row, step):
            prefetch(memory, place)


@inline
def _label(order, place, left):
    """The label at a place of the order; the one of the place before the first that is beyond its group."""
    return np.int64(item(order, place if left > 0 else place + left - 1))


@inline
def _write(y, place, n, z, far):
    if far and n >= width(z):
        stream(y, place, z)
    else:
        _set(y, place, n, z)


@lru_cache
def _kernels(size: int):
    """forward and backward for panels of `size` documents, over the groups start..stop of one thread."""

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def forward(xt, weight, indices, order, group_size, bias, yt, far, start, stop):
        (panels, n_features, _), (n_labels, batch), fan_in = xt.shape, yt.shape, weight.shape[1]
        like, line = splat(xt.dtype.type(0), size), LINE // xt.itemsize
        w, idx, b, labels, y = at(weight, 0), at(indices, 0), at(bias, 0), at(order, 0), at(yt, 0)
        for group in range(start, stop):
            first = group * group_size
            members = min(group_size, n_labels - first)
            _ask(w, labels, first + members, min(group_size, n_labels - first - members), fan_in, line)
            for p in range(panels):
                x, n = at(xt, p * n_features * size), batch - p * size
                for i in range(0, members, 4):  # beyond the last label it is taken again, and not written
                    left, place = members - i, first + i
                    l0, l1 = _label(labels, place, left), _label(labels, place + 1, left - 1)
                    l2, l3 = _label(labels, place + 2, left - 2), _label(labels, place + 3, left - 3)
                    z0, z1 = splat(item(b, l0), like), splat(item(b, l1), like)
                    z2, z3 = splat(item(b, l2), like), splat(item(b, l3), like)
                    for k in range(fan_in):
                        row = load(x, np.int64(item(idx, group * fan_in + k)) * size, like)
                        z0 = z0 + splat(item(w, l0 * fan_in + k), like) * row
                        z1 = z1 + splat(item(w, l1 * fan_in + k), like) * row
                        z2 = z2 + splat(item(w, l2 * fan_in + k), like) * row
                        z3 = z3 + splat(item(w, l3 * fan_in + k), like) * row
                    _write(y, l0 * batch + p * size, n, z0, far)
                    if i + 1 < members:
                        _write(y, l1 * batch + p * size, n, z1, far)
                    if i + 2 < members:
                        _write(y, l2 * batch + p * size, n, z2, far)
                    if i + 3 < members:
                        _write(y, l3 * batch + p * size, n, z3, far)
        fence()

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def backward(grad, doc, row, batch, xt, weight, indices, order, group_size, dxt, dweight, dbias, start, stop,
                 floats):
        (panels, n_features, _), (n_labels, fan_in) = xt.shape, weight.shape
        like, lines = splat(xt.dtype.type(0), size), LINE // xt.itemsize
        g, w, idx, labels, into = at(floats, 0), at(weight, 0), at(indices, 0), at(order, 0), at(dweight, 0)
        for group in range(start, stop):
            first, read = group * group_size, at(idx, group * fan_in)
            members = min(group_size, n_labels - first)
            after = min(group_size, n_labels - first - members)
            _ask(w, labels, first + members, after, fan_in, lines)
            if doc == 1:
                _ask(at(grad, 0), labels, first + members, after, row, lines)
            for i in range(members):
                of_label, label = like, np.int64(item(labels, first + i))
                for p in range(panels):
                    place, n = (p * group_size + i) * size, batch - p * size
                    here = at(grad, label * row + p * size * doc)
                    if doc == 1:
                        store(g, place, _get(here, 0, n, like))
                    else:
                        store(g, place, like)
                        for b in range(min(n, size)):
                            put(g, place + b, item(here, b * doc))
                    of_label = of_label + load(g, place, like)
                dbias[label] = total(of_label)
            for p in range(panels):
                x, dx = at(xt, p * n_features * size), at(dxt, p * n_features * size)
                part = at(g, p * group_size * size)
                for k in range(0, fan_in - 3, 4):  # four rows of the gradient of x stay in registers
                    r0, r1 = np.int64(item(read, k)) * size, np.int64(item(read, k + 1)) * size
                    r2, r3 = np.int64(item(read, k + 2)) * size, np.int64(item(read, k + 3)) * size
                    d0, d1, d2, d3 = load(dx, r0, like), load(dx, r1, like), load(dx, r2, like), load(dx, r3, like)
                    for i in range(members):
                        g_row, place = load(part, i * size, like), np.int64(item(labels, first + i)) * fan_in + k
                        d0 = d0 + splat(item(w, place), like) * g_row
                        d1 = d1 + splat(item(w, place + 1), like) * g_row
                        d2 = d2 + splat(item(w, place + 2), like) * g_row
                        d3 = d3 + splat(item(w, place + 3), like) * g_row
                        found = totals(load(x, r0, like) * g_row, load(x, r1, like) * g_row,
                                       load(x, r2, like) * g_row, load(x, r3, like) * g_row)
                        store(into, place, found + load(into, place, found) if p > 0 else found)
                    store(dx, r0, d0)
                    store(dx, r1, d1)
                    store(dx, r2, d2)
                    store(dx, r3, d3)
                for k in range(fan_in - fan_in % 4, fan_in):
                    r0 = np.int64(item(read, k)) * size
                    x_row, d0 = load(x, r0, like), load(dx, r0, like)
                    for i in range(members):
                        g_row, place = load(part, i * size, like), np.int64(item(labels, first + i)) * fan_in + k
                        d0 = d0 + splat(item(w, place), like) * g_row
                        found = total(x_row * g_row)
                        put(into, place, found + item(into, place) if p > 0 else found)
                    store(dx, r0, d0)

    return SimpleNamespace(forward=forward, backward=backward)


def _size(x: Tensor) -> int:
    """Documents in a panel."""
    return min(SIZE, 16) if len(x) <= 16 else min(SIZE, 32) if len(x) <= 32 else SIZE


def grouped_forward(x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int, bias: Tensor | None
                    ) -> Tensor:
    """y [B, L], the transpose of an [L, B] block, from weight [L, K], indices [ceil(L / G), K] and order [L]."""
    n_labels, fan_in = weight.shape
    work = n_labels * fan_in * x.shape[0]
    w, idx, labels = _array(weight), _array(indices), _array(order)
    xt = _panels(x, _size(x), 0, w.dtype, work)[0]
    b = np.zeros(n_labels, w.dtype) if bias is None else _array(bias)
    yt = _result((n_labels, x.shape[0]), w.dtype)
    far = yt.nbytes >= FAR and yt.strides[0] % LINE == 0
    kernel = _kernels(xt.shape[2]).forward
    _over_labels(lambda i, start, stop: kernel(xt, w, idx, labels, group_size, b, yt, far, start, stop), len(idx), work)
    return torch.from_numpy(yt).to(x.dtype).t()


def grouped_backward(
    grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, order: Tensor, group_size: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [B, D], weight [L, K] and bias [L] from grad [B, L]; `needs` says which to hand back."""
    n_labels, fan_in = weight.shape
    w, idx, labels, grad = _array(weight), _array(indices), _array(order), _widened(grad)
    work = 2 * n_labels * fan_in * x.shape[0]
    rows = _panels(x, _size(x), parts(work), w.dtype, work)
    dweight, dbias = _result(w.shape, w.dtype), np.empty(n_labels, w.dtype)
    span = sum((n - 1) * stride for n, stride in zip(grad.shape, grad.stride(), strict=True)) + 1 if grad.numel() else 0
    line, (doc, row) = grad.as_strided((span,), (1,)).numpy(), grad.stride()
    doc = 1 if len(x) == 1 else doc
    kernel, scratch = _kernels(rows.shape[3]).backward, group_size * rows.shape[1] * rows.shape[3]
    _over_labels(lambda i, start, stop: kernel(line, doc, row, len(x), rows[0], w, idx, labels, group_size, rows[1 + i],
                                               dweight, dbias, start, stop, _empty((scratch,), w.dtype)), len(idx),
                 work)
    found = (_from_panels(rows[1:], x.shape[0]).to(x.dtype), torch.from_numpy(dweight).to(weight.dtype),
             torch.from_numpy(dbias).to(weight.dtype))
    return tuple(g if need else None for g, need in zip(found, needs, strict=True))
