"""The output layer against its peers: forward, each gradient, a whole step with Adam, bytes; how cost grows.

    python -m benchmarks.layer [--grid default|target|growth|full] [--device cpu|cuda] [--repeats 7] [--only PEER]
    python -m benchmarks.layer --grid default --only PEER --only nn.Linear --add    the file's rows stay, new ones come
    python -m benchmarks.layer --grid growth --repeats 3 --seconds 1 --patience 2 --add    about ten minutes on 2 cores
    python -m benchmarks.layer --shape B,D,L,K --only FixedFanIn --only PEER --replace PEER    PEER's rows make way
    python -m benchmarks.layer --report                                             measures nothing

`target`: L = 131,072, B in {32, 64, 256}, D in {384, 768}, K in {32, 64}. `growth`: from B=64, D=768, L=131,072, K=32
one size at a time, L up to 2.8 million. `default` is both; `full` is every combination and takes hours. Writes
results/layer_DEVICE.csv (every row), results/layer_DEVICE.md (the targets, the growth with its log-log slopes, bytes)
and two pictures of it, results/layer_DEVICE_speed.svg and results/layer_DEVICE_growth.svg. Peers run in one process and
take turns; medians with quartiles. How many times as fast a peer is as nn.Linear or FixedFanIn is told by turns that
they took together, also after `--add` and `--replace`.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.machine import RESULTS, conditions, head_of, no_gpu, write_parts, write_text
from xmc_explore import memory
from xmc_explore.race import GROUP_SIZE, KINDS, PEERS, STEP, Shape, race

LABELS = (8_192, 32_768, 131_072, 670_091, 2_812_281)
FAN_INS = (16, 32, 64, 128)
BATCHES = (1, 32, 64, 256)
CENTRE = Shape(64, 768, 131_072, 32)
GROWTH = {"n_labels": LABELS, "fan_in": FAN_INS, "batch": BATCHES}
SIZES = list(Shape._fields)
BOTH = KINDS[3]
TIMES, AGAINST = "times nn.Linear", "times FixedFanIn"
IN_PLACE = "FixedFanIn, in place"
GOAL = 0.6  # of D/K, for forward and both gradients
# What has to reach D/K, and how tables and pictures call it.
WAYS = {("FixedFanIn", BOTH): "forward + gradients", (IN_PLACE, STEP): "step with Adam in place",
        ("FixedFanIn", STEP): "step with torch's Adam"}
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


def read(path: Path) -> pd.DataFrame:
    """The rows of a CSV. One from before it had AGAINST is taken as if all peers of a shape had had the same turns."""
    rows = pd.read_csv(path)
    if AGAINST not in rows:
        ours = timed(rows)[lambda rows: rows["peer"] == "FixedFanIn"].set_index([*SIZES, "kind"])["median ms"]
        rows[AGAINST] = rows.join(ours.rename("ours"), on=ours.index.names)["ours"] / rows["median ms"]
    return rows


def timed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a time, one for each shape, peer and kind: the first."""
    if "median ms" not in rows:
        return rows.iloc[:0]
    return rows.dropna(subset=["median ms"]).drop_duplicates([*SIZES, "peer", "kind"])


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


def spread(row: pd.Series) -> str:
    """Median and quartiles."""
    return f"{row['median ms']:.1f} ({row['low ms']:.1f}-{row['high ms']:.1f})"


def turns(rows: pd.DataFrame) -> str:
    """How many turns some rows had."""
    least, most = int(rows["repeats"].min()), int(rows["repeats"].max())
    return f"{least}" if least == most else f"{least} to {most}"


def targets(rows: pd.DataFrame) -> pd.DataFrame:
    """Every target row: how many times as fast as nn.Linear, beside D/K, and as torch CSR.

    A step in place and one with torch's optimizer stand apart. Groups, where they were raced, stand beside single
    labels and the bottleneck of equal FLOPs.
    """
    found = []
    for shape in target():
        here = timed(rows[(rows[SIZES] == pd.Series(shape._asdict())).all(axis=1)]).set_index(["peer", "kind"])
        if ("FixedFanIn", BOTH) not in here.index or ("nn.Linear", BOTH) not in here.index:
            continue
        ideal = shape.width / shape.fan_in
        row = {"B": shape.batch, "D": shape.width, "K": shape.fan_in, "D/K": f"{ideal:g}"}
        used = [("nn.Linear", BOTH)]
        for key, words in WAYS.items():
            if key in here.index and (times := here.loc[key, TIMES]) == times:
                used.append(key)
                row |= {f"{words}, ms": spread(here.loc[key]), f"{words}, {TIMES}": f"{times:.1f}",
                        f"{words}, of D/K": f"{times / ideal:.2f}"}
        times = {name: times for name in PEERS if (name, BOTH) in here.index
                 and (times := here.loc[(name, BOTH), AGAINST]) == times}
        if "torch CSR" in times:
            row["times torch CSR"] = f"{1 / times['torch CSR']:.1f}"
            used.append(("torch CSR", BOTH))
        if "GroupedFixedFanIn" in times:
            for name, words in (("FixedFanIn", "single labels"), ("bottleneck, equal FLOPs", "the bottleneck")):
                if name in times:
                    row[f"groups, times {words}"] = f"{times['GroupedFixedFanIn'] / times[name]:.1f}"
                    used.append(("GroupedFixedFanIn", BOTH))
        found.append({**row, "turns": turns(here.loc[used])})
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


def beside(rows: pd.DataFrame, kind: str, column: str = "median ms") -> pd.DataFrame:
    """One kind of turn of every peer, one row a shape: times with their quartiles, or another column."""
    rows = timed(rows)[lambda rows: rows["kind"] == kind]
    if rows.empty:
        return rows
    if column != "median ms":
        return rows.pivot(index=SIZES, columns="peer", values=column).round(1).reset_index()
    table = rows.assign(cell=rows.apply(spread, axis=1)).pivot(index=SIZES, columns="peer", values="cell")
    return table.assign(turns=rows.groupby(SIZES)[["repeats"]].apply(turns)).reset_index()


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
    parser.add_argument("--shape", action="append", type=shape_of, metavar="B,D,L,K",
                        help="in place of a grid; may be given several times")
    parser.add_argument("--add", action="store_true", help="keep the rows of the CSV, add those of peers it lacks")
    parser.add_argument("--replace", action="append", choices=PEERS, metavar="PEER", default=[],
                        help="--add, but this peer's rows at the shapes that are run make way for new ones")
    parser.add_argument("--report", action="store_true", help="make tables and pictures of the CSV, measure nothing")
    options = parser.parse_args()
    name = f"layer_{torch.device(options.device).type}"
    path = RESULTS / f"{name}.csv"
    if unseen := {*options.replace} - {*(options.only or PEERS)}:
        parser.error(f"--replace {unseen.pop()!r}: it is not among those of --only")
    add = options.add or bool(options.replace)
    head = head_of(name) if options.report or add else []
    if options.report:
        return report(read(path), name, options.device, head)
    shapes = options.shape or list(dict.fromkeys(GRIDS[options.grid]()))
    rows = pd.DataFrame(race(shapes, options.only, repeats=options.repeats, device=options.device,
                             seconds=options.seconds, patience=options.patience))
    command = (f"python -m benchmarks.layer --device {options.device} --repeats {options.repeats} --seconds "
               f"{options.seconds:g}")
    command += "".join(f" --shape {','.join(map(str, s))}" for s in options.shape or ()) or f" --grid {options.grid}"
    if options.patience < float("inf"):
        command += f" --patience {options.patience:g}"
    command += "".join(f' --only "{peer}"' for peer in options.only or ())
    where = conditions(ON_A_GPU)
    if add:
        command += " --add" * options.add + "".join(f' --replace "{peer}"' for peer in options.replace)
        old = read(path)
        at = pd.MultiIndex.from_frame(rows[[*SIZES, "peer"]])
        makes_way = pd.MultiIndex.from_frame(old[[*SIZES, "peer"]]).isin(at) & old["peer"].isin(options.replace)
        old = old[~makes_way]
        new = rows[~at.isin(pd.MultiIndex.from_frame(old[[*SIZES, "peer"]]))]
        rows = pd.concat([old, new], ignore_index=True)
        told = "; ".join(f"{k}: {v}" for k, v in where.items())
        head += [f"{LATER}: {', '.join(dict.fromkeys(new['peer']))} ({command}; {told})"]
    else:
        head = [*(f"{k}: {v}" for k, v in where.items()), f"command: {command}"]
    rows = rows.round(3)
    write_text(path, rows.to_csv(index=False))
    report(rows, name, options.device, head)


def shape_of(text: str) -> Shape:
    """B,D,L,K as a shape."""
    return Shape(*map(int, text.split(",")))


LATER = "added later"
ON_A_GPU = "python -m benchmarks.layer --device cuda"
NOTES = [
    "float32; medians, with quartiles in brackets; peers take turns in one process, and `turns` says how many (least "
    "and most in a row; quartiles of so few are near the fastest and the slowest)",
    "a step is forward, binary cross-entropy, backward and torch's fused Adam; in place it has no logits, and the loss "
    "is not computed, as between two reports",
    "dense bfloat16, in place: after ELMO; plain SGD with stochastic rounding, as moments would outweigh the weights",
    "D/K is the ratio of multiply-adds: so many times as fast is a layer as efficient as the dense one"]


def report(rows: pd.DataFrame, name: str, device: str, head: list[str]) -> None:
    parts = [("What it has to reach", targets(rows)),
             ("How time grows (slope of log time over log size)", slopes(rows)),
             *((f"{kind[0].upper()}{kind[1:]}, ms", beside(rows, kind)) for kind in KINDS[:3]),
             ("A whole step with Adam, ms", beside(rows, STEP)),
             ("What a step adds to memory at its highest, MiB", beside(rows, STEP, "peak MiB")),
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
                head=[f"GPU: {no_gpu(ON_A_GPU)}" if line.startswith("GPU: none") else line for line in head
                      if line.partition(":")[0] in (*conditions(), "command", LATER)], pictures=pictures)


if __name__ == "__main__":
    main()
