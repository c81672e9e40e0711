"""The sparse output layer against `nn.Linear` on the CPU: forward, backward, both, in one process, taking turns.

    python -m benchmarks.layer [--repeats 7] [--labels 131072]

Writes results/layer.csv and results/layer.md. Ratios are of medians; the machines are noisy, so read those.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import torch

import xmc_explore as xe
from benchmarks.machine import write

SHAPES = [(64, 768, 64), (32, 768, 64), (256, 768, 64), (64, 384, 32), (64, 768, 32)]  # B, D, K


def once(layer: torch.nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Seconds of one forward pass and of one backward pass with all gradients."""
    layer.zero_grad(set_to_none=True)
    x.grad = None
    start = time.perf_counter()
    y = layer(x)
    middle = time.perf_counter()
    grad = torch.ones_like(y)
    restart = time.perf_counter()
    y.backward(grad)
    return middle - start, time.perf_counter() - restart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--labels", type=int, default=131_072)
    options = parser.parse_args()
    rows = []
    for batch, width, fan_in in SHAPES:
        layers = {"nn.Linear": torch.nn.Linear(width, options.labels),
                  "FixedFanIn": xe.FixedFanIn(width, options.labels, fan_in)}
        x = torch.randn(batch, width, requires_grad=True)
        times = {name: [] for name in layers}
        for repeat in range(options.repeats + 1):
            for name, layer in layers.items():
                measured = once(layer, x)
                if repeat:  # the first compiles, and touches memory for the first time
                    times[name].append(measured)
        seconds = {name: np.array(t) for name, t in times.items()}
        both = {name: np.median(t.sum(1)) for name, t in seconds.items()}
        for name, t in seconds.items():
            spread = np.percentile(t.sum(1), [25, 75]) * 1e3
            rows.append({"B": batch, "D": width, "L": options.labels, "K": "" if name == "nn.Linear" else fan_in,
                         "layer": name, "forward ms": f"{np.median(t[:, 0]) * 1e3:.1f}",
                         "backward ms": f"{np.median(t[:, 1]) * 1e3:.1f}", "both ms": f"{both[name] * 1e3:.1f}",
                         "quartiles ms": f"{spread[0]:.1f}-{spread[1]:.1f}",
                         "times faster": f"{both['nn.Linear'] / both[name]:.1f}", "D/K": f"{width / fan_in:.0f}"})
    write("layer", "Forward and backward of the output layer, float32", pd.DataFrame(rows), [
        f"command: python -m benchmarks.layer --repeats {options.repeats} --labels {options.labels}",
        f"medians of {options.repeats} turns; the two layers take turns in one process; no optimizer, no loss"])


if __name__ == "__main__":
    main()
