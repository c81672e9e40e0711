"""What notebooks put beside a student's numbers, or say in numbers, and no other benchmark measures.

    python -m benchmarks.notebook_claims [--only races] [--report]

Five times each, with another seed or other connections: the run of notebook 00, the races of notebook 03, walks through
notebook 04's kernels, the runs on planted data of notebook 05 and its recipe for the tail, who reads dead features and
who moves in notebook 06, the dense twin of notebook 07. Rows go to results/notebook_claims_runs.csv, each with the
conditions of its measurement; `--only` measures one part anew and keeps the others. Claims that need no run of their
own rest on those of `benchmarks.claims`. Claims with their intervals, and the numbers that notebooks say in their text,
go to results/notebook_claims.md, the claims to data/claims_notebooks.json as well; `--report` only writes these.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

import xmc_explore as xe
from benchmarks import claims as trained
from benchmarks.claims import Claim, for_notebooks, gap, judge, less, ratio, value
from benchmarks.machine import RESULTS, commit, conditions, write_parts, write_text
from xmc_explore.training import Run
from xmc_explore.wording import numeral

RUNS = RESULTS / "notebook_claims_runs.csv"
DATA = RESULTS.parent.parent / "data" / "claims_notebooks.json"
REPEATS = 5
EARLY = 100  # steps
WHERE = ("date", "commit", "processor", "GPU", "system", "versions", "load at the end")
SHAPE = (64, 768, 32_768, 32)
PEERS = ["FixedFanIn", "nn.Linear", "masked dense", "torch CSR", "embedding_bag"]  # as in the notebook: they take turns
ALONE = "SET + auxiliary [bias_init=prior]"  # which is xe.Recipe()
PLANTED_STEPS = 1200
PLANTED = dict(encoder="features", fan_in=16, rewire_interval=20, rewire_fraction=0.3, output_lr=0.02)
ON_PLANTED = {"static": ("SET", dict(rewire_interval=0)), "SET": ("SET", {}), "RigL": ("RigL", {}),
              "dense": ("dense", {}), "SET, moments kept": ("SET", dict(reset_moments=False)),
              "RigL, moments kept": ("RigL", dict(reset_moments=False))}
FOR_THE_TAIL = {f"batch of {size}": dict(bias_init="prior", batch_size=size) for size in (64, 512)}
EVERY_25 = {"zero": dict(bias_init="zero"), "prior": dict(bias_init="prior"),
            "prior, SGD": dict(bias_init="prior", output_optimizer="sgd", output_lr=0.5)}


def doublings(setting: str, column: str) -> Any:
    return lambda rows: np.log2(value(setting, column)(rows))


CLAIMS = (
    Claim("sparse-memory", "the paper", "A sparse output layer takes a fraction of a dense one's memory in training",
          (("log2 of the ratio, dense to sparse",
            ratio(value("dense", "output layer MiB"), value(ALONE, "output layer MiB"))),), "doublings"),
    Claim("head-found", "ours", "More is found of the head than of the tail",
          (("recall@5, head less tail",
            less(value(ALONE, "recall@5/head"), value(ALONE, "recall@5/tail"))),)),
    Claim("head-found-zero", "ours", "More is found of the head than of the tail (biases from zero)",
          (("recall@5 of SET + auxiliary, head less tail",
            less(value("SET + auxiliary", "recall@5/head"), value("SET + auxiliary", "recall@5/tail"))),)),
    Claim("sparse-loses", "the paper", "A sparse layer loses against a dense one",
          (("P@1, dense less SET", gap("P@1", "dense", "SET")),)),
    Claim("layer-forward", "the paper", "The regular pattern speeds up the forward pass",
          (("log2 of the times as fast as nn.Linear", doublings("race", "forward")),), "doublings", "races"),
    Claim("layer-backward", "ours, after the paper", "The gradient of x gains less than the forward pass",
          (("the same, forward less gradient of x",
            less(doublings("race", "forward"), doublings("race", "gradient of x"))),), "doublings", "races"),
    Claim("layer-gradient-of-x", "ours", "and is faster than a dense layer's all the same",
          (("log2 of the times as fast as nn.Linear", doublings("race", "gradient of x")),), "doublings", "races"),
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
    Claim("planted-rewiring", "the paper", "Rewiring beats a static sparse layer where the truth is planted",
          (("P@1, SET less static", gap("P@1", "planted: SET", "planted: static")),)),
    Claim("planted-rigl", "the paper", "RigL finds more than SET",
          (("features found of the head's, RigL less SET",
            gap("found/head", "planted: RigL", "planted: SET")),)),
    Claim("head-first", "ours", "Rewiring finds more of what decides head labels than of what decides the tail",
          (("features found by SET, head less tail",
            less(value("planted: SET", "found/head"), value("planted: SET", "found/tail"))),)),
    Claim("moments-tail", "ours", "With moments kept, more of the tail's features is found",
          (("features found of the tail's by RigL, kept less reset",
            gap("found/tail", "planted: RigL, moments kept", "planted: RigL")),)),
    Claim("moments-head", "ours", "and less of the head's",
          (("features found of the head's by RigL, reset less kept",
            gap("found/head", "planted: RigL", "planted: RigL, moments kept")),)),
    Claim("crowd-at-work", "ours", "The tail crowds onto features that are at work (biases from zero)",
          (("times a fair draw, others less always 0",
            less(value("every 25: zero", "others read/tail"), value("every 25: zero", "dead read/tail"))),), "times"),
    Claim("sgd-turns", "ours", "With plain SGD the tail's connections are replaced more often than the head's",
          (("moves per 100 slots in the whole run, tail less head",
            less(value("every 25: prior, SGD", "replaced/tail"), value("every 25: prior, SGD", "replaced/head"))),),
          "moves"),
    Claim("sparse-faint", "ours", "What arrives through a sparse layer is fainter than from its dense twin",
          (("log2 of the ratio of norms, twin to sparse, mean over the run",
            lambda rows: -value("twin: SET", "log2 of the ratio of norms")(rows)),), "doublings"),
    Claim("sparse-elsewhere", "ours", "and points elsewhere: the cosine of the two is nearer to 0 than to 1",
          (("0.5 less the cosine, mean over the run",
            lambda rows: 0.5 - value("twin: SET", "cosine")(rows)),), "of a cosine"),
)


def run(number: int) -> list[dict[str, Any]]:
    """The run of notebook 00 with another seed."""
    what = trained.setting("notebook 00", "SET + auxiliary", bias_init="prior")
    found = trained.run(what, number, xe.load_corpus("calls-small"), None)
    return [{name: found[name] for name in ("setting", "recall@5/head", "recall@5/tail", "output layer MiB")}]


def race(number: int) -> list[dict[str, Any]]:
    """The race of notebook 03, with other connections each time."""
    torch.manual_seed(number)
    rows = xe.race.race([SHAPE], PEERS, repeats=3, progress=False)
    times = {(row["peer"], row["kind"]): row["times nn.Linear"] for row in rows}
    held = {row["peer"]: row["held MiB"] for row in rows if "held MiB" in row}
    return [{"setting": "race", **{kind: times["FixedFanIn", kind] for kind in xe.race.KINDS},
             "masked step": times["masked dense", xe.race.STEP], "held ratio": held["nn.Linear"] / held["FixedFanIn"]}]


def walk(number: int) -> list[dict[str, Any]]:
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
    return [{"setting": "walk", "stores of y": forward.stored["y"] / (4 * grad.numel()),
             "x asked for": forward.loaded["x"] / size, "additions of dx": scatter.stored["dx"] / size,
             "sorted stores of dx": segment.stored["partial"] / size}]


def on_planted(corpus: Any, setting: str, method: str, number: int, options: dict[str, Any]) -> dict[str, Any]:
    """A run on planted data: P@1, and what is found of the features that decide a label, in %."""
    recipe = xe.Recipe.method(method, seed=number, **{**PLANTED, **options})
    trace = xe.train(corpus, recipe, steps=PLANTED_STEPS, progress=False)
    last = (trace.events["rewire"] or [{}])[-1]
    return {"setting": setting, "P@1": trace.metrics("test")["P@1"],
            **{key: 100 * last[key] for key in ("found/head", "found/tail") if key in last}}


def planted(number: int) -> list[dict[str, Any]]:
    """The runs of notebook 05 on planted data."""
    corpus = xe.load_corpus("planted")
    return [on_planted(corpus, f"planted: {name}", method, number, options)
            for name, (method, options) in ON_PLANTED.items()]


def tail_support(number: int) -> list[dict[str, Any]]:
    """The recipe that solves notebook 05's exercise of this name, and the same with its usual batch."""
    corpus = xe.load_corpus("planted")
    return [on_planted(corpus, f"tail support: {name}", "RigL", number, options)
            for name, options in FOR_THE_TAIL.items()]


def features(number: int) -> list[dict[str, Any]]:
    """Notebook 06: who reads features that are 0 for every document, and who moves, with Adam and with SGD."""
    corpus, found = xe.load_corpus("calls-small"), []
    for name, options in EVERY_25.items():
        run = Run(corpus, xe.Recipe.method("SET", seed=number, rewire_interval=25, **options))
        trace = run.finish(progress=False)
        batch = run.documents["train"].batch(np.arange(len(corpus.train)), run.device)
        with torch.no_grad():
            dead = (run.model.features(batch)[0] <= 0).all(0).numpy()
        degree = xe.probes.in_degree(trace.connectivity(), trace.width, trace.bins().of_label)
        tail = degree[2] / degree[2].mean()
        moves, metrics = xe.probes.moves(trace.store, trace.bins().of_label), trace.metrics("test")
        found.append({"setting": f"every 25: {name}", "P@1": metrics["P@1"], "recall@5/tail": metrics["recall@5/tail"],
                      "dead features": int(dead.sum()), "dead read/tail": tail[dead].mean(),
                      "others read/tail": tail[~dead].mean(),
                      **{f"replaced/{bin}": 100 * moves[bin] for bin in ("head", "tail")}})
    return found


def twin(number: int) -> list[dict[str, Any]]:
    """Notebook 07: the encoder's gradient beside what a dense twin would send, looked at every 20 steps."""
    corpus, found = xe.load_corpus("calls-small"), []
    for method in ("SET", "SET + auxiliary"):
        trace = xe.train(corpus, xe.Recipe.method(method, seed=number, probe_interval=20), progress=False)
        steps, cosine = trace.history("twin/cosine")
        norms, noise = (trace.history(key)[1] for key in ("twin/norm_ratio", "snr"))
        found.append({"setting": f"twin: {method}", "cosine": cosine.mean(),
                      "log2 of the ratio of norms": np.log2(norms).mean(), "signal to noise": np.median(noise),
                      **{f"{what}, {when}": of[(steps >= first) & (steps < last)].mean()
                         for what, of in (("cosine", cosine), ("ratio of norms", norms), ("signal to noise", noise))
                         for when, first, last in (("early", 0, EARLY), ("late", steps[-1] - EARLY, steps[-1] + 1))}})
    return found


PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "walks": walk, "notebook 00": run, "races": race, "planted": planted, "tail support": tail_support,
    "features": features, "twin": twin}


def measure(part: str) -> pd.DataFrame:
    """The rows of one part, each with where and when."""
    of_seeds = [{"part": part, "seed": number, **row} for number in range(REPEATS) for row in PARTS[part](number)]
    where = {**conditions(), "commit": commit()}
    return pd.DataFrame(of_seeds).round(4).assign(**{name: where[name] for name in WHERE})


def rows() -> pd.DataFrame:
    """What all claims rest on."""
    known = trained.known()
    return pd.concat([known[known["setting"] != ALONE], pd.read_csv(RUNS)], ignore_index=True)


def told(found: pd.DataFrame, part: str, columns: dict[str, str]) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds of the columns of a part, for people: {column: its format}."""
    table = []
    for name, group in found[found["part"] == part].groupby("setting", sort=False):
        table.append({"setting": name.partition(": ")[2], "seeds": len(group), **{
            column: "" if group[column].isna().any() else
            "{} ± {} ({} to {})".format(*(numeral(getattr(group[column], what)(), form)
                                          for what in ("mean", "std", "min", "max")))
            for column, form in columns.items()}})
    return pd.DataFrame(table)


TOLD = {  # what notebooks say in their text: part, heading, columns
    "planted": ("Notebook 05, planted data (%)", {"P@1": ".1f", "found/head": ".1f", "found/tail": ".1f"}),
    "tail support": ("Notebook 05, exercise `tail_support`: RigL, biases from the prior (%)",
                     {"P@1": ".1f", "found/head": ".1f", "found/tail": ".1f"}),
    "features": ("Notebook 06, rewired every 25 steps", {
        "dead features": ".0f", "dead read/tail": ".2f", "others read/tail": ".2f", "replaced/head": ".0f",
        "replaced/tail": ".0f", "P@1": ".1f", "recall@5/tail": ".1f"}),
    "twin": ("Notebook 07, beside the dense twin", {"cosine": ".2f", "log2 of the ratio of norms": ".1f"} | {
        f"{what}, {when}": ".2f" for what in ("cosine", "ratio of norms", "signal to noise")
        for when in ("early", "late")}),
}


def report() -> None:
    found = pd.read_csv(RUNS)
    head = [f"{', '.join(places['part'].unique())}: " + "; ".join(f"{k} {v}" for k, v in zip(WHERE, where, strict=True))
            for where, places in found.groupby([*WHERE], sort=False, dropna=False)]
    notes = [
        "command: python -m benchmarks.notebook_claims, --only for a part by itself",
        f"races: B, D, L, K = {SHAPE}, medians of 3 turns, {len(PEERS)} peers in one process; ratios move with what "
        "else the machine does, and differ from one machine to the next",
        "walks: 70 labels, 40 documents, 24 features, 4 connections a label; counts, so they do not vary",
        f"notebook 00: runs of xe.Recipe(), 885 steps, seeds 0 to {REPEATS - 1}; what is said of dense, SET and SET + "
        "auxiliary without more words is from claims_runs.csv",
        f"planted, tail support: {PLANTED_STEPS:,} steps, fan-in 16 of 256, rewired every 20 steps, features found at "
        "the last rewire (by chance 6.2 %)",
        "features, twin: calls-small, 885 steps, fan-in 8 of 512; dead features are 0 for every training document, and "
        "how often they and others are read is in units of a fair draw; moves are counted per 100 slots",
        f"twin: mean over the run, early over the first {EARLY} steps, late over the last {EARLY}; a signal-to-noise "
        "ratio of 1/3 means that documents have nothing in common",
        "measured: mean, in brackets its 95 % confidence interval (Student's t); under the claims: mean ± sample "
        "standard deviation over seeds, in brackets lowest and highest"]
    parts = [(heading, told(found, part, columns)) for part, (heading, columns) in TOLD.items()]
    write_parts("notebook_claims", "What notebooks say in numbers", notes,
                [("Claims", judge(rows(), CLAIMS)), *(part for part in parts if len(part[1]))], head=head)
    write_text(DATA, json.dumps(for_notebooks(rows(), CLAIMS), indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART",
                        help=f"measure this part anew, keep the others: {', '.join(PARTS)}; may be given several times")
    parser.add_argument("--report", action="store_true", help="only write the tables")
    options = parser.parse_args(arguments)
    for part in () if options.report else options.only or PARTS:
        new, old = measure(part), pd.read_csv(RUNS) if RUNS.exists() else pd.DataFrame(columns=["part"])
        write_text(RUNS, pd.concat([old[old["part"] != part], new], ignore_index=True).to_csv(index=False))
    report()


if __name__ == "__main__":
    main()
