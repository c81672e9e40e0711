"""The output layer against its peers: forward, each gradient, a whole step with Adam, bytes; how cost grows.

    python -m benchmarks.layer [--grid default|target|growth|full] [--device cpu|cuda] [--repeats 7] [--only PEER]

`target`: L = 131,072, B in {32, 64, 256}, D in {384, 768}, K in {32, 64}. `growth`: from B=64, D=768, L=131,072, K=32
one size at a time, L up to 2.8 million. `default` is both; `full` is every combination and takes hours. Writes
results/layer_DEVICE.csv (every row), results/layer_DEVICE.md (the targets, the growth with its log-log slopes) and
results/layer_DEVICE.html (a picture). Peers run in one process and take turns; medians with quartiles.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import pandas as pd
import torch

from benchmarks.machine import RESULTS, write_parts, write_text
from xmc_explore.race import KINDS, PEERS, Shape, race

LABELS = (8_192, 32_768, 131_072, 670_091, 2_812_281)
FAN_INS = (16, 32, 64, 128)
BATCHES = (1, 32, 64, 256)
CENTRE = Shape(64, 768, 131_072, 32)
GROWTH = {"n_labels": LABELS, "fan_in": FAN_INS, "batch": BATCHES}
BOTH, STEP = KINDS[3], KINDS[4]


def target() -> list[Shape]:
    return [Shape(b, d, 131_072, k) for d in (384, 768) for k in (32, 64) for b in (32, 64, 256)]


def growth() -> list[Shape]:
    return [CENTRE._replace(**{field: value}) for field, values in GROWTH.items() for value in values]


GRIDS = {"target": target, "growth": growth, "default": lambda: [*target(), *growth()],
         "full": lambda: [Shape(b, 768, n, k) for n, k, b in itertools.product(LABELS, FAN_INS, BATCHES)]}


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Slope of log time over log size for each peer and kind, one size varied at a time from the centre."""
    found = []
    for field, values in GROWTH.items():
        others = {f: v for f, v in CENTRE._asdict().items() if f != field}
        part = rows[(rows[list(others)] == pd.Series(others)).all(axis=1) & rows[field].isin(values)]
        for (peer, kind), group in part.dropna(subset=["median ms"]).groupby(["peer", "kind"], sort=False):
            if group[field].nunique() >= 3:
                fit = np.polyfit(np.log(group[field]), np.log(group["median ms"]), 1)
                found.append({"peer": peer, "kind": kind, "over": field, "slope": round(float(fit[0]), 2),
                              "from": group[field].min(), "to": group[field].max()})
    return pd.DataFrame(found)


def targets(rows: pd.DataFrame) -> pd.DataFrame:
    """Every target row: how many times as fast as nn.Linear, beside D/K, and as torch CSR."""
    found = []
    for shape in target():
        here = rows[(rows[list(Shape._fields)] == pd.Series(shape._asdict())).all(axis=1)]
        by = here.set_index(["peer", "kind"])["median ms"]
        if ("FixedFanIn", BOTH) not in by or ("nn.Linear", BOTH) not in by:
            continue
        ideal = shape.width / shape.fan_in
        row = {"B": shape.batch, "D": shape.width, "K": shape.fan_in, "D/K": f"{ideal:g}"}
        for kind, words in ((BOTH, "forward + gradients"), (STEP, "step with Adam")):
            best = min(by.get((name, kind), np.nan) for name in ("FixedFanIn",))
            times = by["nn.Linear", kind] / best
            row |= {f"{words}, ms": f"{best:.1f}", f"{words}, times nn.Linear": f"{times:.1f}",
                    f"{words}, of D/K": f"{times / ideal:.2f}"}
        if ("torch CSR", BOTH) in by:
            row["times torch CSR"] = f"{by['torch CSR', BOTH] / by['FixedFanIn', BOTH]:.1f}"
        found.append(row)
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=GRIDS, default="default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=40, help="for a shape, after which no further repeat is begun")
    parser.add_argument("--only", action="append", choices=PEERS, metavar="PEER", help="may be given several times")
    options = parser.parse_args()
    device = torch.device(options.device)
    shapes = list(dict.fromkeys(GRIDS[options.grid]()))
    rows = pd.DataFrame(race(shapes, options.only, repeats=options.repeats, device=device, seconds=options.seconds))
    name = f"layer_{device.type}"
    write_text(RESULTS / f"{name}.csv", rows.round(3).to_csv(index=False))
    report(rows, name, options)


def report(rows: pd.DataFrame, name: str, options: argparse.Namespace) -> None:
    notes = [f"command: python -m benchmarks.layer --grid {options.grid} --device {options.device} "
             f"--repeats {options.repeats}",
             "float32; medians; peers take turns in one process",
             "a step is forward, binary cross-entropy, backward and torch's fused Adam",
             "D/K is the ratio of multiply-adds: so many times as fast is a layer as efficient as the dense one"]
    growing = rows.dropna(subset=["median ms"]) if "median ms" in rows else rows
    wide = growing[growing["kind"] == STEP].pivot_table(index=list(Shape._fields), columns="peer", values="median ms")
    parts = [("What it has to reach", targets(rows)),
             ("How time grows (slope of log time over log size)", slopes(rows)),
             ("A whole step with Adam, ms", wide.round(1).reset_index())]
    if "note" in rows:
        left = rows.dropna(subset=["note"]).drop_duplicates(["peer", *Shape._fields])
        parts.append(("What was not run", left[[*Shape._fields, "peer", "note"]]))
    write_parts(name, f"The output layer on {options.device}", notes, parts)


if __name__ == "__main__":
    main()
