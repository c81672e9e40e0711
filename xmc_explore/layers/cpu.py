"""The fixed fan-in formulas compiled for the CPU with numba, and a training step that never holds the logits.

**Layout.** Documents go by in *panels* of 16, 32 or 64: x is [panels, D, width], padded with zeros. One slot (l, k)
then multiplies one contiguous row of a panel, a `simd.Vector`, and sums over slots stay in registers. y and its
gradient are [L, B]: label-major.

**Backward.** Label by label (`_by_label`), the gradient of x is a load and a store for each multiply-add. Feature by
feature (`_by_feature`) it is a sum in registers, and each row of g that is loaded serves both gradients; for this the
slots of a block of labels are sorted by feature first, which pays from about 64 documents on.

**Threads** are ours, one contiguous range of labels each: numba releases the GIL, and unlike numba's own
`parallel=True` this is safe when two Python threads (a notebook cell and a laboratory) call at the same time.

What each kernel costs, and what else was tried: benchmarks/NOTES.md, benchmarks/roofline.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import llvmlite.binding
import numpy as np
import torch
from numba import njit
from torch import Tensor

from .simd import exp, item, load, put, relu, splat, store, total, totals, width

# Sums may be reordered (that is what vectorising a sum means); NaN and infinity keep their meaning.
FAST_MATH = {"reassoc", "contract", "nsz"}
HUGE_PAGE = 1 << 21  # bytes
HUGE_WORK = 50_000_000  # multiply-adds from which a huge page is worth its half millisecond
MIN_WORK = 200_000  # multiply-adds below which a second thread costs more than it gives
# Four registers of x and four of its gradient are in use at once, and AVX2 has 16 registers of 8 floats.
WIDE = 64 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 32
BLOCK = 128  # labels whose g, 64 documents wide, is 32 KiB: in the first-level cache
SORTED_SLOTS = 1 << 15  # of a block, at most
NONE, SGD, MOMENTUM, ADAM = range(4)  # what a step does to the weights
inline = njit(nogil=True, fastmath=FAST_MATH)  # a part of a kernel


# --- parts: one panel of documents, the labels start..stop ---------------------------------------------------------


@inline
def _get(array, position, n, spare, like):
    """n numbers of an array as a Vector; what is beyond them is what `spare` holds there."""
    if n == width(like):
        return load(array, position, like)
    for i in range(n):
        spare[i] = item(array, position + i)
    return load(spare, 0, like)


@inline
def _put(array, position, n, spare, vector):
    """The first n numbers of a Vector into an array."""
    if n == width(vector):
        store(array, position, vector)
    else:
        store(spare, 0, vector)
        for i in range(n):
            put(array, position + i, spare[i])


@inline
def _score(x, weight, indices, bias, label, like):
    """bias[label] + sum_k weight[label, k] * x[indices[label, k]]: the logits of one label."""
    fan_in = weight.shape[1]
    z = splat(item(bias, label), like)
    for k in range(label * fan_in, (label + 1) * fan_in):
        z = z + splat(item(weight, k), like) * load(x, np.int64(item(indices, k)) * width(like), like)
    return z


@inline
def _by_label(x, weight, indices, g, dx, dweight, start, stop, more, like):
    """Gradients of weight (added to if `more`) and x of the labels start..stop, from their rows of g."""
    fan_in, w = weight.shape[1], width(like)
    for label in range(start, stop):
        row = load(g, (label - start) * w, like)
        first, last = label * fan_in, (label + 1) * fan_in
        at = (label - start) * fan_in - first
        for k in range(first, last - 3, 4):
            r0, r1 = np.int64(item(indices, k)) * w, np.int64(item(indices, k + 1)) * w
            r2, r3 = np.int64(item(indices, k + 2)) * w, np.int64(item(indices, k + 3)) * w
            found = totals(load(x, r0, like) * row, load(x, r1, like) * row,
                           load(x, r2, like) * row, load(x, r3, like) * row)
            store(dweight, at + k, found + load(dweight, at + k, found) if more else found)
            store(dx, r0, load(dx, r0, like) + splat(item(weight, k), like) * row)
            store(dx, r1, load(dx, r1, like) + splat(item(weight, k + 1), like) * row)
            store(dx, r2, load(dx, r2, like) + splat(item(weight, k + 2), like) * row)
            store(dx, r3, load(dx, r3, like) + splat(item(weight, k + 3), like) * row)
        for k in range(last - fan_in % 4, last):
            r0 = np.int64(item(indices, k)) * w
            found = total(load(x, r0, like) * row)
            dweight[at + k] = dweight[at + k] + found if more else found
            store(dx, r0, load(dx, r0, like) + splat(item(weight, k), like) * row)


@inline
def _sort(weight, indices, start, stop, starts, row_of, slot_of, weight_of, w):
    """The slots of the labels start..stop in the order of their features: those of feature j at starts[j]..starts[j+1].

    Of each: where its label's row of g begins, which slot of the block it is, and its weight.
    """
    fan_in, n_features = weight.shape[1], starts.size - 1
    starts[:] = 0
    for k in range(start * fan_in, stop * fan_in):
        starts[np.uint64(item(indices, k))] += 1
    end = 0
    for j in range(n_features + 1):
        end += starts[j]
        starts[j] = end
    k = stop * fan_in - 1
    for label in range(stop - 1 - start, -1, -1):  # backwards, so that the ends become the starts
        for _ in range(fan_in):
            j = np.uint64(item(indices, k))
            starts[j] -= 1
            place = np.uint64(starts[j])
            row_of[place], slot_of[place], weight_of[place] = label * w, k - start * fan_in, item(weight, k)
            k -= 1


@inline
def _by_feature(x, starts, row_of, weight_of, g, dx, dsorted, more, like):
    """Gradients of the sorted weights (added to if `more`) and x, feature by feature."""
    w = width(like)
    for j in range(starts.size - 1):
        p, end = np.int64(item(starts, j)), np.int64(item(starts, j + 1))
        if p == end:
            continue
        x_row, dx_row = load(x, j * w, like), load(dx, j * w, like)
        while p + 4 <= end:
            g0, g1 = load(g, item(row_of, p), like), load(g, item(row_of, p + 1), like)
            g2, g3 = load(g, item(row_of, p + 2), like), load(g, item(row_of, p + 3), like)
            dx_row = dx_row + splat(item(weight_of, p), like) * g0
            dx_row = dx_row + splat(item(weight_of, p + 1), like) * g1
            dx_row = dx_row + splat(item(weight_of, p + 2), like) * g2
            dx_row = dx_row + splat(item(weight_of, p + 3), like) * g3
            found = totals(x_row * g0, x_row * g1, x_row * g2, x_row * g3)
            store(dsorted, p, found + load(dsorted, p, found) if more else found)
            p += 4
        while p < end:
            g0 = load(g, item(row_of, p), like)
            dx_row = dx_row + splat(item(weight_of, p), like) * g0
            found = total(x_row * g0)
            dsorted[np.uint64(p)] = dsorted[np.uint64(p)] + found if more else found
            p += 1
        store(dx, j * w, dx_row)


@inline
def _unsort(dsorted, slot_of, dweight, n):
    for p in range(n):
        dweight[np.uint64(item(slot_of, p))] = item(dsorted, p)


@inline
def _log1p(e):
    """log(1 + e) of each number in 0..1, small ones to full precision: 2 atanh(e / (2 + e)) as a series."""
    s = e / (splat(np.float32(2), e) + e)  # at most 1/3
    q = s * s
    series = splat(np.float32(1 / 13), e)
    for k in (11, 9, 7, 5, 3, 1):
        series = series * q + splat(np.float32(1) / np.float32(k), e)
    return splat(np.float32(2), e) * s * series


@inline
def _apply(kind, value, grad, first, second, at, n, h):
    """Bring value[at..at+n] up to date from grad[0..n]; first and second are its moments, h is from `_numbers`."""
    if kind == NONE:
        first[at:at + n] = grad[:n]
    elif kind == SGD:
        v = value[at:at + n]
        for i in range(n):
            v[i] -= h[0] * (grad[i] + h[1] * v[i])
    elif kind == MOMENTUM:
        v, m = value[at:at + n], first[at:at + n]
        for i in range(n):
            m[i] = h[2] * m[i] + (grad[i] + h[1] * v[i])
            v[i] -= h[0] * m[i]
    else:
        v, m, s = value[at:at + n], first[at:at + n], second[at:at + n]
        for i in range(n):
            m[i] += h[2] * (grad[i] - m[i])
            s[i] = h[3] * s[i] + h[4] * grad[i] * grad[i]
            v[i] = h[1] * v[i] - h[0] * m[i] / (np.sqrt(s[i]) * h[5] + h[6])


@inline
def _aligned(n, sample):
    """n numbers that start a cache line; a vector across two lines would be loaded twice."""
    raw = np.empty(n + 64 // sample.itemsize, sample.dtype)
    skip = -raw.ctypes.data % 64 // sample.itemsize
    return raw[skip:skip + n]


# --- kernels: the labels start..stop of one thread -----------------------------------------------------------------


@lru_cache
def _kernels(size: int, by_feature: bool):
    """forward, backward and step for panels of `size` documents; numba's cache tells them apart by the arguments."""

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def forward(xt, weight, indices, bias, yt, start, stop, block):
        batch, like = yt.shape[1], splat(xt.dtype.type(0), size)
        spare = np.zeros(size, xt.dtype)
        for first in range(start, stop, block):  # its weights stay in the cache from panel to panel
            for p in range(xt.shape[0]):
                x, n = xt[p], min(size, batch - p * size)
                for label in range(first, min(first + block, stop)):
                    _put(yt, label * batch + p * size, n, spare, _score(x, weight, indices, bias, label, like))

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def backward(gt, xt, weight, indices, dxt, dweight, dbias, start, stop, block):
        batch, like = gt.shape[1], splat(xt.dtype.type(0), size)
        fan_in, spare = weight.shape[1], np.zeros(size, xt.dtype)
        g, found = _aligned(block * size, xt), _aligned(block * fan_in, xt)
        starts, row_of, slot_of = np.empty(xt.shape[1] + 1, np.int32), np.empty(0, np.int32), np.empty(0, np.int32)
        weight_of, dsorted = np.empty(0, xt.dtype), np.empty(0, xt.dtype)
        if by_feature:
            row_of, slot_of = np.empty(block * fan_in, np.int32), np.empty(block * fan_in, np.int32)
            weight_of, dsorted = np.empty(block * fan_in, xt.dtype), _aligned(block * fan_in, xt)
        for first in range(start, stop, block):
            last = min(first + block, stop)
            if by_feature:
                _sort(weight, indices, first, last, starts, row_of, slot_of, weight_of, size)
            for p in range(xt.shape[0]):
                n = min(size, batch - p * size)
                for label in range(first, last):
                    row = _get(gt, label * batch + p * size, n, spare, like)
                    store(g, (label - first) * size, row)
                    dbias[label] = total(row) + (dbias[label] if p else 0)
                if by_feature:
                    _by_feature(xt[p], starts, row_of, weight_of, g, dxt[p], dsorted, p > 0, like)
                else:
                    _by_label(xt[p], weight, indices, g, dxt[p], found, first, last, p > 0, like)
            if by_feature:
                _unsort(dsorted, slot_of, found, (last - first) * fan_in)
            dweight[first * fan_in:last * fan_in] = found[:(last - first) * fan_in]

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def step(xt, weight, indices, bias, labels, rows, batch, hinge, scale, want_loss, kind, h, first_w, first_b,
             second_w, second_b, dxt, start, stop, block):
        zero, one = splat(np.float32(0), size), splat(np.float32(1), size)
        fan_in, spare, loss = weight.shape[1], np.zeros(size, np.float32), 0.0
        g, found, dbias = _aligned(block * size, xt), _aligned(block * fan_in, xt), _aligned(block, xt)
        starts, row_of, slot_of = np.empty(xt.shape[1] + 1, np.int32), np.empty(0, np.int32), np.empty(0, np.int32)
        weight_of, dsorted = np.empty(0, xt.dtype), np.empty(0, xt.dtype)
        if by_feature:
            row_of, slot_of = np.empty(block * fan_in, np.int32), np.empty(block * fan_in, np.int32)
            weight_of, dsorted = np.empty(block * fan_in, xt.dtype), _aligned(block * fan_in, xt)
        weight1, pair = weight.ravel(), np.searchsorted(labels, start)
        for first in range(start, stop, block):
            last = min(first + block, stop)
            if by_feature:
                _sort(weight, indices, first, last, starts, row_of, slot_of, weight_of, size)
            dbias[:] = 0
            q = pair
            for p in range(xt.shape[0]):
                n, q, losses = min(size, batch - p * size), pair, zero
                for label in range(first, last):
                    z = _score(xt[p], weight, indices, bias, label, zero)
                    at = (label - first) * size
                    if hinge:
                        above = relu(one + z)
                        store(g, at, above * splat(scale + scale, zero))
                        losses = losses + above * above
                    else:
                        store(g, at, splat(scale, zero) / (one + exp(zero - z)))
                        if want_loss:
                            losses = losses + relu(z) + _log1p(exp(zero - relu(z) - relu(zero - z)))
                    for i in range(n, size):
                        g[at + i] = 0
                    if q < labels.size and labels[q] == label:
                        store(spare, 0, z)
                        while q < labels.size and labels[q] == label:
                            row = rows[q] - p * size
                            if 0 <= row and row < n:
                                if hinge:
                                    g[at + row] = -(scale + scale) * max(1 - spare[row], np.float32(0))
                                    loss += max(1 - spare[row], 0.0) ** 2 - max(1 + spare[row], 0.0) ** 2
                                else:
                                    g[at + row] -= scale
                                    loss -= spare[row]
                            q += 1
                    dbias[label - first] += total(load(g, at, zero))
                if want_loss:
                    store(spare, 0, losses)
                    for i in range(n):
                        loss += spare[i]
                if by_feature:
                    _by_feature(xt[p], starts, row_of, weight_of, g, dxt[p], dsorted, p > 0, zero)
                else:
                    _by_label(xt[p], weight, indices, g, dxt[p], found, first, last, p > 0, zero)
            pair = q
            if by_feature:
                _unsort(dsorted, slot_of, found, (last - first) * fan_in)
            _apply(kind, weight1, found, first_w, second_w, first * fan_in, (last - first) * fan_in, h)
            _apply(kind, bias, dbias, first_b, second_b, first, last - first, h)
        return loss

    return forward, backward, step


# --- what calls them -----------------------------------------------------------------------------------------------


def _choose(batch: int, n_features: int, n_labels: int, fan_in: int) -> tuple[int, bool, int]:
    """The width of a panel, whether to go by feature in the backward pass, and how many labels make a block."""
    block = max(1, min(BLOCK, SORTED_SLOTS // 4 // fan_in))
    if batch > 32:
        wide = block
        while wide * fan_in < 4 * n_features and wide < 8 * BLOCK:
            wide *= 2
        if min(wide, n_labels) * fan_in >= 2 * n_features:  # else most features are read by no label, or one
            return WIDE, True, wide
    return (16 if batch <= 16 else 32), False, block


@lru_cache(maxsize=4)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """One pool for each process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="fixed-fan-in")


def _over_labels(run: Callable[[int, int, int], None], n_labels: int, work: int) -> None:
    """Call run(part, start, stop) over `parts(work)` contiguous ranges of labels, in threads."""
    n = parts(work)
    bounds = np.linspace(0, n_labels, n + 1).astype(np.int64)
    if n == 1:
        run(0, 0, n_labels)
    else:
        jobs = [_pool(os.getpid(), n).submit(run, i, bounds[i], bounds[i + 1]) for i in range(n)]
        for job in jobs:
            job.result()


def parts(work: int) -> int:
    """How many threads to use for `work` multiply-adds."""
    return max(1, min(torch.get_num_threads(), work // MIN_WORK))


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array on a huge page's boundary if it is large, on a cache line's if not.

    NumPy asks Linux for huge pages from 4 MiB on; elsewhere this is merely an aligned array. Touching fresh memory for
    the first time costs a page fault each 4 KiB otherwise: 190 ms for 134 MB from `torch.empty`, 22 ms like this.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    border = HUGE_PAGE if size >= HUGE_PAGE else 64
    raw = np.empty(size + border, np.uint8)
    start = -raw.ctypes.data % border
    return raw[start:start + size].view(dtype).reshape(shape)


def _scratch(shape: tuple[int, ...], dtype: np.dtype, work: int) -> np.ndarray:
    """Zeros that the kernels read and write at random.

    For much work they lie in one huge page: spread over small ones they collide in the second-level cache, by chance
    and for as long as the process lives (measured: 10 to 30 % of the backward pass).
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = _empty((size + (2 * HUGE_PAGE if work >= HUGE_WORK else 0),), np.uint8)[:size].view(dtype).reshape(shape)
    array[...] = 0
    return array


def _array(t: Tensor) -> np.ndarray:
    """The tensor's memory as a NumPy array, half types widened to float32 (which copies)."""
    t = t.detach()
    return (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).contiguous().numpy()


def _panels(x: Tensor, size: int, more: int, dtype: np.dtype, work: int) -> np.ndarray:
    """[1 + more, panels, D, size]: x [B, D] in panels, then `more` times zeros of that shape."""
    batch, n_features = x.shape
    x = _array(x)
    rows = _scratch((1 + more, max(1, -(-batch // size)), n_features, size), dtype, work)
    for p in range(rows.shape[1]):
        part = x[p * size:(p + 1) * size]
        rows[0, p, :, :len(part)] = part.T
    return rows


def _from_panels(dxt: np.ndarray, batch: int) -> Tensor:
    """The gradient of x [B, D], a transposed block, from one in panels for each thread [threads, panels, D, size]."""
    return torch.from_numpy(dxt).sum(0).permute(1, 0, 2).reshape(dxt.shape[2], -1)[:, :batch].contiguous().t()


def forward(x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None) -> Tensor:
    """y [B, L] from x [B, D], weight [L, K], indices [L, K], bias [L]; y is the transpose of an [L, B] block."""
    n_labels, fan_in = weight.shape
    work = n_labels * fan_in * x.shape[0]
    size, by_feature, block = _choose(x.shape[0], x.shape[1], n_labels, fan_in)
    w, idx = _array(weight), _array(indices)
    xt = _panels(x, size, 0, w.dtype, work)[0]
    b = np.zeros(n_labels, w.dtype) if bias is None else _array(bias)
    yt = _empty((n_labels, x.shape[0]), w.dtype)
    kernel = _kernels(size, by_feature)[0]
    _over_labels(lambda _, start, stop: kernel(xt, w, idx, b, yt, start, stop, block), n_labels, work)
    return torch.from_numpy(yt).to(x.dtype).t()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, needs: tuple[bool, bool, bool],
    plan: tuple[Tensor, ...] = (),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [B, D], weight [L, K] and bias [L] from grad [B, L]; `needs` says which to hand back."""
    n_labels, fan_in = weight.shape
    gt, w, idx = _array(grad.t()), _array(weight), _array(indices)
    work = 2 * n_labels * fan_in * x.shape[0]
    size, by_feature, block = _choose(x.shape[0], x.shape[1], n_labels // parts(work), fan_in)
    rows = _panels(x, size, parts(work), w.dtype, work)  # one gradient of x for each thread: no two write to one place
    dweight, dbias = _empty((w.size,), w.dtype), np.empty(n_labels, w.dtype)
    kernel = _kernels(size, by_feature)[1]
    _over_labels(lambda i, start, stop: kernel(gt, rows[0], w, idx, rows[1 + i], dweight, dbias, start, stop, block),
                 n_labels, work)
    found = (_from_panels(rows[1:], x.shape[0]).to(x.dtype), torch.from_numpy(dweight).view(w.shape).to(weight.dtype),
             torch.from_numpy(dbias).to(weight.dtype))
    return tuple(g if need else None for g, need in zip(found, needs, strict=True))


# --- the step without logits ---------------------------------------------------------------------------------------

LOSSES = ("bce", "squared_hinge")


class Update(NamedTuple):
    """What `fused_step` does with the gradients of weight [L, K] and bias [L]; all tensors float32, changed in place.

    kind "none": they are written to state = (dweight, dbias).
    kind "sgd": as torch.optim.SGD; with momentum, state = (its buffer for weight, for bias), zeros at the start.
    kind "adam": as torch.optim.AdamW (decoupled weight decay); state = (first moment of weight, of bias, second moment
    of weight, of bias), zeros at the start, and `step` counts from 1.
    """

    kind: str
    lr: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    step: int = 1
    state: tuple[Tensor, ...] = ()


def _numbers(update: Update) -> tuple[int, list[float]]:
    """Kind and constants of an update, as `_apply` takes them."""
    lr, decay, (beta1, beta2) = update.lr, update.weight_decay, update.betas
    if update.kind == "none":
        return NONE, [0.0]
    if update.kind == "sgd":
        return (MOMENTUM if update.momentum else SGD), [lr, decay, update.momentum]
    if update.kind == "adam":
        return ADAM, [lr / (1 - beta1 ** update.step), 1 - lr * decay, 1 - beta1, beta2, 1 - beta2,
                      (1 - beta2 ** update.step) ** -0.5, update.eps]
    raise ValueError(f"update kind {update.kind!r} is not known; choose one of 'none', 'sgd', 'adam'")


def _plain(name: str, t: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
    """The memory of a tensor that the kernel reads or changes in place, if it is of this kind."""
    if t.dtype != dtype or tuple(t.shape) != shape or not t.is_contiguous() or t.device.type != "cpu":
        raise ValueError(f"fused_step: {name} must be a contiguous {dtype} tensor {list(shape)} on the CPU; got "
                         f"{t.dtype} {list(t.shape)} on {t.device}" + ("" if t.is_contiguous() else ", not contiguous"))
    return t.detach().numpy()


def fused_step(
    x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None, pairs: tuple[Tensor, Tensor], *, loss: str,
    scale: float, update: Update, want_loss: bool,
) -> tuple[Tensor, float | None]:
    """One training step of the layer in one pass over its labels: the gradient of x [B, D], and the loss if wanted.

    x [B, D], weight [L, K] and bias [L] (or None) are float32. `pairs` = (label, row), int32 [P] each: the positives,
    sorted by label, then row, none twice. The loss, "bce" or "squared_hinge", is summed over labels and documents and
    multiplied by `scale`. Scores, their gradients (in closed form), and those of the weights exist for a block of
    labels at a time. `update` says what happens to weight and bias. Neither indices nor pairs are looked at: wrong ones
    read memory they should not. Raises ValueError for tensors of another kind.
    """
    n_labels, fan_in = weight.shape
    f32, batch = torch.float32, x.shape[0]
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}; choose one of {LOSSES}")
    w = _plain("weight", weight, (n_labels, fan_in), f32)
    b = np.zeros(n_labels, np.float32) if bias is None else _plain("bias", bias, (n_labels,), f32)
    idx = _plain("indices", indices, (n_labels, fan_in), indices.dtype)
    labels, rows = (_plain(f"pairs[{i}]", t, tuple(pairs[0].shape), torch.int32) for i, t in enumerate(pairs))
    kind, numbers = _numbers(update)
    shapes = [(n_labels, fan_in), (n_labels,)] * {NONE: 1, SGD: 0, MOMENTUM: 1, ADAM: 2}[kind]
    if bias is None:
        shapes = shapes[::2]
    if len(update.state) != len(shapes):
        raise ValueError(f"fused_step: update.state must hold {len(shapes)} tensors for {update.kind!r}; got "
                         f"{len(update.state)}")
    state = [_plain(f"update.state[{i}]", t, shape, f32).reshape(-1)
             for i, (t, shape) in enumerate(zip(update.state, shapes, strict=True))]
    if bias is None:
        state = [array for found in state for array in (found, np.zeros(n_labels, np.float32))]
    state += [np.empty(0, np.float32)] * (4 - len(state))

    work = 3 * n_labels * fan_in * batch
    size, by_feature, block = _choose(batch, x.shape[1], n_labels // parts(work), fan_in)
    panels = _panels(x.detach().float(), size, parts(work), w.dtype, work)
    losses = np.zeros(parts(work))
    h, scale32, kernel = np.array(numbers, np.float32), np.float32(scale), _kernels(size, by_feature)[2]

    def run(i: int, start: int, stop: int) -> None:
        losses[i] = kernel(panels[0], w, idx, b, labels, rows, batch, loss == "squared_hinge", scale32, want_loss, kind,
                           h, *state, panels[1 + i], start, stop, block)

    _over_labels(run, n_labels, work)
    return _from_panels(panels[1:], batch), float(losses.sum()) * scale if want_loss else None
