"""An output layer of the size of Amazon-3M: `xe.demos.three_million_labels`, one process for each optimizer.

    python -m benchmarks.three_million [--steps 12] [--device cpu|cuda]

Writes results/three_million.csv and results/three_million.md; on a GPU results/three_million_cuda.csv and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pandas as pd

from benchmarks.machine import write

ONE = """
import json, sys
import numpy as np
import xmc_explore as xe
import torch
optimizer, steps, device = sys.argv[1:]
found = xe.demos.three_million_labels(int(steps), optimizer, device=device, progress=False)
peak = {} if device == "cpu" else {"most on the GPU MiB": round(torch.cuda.max_memory_allocated() / 2**20)}
low, middle, high = np.percentile(found.seconds, (25, 50, 75))
print(json.dumps({"optimizer": found.optimizer, "s a step": round(middle, 3), "quartiles, s": f"{low:.3f}-{high:.3f}",
                  f"MiB {found.where}": round(found.resident / 2**20), **peak,
                  "peak MiB, whole process": round(xe.memory.peak_resident() / 2**20),
                  "layer MiB": round(found.layer_bytes / 2**20),
                  "bytes a label": round(found.layer_bytes / found.n_labels, 1),
                  "dense layer with Adam MiB (predicted)": round(found.dense_bytes / 2**20),
                  "loss, first and last": " to ".join(f"{v:,.0f}" for v in found.losses.values())}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rows = []
    for optimizer in ("sgd", "adam"):
        command = [sys.executable, "-c", ONE, optimizer, str(options.steps), options.device]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    name = "three_million" if options.device == "cpu" else "three_million_cuda"
    write(name, "2,812,281 labels, 768 inputs, fan-in 32, batch 32: every label, every step",
          pd.DataFrame(rows), [
              f"command: python -m benchmarks.three_million --steps {options.steps} --device {options.device}",
              "float32, synthetic documents, no encoder; medians over the steps after the first; the loss is computed "
              "at the first and last step alone",
              "resident (or held): the highest between two steps, Python and PyTorch included; peak: the most at any "
              "moment, from the making of the layer to its end, as the system counted it"],
          on_a_gpu="python -m benchmarks.three_million --device cuda")


if __name__ == "__main__":
    main()
