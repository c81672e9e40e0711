"""What the CPU kernels could cost at best, and what they cost: instructions, caches and memory of each.

    python -m benchmarks.roofline [--labels 131072] [--repeats 9] [--only B,D,K]

For each shape: vector loads, stores, multiply-adds and other vector instructions for a slot (l, k) and all documents,
as the kernels of single labels (xmc_explore/layers/cpu.py) and of labels in groups (cpu_grouped.py) are written; the
cycles they need at two loads, one store and two multiply-adds a cycle, all data in the first-level cache; the bytes
that come from memory or go there. The larger of both times is the floor. A cycle is the time of two multiply-adds of
full registers, measured here, as are the additions that fit beside them (AMD's cores have units of their own for these,
Intel's have not) and the speed of memory, with as many threads as the kernels get.

What is measured is the least of several turns, as a floor is no median; what a layer takes beside others, in medians:
benchmarks.layer, benchmarks.grouped. Writes results/roofline.csv and results/roofline.md.
"""

from __future__ import annotations

import argparse
import itertools
import time
from functools import partial
from pathlib import Path

import llvmlite.binding
import numpy as np
import pandas as pd
import torch
from numba import njit

from benchmarks.machine import RESULTS, write_parts, write_text
from xmc_explore.layers import FixedFanIn, GroupedFixedFanIn, cpu, cpu_grouped
from xmc_explore.layers.simd import at, load, splat, total

SHAPES = list(itertools.product((32, 64, 256), (384, 768), (32, 64)))  # B, D, K
FEATURES = llvmlite.binding.get_host_cpu_features()
REGISTER = 16 if FEATURES.get("avx512f") else 8 if FEATURES.get("avx2") else 4  # floats
TOTALS = 13 / 4  # instructions to sum up one vector of products, four at a time
LOGIT = 26  # and for the sigmoid of one register of logits: 18 instructions, and a division as long as 8 at least
GROUP = 16  # labels


# --- what the machine can do --------------------------------------------------------------------------------------


@njit(nogil=True, fastmath={"contract"})  # no more: a loop of sums must stay one
def _multiply_adds(start, times):
    """8 x `times` multiply-adds that wait for nothing but their own register."""
    one = splat(start, REGISTER)
    a, b, c, d, e, f, g, h = one, one, one, one, one, one, one, one
    x = splat(start * np.float32(0.5), REGISTER)
    for _ in range(times):
        a, b, c, d = a * x + one, b * x + one, c * x + one, d * x + one
        e, f, g, h = e * x + one, f * x + one, g * x + one, h * x + one
    return total(a + b + c + d + e + f + g + h)


@njit(nogil=True, fastmath={"contract"})
def _with_additions(start, times):
    """The same, with as many additions beside them."""
    one = splat(start, REGISTER)
    a, b, c, d, e, f, g, h = one, one, one, one, one, one, one, one
    i, j, k, o, p, q, r, s = one, one, one, one, one, one, one, one
    x = splat(start * np.float32(0.5), REGISTER)
    for _ in range(times):
        a, b, c, d = a * x + one, b * x + one, c * x + one, d * x + one
        i, j, k, o = i + x, j + x, k + x, o + x
        e, f, g, h = e * x + one, f * x + one, g * x + one, h * x + one
        p, q, r, s = p + x, q + x, r + x, s + x
    return total(a + b + c + d + e + f + g + h + i + j + k + o + p + q + r + s)


@njit(nogil=True, fastmath=cpu.FAST_MATH)
def _read(memory, start, stop):
    sums = splat(np.float32(0), 64)
    for i in range(start, stop - 63, 64):
        sums = sums + load(at(memory, 0), i, sums)
    return total(sums)


def machine() -> dict[str, float]:
    """Seconds of a cycle, arithmetic instructions of any kind in one, bytes a second from memory by all threads."""
    times, memory = 2_000_000, np.ones(1 << 27, np.float32)
    work = 10 ** 9

    def least(run) -> float:
        took = []
        for _ in range(5):
            start = time.perf_counter()
            cpu._over_labels(run, memory.size, work)
            took.append(time.perf_counter() - start)
        return min(took[1:])

    alone = least(lambda i, start, stop: _multiply_adds(np.float32(0.5 + i), times))
    mixed = least(lambda i, start, stop: _with_additions(np.float32(0.5 + i), times))
    return {"cycle": alone / (4 * times), "arithmetic": min(4.0, 4 * alone / mixed),
            "memory": memory.nbytes / least(lambda i, start, stop: _read(memory, start, stop))}


def caches() -> str:
    """Sizes of the caches of the first core, where Linux tells."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    found = [f"L{(place / 'level').read_text().strip()} {(place / 'size').read_text().strip()}"
             for place in sorted(folder.glob("index*")) if (place / "type").read_text().strip() != "Instruction"]
    return ", ".join(found) or "unknown"


# --- what the kernels need ----------------------------------------------------------------------------------------


def single(kernel: str, batch: int, width: int, n_labels: int, fan_in: int, threads: int) -> dict[str, float]:
    """Vector instructions for a slot and all panels, scalar cycles, and bytes from and to memory in all."""
    way = cpu._Way.best(batch, width, n_labels // threads, fan_in, cpu.WIDE if "step" in kernel else cpu.NARROW)
    way = way._replace(size=min(way.size, cpu.NARROW)) if kernel == "forward" else way
    panels = -(-batch // way.size)
    v = way.size / REGISTER * panels  # registers of a row of x
    score = {"loads": v + panels / 4, "stores": v / fan_in, "multiply-adds": v, "other": panels, "scalar": 0}
    if way.by_feature:
        met = way.block * fan_in / width  # slots of a block that read one feature
        back = {"loads": v + panels + 2 * v / met, "stores": v / met + panels / 4, "multiply-adds": 2 * v,
                "other": TOTALS * panels, "scalar": 3.5}  # sorting and back: 7 stores a slot, two a cycle
    else:
        back = {"loads": 2 * v + panels, "stores": v + panels / 4, "multiply-adds": 2 * v, "other": TOTALS * panels,
                "scalar": 0}
    found = _whole(kernel, score, back, v, batch, n_labels, fan_in, n_labels * fan_in)
    return {**found, "x KiB": way.size * width * 4 / 1024, "g KiB": way.size * way.block * 4 / 1024,
            "way": f"{panels} x {way.size}, by {'feature' if way.by_feature else 'label'}"}


def grouped(kernel: str, batch: int, width: int, n_labels: int, fan_in: int, threads: int) -> dict[str, float]:
    """The same of labels in groups: a row of x serves four labels, rows of the gradient of x stay in registers."""
    size = cpu_grouped._size(torch.empty(batch, 0))
    panels = -(-batch // size)
    v = size / REGISTER * panels
    score = {"loads": v / 4 + panels, "stores": v / fan_in, "multiply-adds": v, "other": 0, "scalar": 0}
    back = {"loads": v / 4 + v + panels + v / GROUP, "stores": v / GROUP + panels / 4, "multiply-adds": 2 * v,
            "other": TOTALS * panels, "scalar": 0}
    found = _whole(kernel, score, back, v, batch, n_labels, fan_in, n_labels * fan_in / GROUP)
    return {**found, "x KiB": size * width * 4 / 1024, "g KiB": size * GROUP * 4 / 1024,
            "way": f"{panels} x {size}, by group"}


def _whole(kernel: str, score: dict[str, float], back: dict[str, float], v: float, batch: int, n_labels: int,
           fan_in: int, n_indices: float) -> dict[str, float]:
    slots, logits = n_labels * fan_in, n_labels * batch
    rows = slots * 4 + n_indices * 2 + 4 * n_labels  # weights, indices, biases
    both = {name: score[name] + back[name] for name in score}
    both["other"] += LOGIT * v / fan_in
    found, memory = {"forward": (score, rows + 4 * logits), "backward": (back, rows + 4 * slots + 4 * logits),
                     "step, SGD": (both, rows + 4 * slots), "step, Adam": (both, rows + 20 * slots)}[kernel]
    return {**found, "bytes": memory}


def floor(need: dict[str, float], slots: int, threads: int, speed: dict[str, float]) -> dict[str, float]:
    cycles = max(need["loads"] / 2, need["stores"], need["multiply-adds"] / 2,
                 (need["multiply-adds"] + need["other"]) / speed["arithmetic"]) + need["scalar"]
    return {"cycles": cycles, "compute ms": 1e3 * cycles * slots / threads * speed["cycle"],
            "memory ms": 1e3 * need["bytes"] / speed["memory"]}


# --- what they take -----------------------------------------------------------------------------------------------


def measure(batch: int, width: int, n_labels: int, fan_in: int, repeats: int) -> dict[tuple[str, str], float]:
    """Least milliseconds of each kernel of (single labels, groups), all taking turns."""
    x = torch.randn(batch, width)
    labels = torch.arange(0, n_labels, max(1, n_labels // (5 * batch)), dtype=torch.int32)
    pairs = labels, torch.arange(len(labels), dtype=torch.int32) % batch
    grad, needs = torch.randn(n_labels, batch).t(), (True, True, True)
    one, many = FixedFanIn(width, n_labels, fan_in), GroupedFixedFanIn(width, n_labels, fan_in, group_size=GROUP)
    weight, bias = one.weight.data, one.bias.data
    groups = many.order, many.group_of_label, GROUP
    moments = tuple(torch.zeros_like(p) for p in (weight, weight, bias, bias))
    updates = {"step, SGD": cpu.Update("sgd", lr=1e-3),
               "step, Adam": cpu.Update("adam", lr=1e-3, step=100, state=moments)}
    given = dict(loss="bce", scale=1 / batch, want_loss=False)
    kinds = {("single", "forward"): lambda: cpu.forward(x, weight, one.indices, bias),
             ("groups", "forward"): lambda: cpu_grouped.grouped_forward(x, weight, many.indices, many.order, GROUP,
                                                                        bias),
             ("single", "backward"): lambda: cpu.backward(grad, x, weight, one.indices, needs),
             ("groups", "backward"): lambda: cpu_grouped.grouped_backward(grad, x, weight, many.indices, many.order,
                                                                          GROUP, needs)}
    for name, update in updates.items():
        kinds["single", name] = partial(cpu.fused_step, x, weight, one.indices, bias, pairs, update=update, **given)
        kinds["groups", name] = partial(cpu_grouped.fused_step, x, weight, many.indices, bias, pairs, groups=groups,
                                        update=update, **given)
    took = dict.fromkeys(kinds, float("inf"))
    for repeat in range(repeats + 1):
        for name, run in kinds.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first compiles
                took[name] = min(took[name], 1e3 * (time.perf_counter() - start))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=131_072)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", action="append", help="B,D,K; may be given several times")
    options = parser.parse_args()
    shapes = [tuple(map(int, text.split(","))) for text in options.only] if options.only else SHAPES
    threads, speed = torch.get_num_threads(), machine()
    rows = []
    for batch, width, fan_in in shapes:
        slots = options.labels * fan_in
        for (labels, name), took in measure(batch, width, options.labels, fan_in, options.repeats).items():
            need = {"single": single, "groups": grouped}[labels](name, batch, width, options.labels, fan_in, threads)
            least = floor(need, slots, threads, speed)
            best = max(least["compute ms"], least["memory ms"])
            rows.append({
                "labels": labels, "kernel": name, "B": batch, "D": width, "K": fan_in, "panels": need["way"],
                **{k: round(need[k], 1) for k in ("loads", "stores", "multiply-adds", "other", "scalar")},
                "panel of x, KiB": round(need["x KiB"]), "g of a block, KiB": round(need["g KiB"]),
                "cycles a slot, least": round(least["cycles"], 1),
                "cycles a slot": round(took / 1e3 / slots * threads / speed["cycle"], 1),
                "compute, ms": round(least["compute ms"], 1), "memory, ms": round(least["memory ms"], 1),
                "measured, ms": round(took, 1), "of the floor": round(best / took, 2)})
        print((batch, width, fan_in), flush=True)
    table = pd.DataFrame(rows)
    command = f"python -m benchmarks.roofline --labels {options.labels} --repeats {options.repeats}"
    notes = [f"command: {command}", f"L = {options.labels:,}; float32; int16 indices; groups of {GROUP}; measured: the "
             f"least of {options.repeats} turns, all kernels of a shape taking turns",
             f"a cycle is {1e9 * speed['cycle']:.3f} ns (two multiply-adds of {REGISTER} floats, and with additions "
             f"{speed['arithmetic']:.1f} instructions in all); memory is read at {speed['memory'] / 1e9:.1f} GB/s by "
             f"{threads} threads", f"caches: {caches()}",
             "loads to other: vector instructions a slot; scalar: cycles a slot to sort a block's slots by feature",
             "steps are those without logits (fused_step), their loss not computed, as between two reports"]
    write_text(RESULTS / "roofline.csv", table.to_csv(index=False))
    parts = [(title, table[table["labels"] == labels].drop(columns="labels").sort_values("kernel", kind="stable"))
             for labels, title in (("single", "Single labels"), ("groups", f"Labels in groups of {GROUP}"))]
    write_parts("roofline", "What the CPU kernels could cost at best, and what they cost", notes, parts)


if __name__ == "__main__":
    main()
