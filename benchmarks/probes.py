"""What looking costs: the extra time of each probe beside a step, on calls-small with the default recipe.

    python -m benchmarks.probes

Runs take turns, one probe each, probing at every step; medians over the steps after the first twenty, as time on a
clock and as time of all cores together (which a busy machine disturbs less). What a run pays is that time at every
`probe_interval`-th step; the dense twin also learns at every step, whether a probe is due or not.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import xmc_explore as xe
from xmc_explore.training import Run
from xmc_explore.widgets.presets import PROBE_INTERVAL

from .machine import conditions

STEPS, SKIP = 80, 20
CASES = {"none": "", "budget": "budget", "snr": "snr", "twin": "twin", "all": "budget,twin,snr"}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    corpus = xe.load_corpus("calls-small")
    runs = {name: Run(corpus, xe.Recipe(probe_interval=int(name != "none"), probes=probes), steps=10 * STEPS)
            for name, probes in CASES.items()}
    runs["learns"] = Run(corpus, xe.Recipe(probe_interval=10 * STEPS, probes="twin"), steps=10 * STEPS)  # never due
    taken = {name: [] for name in runs}
    for _ in range(STEPS):
        for name, run in runs.items():
            before = time.perf_counter(), time.process_time()
            run.step()
            taken[name].append((time.perf_counter() - before[0], time.process_time() - before[1]))
    clock, cores = ({name: 1e3 * float(np.median(np.array(times)[SKIP:, i])) for name, times in taken.items()}
                    for i in (0, 1))

    print(*(f"{name}: {value}" for name, value in conditions().items()), sep="\n")
    print(f"a step without probes: {clock['none']:.1f} ms, {cores['none']:.1f} of all cores")
    for name in ("budget", "snr", "twin", "all"):
        more = clock[name] - clock["none"]
        share = 100 * more / PROBE_INTERVAL / clock["none"]
        print(f"{name:>6}: {more:+.1f} ms a probe, {cores[name] - cores['none']:+.1f} of all cores"
              + (f"; every {PROBE_INTERVAL}th step: {share:.1f} % of training" if name in ("budget", "snr") else ""))
    print(f"  twin: {clock['learns'] - clock['none']:+.1f} ms a step for its learning, "
          f"{cores['learns'] - cores['none']:+.1f} of all cores")


if __name__ == "__main__":
    main()
