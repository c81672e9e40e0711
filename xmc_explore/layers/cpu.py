"""The fixed fan-in formulas compiled for the CPU with numba.

Everything is laid out label-major with the batch innermost: x as [D, B], y and its gradient as [L, B]. A slot
(l, k) then touches one contiguous row of B numbers, which vectorises, instead of B scattered ones.

Threads are ours, one contiguous range of labels each: numba releases the GIL, and unlike numba's own
`parallel=True` this is safe when two Python threads (a notebook cell and a laboratory) call at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numba import njit
from torch import Tensor

# Sums may be reordered (that is what vectorising a sum means); NaN and infinity keep their meaning.
FAST_MATH = {"reassoc", "contract", "nsz"}
HUGE_PAGE = 1 << 21  # bytes
HUGE_WORK = 50_000_000  # multiply-adds from which a huge page is worth its half millisecond
MIN_WORK = 200_000  # multiply-adds below which a second thread costs more than it gives


@njit(nogil=True, fastmath=FAST_MATH, cache=True)
def _forward_rows(xt, weight, indices, bias, yt, start, stop):
    """yt[l] = bias[l] + sum_k weight[l, k] * xt[indices[l, k]], for labels start..stop."""
    fan_in, batch = weight.shape[1], yt.shape[1]
    total = np.empty(batch, yt.dtype)  # ours alone: no other array can overlap it, so the loops below vectorise
    for label in range(start, stop):
        total[:] = bias[label]
        for k in range(0, fan_in - 3, 4):  # four slots for each load and store of `total`: 2.3 times faster than one
            w0, w1, w2, w3 = weight[label, k], weight[label, k + 1], weight[label, k + 2], weight[label, k + 3]
            r0, r1 = np.uint32(indices[label, k]), np.uint32(indices[label, k + 1])
            r2, r3 = np.uint32(indices[label, k + 2]), np.uint32(indices[label, k + 3])
            for b in range(batch):
                total[b] += (w0 * xt[r0, b] + w1 * xt[r1, b]) + (w2 * xt[r2, b] + w3 * xt[r3, b])
        for k in range(fan_in // 4 * 4, fan_in):
            w0, r0 = weight[label, k], np.uint32(indices[label, k])
            for b in range(batch):
                total[b] += w0 * xt[r0, b]
        for b in range(batch):
            yt[label, b] = total[b]


@njit(nogil=True, fastmath=FAST_MATH, cache=True)
def _backward_rows(gt, xt, weight, indices, dxt, dweight, dbias, start, stop):
    """All three gradients in one pass over labels start..stop, so that each row of gt is read from memory once."""
    zero = gt.dtype.type(0)
    fan_in, batch = weight.shape[1], gt.shape[1]
    g = np.empty(batch, gt.dtype)  # as `total` above
    for label in range(start, stop):
        total = zero
        for b in range(batch):
            g[b] = gt[label, b]
            total += g[b]
        dbias[label] = total
        for k in range(0, fan_in - 3, 4):
            r0, r1 = np.uint32(indices[label, k]), np.uint32(indices[label, k + 1])
            r2, r3 = np.uint32(indices[label, k + 2]), np.uint32(indices[label, k + 3])
            d0, d1, d2, d3 = zero, zero, zero, zero
            for b in range(batch):
                d0 += g[b] * xt[r0, b]
                d1 += g[b] * xt[r1, b]
                d2 += g[b] * xt[r2, b]
                d3 += g[b] * xt[r3, b]
            dweight[label, k], dweight[label, k + 1], dweight[label, k + 2], dweight[label, k + 3] = d0, d1, d2, d3
        for k in range(fan_in // 4 * 4, fan_in):
            r0, d0 = np.uint32(indices[label, k]), zero
            for b in range(batch):
                d0 += g[b] * xt[r0, b]
            dweight[label, k] = d0
        for k in range(fan_in):
            w, r0 = weight[label, k], np.uint32(indices[label, k])
            for b in range(batch):
                dxt[r0, b] += w * g[b]


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


def _scratch(shape: tuple[int, ...], dtype: np.dtype, work: int) -> np.ndarray:
    """Zeros that the kernels read and write at random.

    For much work they lie in one huge page: spread over small ones they collide in the second-level cache, by chance
    and for as long as the process lives (measured: 10 to 30 % of the backward pass). NumPy asks Linux for huge pages
    from 4 MiB on; elsewhere this is merely an aligned array.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    if work < HUGE_WORK:
        return np.zeros(shape, dtype)
    raw = np.empty(size + 2 * HUGE_PAGE, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE
    array = raw[start:start + size].view(dtype).reshape(shape)
    array[...] = 0
    return array


def _array(t: Tensor) -> np.ndarray:
    """The tensor's memory as a NumPy array, half types widened to float32 (which copies)."""
    t = t.detach()
    return (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).contiguous().numpy()


def forward(x: Tensor, weight: Tensor, indices: Tensor, bias: Tensor | None) -> Tensor:
    """y [B, L] from x [B, D], weight [L, K], indices [L, K], bias [L]; y is the transpose of an [L, B] block."""
    n_labels, fan_in = weight.shape
    work = n_labels * fan_in * x.shape[0]
    w, idx = _array(weight), _array(indices)
    xt = _scratch((x.shape[1], x.shape[0]), w.dtype, work)
    xt[...] = _array(x.t())
    b = np.zeros(n_labels, w.dtype) if bias is None else _array(bias)
    yt = np.empty((n_labels, x.shape[0]), w.dtype)
    _over_labels(lambda _, start, stop: _forward_rows(xt, w, idx, b, yt, start, stop), n_labels, work)
    return torch.from_numpy(yt).to(x.dtype).t()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, indices: Tensor, needs: tuple[bool, bool, bool],
    plan: tuple[Tensor, ...] = (),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x [B, D], weight [L, K] and bias [L] from grad [B, L]; `needs` says which to hand back."""
    n_labels, fan_in = weight.shape
    gt, w, idx = _array(grad.t()), _array(weight), _array(indices)
    work = 2 * n_labels * fan_in * x.shape[0]
    # Row 0 holds x, then comes one gradient of x for each thread, so that no two write to one place.
    rows = _scratch((1 + parts(work), x.shape[1], x.shape[0]), w.dtype, work)
    xt, dxt = rows[0], rows[1:]
    xt[...] = _array(x.t())
    dweight, dbias = np.empty_like(w), np.empty(n_labels, w.dtype)
    _over_labels(lambda i, start, stop: _backward_rows(gt, xt, w, idx, dxt[i], dweight, dbias, start, stop),
                 n_labels, work)
    dx = torch.from_numpy(dxt).sum(0).t().to(x.dtype)
    found = (dx, torch.from_numpy(dweight).to(weight.dtype), torch.from_numpy(dbias).to(weight.dtype))
    return tuple(g if need else None for g, need in zip(found, needs, strict=True))
