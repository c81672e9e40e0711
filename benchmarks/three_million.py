"""An output layer of the size of Amazon-3M: `xe.demos.three_million_labels`, one process for each optimizer.

    python -m benchmarks.three_million [--steps 12]

Writes results/three_million.csv and results/three_million.md.
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
found = xe.demos.three_million_labels(int(sys.argv[2]), sys.argv[1], progress=False)
low, middle, high = np.percentile(found.seconds, (25, 50, 75))
print(json.dumps({"optimizer": found.optimizer, "s a step": round(middle, 3), "quartiles, s": f"{low:.3f}-{high:.3f}",
                  "resident MiB, whole process": round(found.resident / 2**20),
                  "layer MiB": round(found.layer_bytes / 2**20),
                  "bytes a label": round(found.layer_bytes / found.n_labels, 1),
                  "dense layer with Adam MiB (predicted)": round(found.dense_bytes / 2**20),
                  "loss, first and last": " to ".join(f"{v:,.0f}" for v in found.losses.values())}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    rows = []
    for optimizer in ("sgd", "adam"):
        command = [sys.executable, "-c", ONE, optimizer, str(options.steps)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    write("three_million", "2,812,281 labels, 768 inputs, fan-in 32, batch 32: every label, every step",
          pd.DataFrame(rows), [
              f"command: python -m benchmarks.three_million --steps {options.steps}",
              "float32, synthetic documents, no encoder; medians over the steps after the first; the loss is computed "
              "at the first and last step alone",
              "resident: the highest between two steps, Python and PyTorch included"])


if __name__ == "__main__":
    main()
