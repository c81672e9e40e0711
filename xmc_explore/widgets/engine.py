"""`Engine`: one worker thread owns a run; whoever holds a control posts commands, whoever draws reads snapshots.

No widget in here: the laboratory draws it, tests and papermill drive it without a thread.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..corpora import Corpus
from ..recipe import Recipe
from ..trace import Trace, TraceWriter
from ..training import Run, TrainingError

THREAD_NAME = "xmc-engine"
ENDED = ("finished", "failed", "stopped")  # a run that takes no more steps; all but the last can be reset
FINISHED = "The run is finished. Reset starts another."
_STOP = ("stop", None)
# A run that takes every core starves the browser that shows it, and is itself the slower for the fight: torch's
# threads wait for each other at every operation (measured: 2 threads on 2 busy cores 3 steps/s, 1 thread 40).
_THREADS = max(1, torch.get_num_threads() - 1)
_RATE_STEPS = 50  # the speed is that of the last so many steps


@dataclass(frozen=True)
class Snapshot:
    """What was known of the run between two steps; nothing in it changes afterwards.

    `state` is "building", "paused", "playing", "finished", "failed" or "stopped", `message` says in words what went
    wrong. `events` and `frames` are the trace's own append-only lists: read the first `step` step events, the first
    `evaluations`, `rewires` and `changes` of theirs, and the first `rewires` + 1 frames.
    """

    version: int = 0  # of the snapshot: a later one has a higher one
    handled: int = 0  # commands obeyed so far
    run: int = 0  # which run of this engine: a reset begins the next
    state: str = "building"
    message: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    step: int = 0
    steps: int = 0
    features: int = 0  # inputs of the sparse output layer; 0 where it is not sparse
    rewires: int = 0
    evaluations: int = 0
    changes: int = 0
    steps_per_second: float | None = None
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    frames: list[dict[str, np.ndarray]] = field(default_factory=list, repr=False)

    @property
    def record(self) -> dict[str, Any]:
        """What was recorded of the last step; empty before the first."""
        return self.events["step"][self.step - 1] if self.step else {}


class Engine:
    """A run under control: `start()` gives it a thread of its own, `run_for(steps)` drives it from the calling one.

    `play`, `pause`, `step`, `change` and `reset` only post a command and return at once; it is obeyed before the next
    step. What goes wrong becomes a snapshot with state "failed" and a message; `reset` starts over.
    `out` is the folder of the trace; where it is taken, "-2", "-3", ... is appended, so nothing is overwritten.
    """

    def __init__(self, corpus: Corpus, recipe: Recipe | None = None, *, steps: int | None = None,
                 out: str | Path | None = None, device: str | torch.device | None = None):
        self.corpus, self._steps, self._out, self._device = corpus, steps, out, device
        self._recipe = recipe or Recipe()  # of the next run: the knobs as they stand
        self._run: Run | None = None
        self._writer: TraceWriter | None = None  # of the run, and still there when it has failed
        self.error: Exception | None = None
        self._budget: float = 0  # steps still to go; infinite while playing
        self._ticks: deque[float] = deque(maxlen=_RATE_STEPS + 1)
        self._rate: float | None = None
        self._changed = threading.Condition()
        self._snapshot = Snapshot(recipe=self._recipe)
        self._worker: threading.Thread | None = None
        # A SimpleQueue, as the garbage collector may be the one to post the last command.
        self._commands: queue.SimpleQueue = queue.SimpleQueue()
        self._commands.put(("reset", None))
        self._posted = 1
        weakref.finalize(self, self._commands.put, _STOP).atexit = False
        _ENGINES.add(self)

    # --- controls: post and return

    def start(self) -> None:
        """Give the run its thread: the model is built, then commands are obeyed. A second call changes nothing."""
        with self._changed:
            if self._worker is None and self._snapshot.state != "stopped":
                # The thread knows the engine only weakly, so that one nobody holds any more ends its thread.
                self._worker = threading.Thread(target=_work, args=(weakref.ref(self), self._commands),
                                                name=THREAD_NAME, daemon=True)
                self._worker.start()

    def play(self) -> None:
        """Train until the end, or until another command."""
        self._post("play")

    def pause(self) -> None:
        """Take no further step."""
        self._post("pause")

    def step(self, n: int = 1) -> None:
        """Train for `n` steps, then pause."""
        self._post("step", _whole(n))

    def change(self, **options: Any) -> None:
        """Turn live knobs (see `Run.change`) from the next step on; on a run that has ended, from the next reset on."""
        self._post("change", options)

    def reset(self, recipe: Recipe | None = None) -> None:
        """Start over from step 0, with another recipe or with the knobs as they stand; the old run's trace stays."""
        self._post("reset", recipe)

    def close(self, timeout: float = 30) -> None:
        """End the run and its thread. Harmless the second time."""
        with self._changed:
            worker = self._worker
        self._commands.put(_STOP)
        if worker is not None and worker is not threading.current_thread():
            worker.join(timeout)
        elif worker is None and self._snapshot.state != "stopped":
            self._stop()

    def _post(self, name: str, argument: Any = None) -> int:
        with self._changed:
            if self._snapshot.state == "stopped":
                raise RuntimeError("this laboratory is closed; make another")
            self._posted += 1
            self._commands.put((name, argument))
            return self._posted

    # --- looking

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def wait(self, condition: Callable[[Snapshot], bool], timeout: float | None = None) -> Snapshot:
        """The latest snapshot, as soon as it meets a condition or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: condition(self._snapshot), timeout)
            return self._snapshot

    def trace(self) -> Trace:
        """What was recorded so far. Raises RuntimeError if no run could be built."""
        if self._worker is not None and self._snapshot.state != "stopped":
            found: list[Trace | Exception] = []
            ticket = self._post("trace", found)  # read between two steps, or the last line might be half a line
            self.wait(lambda s: s.handled >= ticket or s.state == "stopped")
            if found and isinstance(found[0], Exception):
                raise found[0]
            if found:
                return found[0]
        if self._writer is None:
            raise RuntimeError(f"there is no run yet, so nothing is recorded. {self._snapshot.message}")
        return Trace.of(self._writer)

    def run_for(self, steps: int) -> Snapshot:
        """Train for `steps` steps and return when they are done: in this thread, or in the engine's if it has one.

        Raises whatever made the run fail.
        """
        if self._worker is None:
            self._drive(_whole(steps))
        else:
            ticket = self._post("step", _whole(steps))
            try:
                self.wait(lambda s: s.handled >= ticket and s.state not in ("playing", "building")
                          or s.state == "stopped")
            except KeyboardInterrupt:
                self.pause()
                raise
        if self._snapshot.state == "failed" and self.error is not None:
            raise self.error
        return self._snapshot

    def _drive(self, steps: int) -> None:
        """What the thread does, without one."""
        self._post("step", steps)
        busy = True
        with _settings():
            try:
                while busy or not self._commands.empty():
                    busy = self._turn(None if self._commands.empty() else self._commands.get())
            except KeyboardInterrupt:
                self._budget = 0
                if self._run is not None:
                    self._run.close("interrupted")
                self._publish(state="failed", message="Interrupted in the middle of a step: reset to start over.")
                raise

    # --- the worker's side: nothing below is called from another thread once there is one

    def _turn(self, command: tuple[str, Any] | None) -> bool:
        """Obey a command, or take a step if there is none. Is there more to do?"""
        try:
            if command is None:
                self._advance()
            else:
                name, argument = command
                getattr(self, f"_do_{name}")(argument)
        except Exception as error:
            self._fail(error)
        if command is not None:
            self._publish(handled=self._snapshot.handled + 1)
        return self._budget > 0

    def _do_play(self, _: None) -> None:
        self._go(float("inf"))

    def _do_step(self, n: int) -> None:
        self._go(n if self._budget == float("inf") else self._budget + n)

    def _go(self, budget: float) -> None:
        if self._snapshot.state == "finished":
            self._publish(message=FINISHED)
        elif self._snapshot.state not in ENDED:
            self._budget = budget
            self._ticks.clear()
            self._publish(state="playing" if budget > 0 else "paused", message="")

    def _do_pause(self, _: None) -> None:
        self._budget = 0
        if self._snapshot.state == "playing":
            self._publish(state="paused", message="")

    def _do_change(self, options: dict[str, Any]) -> None:
        try:
            recipe = self._recipe.replace(**options)
            if self._snapshot.state not in ENDED:
                self._run.change(**options)
        except ValueError as error:  # the run goes on as it was
            self._publish(message=str(error))
        else:
            self._recipe = recipe
            waits = "This run has ended: the change waits for Reset." if self._snapshot.state in ENDED else ""
            self._publish(message=waits, recipe=recipe)

    def _do_reset(self, recipe: Recipe | None) -> None:
        if self._run is not None:
            self._run.close("interrupted")
        self._budget, self._run, self._writer, self.error, self._rate = 0, None, None, None, None
        self._recipe = recipe or self._recipe
        before = self._snapshot
        self._publish_new(Snapshot(before.version, before.handled, before.run + 1, recipe=self._recipe))
        self._run = Run(self.corpus, self._recipe, steps=self._steps, out=self._free_folder(), device=self._device)
        self._writer = self._run.trace
        self._publish(state="paused")

    def _do_trace(self, found: list[Trace | Exception]) -> None:
        try:
            if self._writer is not None:
                found.append(Trace.of(self._writer))
        except Exception as error:  # belongs to whoever asked, and is no failure of the run
            found.append(error)

    def _advance(self) -> None:
        self._run.step()
        self._budget -= 1
        self._ticks.append(time.perf_counter())
        if len(self._ticks) > 1:
            self._rate = (len(self._ticks) - 1) / max(self._ticks[-1] - self._ticks[0], 1e-9)
        if self._run.finished:
            self._budget = 0
            self._publish(state="playing")  # the last evaluation reads every test document
            self._run.evaluate(final=True)
            self._run.close("finished")
            self._publish(state="finished", message=FINISHED)
        else:
            self._publish(state="playing" if self._budget > 0 else "paused")

    def _fail(self, error: Exception) -> None:
        self._budget, self.error = 0, error
        if self._run is not None:
            self._run.close("failed", error=str(error))
        known = isinstance(error, (TrainingError, ValueError, RuntimeError, OSError))
        self._publish(state="failed", message=str(error) if known and str(error) else repr(error))

    def _stop(self) -> None:
        if self._run is not None:
            self._run.close("interrupted")
        self._run = None  # the model's memory; the trace stays
        self._publish(state="stopped", message="")

    def _free_folder(self) -> Path | None:
        if self._out is None:
            return None
        folder, number = Path(self._out), 1
        while (folder / "run.json").exists():
            number += 1
            folder = Path(f"{self._out}-{number}")
        return folder

    def _publish(self, **fields: Any) -> None:
        if self._run is not None:
            run, events = self._run, self._run.trace.events
            fields |= dict(step=run.step_number, steps=run.steps, metrics=run.last_metrics, events=events,
                           features=0 if run.rewirer is None else run.rewirer.layer.in_features,
                           evaluations=len(events["eval"]), rewires=len(events["rewire"]),
                           changes=len(events["change"]), steps_per_second=self._rate, frames=run.trace.frames)
        self._publish_new(replace(self._snapshot, **fields))

    def _publish_new(self, snapshot: Snapshot) -> None:
        with self._changed:
            self._snapshot = replace(snapshot, version=self._snapshot.version + 1)
            self._changed.notify_all()


def _whole(steps: int) -> int:
    if steps != int(steps) or steps < 0:
        raise ValueError(f"a number of steps is a whole number from 0 up; got {steps!r}")
    return int(steps)


@contextmanager
def _settings() -> Iterator[None]:
    """Grad mode and the number of threads are a thread's own: what a cell has set does not reach the worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def _work(reference: weakref.ref[Engine], commands: queue.SimpleQueue) -> None:
    """The thread: commands first, then steps."""
    command = commands.get()
    with _settings():
        while command is not _STOP:
            engine = reference()
            if engine is None:
                return
            busy = engine._turn(command)
            del engine
            time.sleep(0)  # let the threads that draw and answer have the interpreter between two steps
            try:
                command = commands.get(block=not busy)
            except queue.Empty:
                command = None
    engine = reference()
    if engine is not None:
        engine._stop()


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_ENGINES):
        engine.close()
