"""The paper's claims, and ours about head and tail, put to the test on a real corpus with several seeds.

    python -m benchmarks.claims [--seeds 5] [--steps N] [--only fan-in] [--report]

Runs what `results/claims_runs.csv` does not hold yet, seed by seed, so that it can be stopped and taken up again, and
writes results/claims_series.{csv,md} (every setting: mean and spread), results/claims.{csv,md} (every claim: paired
differences with a 95 % confidence interval over seeds, and a verdict) and data/claims.json, which notebooks read.
`--report` only writes the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import xmc_explore as xe
from benchmarks.machine import RESULTS, write, write_text
from xmc_explore.claims import SIGNED
from xmc_explore.wording import numeral

RUNS = RESULTS / "claims_runs.csv"
DATA = RESULTS.parent.parent / "data" / "claims.json"
CORPUS = "calls-small"
METRICS = ("P@1", "P@5", "PSP@1", "PSP@5", "recall@5", "recall@5/head", "recall@5/torso", "recall@5/tail")
EARLY = 100  # steps over which "early" quantities are averaged
FAN_INS = (4, 8, 16, 32, 64)
USES = (30, 10, 5, 2)  # a label is kept if so many documents carry it: more labels from the same functions


@dataclass(frozen=True)
class Setting:
    """One column of a table: a method with options changed, on the corpus with labels of at least `min_uses` uses."""

    series: str
    method: str
    options: tuple[tuple[str, Any], ...] = ()
    min_uses: int = 5

    @property
    def name(self) -> str:
        said = [f"{k}={v}" for k, v in self.options] + [f"min_uses={self.min_uses}"] * (self.min_uses != 5)
        return self.method + (f" [{', '.join(said)}]" if said else "")


def setting(series: str, method: str, min_uses: int = 5, **options: Any) -> Setting:
    return Setting(series, method, tuple(options.items()), min_uses)


def settings() -> list[Setting]:
    """Every setting once, those that most claims need first."""
    base = [setting("methods", m) for m in ("dense", "bottleneck", "static", "SET", "RigL", "SET + auxiliary")]
    prior = [setting("prior biases", m, bias_init="prior") for m in ("dense", "static", "SET", "SET + auxiliary")]
    fan_in = [setting("fan-in", m, fan_in=k) for k in FAN_INS for m in ("SET", "SET + auxiliary")
              if k != 8]  # 8 is the recipe's own
    bottleneck = [setting("bottleneck", "bottleneck", fan_in=32)]
    clusters = [setting("random clusters", "SET + auxiliary", aux_clustering="random")]
    interval = [setting("rewire interval", "SET", rewire_interval=n) for n in (10, 25, 50, 200, 400)]
    intermediate = [setting("intermediate width", "SET + intermediate", intermediate=w) for w in (1024, 2048, 4096)]
    cutoff = [setting("cut-off", "SET + auxiliary", aux_cutoff=c, **extra) for extra in ({}, {"fan_in": 32})
              for c in (0.1, 0.7, 1.0)]
    epochs = [setting("epochs", m, epochs=n, **extra) for n in (2, 10)
              for m, extra in (("dense", {}), ("SET", {"fan_in": 4}), ("SET", {"fan_in": 32}))]
    labels = [setting("label count", m, min_uses=u) for u in USES if u != 5
              for m in ("dense", "SET", "SET + auxiliary")]
    return base + prior + fan_in + clusters + cutoff + interval + labels + intermediate + epochs + bottleneck


# --- the runs -----------------------------------------------------------------------------------------------------


def run(what: Setting, seed: int, corpus: Any, steps: int | None) -> dict[str, Any]:
    """Train once; the row that goes into the table of runs."""
    recipe = xe.Recipe.method(what.method, seed=seed, **dict(what.options))
    started = time.perf_counter()
    trace = xe.train(corpus, recipe, steps=steps, progress=False)
    if trace.status != "finished":
        raise SystemExit(f"{what.name}, seed {seed}: {trace.status}")
    metrics, (_, grad) = trace.metrics("test"), trace.history("grad")
    return {"series": what.series, "setting": what.name, "seed": seed, "labels": corpus.n_labels,
            **{m: metrics[m] for m in METRICS}, "early gradient norm": float(grad[:EARLY].mean()),
            "late gradient norm": float(grad[-EARLY:].mean()), **_churn(trace),
            "output layer MiB": trace.events["step"][0]["output_bytes"] / 2**20, "steps": len(grad),
            "seconds": time.perf_counter() - started}


def _churn(trace: xe.Trace) -> dict[str, float]:
    """Moves per 100 slots in the whole run, by bin; NaN where nothing is sparse."""
    if not trace.frames:
        return {f"replaced/{name}": math.nan for name in ("head", "torso", "tail")}
    bins = trace.bins()
    moved = np.zeros(len(trace.label_frequency), dtype=np.float64)
    for frame in range(1, len(trace.frames)):
        np.add.at(moved, trace.changed(frame) // trace.recipe.fan_in, 1)
    return {f"replaced/{name}": float(100 * moved[bins.of_label == i].mean() / trace.recipe.fan_in)
            for i, name in enumerate(bins.names)}


def known() -> pd.DataFrame:
    return pd.read_csv(RUNS) if RUNS.exists() else pd.DataFrame(columns=["setting", "seed"])


def add(rows: pd.DataFrame, row: dict[str, Any]) -> pd.DataFrame:
    """The table with one row more, on disk as well."""
    rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
    write_text(RUNS, rows.round(4).to_csv(index=False))
    return rows


# --- the claims ---------------------------------------------------------------------------------------------------

Value = Callable[[pd.DataFrame], pd.Series]


def value(name: str, metric: str) -> Value:
    """One number a seed: `metric` of the setting called `name`."""
    def of(rows: pd.DataFrame) -> pd.Series:
        return rows[rows["setting"] == name].set_index("seed")[metric]
    return of


def less(a: Value, b: Value) -> Value:
    return lambda rows: (a(rows) - b(rows)).dropna()


def ratio(a: Value, b: Value) -> Value:
    """log2 of a / b, so that "larger" is above 0."""
    return lambda rows: np.log2((a(rows) / b(rows)).dropna())


def gap(metric: str, better: str, worse: str) -> Value:
    return less(value(better, metric), value(worse, metric))


@dataclass(frozen=True)
class Claim:
    """A sentence, where it comes from, and the differences that have to be above 0 for it to hold, with their words."""

    key: str  # as notebooks call it
    source: str
    sentence: str
    differences: tuple[tuple[str, Value], ...]
    unit: str = "points"
    runs: str = "seeds"  # what there are several of


AUX, SET = "SET + auxiliary", "SET"
CLAIMS = (
    Claim("sparser-loses", "Fig 1", "Plain rewiring loses precision as the layer gets sparser",
          (("P@1, fan-in 64 less fan-in 4", gap("P@1", "SET [fan_in=64]", "SET [fan_in=4]")),)),
    Claim("auxiliary-flattens", "Fig 1", "With the auxiliary objective precision falls less with sparsity", (
        ("P@1 lost from fan-in 64 to 4: without less with",
         less(gap("P@1", "SET [fan_in=64]", "SET [fan_in=4]"),
              gap("P@1", f"{AUX} [fan_in=64]", f"{AUX} [fan_in=4]"))),)),
    Claim("gradient-norm", "Fig 2",
          "The auxiliary objective raises the encoder's gradient norm early on (biases from zero)",
          (("log2 of the ratio", ratio(value(AUX, "early gradient norm"), value(SET, "early gradient norm"))),),
          "doublings"),
    Claim("gradient-norm-prior", "Fig 2", "The same with biases started at the prior",
          (("log2 of the ratio", ratio(value(f"{AUX} [bias_init=prior]", "early gradient norm"),
                                       value(f"{SET} [bias_init=prior]", "early gradient norm"))),), "doublings"),
    Claim("label-count", "Fig 3", "The gap between dense and sparse grows with the number of labels", (
        ("P@1 lost by SET: most labels less fewest",
         less(gap("P@1", "dense [min_uses=2]", "SET [min_uses=2]"),
              gap("P@1", "dense [min_uses=30]", "SET [min_uses=30]"))),)),
    Claim("longer-for-sparser", "Fig 3", "Longer training helps a sparser layer more", (
        ("P@1 gained from 2 to 10 epochs: fan-in 4 less fan-in 32",
         less(gap("P@1", "SET [epochs=10, fan_in=4]", "SET [epochs=2, fan_in=4]"),
              gap("P@1", "SET [epochs=10, fan_in=32]", "SET [epochs=2, fan_in=32]"))),)),
    Claim("interval-rises", "Fig 4", "P@1 first rises with the rewire interval",
          (("P@1, every 100 steps less every 10", gap("P@1", "SET", "SET [rewire_interval=10]")),)),
    Claim("interval-falls", "Fig 4", "and then falls",
          (("P@1, every 100 steps less every 400", gap("P@1", "SET", "SET [rewire_interval=400]")),)),
    Claim("interval-psp", "Fig 4", "PSP@1 keeps rising with the rewire interval",
          (("PSP@1, every 400 steps less every 10",
            gap("PSP@1", "SET [rewire_interval=400]", "SET [rewire_interval=10]")),)),
    Claim("intermediate-tail", "Fig 5", "A wider intermediate layer keeps improving tail metrics",
          (("PSP@5, width 4096 less 1024", gap("PSP@5", "SET + intermediate [intermediate=4096]",
                                               "SET + intermediate [intermediate=1024]")),)),
    Claim("intermediate-helps", "Section 3", "An intermediate layer helps a sparse layer",
          (("P@1, width 2048 less none", gap("P@1", "SET + intermediate [intermediate=2048]", "SET")),)),
    Claim("random-clusters", "Figs 6-7", "Random clusters lose at most one point against clusters of like labels",
          (("P@1, random less k-means, plus 1",
            lambda rows: gap("P@1", f"{AUX} [aux_clustering=random]", AUX)(rows) + 1),)),
    Claim("auxiliary-helps", "Table 5", "The auxiliary objective helps at high sparsity (fan-in 8 of 512)",
          (("P@1, with less without", gap("P@1", AUX, SET)),)),
    Claim("auxiliary-denser", "Table 5", "and helps less where the layer is denser (fan-in 64)", (
        ("P@1 gained at fan-in 8 less at 64",
         less(gap("P@1", AUX, SET), gap("P@1", f"{AUX} [fan_in=64]", "SET [fan_in=64]"))),)),
    Claim("cutoff-early", "Table 6", "Too early a cut-off of the auxiliary objective hurts",
          (("P@1, cut-off 0.4 less 0.1", gap("P@1", AUX, f"{AUX} [aux_cutoff=0.1]")),)),
    Claim("cutoff-late", "Table 6", "Too late a cut-off hurts",
          (("P@1, cut-off 0.4 less 1.0", gap("P@1", AUX, f"{AUX} [aux_cutoff=1.0]")),)),
    Claim("bottleneck-loses", "Table 2", "A bottleneck of equal memory loses to the sparse layer",
          (("P@1, SET less bottleneck", gap("P@1", SET, "bottleneck")),
           ("the same at fan-in 32", gap("P@1", "SET [fan_in=32]", "bottleneck [fan_in=32]")))),
    Claim("rewiring-helps", "Section 2", "Rewiring beats a static sparse layer",
          (("P@1, SET less static", gap("P@1", SET, "static")),)),
    Claim("tail-behind", "ours",
          "P@1 recovers, the tail does not: dense still finds more tail labels than SET + auxiliary",
          (("recall@5 of the tail, dense less SET + auxiliary", gap("recall@5/tail", "dense", AUX)),)),
    Claim("tail-churn", "ours", "Connections of tail labels are replaced more often than those of head labels",
          (("moves per 100 slots in the whole run, tail less head",
            less(value(SET, "replaced/tail"), value(SET, "replaced/head"))),), unit="moves"),
    Claim("interval-tail", "ours", "A more frequent rewire moves tail connections most",
          (("moves per 100 slots, every 25 steps less every 200: tail less head",
            less(gap("replaced/tail", "SET [rewire_interval=25]", "SET [rewire_interval=200]"),
                 gap("replaced/head", "SET [rewire_interval=25]", "SET [rewire_interval=200]"))),), unit="moves"),
    Claim("prior-instead", "ours",
          "Starting biases at the prior does more for a sparse layer than the auxiliary objective",
          (("P@1, SET with prior less SET + auxiliary without",
            gap("P@1", f"{SET} [bias_init=prior]", AUX)),)),
    Claim("prior-and-auxiliary", "ours", "With the prior in place the auxiliary objective still helps",
          (("P@1, with less without", gap("P@1", f"{AUX} [bias_init=prior]", f"{SET} [bias_init=prior]")),)),
)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % confidence interval (Student's t over seeds)."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean(), values.mean() - half, values.mean() + half


def one_run(values: np.ndarray) -> tuple[float, float]:
    """Where a single further seed is to be expected, 19 times of 20 (Student's t, normal differences)."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / len(values))
    return values.mean() - half, values.mean() + half


def verdict(intervals: list[tuple[float, float, float]]) -> str:
    """"reproduced" if every interval lies above 0, "opposite" if one lies below, else "not at this scale"."""
    if all(low > 0 for _, low, _ in intervals):
        return "reproduced"
    return "opposite" if any(high < 0 for *_, high in intervals) else "not at this scale"


def judge(rows: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Every claim for which there are at least three seeds, with what was measured and the verdict."""
    found = []
    for claim in claims:
        measured = [(words, of(rows).to_numpy(float)) for words, of in claim.differences]
        if any(len(values) < 3 for _, values in measured):
            continue
        spans = [interval(values) for _, values in measured]
        said = [f"{words}: {numeral(mean, SIGNED)} ({numeral(low, SIGNED)} to {numeral(high, SIGNED)})"
                for (words, _), (mean, low, high) in zip(measured, spans, strict=True)]
        found.append({"source": claim.source, "claim": claim.sentence, "measured": "; ".join(said), "unit": claim.unit,
                      "seeds": min(len(values) for _, values in measured), "verdict": verdict(spans)})
    return pd.DataFrame(found)


def for_notebooks(rows: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> dict[str, dict[str, Any]]:
    """What `xe.claims` tells a student: of each claim the first difference, and where one run may come out."""
    table, found = judge(rows, claims), {}
    for claim in claims:
        judged = table[table["claim"] == claim.sentence]
        if len(judged):
            words, of = claim.differences[0]
            values = of(rows).to_numpy(float)
            numbers = dict(zip(("mean", "low", "high", "one_low", "one_high"), (*interval(values), *one_run(values)),
                               strict=True))
            found[claim.key] = {"source": claim.source, "claim": claim.sentence, "difference": words,
                                "unit": claim.unit, "seeds": len(values), "verdict": judged["verdict"].iloc[0],
                                **({} if claim.runs == "seeds" else {"runs": claim.runs}),
                                **{k: round(float(v), 3) for k, v in numbers.items()}}
    return found


def report(rows: pd.DataFrame, seeds: int) -> None:
    """Write both tables."""
    columns = [c for c in rows.columns if c not in ("series", "setting", "seed", "seconds")]
    summary = []
    for name, group in rows.groupby("setting", sort=False):
        row = {"series": group["series"].iloc[0], "setting": name, "seeds": len(group)}
        for column in columns:
            mean, spread = group[column].mean(), group[column].std(ddof=1)
            same = len(group) < 2 or group[column].nunique(dropna=False) == 1
            row[column] = "" if math.isnan(mean) else f"{mean:g}" if same else f"{mean:.2f} ± {spread:.2f}"
        summary.append(row)
    conditions = [
        f"command: python -m benchmarks.claims --seeds {seeds}",
        f"corpus {CORPUS!r}; {int(rows['steps'].mode()[0]):,} steps of 64 documents unless `epochs` says otherwise; "
        "fan-in 8 of 512 unless `fan_in` says otherwise; biases from zero unless `bias_init` says otherwise",
        "every seed draws its own encoder layers, connections and order of documents; the split is the same, and so "
        "the intervals say nothing about other corpora",
        "not measured on the paper's data sets, nor at their number of labels"]
    write("claims_series", "What the claims rest on: mean ± sample standard deviation over seeds", pd.DataFrame(
        summary),
          conditions)
    write("claims", "The paper says, we measured", judge(rows), [
        *conditions,
        "measured: mean over seeds of the paired difference, in brackets its 95 % confidence interval (Student's t); "
        "one claim in twenty would be settled by chance, and no correction is made for their number",
        "verdict: reproduced if the interval lies above 0, opposite if below, else not at this scale"])
    write_text(DATA, json.dumps(for_notebooks(rows), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=None, help="default: the epochs of the recipe")
    parser.add_argument("--only", action="append", metavar="SERIES", help="may be given several times")
    parser.add_argument("--report", action="store_true", help="no training: write the tables from the runs there are")
    options = parser.parse_args()
    rows, corpora = known(), {}
    wanted = [s for s in settings() if not options.only or s.series in options.only]
    for seed in range(0 if options.report else options.seeds):
        for what in wanted:
            if ((rows["setting"] == what.name) & (rows["seed"] == seed)).any():
                continue
            if what.min_uses not in corpora:
                corpora[what.min_uses] = xe.load_corpus(CORPUS, min_uses=what.min_uses)
            rows = add(rows, run(what, seed, corpora[what.min_uses], options.steps))
            last = rows.iloc[-1]
            print(f"seed {seed}  {what.name:<45} P@1 {last['P@1']:.2f}  tail {last['recall@5/tail']:.2f}  "
                  f"{last['seconds']:.0f} s", flush=True)
    report(rows, options.seeds)


if __name__ == "__main__":
    main()
