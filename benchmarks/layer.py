"""The output layer against its peers: forward, each gradient, a whole step with Adam, bytes; how cost grows.

    python -m benchmarks.layer [--grid default|target|growth|full] [--device cpu|cuda] [--repeats 7] [--only PEER]
    python -m benchmarks.layer --grid default --only PEER --only nn.Linear --add    the file's rows stay, new ones come
    python -m benchmarks.layer --grid growth --repeats 3 --seconds 1 --patience 2 --add    about ten minutes on 2 cores
    python -m benchmarks.layer --report                                             measures nothing

`target`: L = 131,072, B in {32, 64, 256}, D in {384, 768}, K in {32, 64}. `growth`: from B=64, D=768, L=131,072, K=32
one size at a time, L up to 2.8 million. `default` is both; `full` is every combination and takes hours. Writes
results/layer_DEVICE.csv (every row), results/layer_DEVICE.md (the targets, the growth with its log-log slopes, bytes)
and two pictures of it, results/layer_DEVICE_speed.svg and results/layer_DEVICE_growth.svg. Peers run in one process and
take turns; medians with quartiles. How many times as fast a peer is as nn.Linear is told by turns that they took
together, also after `--add`.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import pandas as pd
import torch

from benchmarks.machine import RESULTS, conditions, head_of, write_parts, write_text
from xmc_explore import memory
from xmc_explore.race import GROUP_SIZE, KINDS, PEERS, STEP, Shape, race

LABELS = (8_192, 32_768, 131_072, 670_091, 2_812_281)
FAN_INS = (16, 32, 64, 128)
BATCHES = (1, 32, 64, 256)
CENTRE = Shape(64, 768, 131_072, 32)
GROWTH = {"n_labels": LABELS, "fan_in": FAN_INS, "batch": BATCHES}
SIZES = list(Shape._fields)
BOTH = KINDS[3]
TIMES = "times nn.Linear"
IN_PLACE = "FixedFanIn, in place"
GOAL = 0.6  # of D/K, for forward and both gradients
# What the ledger says of a peer between two steps: kind, and more; the gradients are gone by then.
LEDGER = {"FixedFanIn": ("sparse", {}), IN_PLACE: ("sparse", {}), "nn.Linear": ("dense", {}),
          "GroupedFixedFanIn": ("sparse", {"group_size": GROUP_SIZE}),
          "GroupedFixedFanIn, in place": ("sparse", {"group_size": GROUP_SIZE}),
          "dense bfloat16, in place": ("dense", {"moments": 0, "dtype": "bfloat16"})}


def target() -> list[Shape]:
    return [Shape(b, d, 131_072, k) for d in (384, 768) for k in (32, 64) for b in (32, 64, 256)]


def growth() -> list[Shape]:
    return [CENTRE._replace(**{field: value}) for field, values in GROWTH.items() for value in values]


GRIDS = {"target": target, "growth": growth, "default": lambda: [*target(), *growth()],
         "full": lambda: [Shape(b, 768, n, k) for n, k, b in itertools.product(LABELS, FAN_INS, BATCHES)]}


# --- tables -------------------------------------------------------------------------------------------------------


def timed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.dropna(subset=["median ms"]) if "median ms" in rows else rows.iloc[:0]


def along(rows: pd.DataFrame, field: str) -> pd.DataFrame:
    """The rows where `field` alone differs from the centre of the growth grid."""
    others = {f: v for f, v in CENTRE._asdict().items() if f != field}
    return rows[(rows[list(others)] == pd.Series(others)).all(axis=1) & rows[field].isin(GROWTH[field])]


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Slope of log time over log size for each peer and kind, one size varied at a time from the centre."""
    found = []
    for field in GROWTH:
        for (peer, kind), group in along(timed(rows), field).groupby(["peer", "kind"], sort=False):
            if group[field].nunique() >= 3:
                fit = np.polyfit(np.log(group[field]), np.log(group["median ms"]), 1)
                found.append({"peer": peer, "kind": kind, "over": field, "slope": round(float(fit[0]), 2),
                              "from": group[field].min(), "to": group[field].max()})
    return pd.DataFrame(found)


def targets(rows: pd.DataFrame) -> pd.DataFrame:
    """Every target row: how many times as fast as nn.Linear, beside D/K, and as torch CSR.

    A step is the faster of FixedFanIn's two: with torch's optimizer, or in place. Groups, where they were raced, stand
    beside single labels and the bottleneck of equal FLOPs.
    """
    found = []
    for shape in target():
        here = rows[(rows[SIZES] == pd.Series(shape._asdict())).all(axis=1)]
        by = timed(here).set_index(["peer", "kind"])
        if ("FixedFanIn", BOTH) not in by.index or ("nn.Linear", BOTH) not in by.index:
            continue
        ideal = shape.width / shape.fan_in
        row = {"B": shape.batch, "D": shape.width, "K": shape.fan_in, "D/K": f"{ideal:g}"}
        for kind, words in ((BOTH, "forward + gradients"), (STEP, "step with Adam")):
            name = max((name for name in ("FixedFanIn", IN_PLACE) if (name, kind) in by.index),
                       key=lambda name, kind=kind: by.loc[(name, kind), TIMES])
            ms, times = by.loc[(name, kind), ["median ms", TIMES]]
            row |= {f"{words}, ms": f"{ms:.1f}", f"{words}, {TIMES}": f"{times:.1f}",
                    f"{words}, of D/K": f"{times / ideal:.2f}"}
        if ("torch CSR", BOTH) in by.index:
            ratio = by.loc[("torch CSR", BOTH), "median ms"] / by.loc[("FixedFanIn", BOTH), "median ms"]
            row["times torch CSR"] = f"{ratio:.1f}"
        if ("GroupedFixedFanIn", BOTH) in by.index:
            for name, words in (("FixedFanIn", "single labels"), ("bottleneck, equal FLOPs", "the bottleneck")):
                if (name, BOTH) in by.index:
                    ratio = by.loc[(name, BOTH), "median ms"] / by.loc[("GroupedFixedFanIn", BOTH), "median ms"]
                    row[f"groups, times {words}"] = f"{ratio:.1f}"
        found.append(row)
    return pd.DataFrame(found)


def against_ledger(rows: pd.DataFrame, transposed: bool = False) -> pd.DataFrame:
    """Bytes a label of the peers that the ledger knows, measured between two steps, beside what it predicts.

    `transposed`: the layer ran on the Triton backend, which keeps a transposed index. In place it does without.
    """
    found = []
    for _, row in timed(rows)[timed(rows)["kind"] == STEP].drop_duplicates([*SIZES, "peer"]).iterrows():
        if row["peer"] in LEDGER:
            kind, options = LEDGER[row["peer"]]
            predicted = memory.predicted(kind, row["width"], row["n_labels"], row["fan_in"], gradients=False,
                                         transposed=transposed and row["peer"] != IN_PLACE, **options) / row["n_labels"]
            measured = row["held MiB"] * 2**20 / row["n_labels"]
            found.append({"peer": row["peer"], "D": row["width"], "K": row["fan_in"] if kind == "sparse" else "all",
                          "L": row["n_labels"], "bytes a label, measured": round(measured, 1),
                          "predicted": round(predicted, 1), "measured / predicted": round(measured / predicted, 3)})
    table = pd.DataFrame(found)  # the batch makes no difference: one row a size
    return table.drop_duplicates(["peer", "D", "K", "L"]) if found else table


def beside(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A whole step of every peer, one row a shape."""
    steps = timed(rows)[timed(rows)["kind"] == STEP]
    return steps.pivot_table(index=SIZES, columns="peer", values=column).round(1).reset_index()


# --- what runs it -------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=GRIDS, default="default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=40, help="for a shape, after which no further repeat is begun")
    parser.add_argument("--patience", type=float, default=float("inf"),
                        help="seconds of a turn after which a peer gets no more of them, nor larger shapes")
    parser.add_argument("--only", action="append", choices=PEERS, metavar="PEER", help="may be given several times")
    parser.add_argument("--add", action="store_true", help="keep the rows of the CSV, add those of peers it lacks")
    parser.add_argument("--report", action="store_true", help="make tables and pictures of the CSV, measure nothing")
    options = parser.parse_args()
    name = f"layer_{torch.device(options.device).type}"
    path = RESULTS / f"{name}.csv"
    head = head_of(name) if options.report or options.add else []
    if options.report:
        return report(pd.read_csv(path), name, options.device, head)
    shapes = list(dict.fromkeys(GRIDS[options.grid]()))
    rows = pd.DataFrame(race(shapes, options.only, repeats=options.repeats, device=options.device,
                             seconds=options.seconds, patience=options.patience))
    command = f"python -m benchmarks.layer --grid {options.grid} --device {options.device} --repeats {options.repeats}"
    if options.patience < float("inf"):
        command += f" --patience {options.patience:g}"
    command += "".join(f' --only "{peer}"' for peer in options.only or ())
    if options.add:
        old = pd.read_csv(path)
        known = pd.MultiIndex.from_frame(old[[*SIZES, "peer"]])
        new = rows[~pd.MultiIndex.from_frame(rows[[*SIZES, "peer"]]).isin(known)]
        rows = pd.concat([old, new], ignore_index=True)
        told = "; ".join(f"{k}: {v}" for k, v in conditions().items())
        head += [f"added later: {', '.join(dict.fromkeys(new['peer']))} ({command} --add; {told})"]
    else:
        head = [*(f"{k}: {v}" for k, v in conditions().items()), f"command: {command}"]
    rows = rows.round(3)
    write_text(path, rows.to_csv(index=False))
    report(rows, name, options.device, head)


NOTES = [
    "float32; medians; peers take turns in one process",
    "a step is forward, binary cross-entropy, backward and torch's fused Adam; in place it has no logits, and the loss "
    "is not computed, as between two reports",
    "dense bfloat16, in place: after ELMO; plain SGD with stochastic rounding, as moments would outweigh the weights",
    "D/K is the ratio of multiply-adds: so many times as fast is a layer as efficient as the dense one"]


def report(rows: pd.DataFrame, name: str, device: str, head: list[str]) -> None:
    parts = [("What it has to reach", targets(rows)),
             ("How time grows (slope of log time over log size)", slopes(rows)),
             ("A whole step with Adam, ms", beside(rows, "median ms")),
             ("What a step adds to memory at its highest, MiB", beside(rows, "peak MiB")),
             ("Bytes a label between two steps, against the ledger",
              against_ledger(rows, transposed=torch.device(device).type == "cuda"))]
    for heading, words in (("What was not run", "not run"), ("What got fewer turns", "no more turns")):
        if "note" in rows and len(left := rows[rows["note"].fillna("").str.startswith(words)]):
            parts.append((heading, left.drop_duplicates(["peer", *SIZES])[[*SIZES, "peer", "note"]]))
    try:
        from benchmarks.layer_figures import figures
    except ImportError as error:  # a GPU server need not have plotly: --report on another machine
        print(f"no pictures: {error}")
        pictures = {}
    else:
        pictures = {f"{name}_{what}.svg": made for what, made in figures(rows).items()}
    for file, made in pictures.items():
        write_text(RESULTS / file, made.svg())
    write_parts(name, f"The output layer on {device}", NOTES, [part for part in parts if len(part[1])],
                head=[line for line in head if line not in NOTES], pictures=pictures)


if __name__ == "__main__":
    main()
