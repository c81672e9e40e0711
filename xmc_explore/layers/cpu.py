"""The fixed fan-in formulas compiled for the CPU with numba, and a training step that never holds the logits.

**Layout.** Documents go by in *panels* of 16, 32 or 64: x is [panels, D, width], padded with zeros. One slot (l, k)
then multiplies one contiguous row of a panel, a `simd.Vector`, and sums over slots stay in registers. y and its
gradient are [L, B]: label-major.

**Backward.** Label by label (`_by_label`), the gradient of x is a load and a store for each multiply-add. Feature by
feature (`_by_feature`) it is a sum in registers, and each row of g that is loaded serves both gradients; for this the
slots of a block of labels are sorted by feature first, which pays for more than 64 documents.

**Threads** are ours, one contiguous range of labels each: numba releases the GIL, and unlike numba's own
`parallel=True` this is safe when two Python threads (a notebook cell and a laboratory) call at the same time.

What each kernel costs, and what else was tried: benchmarks/NOTES.md, benchmarks/roofline.py.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import llvmlite.binding
import numpy as np
import torch
from numba import njit
from torch import Tensor

from .simd import (
    at,
    exp,
    fence,
    four,
    item,
    lane,
    load,
    load_some,
    prefetch,
    put,
    put_word,
    relu,
    splat,
    sqrt,
    store,
    store_some,
    stream,
    total,
    totals,
    width,
    word,
)

# Sums may be reordered (that is what vectorising a sum means); NaN and infinity keep their meaning.
FAST_MATH = {"reassoc", "contract", "nsz"}
HUGE_PAGE = 1 << 21  # bytes
HUGE_WORK = 50_000_000  # multiply-adds from which a huge page is worth its half millisecond
MIN_WORK = 2_000_000  # multiply-adds below which a second thread costs more than it gives
# Four registers of x and four of its gradient are in use at once, and AVX2 has 16 registers of 8 floats.
WIDE = 64 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 32
NARROW = 32  # documents in a panel that is read at random: of fewer, more stays in the first-level cache
LINE = 64  # bytes of a line of the cache, and of the widest vector register
KEPT = 2  # large results whose memory is kept for the next: y and the gradient of the weights
FAR = 1 << 24  # bytes from which y is written past the caches: it would not stay there anyway
BLOCK = 256  # labels; each feature should meet several of them, and their g should not leave the second-level cache
SORTED_SLOTS = 1 << 15  # of a block, at most
NONE, SGD, MOMENTUM, ADAM = range(4)  # what a step does to the weights
# A part of a kernel. Left as a call it would count references to its arrays, with two locked instructions each.
inline = njit(nogil=True, fastmath=FAST_MATH, forceinline=True)


# --- parts: one panel of documents, the labels start..stop; all memory by pointers ---------------------------------


@inline
def _get(memory, position, n, like):
    """A Vector of n numbers, or as many as it holds."""
    return load(memory, position, like) if n >= width(like) else load_some(memory, position, n, like)


@inline
def _set(memory, position, n, vector):
    """Write n numbers of a Vector, or as many as it holds."""
    if n >= width(vector):
        store(memory, position, vector)
    else:
        store_some(memory, position, n, vector)


@inline
def _score(x, weight, indices, bias, fan_in, label, like):
    """bias[label] + sum_k weight[label, k] * x[indices[label, k]]: the logits of one label."""
    w, z, odd, last = width(like), splat(item(bias, label), like), like - like, (label + 1) * fan_in
    for k in range(label * fan_in, last - 3, 4):  # two sums, as each waits for its last addition
        weights = four(weight, k)
        z = z + lane(weights, 0, like) * load(x, np.int64(item(indices, k)) * w, like)
        odd = odd + lane(weights, 1, like) * load(x, np.int64(item(indices, k + 1)) * w, like)
        z = z + lane(weights, 2, like) * load(x, np.int64(item(indices, k + 2)) * w, like)
        odd = odd + lane(weights, 3, like) * load(x, np.int64(item(indices, k + 3)) * w, like)
    for k in range(last - fan_in % 4, last):
        z = z + splat(item(weight, k), like) * load(x, np.int64(item(indices, k)) * w, like)
    return z + odd


@inline
def _add(memory, position, vector):
    store(memory, position, load(memory, position, vector) + vector)


@inline
def _by_label(x, weight, indices, fan_in, g, dx, dweight, n, more, like):
    """Gradients of weight (added to if `more`) and x of n labels, from their rows of g."""
    w = width(like)
    for label in range(n):
        row = load(g, label * w, like)
        last = (label + 1) * fan_in
        for k in range(label * fan_in, last - 3, 4):
            r0, r1 = np.int64(item(indices, k)) * w, np.int64(item(indices, k + 1)) * w
            r2, r3 = np.int64(item(indices, k + 2)) * w, np.int64(item(indices, k + 3)) * w
            found = totals(load(x, r0, like) * row, load(x, r1, like) * row,
                           load(x, r2, like) * row, load(x, r3, like) * row)
            store(dweight, k, found + load(dweight, k, found) if more else found)
            _add(dx, r0, splat(item(weight, k), like) * row)
            _add(dx, r1, splat(item(weight, k + 1), like) * row)
            _add(dx, r2, splat(item(weight, k + 2), like) * row)
            _add(dx, r3, splat(item(weight, k + 3), like) * row)
        for k in range(last - fan_in % 4, last):
            r0 = np.int64(item(indices, k)) * w
            found = total(load(x, r0, like) * row)
            put(dweight, k, found + item(dweight, k) if more else found)
            _add(dx, r0, splat(item(weight, k), like) * row)


@inline
def _sort(weight, indices, fan_in, n, n_features, starts, slots):
    """The slots of n labels in the order of their features: those of feature j are starts[j]..starts[j + 1].

    Of each two neighbours, as what lies apart would touch twice as many lines of the cache: its weight; and, as a word,
    its label times 2^16, plus which slot of that label it is.
    """
    for j in range(n_features + 1):
        put(starts, j, np.int32(0))
    for k in range(n * fan_in):
        j = item(indices, k)
        put(starts, j, np.int32(item(starts, j) + 1))
    end = 0
    for j in range(n_features + 1):
        end += item(starts, j)
        put(starts, j, np.int32(end))
    k = n * fan_in
    for label in range(n - 1, -1, -1):  # backwards, so that the ends become the starts
        for slot in range(fan_in - 1, -1, -1):
            k -= 1
            j = item(indices, k)
            place = np.int32(item(starts, j) - 1)
            put(starts, j, place)
            put(slots, 2 * place, item(weight, k))
            put_word(slots, 2 * place + 1, np.int32(label << 16 | slot))


@inline
def _row_of(slots, p):
    """The label of a sorted slot, within its block."""
    return np.int64(word(slots, 2 * p + 1) >> 16)


@inline
def _by_feature(x, n_features, starts, slots, g, dx, dsorted, more, soon, lines, like):
    """Gradients of the sorted weights (added to if `more`) and x, feature by feature.

    Meanwhile memory would idle: for each feature some `lines` are fetched from where is read `soon`.
    """
    w = width(like)
    for j in range(n_features):
        for line in range(j * lines, (j + 1) * lines):
            prefetch(soon, line * 16)
        p, end = np.int64(item(starts, j)), np.int64(item(starts, j + 1))
        if p == end:
            continue
        x_row, dx_row = load(x, j * w, like), load(dx, j * w, like)
        while p + 4 <= end:
            g0, g1 = load(g, _row_of(slots, p) * w, like), load(g, _row_of(slots, p + 1) * w, like)
            g2, g3 = load(g, _row_of(slots, p + 2) * w, like), load(g, _row_of(slots, p + 3) * w, like)
            dx_row = dx_row + splat(item(slots, 2 * p), like) * g0
            dx_row = dx_row + splat(item(slots, 2 * p + 2), like) * g1
            dx_row = dx_row + splat(item(slots, 2 * p + 4), like) * g2
            dx_row = dx_row + splat(item(slots, 2 * p + 6), like) * g3
            found = totals(x_row * g0, x_row * g1, x_row * g2, x_row * g3)
            store(dsorted, p, found + load(dsorted, p, found) if more else found)
            p += 4
        while p < end:
            g0 = load(g, _row_of(slots, p) * w, like)
            dx_row = dx_row + splat(item(slots, 2 * p), like) * g0
            found = total(x_row * g0)
            put(dsorted, p, found + item(dsorted, p) if more else found)
            p += 1
        store(dx, j * w, dx_row)


@inline
def _unsort(dsorted, slots, fan_in, dweight, n):
    for p in range(n * fan_in):
        slot = word(slots, 2 * p + 1)
        put(dweight, (slot >> 16) * fan_in + (slot & 0xFFFF), item(dsorted, p))


@inline
def _to_panels(grad, doc, row, batch, panels, n, g, step, like):
    """Gradients of logits of n labels into panels `step` apart; documents are `doc` numbers apart, labels `row`."""
    w = width(like)
    if doc == 1:  # label-major, as y is: each label's row at a go, in the order of memory
        for label in range(n):
            for p in range(panels):
                place, left = at(grad, label * row + p * w), batch - p * w
                store(g, p * step + label * w, _get(place, 0, left, like))
        return
    for label in range(n):
        store(g, (panels - 1) * step + label * w, like)  # what is beyond the last document is zero
    for first in range(0, n, 64):  # 64 rows of a panel stay in the cache while they are filled column by column
        for b in range(batch):
            for label in range(first, min(first + 64, n)):
                put(g, b // w * step + label * w + b % w, item(grad, b * doc + label * row))


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
def _of_negatives(z, hinge, scale, want_loss, losses):
    """The gradients of logits z if all are negative; and `losses` with theirs."""
    zero, one = splat(np.float32(0), z), splat(np.float32(1), z)
    if hinge:
        above = relu(one + z)
        return above * splat(scale + scale, zero), losses + above * above
    if want_loss:
        losses = losses + relu(z) + _log1p(exp(zero - relu(z) - relu(zero - z)))
    return splat(scale, zero) / (one + exp(zero - z)), losses


@inline
def _of_positives(row, logits, n, skipped, hinge, scale, pair_labels, pair_rows, q, end, label):
    """Put right what `_of_negatives` wrote to `row` of one label, for n documents after `skipped` others.

    q is its first positive pair, of all before `end`. Gives the first of a later label, and what the loss changes by.
    """
    loss = 0.0
    while q < end and item(pair_labels, q) == label:
        i = np.int64(item(pair_rows, q)) - skipped
        if 0 <= i and i < n:
            positive = item(logits, i)
            if hinge:
                below = np.float32(0) if positive >= 1 else 1 - positive  # NaN stays NaN
                put(row, i, -(scale + scale) * below)
                loss += below ** 2 - max(1 + positive, 0.0) ** 2
            else:
                put(row, i, item(row, i) - scale)
                loss -= positive
        q += 1
    return q, loss


@inline
def _apply(kind, value, grad, first, second, n, h):
    """Bring n numbers up to date from their gradients; first and second are their moments, h is from `_numbers`."""
    like = splat(h[0], 16)
    rate, decay, a, b = like, splat(h[1], like), splat(h[2], like), splat(h[3], like)
    c, d, eps = splat(h[4], like), splat(h[5], like), splat(h[6], like)
    for i in range(0, n, 16):
        v, g = _get(value, i, n - i, like), _get(grad, i, n - i, like)
        if kind == NONE:
            _set(first, i, n - i, g)
        elif kind == SGD:
            _set(value, i, n - i, v - rate * (g + decay * v))
        elif kind == MOMENTUM:
            m = a * _get(first, i, n - i, like) + (g + decay * v)
            _set(first, i, n - i, m)
            _set(value, i, n - i, v - rate * m)
        else:
            m, s = _get(first, i, n - i, like), _get(second, i, n - i, like)
            m, s = m + a * (g - m), b * s + c * g * g
            _set(first, i, n - i, m)
            _set(second, i, n - i, s)
            _set(value, i, n - i, decay * v - rate * m / (sqrt(s) * d + eps))


# --- kernels: the labels start..stop of one thread -----------------------------------------------------------------


def _scratch_sizes(size: int, block: int, panels: int, n_features: int, fan_in: int) -> tuple[int, int]:
    """How many floats and int32 the kernels below need to work on a block of labels."""
    return (panels * block + 1) * size + 4 * block * fan_in, n_features + 1


@lru_cache
def _kernels(size: int, by_feature: bool):
    """forward, backward and step for panels of `size` documents; numba's cache tells them apart by the arguments."""

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def forward(xt, weight, indices, bias, yt, far, start, stop, block, floats, ints):
        (panels, n_features, _), batch, fan_in = xt.shape, yt.shape[1], weight.shape[1]
        w, idx, b, y = at(weight, 0), at(indices, 0), at(bias, 0), at(yt, 0)
        like = splat(xt.dtype.type(0), size)
        for first in range(start, stop, block):  # its weights stay in the cache from panel to panel
            for p in range(panels):
                x, n = at(xt, p * n_features * size), batch - p * size
                for label in range(first, min(first + block, stop)):
                    z = _score(x, w, idx, b, fan_in, label, like)
                    if far and n >= size:
                        stream(y, label * batch + p * size, z)
                    else:
                        _set(y, label * batch + p * size, n, z)
        fence()

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def backward(grad, doc, row, batch, xt, weight, indices, dxt, dweight, dbias, start, stop, block, floats, ints):
        (panels, n_features, _), fan_in = xt.shape, weight.shape[1]
        like = splat(xt.dtype.type(0), size)
        g, found = at(floats, 0), at(floats, panels * block * size)
        dsorted, slots, starts = at(found, block * fan_in), at(found, 2 * block * fan_in), at(ints, 0)
        for first in range(start, stop, block):
            labels = min(block, stop - first)
            w, idx = at(weight, first * fan_in), at(indices, first * fan_in)
            if by_feature:
                _sort(w, idx, fan_in, labels, n_features, starts, slots)
            _to_panels(at(grad, first * row), doc, row, batch, panels, labels, g, block * size, like)
            for label in range(labels):
                of_label = like
                for p in range(panels):
                    of_label = of_label + load(g, (p * block + label) * size, like)
                dbias[first + label] = total(of_label)
            # While one block is worked on, the next block's gradient can come from memory, if it is one piece of it.
            soon, lines = at(grad, (first + block) * row), 0
            if doc == 1 and row == batch:
                lines = min(block, max(stop - first - block, 0)) * batch // 16 // panels // n_features + 1
            for p in range(panels):
                x, dx, part = at(xt, p * n_features * size), at(dxt, p * n_features * size), at(g, p * block * size)
                if by_feature:
                    _by_feature(x, n_features, starts, slots, part, dx, dsorted, p > 0,
                                at(soon, p * n_features * lines * 16), lines, like)
                else:
                    _by_label(x, w, idx, fan_in, part, dx, at(dweight, first * fan_in), labels, p > 0, like)
            if by_feature:
                _unsort(dsorted, slots, fan_in, at(dweight, first * fan_in), labels)

    @njit(nogil=True, fastmath=FAST_MATH, cache=True)
    def step(xt, weight, indices, bias, pair_labels, pair_rows, batch, hinge, scale, want_loss, kind, h, first_w,
             second_w, first_b, second_b, dxt, start, stop, block, floats, ints):
        (panels, n_features, _), fan_in, loss = xt.shape, weight.shape[1], 0.0
        zero = splat(np.float32(0), size)
        g, found = at(floats, 0), at(floats, panels * block * size)
        spare = at(found, 4 * block * fan_in)
        dsorted, slots, starts = at(found, block * fan_in), at(found, 2 * block * fan_in), at(ints, 0)
        pair = np.searchsorted(pair_labels, start)
        for first in range(start, stop, block):
            labels = min(block, stop - first)
            w, idx, b = at(weight, first * fan_in), at(indices, first * fan_in), at(bias, first)
            if by_feature:
                _sort(w, idx, fan_in, labels, n_features, starts, slots)
            q = pair
            for p in range(panels):
                n, q, losses = min(size, batch - p * size), pair, zero
                x, dx, part = at(xt, p * n_features * size), at(dxt, p * n_features * size), at(g, p * block * size)
                for label in range(labels):
                    z = _score(x, w, idx, b, fan_in, label, zero)
                    grad, losses = _of_negatives(z, hinge, scale, want_loss, losses)
                    row = at(part, label * size)
                    if n < size:
                        store(row, 0, zero)
                    store_some(row, 0, n, grad)
                    if q < pair_labels.size and pair_labels[q] == first + label:
                        store(spare, 0, z)
                        q, change = _of_positives(row, spare, n, p * size, hinge, scale, at(pair_labels, 0),
                                                  at(pair_rows, 0), q, pair_labels.size, first + label)
                        loss += change
                if want_loss:
                    store(spare, 0, losses)
                    for i in range(n):
                        loss += item(spare, i)
                if by_feature:
                    _by_feature(x, n_features, starts, slots, part, dx, dsorted, p > 0, dx, 0, zero)
                else:
                    _by_label(x, w, idx, fan_in, part, dx, found, labels, p > 0, zero)
            pair = q
            if by_feature:
                _unsort(dsorted, slots, fan_in, found, labels)
            _apply(kind, w, found, at(first_w, first * fan_in), at(second_w, first * fan_in), labels * fan_in, h)
            for label in range(labels):  # what was a weight's gradient is one of a bias
                of_label = zero
                for p in range(panels):
                    of_label = of_label + load(g, (p * block + label) * size, zero)
                put(found, label, total(of_label))
            _apply(kind, b, found, at(first_b, first), at(second_b, first), labels, h)
        return loss

    return SimpleNamespace(forward=forward, backward=backward, step=step)


# --- what calls them -----------------------------------------------------------------------------------------------


class _Way(NamedTuple):
    """How to go through a layer: documents in a panel, labels in a block, back by feature or by label."""

    size: int
    block: int
    by_feature: bool

    @classmethod
    def best(cls, batch: int, n_features: int, n_labels: int, fan_in: int, widest: int = WIDE) -> _Way:
        """The fastest, as measured; `n_labels` are those of one thread, `widest` limits panels that go by label."""
        size = 16 if batch <= 16 else NARROW if batch <= 32 else WIDE
        block = max(1, min(BLOCK, SORTED_SLOTS // fan_in))
        for times, most in ((16, 2 * BLOCK), (4, 4 * BLOCK)):  # how often a feature is met, and what that is worth
            while block * fan_in < times * n_features and block < most:
                block *= 2
        # Sorting has 16 bits for k. It pays from two wide panels on, if several labels of a block read a feature.
        if batch > 64 and min(block, n_labels) * fan_in >= 2 * n_features and fan_in < 1 << 16:
            return cls(size, block, True)
        return cls(min(size, widest), max(1, min(BLOCK // 4, SORTED_SLOTS // 4 // fan_in)), False)

    def run(self, kernel: str, args: Callable[[int], tuple], x: np.ndarray, weight: np.ndarray, work: int) -> list:
        """Call a kernel in threads, with args(thread) and what it needs to work on a block; x is [panels, D, size]."""
        (panels, n_features, _), (n_labels, fan_in) = x.shape, weight.shape
        compiled = getattr(_kernels(self.size, self.by_feature), kernel)
        n_floats, n_ints = _scratch_sizes(self.size, self.block, panels, n_features, fan_in)

        def run(i: int, start: int, stop: int):
            return compiled(*args(i), start, stop, self.block, _empty((n_floats,), x.dtype), np.empty(n_ints, np.int32))

        return _over_labels(run, n_labels, work)


@lru_cache(maxsize=4)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """One pool for each process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="fixed-fan-in")


def _over_labels(run: Callable[[int, int, int], object], n_labels: int, work: int) -> list:
    """What run(part, start, stop) returns over `parts(work)` contiguous ranges of labels, in threads."""
    n = parts(work)
    # Multiples of 16 labels: then each range of weights begins a line of the cache.
    bounds = [min(n_labels * i // n + 15 & -16, n_labels) for i in range(n + 1)]
    # The first range is the caller's own: of n threads beside it, one would be woken onto a core that is taken.
    jobs = [_pool(os.getpid(), n - 1).submit(run, i, bounds[i], bounds[i + 1]) for i in range(1, n)]
    return [run(0, 0, bounds[1]), *(job.result() for job in jobs)]


def parts(work: int) -> int:
    """How many threads to use for `work` multiply-adds."""
    return max(1, min(torch.get_num_threads(), work // MIN_WORK))


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array on a huge page's boundary if it is large, on a cache line's if not.

    NumPy asks Linux for huge pages from 4 MiB on; elsewhere this is merely an aligned array. Fresh memory costs a page
    fault for each page that is touched first: 190 ms for 134 MB of small pages, 22 ms for huge ones.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    border = HUGE_PAGE if size >= HUGE_PAGE else LINE
    raw = np.empty(size + border, np.uint8)
    start = -raw.ctypes.data % border
    return raw[start:start + size].view(dtype).reshape(shape)


_gone: list[np.ndarray] = []  # memory of results that nobody holds any longer
_gone_lock = threading.RLock()  # one thread may enter twice: memory can be given back while it is taken


def _result(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """As `_empty`, for what is handed out; from a megabyte on in the memory of an earlier result, if it is gone.

    Each step makes the same large results, and fresh memory would cost as much as a third of the kernel. At most KEPT
    of them stay behind.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < 1 << 20:
        return _empty(shape, dtype)
    with _gone_lock:
        found = next((i for i, memory in enumerate(_gone) if memory.nbytes == size), None)
        memory = None if found is None else _gone.pop(found)
    if memory is None:
        memory = _empty((size,), np.uint8)
    array = memory.view(dtype).reshape(shape)
    weakref.finalize(array, _give_back, memory).atexit = False  # torch.from_numpy holds the array until the end
    return array


def _give_back(memory: np.ndarray) -> None:
    with _gone_lock:
        _gone.append(memory)
        del _gone[:-KEPT]


def _scratch(shape: tuple[int, ...], dtype: np.dtype, work: int) -> np.ndarray:
    """Zeros that the kernels read and write at random.

    For much work they lie in one huge page: spread over small ones they collide in the second-level cache, by chance
    and for as long as the process lives (measured: 10 to 30 % of the backward pass).
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    array = _empty((size + (2 * HUGE_PAGE if work >= HUGE_WORK else 0),), np.uint8)[:size].view(dtype).reshape(shape)
    array[...] = 0
    return array


def _widened(t: Tensor) -> Tensor:
    """Half types as float32, which copies; others as they are."""
    t = t.detach()
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _array(t: Tensor) -> np.ndarray:
    return _widened(t).contiguous().numpy()


def _line(grad: Tensor) -> tuple[np.ndarray, int, int]:
    """A gradient [B, L] in any layout, [L, B] and [B, L] the most common: a line of memory, strides of B and L."""
    doc, row = grad.stride()
    span = sum((n - 1) * stride for n, stride in zip(grad.shape, grad.stride(), strict=True)) + 1 if grad.numel() else 0
    return grad.as_strided((span,), (1,)).numpy(), 1 if len(grad) == 1 else doc, row


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
    found = dxt[0] if len(dxt) == 1 else dxt.sum(0)
    found = found.transpose(1, 0, 2).reshape(found.shape[1], -1)[:, :batch]
    return torch.from_numpy(np.ascontiguousarray(found)).t()


def forward(x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None) -> Tensor:
    """y [B, L] from x [B, D], weight [L, K], indices [L, K], bias [L]; y is the transpose of an [L, B] block."""
    n_labels, fan_in = weight.shape
    work = n_labels * fan_in * x.shape[0]
    way = _Way.best(*x.shape, n_labels // parts(work), fan_in)
    way = way._replace(size=min(way.size, NARROW))
    w, idx = _array(weight), _array(indices)
    xt = _panels(x, way.size, 0, w.dtype, work)[0]
    b = np.zeros(n_labels, w.dtype) if bias is None else _array(bias)
    yt = _result((n_labels, x.shape[0]), w.dtype)
    far = yt.nbytes >= FAR and yt.strides[0] % LINE == 0
    way.run("forward", lambda i: (xt, w, idx, b, yt, far), xt, w, work)
    return torch.from_numpy(yt).to(x.dtype).t()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, needs: tuple[bool, bool, bool],
    plan: tuple[Tensor, ...] = (),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [B, D], weight [L, K] and bias [L] from grad [B, L]; `needs` says which to hand back."""
    n_labels, fan_in = weight.shape
    w, idx, grad = _array(weight), _array(indices), _widened(grad)
    work = 2 * n_labels * fan_in * x.shape[0]
    # By label, x and its gradient are read at random: narrow panels of both stay nearer.
    way = _Way.best(*x.shape, n_labels // parts(work), fan_in, widest=NARROW)
    rows = _panels(x, way.size, parts(work), w.dtype, work)  # a gradient of x a thread: no two write to one place
    dweight, dbias = _result(w.shape, w.dtype), np.empty(n_labels, w.dtype)
    line, doc, row = _line(grad)
    way.run("backward", lambda i: (line, doc, row, len(x), rows[0], w, idx, rows[1 + i], dweight, dbias), rows[0], w,
            work)
    found = (_from_panels(rows[1:], x.shape[0]).to(x.dtype), torch.from_numpy(dweight).to(weight.dtype),
             torch.from_numpy(dbias).to(weight.dtype))
    return tuple(g if need else None for g, need in zip(found, needs, strict=True))


# --- the step without logits ---------------------------------------------------------------------------------------

LOSSES = ("bce", "squared_hinge")


class Update(NamedTuple):
    """What `fused_step` does with the gradients of weight [L, K] and bias [L]; all tensors float32, changed in place.

    kind "none": they are written to state = (dweight, dbias).
    kind "sgd": as torch.optim.SGD; with momentum, state = (its buffer for weight, for bias), zeros at the start.
    kind "adam": as torch.optim.AdamW (decoupled weight decay); state = (first and second moment of weight, first and
    second of bias), zeros at the start, and `step` counts from 1.
    Without a bias, what is said of it falls away.
    """

    kind: str
    lr: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    step: int = 1
    state: tuple[Tensor, ...] = ()


def _numbers(update: Update) -> tuple[int, tuple[np.float32, ...]]:
    """Kind and constants of an update, as `_apply` takes them."""
    lr, decay, (beta1, beta2) = update.lr, update.weight_decay, update.betas
    if update.kind == "none":
        kind, found = NONE, ()
    elif update.kind == "sgd":
        kind, found = (MOMENTUM if update.momentum else SGD), (lr, decay, update.momentum)
    elif update.kind == "adam":
        kind, found = ADAM, (lr / (1 - beta1 ** update.step), 1 - lr * decay, 1 - beta1, beta2, 1 - beta2,
                             (1 - beta2 ** update.step) ** -0.5, update.eps)
    else:
        raise ValueError(f"update kind {update.kind!r} is not known; choose one of 'none', 'sgd', 'adam'")
    return kind, tuple(map(np.float32, (*found, *[0] * (7 - len(found)))))


def _plain(name: str, t: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
    """The memory of a tensor that the kernel reads or changes in place, if it is of this kind."""
    if t.dtype != dtype or tuple(t.shape) != shape or not t.is_contiguous() or t.device.type != "cpu":
        raise ValueError(f"fused_step: {name} must be a contiguous {dtype} tensor {list(shape)} on the CPU; got "
                         f"{t.dtype} {list(t.shape)} on {t.device}" + ("" if t.is_contiguous() else ", not contiguous"))
    return t.detach().numpy()


def _given(weight: Tensor, indices: Tensor, n_rows: int, bias: Tensor | None, pairs: tuple[Tensor, Tensor], loss: str,
           update: Update) -> tuple:
    """What a step is given, as its kernel takes it: weight, indices, bias, pairs, kind and constants, four moments."""
    (n_labels, fan_in), f32 = weight.shape, torch.float32
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}; choose one of {LOSSES}")
    w = _plain("weight", weight, (n_labels, fan_in), f32)
    b = np.zeros(n_labels, np.float32) if bias is None else _plain("bias", bias, (n_labels,), f32)
    idx = _plain("indices", indices, (n_rows, fan_in), indices.dtype)
    pairs = [_plain(f"pairs[{i}]", t, tuple(pairs[0].shape), torch.int32) for i, t in enumerate(pairs)]
    kind, numbers = _numbers(update)
    n_moments = {NONE: 1, SGD: 0, MOMENTUM: 1, ADAM: 2}[kind]
    parameters = [tuple(weight.shape)] if bias is None else [tuple(weight.shape), (n_labels,)]
    shapes = [shape for shape in parameters for _ in range(n_moments)]
    if len(update.state) != len(shapes):
        raise ValueError(f"fused_step: update.state must hold {len(shapes)} tensors for {update.kind!r}; got "
                         f"{len(update.state)}")
    state = [_plain(f"update.state[{i}]", t, shape, f32).reshape(-1)
             for i, (t, shape) in enumerate(zip(update.state, shapes, strict=True))]
    nothing = [np.empty(n_labels if bias is None else 0, np.float32) for _ in range(2)]
    moments = [m for n in (0, n_moments) for m in (state[n:n + n_moments] + nothing)[:2]]  # of weight, of bias
    return w, idx, b, pairs, kind, numbers, moments


def _tell_autograd(weight: Tensor, bias: Tensor | None, update: Update) -> None:
    """What a step has changed was written to behind PyTorch's back."""
    for t in (weight, *update.state) if bias is None else (weight, bias, *update.state):
        torch.autograd.graph.increment_version(t)


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
    w, idx, b, pairs, kind, numbers, moments = _given(weight, indices, len(weight), bias, pairs, loss, update)
    work, batch = 3 * w.size * x.shape[0], x.shape[0]
    way = _Way.best(*x.shape, len(w) // parts(work), w.shape[1])
    panels = _panels(x.detach().float(), way.size, parts(work), w.dtype, work)
    values = way.run("step", lambda i: (
        panels[0], w, idx, b, *pairs, batch, loss == "squared_hinge", np.float32(scale), want_loss, kind, numbers,
        *moments, panels[1 + i]), panels[0], w, work)
    _tell_autograd(weight, bias, update)
    return _from_panels(panels[1:], batch), sum(values) * scale if want_loss else None
