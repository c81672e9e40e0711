"""What a trace costs: seeking a frame, bytes on disk, and time of a training step.

    python -m benchmarks.trace [--steps 5000]

Seek and size: a fixed fan-in layer of 5,000 labels, 32 of 768 features each, rewired 200 times by the `Rewirer` (15 %
of the slots, falling as a cosine), every 100 steps, with the events of all those steps. Its weights are noise: what
moves is as hard to pack as it can be. Step time: the default recipe on `calls-small`, one run in turns of 5 steps, with
its record and thrown away, in pairs whose order is drawn; and the seconds inside the writer. Writes results/trace.csv
and results/trace.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import xmc_explore as xe
from benchmarks.machine import write
from xmc_explore.frames import FrameStore
from xmc_explore.trace import TraceWriter
from xmc_explore.training import Run

LABELS, FAN_IN, WIDTH, REWIRES, INTERVAL = 5000, 32, 768, 200, 100
TURN = 5


def record(folder: Path, rewires: int = REWIRES, interval: int = INTERVAL) -> xe.Trace:
    """A run of that many rewires in a folder, without the training: events of every step, a frame of every rewire."""
    corpus = xe.load_corpus("planted", n_train=500, n_test=50, n_labels=LABELS, n_features=WIDTH)
    rng, end = np.random.default_rng(0), rewires * interval
    recipe = xe.Recipe(encoder="features", fan_in=FAN_IN, rewire_interval=interval, rewire_end=1.0)
    layer = xe.FixedFanIn(WIDTH, LABELS, FAN_IN, generator=torch.Generator().manual_seed(0))
    rewirer = xe.Rewirer(layer, fraction=0.15, interval=interval, end=end)
    writer = TraceWriter(folder, corpus, recipe, end, WIDTH)
    for step in range(end + 1):
        if step:
            loss, grad, first, second, third, seconds = rng.lognormal(size=6).tolist()
            writer.log("step", step=step, loss=loss, main=loss, auxiliary=None, aux_weight=0.0, lr=1 - step / end,
                       grad=grad, **{"grad/embedding": first, "grad/first": second, "grad/second": third},
                       seconds=seconds)
        event = rewirer.step() if step else None
        if step % interval == 0:
            weight = layer.weight.detach().numpy() if writer.wants_weights(step, layer.weight.numel()) else None
            changed = {"indices": layer.indices.numpy().copy()} if event is None else {
                "slots": event.slots.numpy().astype(np.int32), "new": event.new.numpy()}
            frame = writer.log_connectivity(step, weight=weight, **changed)
            if event is not None:
                writer.log("rewire", step=step, frame=frame, churn=event.churn)
                with torch.no_grad():  # as training would: what was grown gets a weight, the others move
                    layer.weight.add_(torch.from_numpy(rng.normal(0, 0.05, (LABELS, FAN_IN)).astype(np.float32)))
    writer.close("finished")
    return xe.Trace(folder)


def size(folder: Path, pattern: str = "*") -> float:
    """Megabytes of the files of a trace."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file()) / 1e6


class _Nothing:
    """In the place of a `TraceWriter`: keeps nothing."""

    def __init__(self):
        self.events, self.frames = defaultdict(list), []

    def wants_weights(self, step, slots):
        return False

    def log(self, *_, **__):
        pass

    log_connectivity = log_labels = close = log


def seek_times(trace: xe.Trace) -> dict[str, list[float]]:
    """Milliseconds of seeking: from nothing, in any order, and one frame further each time."""
    found = defaultdict(list)
    rng = np.random.default_rng(0)
    for _ in range(20):
        cold = FrameStore(trace.store.recorded)
        found["last frame, nothing kept yet"].append(_milliseconds(cold.seek, -1))
    for number in rng.integers(len(trace.store), size=1000).tolist():
        found["any frame"].append(_milliseconds(trace.frame, number))
    for number in range(len(trace.store)):
        found["the next frame"].append(_milliseconds(trace.frame, number))
    return found


def _milliseconds(call, *arguments) -> float:
    started = time.perf_counter()
    call(*arguments)
    return (time.perf_counter() - started) * 1e3


class _Timed:
    """A `TraceWriter` that adds up the seconds inside it."""

    def __init__(self, writer: TraceWriter):
        self._writer, self.seconds = writer, 0.0

    def __getattr__(self, name):
        found = getattr(self._writer, name)
        if not callable(found):
            return found

        def timed(*arguments, **options):
            started = time.perf_counter()
            try:
                return found(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def step_times(steps: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Milliseconds a step of each pair of turns [pairs], with record and without; share of the former in the writer.

    One run takes all of them, so that both sides have the same model in the same memory.
    """
    recipe = xe.Recipe(eval_interval=2 * steps)  # an evaluation in one turn of a pair would be all of its difference
    run = Run(xe.load_corpus("calls-small"), recipe, steps=steps)
    recorder, nothing = _Timed(run.trace), _Nothing()
    for _ in range(4 * TURN):
        run.step()
    pairs, rng = (steps - run.step_number) // (2 * TURN), np.random.default_rng(0)
    taken = np.empty((2, pairs))
    recorder.seconds = 0.0
    for pair in range(pairs):
        for which in rng.permutation(2):
            run.trace = nothing if which else recorder
            started = time.perf_counter()
            for _ in range(TURN):
                run.step()
            taken[which, pair] = (time.perf_counter() - started) / TURN * 1e3
    inside = recorder.seconds / (taken[0].sum() * TURN / 1e3)
    run.trace = recorder
    run.close("interrupted")
    return *taken, inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of the run whose steps are timed")
    steps = parser.parse_args().steps
    rows = []

    def row(what: str, unit: str, values, target: str = "") -> None:
        median, p95 = np.median(values), np.percentile(values, 95)
        rows.append({"what": what, "median": f"{median:.3g}", "p95": f"{p95:.3g}" if np.size(values) > 1 else "",
                     "unit": unit, "target": target})

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "trace"
        trace = record(folder)
        row("on disk: whole trace", "MB", size(folder), "10")
        row("on disk: connectivity and weights", "MB", size(folder, "*.npz"))
        row("on disk: events", "MB", size(folder, "events.jsonl.gz"))
        for what, times in seek_times(trace).items():
            row(f"seek: {what}", "ms", times, "20")
        row("open the folder", "ms", [_milliseconds(xe.Trace, folder) for _ in range(5)])
        held = sum("weight" in frame for frame in trace.store.recorded)
    recorded, without, inside = step_times(steps)
    row("a step with its record", "ms", recorded)
    row("a step without", "ms", without)
    share = 100 * (recorded / without - 1)
    row("recording, share of a step", "%", np.median(share), "5")
    row("of a recorded step, inside the writer", "%", 100 * inside, "5")
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(share, len(share))) for _ in range(2000)]
    write("trace", "What a trace costs", pd.DataFrame(rows), [
        f"command: python -m benchmarks.trace --steps {steps}",
        f"seek and size: {LABELS:,} labels, K = {FAN_IN}, D = {WIDTH}, {REWIRES} rewires, {REWIRES * INTERVAL:,} "
        f"steps; weights in {held} of the frames",
        f"step: the default recipe on calls-small, one run in {len(share)} pairs of turns of {TURN} steps, with its "
        f"record and without, order drawn; share is the median over pairs, 95 % of resampled medians between "
        f"{np.percentile(medians, 2.5):.1f} and {np.percentile(medians, 97.5):.1f} %; no evaluations",
        "inside the writer: all seconds spent there, frames of rewires included, over all of the recorded turns",
    ])


if __name__ == "__main__":
    main()
