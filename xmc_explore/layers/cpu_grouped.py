"""The formulas of labels in groups (`reference.grouped_forward`) compiled for the CPU; parts and layout as in `cpu.py`.

The labels of a group read the same rows of a panel. Forward, a row that is loaded serves four labels at once; backward,
four rows of the gradient of x stay in registers while the labels of a group add to them. Weights, scores and their
gradients lie by label, wherever the order of the groups says, so those of the next group are asked for early. The step
without logits does all of it for one group before it goes on to the next.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .cpu import (
    ADAM,
    FAR,
    FAST_MATH,
    LINE,
    SGD,
    WIDE,
    Update,
    _apply,
    _array,
    _empty,
    _from_panels,
    _get,
    _given,
    _line,
    _of_negatives,
    _of_positives,
    _over_labels,
    _panels,
    _result,
    _set,
    _tell_autograd,
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
    store_some,
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


@inline
def _scores(x, weight, read, bias, fan_in, l0, l1, l2, l3, like):
    """The logits of four labels of a group: each row of x that is loaded serves all four."""
    z0, z1, z2, z3 = (splat(item(bias, l0), like), splat(item(bias, l1), like),
                      splat(item(bias, l2), like), splat(item(bias, l3), like))
    for k in range(fan_in):
        row = load(x, np.int64(item(read, k)) * width(like), like)
        z0 = z0 + splat(item(weight, l0 * fan_in + k), like) * row
        z1 = z1 + splat(item(weight, l1 * fan_in + k), like) * row
        z2 = z2 + splat(item(weight, l2 * fan_in + k), like) * row
        z3 = z3 + splat(item(weight, l3 * fan_in + k), like) * row
    return z0, z1, z2, z3


@inline
def _gradients(x, weight, read, labels, members, fan_in, g, dx, into, by_label, more, need_x, need_weight, like):
    """Gradients of weight (added to if `more`) and x of one group from its rows of g, one panel of documents.

    Those of weight go `into` the rows of the labels, or into rows 0..members - 1.
    """
    w = width(like)
    for k in range(0, fan_in - 3, 4):  # four rows of the gradient of x stay in registers
        r0, r1 = np.int64(item(read, k)) * w, np.int64(item(read, k + 1)) * w
        r2, r3 = np.int64(item(read, k + 2)) * w, np.int64(item(read, k + 3)) * w
        d0, d1, d2, d3 = load(dx, r0, like), load(dx, r1, like), load(dx, r2, like), load(dx, r3, like)
        for i in range(members):
            row, place = load(g, i * w, like), np.int64(item(labels, i)) * fan_in + k
            if need_x:
                d0 = d0 + splat(item(weight, place), like) * row
                d1 = d1 + splat(item(weight, place + 1), like) * row
                d2 = d2 + splat(item(weight, place + 2), like) * row
                d3 = d3 + splat(item(weight, place + 3), like) * row
            if need_weight:
                to = place if by_label else i * fan_in + k
                found = totals(load(x, r0, like) * row, load(x, r1, like) * row,
                               load(x, r2, like) * row, load(x, r3, like) * row)
                store(into, to, found + load(into, to, found) if more else found)
        if need_x:
            store(dx, r0, d0)
            store(dx, r1, d1)
            store(dx, r2, d2)
            store(dx, r3, d3)
    for k in range(fan_in - fan_in % 4, fan_in):
        r0 = np.int64(item(read, k)) * w
        x_row, d0 = load(x, r0, like), load(dx, r0, like)
        for i in range(members):
            row, place = load(g, i * w, like), np.int64(item(labels, i)) * fan_in + k
            d0 = d0 + splat(item(weight, place), like) * row
            if need_weight:
                to, found = place if by_label else i * fan_in + k, total(x_row * row)
                put(into, to, found + item(into, to) if more else found)
        store(dx, r0, d0)


@lru_cache
def _kernels(size: int, need_x: bool = True, need_weight: bool = True):
    """forward, backward and step for panels of `size` documents, over the groups start..stop of one thread."""

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
                    z0, z1, z2, z3 = _scores(x, w, at(idx, group * fan_in), b, fan_in, l0, l1, l2, l3, like)
                    _write(y, l0 * batch + p * size, n, z0, far)
                    if left > 1:
                        _write(y, l1 * batch + p * size, n, z1, far)
                    if left > 2:
                        _write(y, l2 * batch + p * size, n, z2, far)
                    if left > 3:
                        _write(y, l3 * batch + p * size, n, z3, far)
        fence()

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def backward(grad, doc, row, batch, xt, weight, indices, order, group_size, dxt, dweight, dbias, start, stop,
                 floats):
        (panels, n_features, _), (n_labels, fan_in) = xt.shape, weight.shape
        like, lines = splat(xt.dtype.type(0), size), LINE // xt.itemsize
        g, w, idx, labels, into = at(floats, 0), at(weight, 0), at(indices, 0), at(order, 0), at(dweight, 0)
        for group in range(start, stop):
            first = group * group_size
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
                _gradients(x, w, at(idx, group * fan_in), at(labels, first), members, fan_in,
                           at(g, p * group_size * size), dx, into, True, p > 0, need_x, need_weight, like)

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def step(xt, weight, indices, order, group_size, bias, pair_places, pair_rows, batch, hinge, scale, want_loss, kind,
             h, first_w, second_w, first_b, second_b, dxt, start, stop, floats):
        (panels, n_features, _), (n_labels, fan_in), loss = xt.shape, weight.shape, 0.0
        like, line = splat(np.float32(0), size), LINE // xt.itemsize
        w, idx, b, labels = at(weight, 0), at(indices, 0), at(bias, 0), at(order, 0)
        room = (group_size + 3 & -4) * size  # scores are four at a time
        g, found = at(floats, 0), at(floats, panels * room)
        spare = at(found, group_size * fan_in)
        pair = np.searchsorted(pair_places, start * group_size)
        for group in range(start, stop):
            first, read, q = group * group_size, at(idx, group * fan_in), pair
            members = min(group_size, n_labels - first)
            after = min(group_size, n_labels - first - members)
            _ask(w, labels, first + members, after, fan_in, line)
            if kind != SGD:
                _ask(at(first_w, 0), labels, first + members, after, fan_in, line)
            if kind == ADAM:
                _ask(at(second_w, 0), labels, first + members, after, fan_in, line)
            for p in range(panels):
                x, part, n = at(xt, p * n_features * size), at(g, p * room), min(size, batch - p * size)
                q, losses = pair, like
                for i in range(0, members, 4):
                    left, place = members - i, first + i
                    l0, l1 = _label(labels, place, left), _label(labels, place + 1, left - 1)
                    l2, l3 = _label(labels, place + 2, left - 2), _label(labels, place + 3, left - 3)
                    z0, z1, z2, z3 = _scores(x, w, read, b, fan_in, l0, l1, l2, l3, like)
                    store(part, i * size, z0)
                    store(part, (i + 1) * size, z1)
                    store(part, (i + 2) * size, z2)
                    store(part, (i + 3) * size, z3)
                for i in range(members):
                    row = at(part, i * size)
                    z = load(row, 0, like)
                    grad, losses = _of_negatives(z, hinge, scale, want_loss, losses)
                    if n < size:
                        store(row, 0, like)
                    store_some(row, 0, n, grad)
                    if q < pair_places.size and pair_places[q] == first + i:
                        store(spare, 0, z)
                        q, change = _of_positives(row, spare, n, p * size, hinge, scale, at(pair_places, 0),
                                                  at(pair_rows, 0), q, pair_places.size, first + i)
                        loss += change
                if want_loss:
                    store(spare, 0, losses)
                    for i in range(n):
                        loss += item(spare, i)
                _gradients(x, w, read, at(labels, first), members, fan_in, part, at(dxt, p * n_features * size), found,
                           False, p > 0, True, True, like)
            pair = q
            for i in range(members):
                label, of_label = np.int64(item(labels, first + i)), like
                place = label * fan_in
                _apply(kind, at(w, place), at(found, i * fan_in), at(first_w, place), at(second_w, place), fan_in, h)
                for p in range(panels):
                    of_label = of_label + load(g, p * room + i * size, like)
                put(spare, 0, total(of_label))
                _apply(kind, at(b, label), spare, at(first_b, label), at(second_b, label), 1, h)
        return loss

    return SimpleNamespace(forward=forward, backward=backward, step=step)


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
    dweight, dbias = _result((n_labels if needs[1] else 0, fan_in), w.dtype), np.empty(n_labels, w.dtype)
    line, doc, row = _line(grad)
    kernel, scratch = _kernels(rows.shape[3], needs[0], needs[1]).backward, group_size * rows.shape[1] * rows.shape[3]
    _over_labels(lambda i, start, stop: kernel(line, doc, row, len(x), rows[0], w, idx, labels, group_size, rows[1 + i],
                                               dweight, dbias, start, stop, _empty((scratch,), w.dtype)), len(idx),
                 work)
    found = (_from_panels(rows[1:], x.shape[0]).to(x.dtype), torch.from_numpy(dweight).to(weight.dtype),
             torch.from_numpy(dbias).to(weight.dtype))
    return tuple(g if need else None for g, need in zip(found, needs, strict=True))


@njit(nogil=True, cache=True)
def _places(pair_labels, order, group_of_label, group_size):
    """Where in `order` the label of each pair is."""
    found = np.empty_like(pair_labels)
    for i in range(pair_labels.size):
        place = group_of_label[pair_labels[i]] * group_size
        while place < order.size - 1 and order[place] != pair_labels[i]:
            place += 1
        found[i] = place
    return found


def fused_step(
    x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None, pairs: tuple[Tensor, Tensor], *,
    groups: tuple[Tensor, Tensor, int], loss: str, scale: float, update: Update, want_loss: bool,
) -> tuple[Tensor, float | None]:
    """`cpu.fused_step` of labels in groups: indices [ceil(L / G), K], `groups` = (order, group_of_label, G).

    Group by group: scores, their gradients, those of x and of the weights of the group, update.
    """
    order, group_of_label, group_size = groups
    n_groups = -(-len(weight) // group_size)
    w, idx, b, (labels, rows), kind, numbers, moments = _given(weight, indices, n_groups, bias, pairs, loss, update)
    of = _array(order)
    places = _places(labels, of, group_of_label.numpy(), group_size)
    by_place = np.argsort(places, kind="stable")
    places, rows = places[by_place], rows[by_place]
    work, batch = 3 * w.size * len(x), len(x)
    panels = _panels(x.detach().float(), _size(x), parts(work), w.dtype, work)
    kernel, size = _kernels(panels.shape[3]).step, panels.shape[3]
    scratch = panels.shape[1] * (group_size + 3) * size + group_size * w.shape[1] + size
    values = _over_labels(lambda i, start, stop: kernel(
        panels[0], w, idx, of, group_size, b, places, rows, batch, loss == "squared_hinge", np.float32(scale),
        want_loss, kind, numbers, *moments, panels[1 + i], start, stop, _empty((scratch,), w.dtype)), n_groups, work)
    _tell_autograd(weight, bias, update)
    return _from_panels(panels[1:], batch), sum(values) * scale if want_loss else None
