"""Labels in groups on this machine: beside the layer of single labels, and a bottleneck of as many multiply-adds.

    python -m benchmarks.grouped [--labels 131072] [--repeats 9] [--device cpu]

Writes results/grouped_DEVICE.csv (every row of the race) and results/grouped_DEVICE.md.
"""

from __future__ import annotations

import argparse
import itertools

import pandas as pd
import torch

from benchmarks.machine import RESULTS, write_parts, write_text
from xmc_explore.race import GROUP_SIZE, race

PEERS = ("FixedFanIn", "GroupedFixedFanIn", "bottleneck, equal FLOPs", "FixedFanIn, in place",
         "GroupedFixedFanIn, in place")
SIZES = ["batch", "width", "n_labels", "fan_in"]
COMMAND = "python -m benchmarks.grouped"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=131_072)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    shapes = [(b, 768, options.labels, k) for k, b in itertools.product((32, 64), (32, 64, 256))]
    rows = pd.DataFrame(race(shapes, PEERS, repeats=options.repeats, device=options.device, seconds=30))
    name = f"grouped_{torch.device(options.device).type}"
    write_text(RESULTS / f"{name}.csv", rows.round(3).to_csv(index=False))
    ms, speed = (rows.pivot(index=[*SIZES, "kind"], columns="peer", values=column)
                 for column in ("median ms", "times FixedFanIn"))
    times = ms[[*PEERS]].reset_index()
    _, grouped, dense, single_in_place, grouped_in_place = (speed[peer].to_numpy() for peer in PEERS)
    times["groups, times single labels"] = grouped
    times["groups, times bottleneck"] = grouped / dense
    times["in place, groups, times single labels"] = grouped_in_place / single_in_place
    write_parts(name, f"Labels in groups of {GROUP_SIZE} on {options.device}", [
        f"command: {COMMAND} --labels {options.labels} --repeats {options.repeats} --device {options.device}",
        f"median ms of {rows['repeats'].min():.0f} to {rows['repeats'].max():.0f} turns; quartiles are in the CSV; "
        f"peers take turns in one process",
        "step with Adam: forward, binary cross-entropy, backward, torch's fused Adam; in place without logits or loss",
        "times: so many times as fast; the bottleneck has as many multiply-adds, in two dense products"],
        [("", times.round(2))], on_a_gpu=f"{COMMAND} --device cuda")


if __name__ == "__main__":
    main()
