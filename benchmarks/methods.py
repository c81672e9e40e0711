"""The methods of the paper side by side on `calls`: what a sparse output layer costs, and what brings it back.

    python -m benchmarks.methods [--seeds 3] [--steps N] [--corpus calls] [--only "SET + auxiliary"]

Every method starts from the same encoder and sees the same batches for a seed. Writes results/methods.csv (mean and
spread), results/methods_runs.csv (one row a run) and results/methods.md.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import pandas as pd

import xmc_explore as xe
from benchmarks.machine import RESULTS, write, write_text
from xmc_explore.recipe import METHODS

# Beside the paper's methods: what our own two choices do, one at a time.
VARIANTS = {
    **{name: (name, {}) for name in METHODS},
    "SET, moments kept": ("SET", {"reset_moments": False}),
    **{f"{name}, prior bias": (name, {"bias_init": "prior"}) for name in ("dense", "static", "SET", "SET + auxiliary")},
}
METRICS = ("P@1", "PSP@5", "recall@5/head", "recall@5/torso", "recall@5/tail")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="default: the epochs of the recipe")
    parser.add_argument("--corpus", default="calls")
    parser.add_argument("--only", action="append", choices=VARIANTS, metavar="METHOD",
                        help="may be given several times")
    options = parser.parse_args()
    corpus = xe.load_corpus(options.corpus)
    print(corpus)
    runs = []
    for seed in range(options.seeds):  # seed by seed, so that a slow hour of the machine meets every method
        for method in options.only or VARIANTS:
            name, changes = VARIANTS[method]
            recipe = xe.Recipe.method(name, seed=seed, **changes)
            started = time.perf_counter()
            trace = xe.train(corpus, recipe, steps=options.steps)
            if trace.status != "finished":
                raise SystemExit(f"{method}, seed {seed}: {trace.status}")
            metrics = trace.metrics("test")
            _, grad = trace.history("grad")
            epoch = math.ceil(len(corpus.train) / recipe.batch_size)
            runs.append({"method": method, "seed": seed, **{m: metrics[m] for m in METRICS},
                         "gradient norm, end of epoch 1": float(np.median(grad[:epoch][-50:])),
                         "output layer MiB": trace.events["step"][0]["output_bytes"] / 2**20,
                         "seconds": time.perf_counter() - started, "steps": len(grad)})
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True)
    table = pd.DataFrame(runs)
    write_text(RESULTS / "methods_runs.csv", table.round(4).to_csv(index=False))
    summary = []
    for method, group in table.groupby("method", sort=False):
        row = {"method": method}
        for column in group.columns[2:-1]:
            mean, spread = group[column].mean(), group[column].std(ddof=1)
            row[column] = f"{mean:.2f} ± {spread:.2f}" if len(group) > 1 else f"{mean:.2f}"
        summary.append(row)
    base = xe.Recipe()
    write("methods", f"Methods on the corpus {corpus.name!r}", pd.DataFrame(summary), [
        f"command: python -m benchmarks.methods --seeds {options.seeds}"
        + (f" --steps {options.steps}" if options.steps else ""),
        f"{options.seeds} seeds, mean ± sample standard deviation over them; percent, on the whole test split",
        f"{int(table['steps'].iloc[0]):,} steps of {base.batch_size} documents ({base.epochs} epochs); sparse layers: "
        f"fan-in {base.fan_in} of {base.hidden} ({1 - base.fan_in / base.hidden:.1%} sparse), of "
        f"{METHODS['SET + intermediate']['intermediate']} behind the intermediate layer",
        "output layer MiB: weights, indices, gradients and moments as measured after the first step, without logits "
        "and without the intermediate layer",
        "seconds include the first evaluation to the last, not the loading of the corpus",
        *[f"corpus: {line.strip()}" for line in repr(corpus).splitlines()]])


if __name__ == "__main__":
    main()
