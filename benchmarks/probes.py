"""What looking costs: the extra time of each probe beside a step, on calls-small with the default recipe.

    python -m benchmarks.probes

Runs take turns, one probe each, probing at every step; medians over the steps after the first twenty. What a run pays
is that time at every `probe_interval`-th step; the dense twin also learns at every step, whether a probe is due or not.
"""

from __future__ import annotations

import numpy as np

import xmc_explore as xe
from xmc_explore.training import Run

from .machine import conditions

STEPS, SKIP = 80, 20
CASES = {"none": "", "budget": "budget", "snr": "snr", "twin": "twin", "all": "budget,twin,snr"}


def main() -> None:
    corpus = xe.load_corpus("calls-small")
    runs = {name: Run(corpus, xe.Recipe(probe_interval=int(name != "none"), probes=probes), steps=10 * STEPS)
            for name, probes in CASES.items()}
    lazy = Run(corpus, xe.Recipe(probe_interval=10 * STEPS, probes="twin"), steps=10 * STEPS)  # learns, never due
    for _ in range(STEPS):
        for run in (*runs.values(), lazy):
            run.step()

    def step_ms(run: Run) -> float:
        return 1e3 * float(np.median([e["seconds"] for e in run.trace.events["step"][SKIP:]]))

    print(*(f"{name}: {value}" for name, value in conditions().items()), sep="\n")
    plain = step_ms(runs["none"])
    print(f"a step without probes: {plain:.1f} ms")
    for name, run in runs.items():
        if name != "none":
            print(f"{name:>6}: {step_ms(run) - plain:+.1f} ms a probe")
    print(f"  twin: {step_ms(lazy) - plain:+.1f} ms a step for its learning")


if __name__ == "__main__":
    main()
