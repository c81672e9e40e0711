"""What the Triton kernels could cost at best on a GPU, and what they cost there.

    python -m benchmarks.triton_floor [--labels 131072] [--repeats 20] [--dtype float32]

For each shape the launchers of xmc_explore/layers/triton_kernels.py, one at a time: forward, the gradient of weight and
bias, the gradient of x by sorted segments and by atomic additions, and the plan (which only a rewire asks for). The
memory floor of each is what must come from memory or go there once, at the speed of a plain copy measured here; reads
beyond it are the caches' business. Writes results/triton_floor.csv and results/triton_floor.md. With --device cpu and
TRITON_INTERPRET=1 it runs in Triton's interpreter, prints, and times nothing of interest: it shows that it works.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import pandas as pd
import torch

from benchmarks.machine import conditions, write
from xmc_explore.layers import FixedFanIn
from xmc_explore.layers import triton_kernels as tk
from xmc_explore.race import Shape

SHAPES = [*itertools.product((32, 64, 256), (384, 768), (32, 64))]  # B, D, K


def floor_bytes(shape: Shape, number: int, index: int) -> dict[str, int]:
    """Bytes that each launcher must move, with numbers and indices of so many bytes: each tensor once."""
    b, d, n, k = shape
    x, y, weight, indices, slots = b * d * number, b * n * number, n * k * number, n * k * index, n * k * 4
    return {"forward": x + weight + indices + n * number + y,
            "gradient of weight": x + y + indices + weight + n * number,
            "gradient of x": y + weight + slots + x,
            "gradient of x, atomics": y + weight + indices + 2 * b * d * 4,
            "plan": indices + slots}


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of one call; on CUDA by the device's own clock."""
    took = []
    for turn in range(repeats + 2):  # the first two compile and fill caches
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize(device)
            spent = begin.elapsed_time(end)
        else:
            start = time.perf_counter()
            work()
            spent = 1e3 * (time.perf_counter() - start)
        took += [spent] if turn > 1 else []
    return float(torch.tensor(took).median())


def copy_speed(device: torch.device, repeats: int) -> float:
    """Bytes a second that a plain copy reads and writes."""
    source = torch.empty(64 << 20 if device.type == "cpu" else 1 << 30, dtype=torch.uint8, device=device)
    return 2e3 * source.numel() / milliseconds(source.clone, device, repeats)


def measure(shape: Shape, device: torch.device, dtype: torch.dtype, speed: float, repeats: int) -> list[dict]:
    layer = FixedFanIn(shape.width, shape.n_labels, shape.fan_in, device=device, dtype=dtype)
    weight, indices, bias = layer.weight.detach(), layer.indices, layer.bias.detach()
    x = torch.randn(shape.width, shape.batch, device=device, dtype=dtype)
    grad = torch.randn(shape.n_labels, shape.batch, device=device, dtype=dtype)
    plan = tk.plan(indices, shape.width)
    work = {"forward": lambda: tk._scores(x, weight, indices, bias),
            "gradient of weight": lambda: tk._gradient_of_weight(grad, x, weight, indices),
            "gradient of x": lambda: tk._gradient_of_x(grad, weight, plan),
            "gradient of x, atomics": lambda: tk._scattered(grad, weight, indices, shape.width),
            "plan": lambda: tk.plan(indices, shape.width)}
    rows = []
    for name, size in floor_bytes(shape, dtype.itemsize, indices.dtype.itemsize).items():
        ms, floor = milliseconds(work[name], device, repeats), 1e3 * size / speed
        rows.append({"B": shape.batch, "D": shape.width, "L": shape.n_labels, "K": shape.fan_in, "what": name,
                     "MB": round(size / 1e6, 1), "floor, us": round(1e3 * floor, 1), "took, us": round(1e3 * ms, 1),
                     "of the floor": round(ms / floor, 2)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=131_072)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first so many")
    options = parser.parse_args()
    device = torch.device(options.device)
    speed = copy_speed(device, options.repeats)
    rows = []
    for b, d, k in SHAPES[:options.shapes]:
        rows += measure(Shape(b, d, options.labels, k), device, getattr(torch, options.dtype), speed, options.repeats)
    notes = [f"command: python -m benchmarks.triton_floor --labels {options.labels} --repeats {options.repeats} "
             f"--device {options.device} --dtype {options.dtype}",
             f"{options.dtype}; medians; a copy moves {speed / 1e9:.0f} GB/s (read and write)",
             "the floor moves each tensor once; `of the floor` is how many times as long it took"]
    if device.type == "cpu":
        return print(conditions()["processor"], *notes, pd.DataFrame(rows).to_string(index=False), sep="\n")
    write("triton_floor", f"The Triton kernels beside their memory floor, on {device}", pd.DataFrame(rows), notes)


if __name__ == "__main__":
    main()
