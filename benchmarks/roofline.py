"""What the CPU kernels could cost at best, and what they cost: instructions, caches and memory of each.

    python -m benchmarks.roofline [--labels 131072] [--repeats 7] [--only B,D,K]

For each shape: vector loads, stores, multiply-adds and other vector instructions for a slot (l, k) and all documents,
as the kernels of xmc_explore/layers/cpu.py are written; the cycles they need at two loads, one store and two arithmetic
instructions a cycle, all data in the first-level cache; the bytes that come from memory or go there. The larger of both
times is the floor. A cycle is the time of two multiply-adds of full registers, measured here, as is the speed of
memory, both with as many threads as the kernels get. nn.Linear takes turns with them in the same process: forward and
all gradients against forward and backward, and a whole step (binary cross-entropy, torch's fused Adam) against the step
without logits. Writes results/roofline.csv and results/roofline.md.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import llvmlite.binding
import numpy as np
import pandas as pd
import torch
from numba import njit
from torch.nn import functional as F

from benchmarks.machine import RESULTS, write_parts, write_text
from xmc_explore.layers import FixedFanIn, cpu
from xmc_explore.layers.simd import at, load, splat, total

SHAPES = list(itertools.product((32, 64, 256), (384, 768), (32, 64)))  # B, D, K
FEATURES = llvmlite.binding.get_host_cpu_features()
REGISTER = 16 if FEATURES.get("avx512f") else 8 if FEATURES.get("avx2") else 4  # floats
TOTALS = 13 / 4  # instructions to sum up one vector of products, four at a time
LOGIT = 35  # and for the sigmoid of one register of logits: 19 instructions, and a division as long as 16


# --- what the machine can do --------------------------------------------------------------------------------------


@njit(nogil=True, fastmath=cpu.FAST_MATH)
def _multiply_adds(start, times):
    """8 x `times` multiply-adds that wait for nothing but their own register."""
    one = splat(start, REGISTER)
    a, b, c, d, e, f, g, h = one, one, one, one, one, one, one, one
    x = splat(start * np.float32(0.5), REGISTER)
    for _ in range(times):
        a, b, c, d = a * x + one, b * x + one, c * x + one, d * x + one
        e, f, g, h = e * x + one, f * x + one, g * x + one, h * x + one
    return total(a + b + c + d + e + f + g + h)


@njit(nogil=True, fastmath=cpu.FAST_MATH)
def _read(memory, start, stop):
    sums = splat(np.float32(0), 64)
    for i in range(start, stop - 63, 64):
        sums = sums + load(at(memory, 0), i, sums)
    return total(sums)


def machine() -> dict[str, float]:
    """Seconds of a cycle, and bytes a second from memory, of all threads together."""
    times, memory = 2_000_000, np.ones(1 << 27, np.float32)
    work = 10 ** 9

    def least(run) -> float:
        took = []
        for _ in range(5):
            start = time.perf_counter()
            cpu._over_labels(run, memory.size, work)
            took.append(time.perf_counter() - start)
        return min(took[1:])

    return {"cycle": least(lambda i, start, stop: _multiply_adds(np.float32(0.5 + i), times)) / (4 * times),
            "memory": memory.nbytes / least(lambda i, start, stop: _read(memory, start, stop))}


def caches() -> str:
    """Sizes of the caches of the first core, where Linux tells."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    found = [f"L{(place / 'level').read_text().strip()} {(place / 'size').read_text().strip()}"
             for place in sorted(folder.glob("index*")) if (place / "type").read_text().strip() != "Instruction"]
    return ", ".join(found) or "unknown"


# --- what the kernels need ----------------------------------------------------------------------------------------


def needs(kernel: str, batch: int, width: int, n_labels: int, fan_in: int, threads: int) -> dict[str, float]:
    """Vector instructions for a slot and all panels, scalar cycles, and bytes from and to memory in all."""
    way = cpu._Way.best(batch, width, n_labels // threads, fan_in, cpu.WIDE if "step" in kernel else cpu.NARROW)
    way = way._replace(size=min(way.size, cpu.NARROW)) if kernel == "forward" else way
    panels = -(-batch // way.size)
    v = way.size / REGISTER * panels  # registers of a row of x
    slots, logits = n_labels * fan_in, n_labels * batch
    rows = slots * (4 + 2) + 4 * n_labels  # weights, indices, biases
    score = {"loads": v + panels / 4, "stores": v / fan_in, "multiply-adds": v, "other": panels, "scalar": 0}
    if way.by_feature:
        met = way.block * fan_in / width  # slots of a block that read one feature
        back = {"loads": v + panels + 2 * v / met, "stores": v / met + panels / 4, "multiply-adds": 2 * v,
                "other": TOTALS * panels, "scalar": 4}  # sorting and back: 7 stores a slot, two a cycle
    else:
        back = {"loads": 2 * v + panels, "stores": v + panels / 4, "multiply-adds": 2 * v, "other": TOTALS * panels,
                "scalar": 0}
    both = {name: score[name] + back[name] for name in score}
    both["other"] += LOGIT * v / fan_in
    found, memory = {"forward": (score, rows + 4 * logits), "backward": (back, rows + 4 * slots + 4 * logits),
                     "step, SGD": (both, rows + 4 * slots), "step, Adam": (both, rows + 20 * slots)}[kernel]
    return {**found, "bytes": memory, "x KiB": way.size * width * 4 / 1024, "g KiB": way.size * way.block * 4 / 1024,
            "way": f"{panels} x {way.size}, by {'feature' if way.by_feature else 'label'}"}


def floor(need: dict[str, float], slots: int, threads: int, speed: dict[str, float]) -> dict[str, float]:
    cycles = max(need["loads"] / 2, need["stores"], (need["multiply-adds"] + need["other"]) / 2) + need["scalar"]
    return {"cycles": cycles, "compute ms": 1e3 * cycles * slots / threads * speed["cycle"],
            "memory ms": 1e3 * need["bytes"] / speed["memory"]}


# --- what they take -----------------------------------------------------------------------------------------------


def measure(batch: int, width: int, n_labels: int, fan_in: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of each kernel and of nn.Linear, all taking turns."""
    dense, sparse = torch.nn.Linear(width, n_labels), FixedFanIn(width, n_labels, fan_in)
    x = torch.randn(batch, width)
    labels = torch.arange(0, n_labels, max(1, n_labels // (5 * batch)), dtype=torch.int32)
    pairs = labels, torch.arange(len(labels), dtype=torch.int32) % batch
    grad = torch.randn(n_labels, batch).t()
    wide_grad = torch.randn(batch, n_labels)
    weight, bias, indices = sparse.weight.data, sparse.bias.data, sparse.indices
    optimizer = torch.optim.Adam(dense.parameters(), lr=1e-3, fused=True)
    moments = tuple(torch.zeros_like(p) for p in (weight, weight, bias, bias))

    def linear() -> None:
        there = x.clone().requires_grad_()
        torch.autograd.grad(dense(there), [there, *dense.parameters()], wide_grad)

    def linear_step() -> None:
        there = x.clone().requires_grad_()
        y = dense(there)
        ((F.softplus(y).sum() - y[pairs[1].long(), pairs[0].long()].sum()) / batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def step(update: cpu.Update) -> None:
        cpu.fused_step(x, weight, indices, bias, pairs, loss="bce", scale=1 / batch, update=update, want_loss=False)

    kinds = {"nn.Linear": linear, "forward": lambda: cpu.forward(x, weight, indices, bias),
             "backward": lambda: cpu.backward(grad, x, weight, indices, (True, True, True)),
             "nn.Linear step, Adam": linear_step,
             "step, SGD": lambda: step(cpu.Update("sgd", lr=1e-3)),
             "step, Adam": lambda: step(cpu.Update("adam", lr=1e-3, step=100, state=moments))}
    took = {name: [] for name in kinds}
    for repeat in range(repeats + 1):
        for name, run in kinds.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first compiles
                took[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(t)) for name, t in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=131_072)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", action="append", help="B,D,K; may be given several times")
    options = parser.parse_args()
    shapes = [tuple(map(int, text.split(","))) for text in options.only] if options.only else SHAPES
    threads, speed = torch.get_num_threads(), machine()
    kernels, layers = [], []
    for batch, width, fan_in in shapes:
        slots = options.labels * fan_in
        took = measure(batch, width, options.labels, fan_in, options.repeats)
        for name in ("forward", "backward", "step, SGD", "step, Adam"):
            need = needs(name, batch, width, options.labels, fan_in, threads)
            least = floor(need, slots, threads, speed)
            best = max(least["compute ms"], least["memory ms"])
            kernels.append({
                "B": batch, "D": width, "K": fan_in, "kernel": name, "panels": need["way"],
                **{k: round(need[k], 1) for k in ("loads", "stores", "multiply-adds", "other", "scalar")},
                "panel of x, KiB": round(need["x KiB"]), "g of a block, KiB": round(need["g KiB"]),
                "cycles a slot, least": round(least["cycles"], 1),
                "cycles a slot": round(took[name] / 1e3 / slots * threads / speed["cycle"], 1),
                "compute, ms": round(least["compute ms"], 1), "memory, ms": round(least["memory ms"], 1),
                "measured, ms": round(took[name], 1), "of the floor": round(best / took[name], 2)})
        ideal, both = width / fan_in, took["forward"] + took["backward"]
        row = {"B": batch, "D": width, "K": fan_in, "D/K": ideal}
        for words, dense, sparse in (("forward + gradients", took["nn.Linear"], both),
                                     ("step with Adam", took["nn.Linear step, Adam"], took["step, Adam"])):
            row |= {f"{words}: nn.Linear, ms": round(dense, 1), f"{words}: sparse, ms": round(sparse, 1),
                    f"{words}: times as fast": round(dense / sparse, 1),
                    f"{words}: of D/K": round(dense / sparse / ideal, 2)}
        layers.append(row)
        print(row, flush=True)
    command = f"python -m benchmarks.roofline --labels {options.labels} --repeats {options.repeats}"
    notes = [f"command: {command}", f"L = {options.labels:,}; float32; int16 indices; medians, taking turns",
             f"a cycle is {1e9 * speed['cycle']:.3f} ns (two multiply-adds of {REGISTER} floats); "
             f"memory is read at {speed['memory'] / 1e9:.1f} GB/s by {threads} threads", f"caches: {caches()}",
             "loads to other: vector instructions a slot; scalar: cycles a slot to sort a block's slots by feature",
             "the sparse step is the one without logits (fused_step), its loss not computed, as between two reports; "
             "nn.Linear's has logits, loss, and torch's fused Adam"]
    write_text(RESULTS / "roofline.csv", pd.DataFrame(kernels).to_csv(index=False))
    write_parts("roofline", "What the CPU kernels could cost at best, and what they cost", notes, [
        ("The layer beside nn.Linear", pd.DataFrame(layers)), ("Each kernel beside its floor", pd.DataFrame(kernels))])


if __name__ == "__main__":
    main()
