"""What notebooks 00, 03 and 04 put beside a student's numbers and no other benchmark measures: runs, races and walks.

    python -m benchmarks.notebook_claims [--report]

Five runs of notebook 00, five races of notebook 03's layer against the dense one, and five walks through notebook 04's
kernels, each with another seed or other connections, go to results/notebook_claims_runs.csv; what a dense layer holds
is of `benchmarks.claims`. Claims with their intervals go to results/notebook_claims.md and data/claims_notebooks.json;
`--report` only writes these.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pandas as pd
import torch

import xmc_explore as xe
from benchmarks import claims as trained
from benchmarks.claims import Claim, for_notebooks, judge, less, ratio, value
from benchmarks.machine import RESULTS, head_of, write_parts, write_text

RUNS = RESULTS / "notebook_claims_runs.csv"
DATA = RESULTS.parent.parent / "data" / "claims_notebooks.json"
REPEATS = 5
SHAPE = (64, 768, 32_768, 32)
PEERS = ["FixedFanIn", "nn.Linear", "masked dense", "torch CSR", "embedding_bag"]  # as in the notebook: they take turns
ALONE = "SET + auxiliary [bias_init=prior]"  # which is xe.Recipe()


def doublings(setting: str, column: str) -> Any:
    return lambda rows: np.log2(value(setting, column)(rows))


CLAIMS = (
    Claim("sparse-memory", "the paper", "A sparse output layer takes a fraction of a dense one's memory in training",
          (("log2 of the ratio, dense to sparse",
            ratio(value("dense", "output layer MiB"), value(ALONE, "output layer MiB"))),), "doublings"),
    Claim("head-found", "ours", "More is found of the head than of the tail",
          (("recall@5, head less tail",
            less(value(ALONE, "recall@5/head"), value(ALONE, "recall@5/tail"))),)),
    Claim("layer-forward", "the paper", "The regular pattern speeds up the forward pass",
          (("log2 of the times as fast as nn.Linear", doublings("race", "forward")),), "doublings", "races"),
    Claim("layer-backward", "the paper", "and is of no direct help in the backward pass",
          (("the same, forward less gradient of x",
            less(doublings("race", "forward"), doublings("race", "gradient of x"))),), "doublings", "races"),
    Claim("layer-step", "ours", "A whole training step is faster than a dense layer's",
          (("log2 of the times as fast as nn.Linear", doublings("race", "step with Adam")),), "doublings", "races"),
    Claim("mask-is-slow", "ours", "A mask over a dense layer saves no time",
          (("log2 of the times as slow as nn.Linear, a step",
            lambda rows: -doublings("race", "masked step")(rows)),), "doublings", "races"),
    Claim("layer-memory", "the paper", "The layer holds a fraction of a dense one's memory",
          (("log2 of the ratio, dense to sparse", doublings("race", "held ratio")),), "doublings", "races"),
    Claim("backward-meets", "the paper", "Forwards a number is stored once; in the gradient of x labels meet",
          (("additions a number of the gradient, less stores a number of y",
            less(value("walk", "additions of dx"), value("walk", "stores of y"))),), "times", "walks"),
    Claim("sorted-once", "ours", "With slots sorted by their feature, each number is stored once after all",
          (("additions a number, less stores a number where sorted",
            less(value("walk", "additions of dx"), value("walk", "sorted stores of dx"))),), "times", "walks"),
    Claim("asked-often", "ours", "Programs ask for every number of x many times",
          (("log2 of the bytes asked for, over those of x", doublings("walk", "x asked for")),), "doublings", "walks"),
)


def run(number: int) -> dict[str, Any]:
    """The run of notebook 00 with another seed."""
    what = trained.setting("notebook 00", "SET + auxiliary", bias_init="prior")
    found = trained.run(what, number, xe.load_corpus("calls-small"), None)
    return {name: found[name] for name in ("setting", "seed", "recall@5/head", "recall@5/tail", "output layer MiB")}


def race(number: int) -> dict[str, Any]:
    """The race of notebook 03, with other connections each time."""
    torch.manual_seed(number)
    rows = xe.race.race([SHAPE], PEERS, repeats=3, progress=False)
    times = {(row["peer"], row["kind"]): row["times nn.Linear"] for row in rows}
    held = {row["peer"]: row["held MiB"] for row in rows if "held MiB" in row}
    return {"setting": "race", "seed": number, **{kind: times["FixedFanIn", kind] for kind in xe.race.KINDS},
            "masked step": times["masked dense", xe.race.STEP], "held ratio": held["nn.Linear"] / held["FixedFanIn"]}


def walk(number: int) -> dict[str, Any]:
    """What all programs of notebook 04's kernels ask for, a number of each tensor."""
    from xmc_explore.layers import triton_kernels as kernels

    g = torch.Generator().manual_seed(number)
    x, weight, bias, grad = (torch.randn(size, generator=g) for size in ((40, 24), (70, 4), (70,), (40, 70)))
    indices = torch.rand(70, 24, generator=g).argsort(1)[:, :4].to(torch.int16)
    plan = kernels.plan(indices, in_features=24)
    needs = (True, False, False)
    forward = xe.walk(lambda: kernels.forward(x, weight, indices, bias), (0, 0))
    scatter = xe.walk(lambda: kernels.backward(grad, x, weight, indices, needs), (0, 0), "scatter_kernel")
    segment = xe.walk(lambda: kernels.backward(grad, x, weight, indices, needs, plan), (1,), "segment_kernel")
    size = 4 * x.numel()
    return {"setting": "walk", "seed": number, "stores of y": forward.stored["y"] / (4 * grad.numel()),
            "x asked for": forward.loaded["x"] / size, "additions of dx": scatter.stored["dx"] / size,
            "sorted stores of dx": segment.stored["partial"] / size}


def rows() -> pd.DataFrame:
    """What all claims rest on."""
    known = trained.known()
    return pd.concat([known[known["setting"] != ALONE], pd.read_csv(RUNS)], ignore_index=True)


def report(head: list[str] | None = None) -> None:
    notes = [
        "command: python -m benchmarks.notebook_claims",
        f"races: B, D, L, K = {SHAPE}, medians of 3 turns, {len(PEERS)} peers in one process; ratios move with what "
        "else the machine does, and differ from one machine to the next",
        "walks: 70 labels, 40 documents, 24 features, 4 connections a label; counts, so they do not vary",
        "notebook 00: runs of xe.Recipe(), 885 steps, seeds 0 to 4; bytes of the dense layer are from claims_runs.csv",
        "measured: mean, in brackets its 95 % confidence interval (Student's t)"]
    write_parts("notebook_claims", "What notebooks 00, 03 and 04 are measured by", notes,
                [("", judge(rows(), CLAIMS))], head=head)
    write_text(DATA, json.dumps(for_notebooks(rows(), CLAIMS), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only write the tables")
    if parser.parse_args().report:
        return report(head_of("notebook_claims")[:6])
    found = pd.DataFrame([measure(number) for measure in (walk, run, race) for number in range(REPEATS)])
    write_text(RUNS, found.round(4).to_csv(index=False))
    report()


if __name__ == "__main__":
    main()
