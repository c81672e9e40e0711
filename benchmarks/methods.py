"""The methods of the paper side by side on `calls`: what a sparse output layer costs, and what brings it back.

    python -m benchmarks.methods [--seeds 3] [--steps N] [--corpus calls] [--only "SET + auxiliary"]
    python -m benchmarks.methods --add [--only METHOD]    the file's rows stay; by default, all that it lacks come

Every method starts from the same encoder and sees the same batches for a seed. Writes results/methods.csv (mean and
spread), results/methods_runs.csv (one row a run, with its conditions) and results/methods.md. What is added must have
the corpus, the seeds and the steps of what is there; where it was measured otherwise, its row says so.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import xmc_explore as xe
from benchmarks.machine import RESULTS, commit, conditions, write_parts, write_text
from xmc_explore.recipe import METHODS

# Beside the paper's methods: what our own two choices do, one at a time.
VARIANTS = {
    **{name: (name, {}) for name in METHODS},
    "SET, moments kept": ("SET", {"reset_moments": False}),
    **{f"{name}, prior bias": (name, {"bias_init": "prior"}) for name in ("dense", "static", "SET", "SET + auxiliary")},
}
METRICS = ("P@1", "PSP@5", "recall@5/head", "recall@5/torso", "recall@5/tail")
SHOWN = [*METRICS, "gradient norm, end of epoch 1", "output layer MiB", "seconds"]
SAME = ("corpus", "fingerprint", "steps")  # of every row of a file
WHERE = ("date", "commit", "processor", "GPU", "system", "versions", "load at the end")


def run(corpus: xe.Corpus, method: str, seed: int, steps: int | None) -> dict[str, Any]:
    """One row of methods_runs.csv."""
    name, changes = VARIANTS[method]
    recipe = xe.Recipe.method(name, seed=seed, **changes)
    started = time.perf_counter()
    trace = xe.train(corpus, recipe, steps=steps)
    if trace.status != "finished":
        raise SystemExit(f"{method}, seed {seed}: {trace.status}")
    metrics = trace.metrics("test")
    _, grad = trace.history("grad")
    epoch = math.ceil(len(corpus.train) / recipe.batch_size)
    return {"method": method, "seed": seed, **{m: metrics[m] for m in METRICS},
            "gradient norm, end of epoch 1": float(np.median(grad[:epoch][-50:])),
            "output layer MiB": trace.events["step"][0]["output_bytes"] / 2**20,
            "seconds": time.perf_counter() - started, "steps": len(grad)}


def rows_to_add_to(path: Path, asked: list[str] | None, here: dict[str, Any], seeds: int
                   ) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a file, and the methods to run; ends in words where new rows would not belong beside them."""
    if not path.exists():
        raise SystemExit(f"--add: there is no {path.name} to add to; run once without --add")
    old = pd.read_csv(path, dtype=dict.fromkeys(("fingerprint", "load at the end", "commit"), str))
    if lacking := sorted({"method", "seed", *SHOWN, *SAME, *WHERE} - {*old.columns}):
        raise SystemExit(f"--add: {path.name} lacks the column {lacking[0]!r}; run once without --add")
    for name, value in here.items():
        if others := sorted({*old[name]} - {value}, key=str):
            raise SystemExit(f"--add: {name} is {value!r} here and {others[0]!r} in {path.name}; only what has the "
                             f"same can stand beside it: give the same options, or run all without --add")
    if {*old["seed"]} != {*range(seeds)}:
        raise SystemExit(f"--add: seeds {sorted({*old['seed']})} are in {path.name}; --seeds {seeds} would give "
                         f"{[*range(seeds)]}: give as many, or run all without --add")
    if there := [method for method in asked or () if method in {*old["method"]}]:
        raise SystemExit(f"--add: {there[0]!r} is in {path.name} already; leave it out, or run all without --add")
    return old, asked or [method for method in VARIANTS if method not in {*old["method"]}]


def report(rows: pd.DataFrame, notes: list[str]) -> None:
    """methods.csv and methods.md; the head says where it was measured, and each row which of it, if they differ."""
    places = rows.groupby([*WHERE], sort=False, dropna=False)
    head = []
    for where, group in places:
        told = "; ".join(f"{k}: {v}" for k, v in zip(WHERE, where, strict=True))
        head.append(told + (f"; {', '.join(group['method'].unique())}" if len(places) > 1 else ""))
    summary = []
    for method, group in rows.groupby("method", sort=False):
        row = {"method": method}
        for column in SHOWN:
            mean, spread = group[column].mean(), group[column].std(ddof=1)
            row[column] = f"{mean:.2f} ± {spread:.2f}" if len(group) > 1 else f"{mean:.2f}"
        if len(places) > 1:
            row["measured"] = " and ".join((group["date"] + ", " + group["commit"]).unique())
        summary.append(row)
    table = pd.DataFrame(summary)
    write_text(RESULTS / "methods.csv", table.to_csv(index=False))
    write_parts("methods", f"Methods on the corpus {rows['corpus'].iloc[0]!r}", notes, [("", table)], head=head)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="default: the epochs of the recipe")
    parser.add_argument("--corpus", default="calls")
    parser.add_argument("--only", action="append", choices=VARIANTS, metavar="METHOD",
                        help="may be given several times")
    parser.add_argument("--add", action="store_true", help="keep the rows of the file, add methods that it lacks")
    options = parser.parse_args(arguments)
    corpus, path, base = xe.load_corpus(options.corpus), RESULTS / "methods_runs.csv", xe.Recipe()
    print(corpus)
    steps = options.steps or base.epochs * math.ceil(len(corpus.train) / base.batch_size)
    here = dict(zip(SAME, (corpus.name, corpus.fingerprint, steps), strict=True))
    old, methods = pd.DataFrame(), options.only or [*VARIANTS]
    if options.add:
        old, methods = rows_to_add_to(path, options.only, here, options.seeds)
    runs, measured = [], commit()
    for seed in range(options.seeds):  # seed by seed, so that a slow hour of the machine meets every method
        for method in methods:
            runs.append({**here, **run(corpus, method, seed, options.steps)})
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True)
    where = {k: v for k, v in {**conditions(), "commit": measured}.items() if k in WHERE}
    new = pd.DataFrame(runs).assign(**where)[["method", "seed", *SHOWN, *SAME, *WHERE]].round(4)
    rows = pd.concat([old, new], ignore_index=True)
    write_text(path, rows.to_csv(index=False))
    report(rows, [
        f"command: python -m benchmarks.methods --seeds {options.seeds}"
        + (f" --steps {options.steps}" if options.steps else "") + "; with --add what came later",
        f"{options.seeds} seeds, mean ± sample standard deviation over them; percent, on the whole test split",
        f"{steps:,} steps of {base.batch_size} documents; sparse layers: "
        f"fan-in {base.fan_in} of {base.hidden} ({1 - base.fan_in / base.hidden:.1%} sparse), of "
        f"{METHODS['SET + intermediate']['intermediate']} behind the intermediate layer",
        "output layer MiB: weights, indices, gradients and moments as measured after the first step, without logits "
        "and without the intermediate layer",
        "seconds include the first evaluation to the last, not the loading of the corpus; other work shared the cores",
        *[f"corpus: {line.strip()}" for line in repr(corpus).splitlines()]])


if __name__ == "__main__":
    main()
