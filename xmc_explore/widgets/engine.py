"""`Engine`: one worker thread owns a run; whoever holds a control posts commands, whoever draws reads snapshots.

No widget in here: the laboratory draws it, tests and papermill drive it without a thread.
"""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..branching import BranchError, branch, same_corpus
from ..checkpoints import State
from ..corpora import Corpus
from ..frames import FrameStore
from ..recipe import LIVE, Recipe
from ..trace import LabelCounts, Trace, TraceWriter
from ..training import Run, TrainingError
from ..wording import named

THREAD_NAME = "xmc-engine"
ENDED = ("finished", "failed", "stopped", "recorded")  # a run that takes no more steps
FINISHED = "The run is finished. Reset starts another."
RECORDED = "This is a recording: nothing trains. Branch continues it, A|B sets a new run beside it."
_STOP = ("stop", None)
_SWIFT = ("pause", "change", "plan")  # commands that are obeyed in the middle of an evaluation
# A run that takes every core starves the browser that shows it, and is itself the slower for the fight: torch's
# threads wait for each other at every operation (measured: 2 threads on 2 busy cores 3 steps/s, 1 thread 40).
_THREADS = max(1, torch.get_num_threads() - 1)
_STATE_STEPS, _MOST_STATES = 200, 6  # copies of the whole run, so that a branch need not start at 0
_RATE_STEPS = 50  # the speed is that of the last so many steps
_SWITCH_SECONDS = 0.001  # an answer changes threads four times, and waits as long for each; Python's own 5 ms are felt
_NICE = 5  # the kernel's other threads and the browser have a core before the run does, where there are too few
_WAY_SECONDS = 0.04  # an answer takes a good 20 ms to the page once nothing is in its way


@dataclass(frozen=True)
class Snapshot:
    """What was known of the run between two steps; nothing in it changes afterwards.

    `state` is "building", "paused", "playing", "finished", "failed", "stopped" or "recorded", `message` says in words
    what went wrong. `events` are the trace's own append-only lists: read the first `records` step events, the first
    `evaluations`, `probes`, `rewires` and `changes` of theirs, and the first `n_frames` frames of `store`. `of_labels`
    is what the last evaluation counted for each label.
    `other` is the run A that this one, then called B, is compared with; `planned` are options for the next reset.
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
    records: int = 0
    n_frames: int = 0
    to_go: float = 0  # steps until it pauses; infinite while it plays
    rewires: int = 0
    evaluations: int = 0
    probes: int = 0
    changes: int = 0
    steps_per_second: float | None = None
    metrics: dict[str, float] = field(default_factory=dict, repr=False)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    of_labels: LabelCounts = field(default_factory=dict, repr=False)
    store: FrameStore | None = field(default=None, repr=False)
    planned: dict[str, Any] = field(default_factory=dict, repr=False)
    other: Snapshot | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What was recorded of the last step; empty before the first."""
        return self.events["step"][self.records - 1] if self.records else {}


def recorded(trace: Trace) -> Snapshot:
    """A trace as a snapshot that nothing will change."""
    events = trace.events
    return Snapshot(run=1, state="recorded", message=RECORDED, recipe=trace.recipe, step=trace.steps,
                    steps=trace.header["steps"], features=trace.width if trace.frames else 0,
                    metrics=trace.metrics("test") if events["eval"] else {}, events=events, store=trace.store,
                    of_labels=trace.label_counts,
                    **_lengths(events, trace.store))


def _lengths(events: dict[str, list], store: FrameStore) -> dict[str, int]:
    return dict(records=len(events["step"]), rewires=len(events["rewire"]), evaluations=len(events["eval"]),
                probes=len(events["probe"]), changes=len(events["change"]), n_frames=len(store))


def _view(run: Run) -> dict[str, Any]:
    events, store = run.trace.events, run.trace.store
    return dict(step=run.step_number, steps=run.steps, metrics=run.last_metrics, events=events, store=store,
                of_labels=run.trace.of_labels,
                features=0 if run.rewirer is None else run.rewirer.layer.in_features, **_lengths(events, store))


class Refused(ValueError):
    """A command that cannot be obeyed; the run goes on as it was."""


@dataclass
class _Other:
    """Run A of a comparison, and where it is recorded; without a `run` it takes no more steps."""

    snapshot: Snapshot
    source: TraceWriter | Trace
    run: Run | None = None

    def look(self) -> Snapshot:
        if self.run is not None:
            self.snapshot = replace(self.snapshot, **_view(self.run))
        return self.snapshot

    def end(self, status: str = "interrupted", message: str = "") -> None:
        if self.run is not None:
            _end(self.run, status)
            state = "stopped" if status == "interrupted" else status
            self.snapshot, self.run = replace(self.look(), state=state, message=message), None


class Engine:
    """A run under control: `start()` gives it a thread of its own, `run_for(steps)` drives it from the calling one.

    `play`, `pause`, `step`, `change`, `plan`, `reset`, `compare`, `branch` and `single` only post a command and return
    at once; it is obeyed before the next step. What goes wrong becomes a snapshot with state "failed" and a message;
    `reset` starts over. `out` is the folder of the trace; where it is taken, "-2", "-3", ... is appended, so nothing is
    overwritten. `trace` is a recording to look at, without a run; its corpus is loaded when one is asked for.
    `tell` is called whenever a command has been obeyed or the state is another, between two steps: it has to be swift.

    Two runs: `compare` keeps the run as A and starts B from step 0, `branch` keeps it as A and continues B from one of
    its frames. Controls turn B; A takes a step whenever B has gone past it. Both see the same documents in the same
    order, as that depends on the seed alone.
    """

    def __init__(self, corpus: Corpus | None, recipe: Recipe | None = None, *, steps: int | None = None,
                 out: str | Path | None = None, device: str | torch.device | None = None, trace: Trace | None = None,
                 tell: Callable[[], None] = lambda: None):
        self.corpus, self._steps, self._out, self._device, self._tell = corpus, steps, out, device, tell
        self._recipe = recipe or (Recipe() if trace is None else trace.recipe)  # the knobs as they stand
        self._planned: dict[str, Any] = {}
        self._run: Run | None = None
        self._states: list[State] = []  # of the run, for a branch that starts from the nearest
        self._closing = False
        self._number = 0  # of the run
        self._other: _Other | None = None
        self._loaded = trace
        self._writer: TraceWriter | None = None  # of the run, and still there when it has failed
        self.error: Exception | None = None
        self._budget: float = 0  # steps still to go; infinite while playing
        self._ticks: deque[float] = deque(maxlen=_RATE_STEPS + 1)
        self._rate: float | None = None
        lock = threading.RLock()
        self._changed, self._turned = threading.Condition(lock), threading.Condition(lock)
        self._way_until = 0.0  # no step begins before
        self._next: tuple[str, Any] | None = None  # a command that waits for the end of an evaluation
        self._snapshot = Snapshot(recipe=self._recipe, steps=steps or 0)
        self._worker: threading.Thread | None = None
        # A SimpleQueue, as the garbage collector may be the one to post the last command.
        self._commands: queue.SimpleQueue = queue.SimpleQueue()
        self._commands.put(("reset", None) if trace is None else ("load", trace))
        self._posted, self._last = 1, "reset"  # how many commands, and which came last
        weakref.finalize(self, self._commands.put, _STOP).atexit = False
        _ENGINES.add(self)

    # --- controls: post and return

    def start(self) -> None:
        """Give the run its thread: the model is built, then commands are obeyed. A second call changes nothing."""
        with self._changed:
            if self._worker is None and self._snapshot.state != "stopped":
                sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
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

    def plan(self, **options: Any) -> None:
        """Turn knobs that need a new model: the options wait for the next reset."""
        self._post("plan", options)

    def reset(self, recipe: Recipe | None = None) -> None:
        """Start over from step 0, with another recipe or with the knobs as they stand; the old run's trace stays.

        Of two runs both start over: B with the knobs, A with its own recipe and the seed of B.
        """
        self._post("reset", recipe)

    def compare(self, recipe: Recipe | None = None) -> None:
        """Keep the run as A, and start B from step 0, with another recipe or with the knobs as they stand."""
        self._post("compare", recipe)

    def branch(self, frame: int, **changes: Any) -> None:
        """Keep the run as A, and continue B from one of its frames with the knobs as they stand and these changes."""
        self._post("branch", (frame, changes))

    def single(self) -> None:
        """End a comparison: B stays."""
        self._post("single")

    def close(self, timeout: float = 30) -> None:
        """End the run and its thread. Harmless the second time."""
        with self._changed:
            worker = self._worker
        self._closing = True
        self._commands.put(_STOP)
        if worker is not None and worker is not threading.current_thread():
            worker.join(timeout)
        elif worker is None and self._snapshot.state != "stopped":
            self._stop()

    def _post(self, name: str, argument: Any = None) -> int:
        with self._changed:
            if self._snapshot.state == "stopped":
                raise RuntimeError("this laboratory is closed; make another")
            self._posted, self._last = self._posted + 1, name
            self._commands.put((name, argument))
            return self._posted

    # --- looking

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def pending(self) -> str:
        """The command that was posted last, while it has not been obeyed."""
        with self._changed:
            return "" if self.obeyed(self._snapshot) else self._last

    def obeyed(self, snapshot: Snapshot) -> bool:
        """Does a snapshot know of all commands that were posted so far?"""
        return snapshot.handled == self._posted

    def wait(self, condition: Callable[[Snapshot], bool], timeout: float | None = None, steps: bool = True) -> Snapshot:
        """The latest snapshot, as soon as it meets a condition or the time is up.

        Without `steps` a step alone wakes nobody: to look a hundred times a second for what a command or an end brings
        costs the run more than to paint does.
        """
        turn = self._changed if steps else self._turned
        with turn:
            turn.wait_for(lambda: condition(self._snapshot), timeout)
            return self._snapshot

    def wake(self) -> None:
        """Let those who `wait` look at their condition again."""
        with self._changed:
            self._changed.notify_all()
            self._turned.notify_all()

    def make_way(self) -> None:
        """Begin no step for a moment, as a hand has moved: its answer needs the interpreter, and perhaps the core.

        Half of the time at most, so that a run goes on under a hand that does not rest. Commands are obeyed meanwhile.
        """
        now = time.monotonic()
        if now > self._way_until + _WAY_SECONDS:
            self._way_until = now + _WAY_SECONDS

    def trace(self, other: bool = False) -> Trace:
        """What was recorded so far, of run A if `other`. Raises RuntimeError if no run could be built."""
        return self.between_steps(lambda: self._trace(other))

    def between_steps(self, function: Callable[[], Any]) -> Any:
        """Call a function when no step is being taken, in the engine's thread if it has one; returns what it returns.

        It finds the record of the run whole: no line is half written. Raises what it raises.
        """
        if self._worker is None or self._snapshot.state == "stopped":
            return function()
        found: list[Any] = []
        ticket = self._post("call", (function, found))
        self.wait(lambda s: s.handled >= ticket or s.state == "stopped", steps=False)
        if not found:  # stopped before it came to that
            return function()
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

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
                          or s.state == "stopped", steps=False)
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
                while busy or self._next or not self._commands.empty():
                    busy = self._turn(self._kept() or (None if self._commands.empty() else self._commands.get()))
            except KeyboardInterrupt:
                self._budget = 0
                self._close_run()
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
        except Refused as error:
            self._publish(message=str(error))
        except Exception as error:
            self._fail(error)
        if command is not None:
            self._publish(handled=self._snapshot.handled + 1)
        return self._budget > 0

    def _kept(self) -> tuple[str, Any] | None:
        command, self._next = self._next, None
        return command

    def _meanwhile(self) -> None:
        """In the middle of an evaluation, which takes as long as ten steps: obey what need not wait for its end.

        The step before it is over, and neither a pause nor a knob has a say in it. Commands keep their order.
        """
        while self._next is None and not self._commands.empty():
            command = self._commands.get()
            if command[0] in _SWIFT:
                self._turn(command)
            else:
                self._next = command

    def _do_play(self, _: None) -> None:
        self._go(float("inf"))

    def _do_step(self, n: int) -> None:
        self._way_until = 0.0  # the step is itself the answer
        self._go(n if self._budget == float("inf") else self._budget + n)

    def _go(self, budget: float) -> None:
        if self._snapshot.state in ("finished", "recorded"):
            self._publish(message=FINISHED if self._snapshot.state == "finished" else RECORDED)
        elif self._snapshot.state not in ENDED:
            self._budget = budget
            self._ticks.clear()
            self._publish(state="playing" if budget > 0 else "paused", message="")

    def _do_pause(self, _: None) -> None:
        self._budget = 0
        if self._snapshot.state == "playing":
            self._publish(state="paused", message="")

    def _do_change(self, options: dict[str, Any]) -> None:
        knobs = {name: value for name, value in options.items() if name != "rewire_now"}
        try:
            recipe = self._recipe.replace(**knobs)
            if self._snapshot.state not in ENDED:
                self._run.change(**options)
        except ValueError as error:  # the run goes on as it was
            raise Refused(str(error)) from None
        self._recipe = recipe
        message = next_step(options)
        if self._snapshot.state in ENDED:
            if "rewire_now" in options:
                raise Refused(FINISHED if self._snapshot.state == "finished" else "No run is going on.")
            waits = "Branch" if self._snapshot.state == "recorded" else "Reset"
            message = f"This run has ended: the change waits for {waits}."
        self._publish(message=message, recipe=recipe)

    def _do_plan(self, options: dict[str, Any]) -> None:
        try:
            self._recipe.replace(**self._planned | options)
        except ValueError as error:
            raise Refused(str(error)) from None
        self._planned = {name: value for name, value in (self._planned | options).items()
                         if getattr(self._recipe, name) != value}
        waiting = ", ".join(f"{name} = {value}" for name, value in self._planned.items())
        self._publish(planned=self._planned, message=f"Waits for Reset: {waiting}." if waiting else "")

    def _do_load(self, trace: Trace) -> None:
        self._number += 1
        self._publish(replace(recorded(trace), run=self._number))

    def _do_reset(self, recipe: Recipe | None) -> None:
        if self._snapshot.state == "recorded":
            raise Refused(RECORDED)
        recipe = recipe or self._recipe.replace(**self._planned)
        other, a = self._other, None if self._other is None else self._other.snapshot
        if other is not None and not isinstance(other.source, Trace):
            other.end()
            run = Run(self.corpus, a.recipe.replace(seed=recipe.seed), steps=self._steps, out=self._free_folder(),
                      device=self._device)
            self._other = _Other(Snapshot(run=a.run + 1, state="paused", recipe=run.recipe), run.trace, run)
        self._begin(recipe)

    def _do_compare(self, recipe: Recipe | None) -> None:
        if not (self._writer or self._loaded):
            raise Refused("There is no run yet to compare with.")
        recipe = recipe or self._recipe.replace(**self._planned)
        self._need_corpus()
        self._set_aside(self._snapshot)
        self._begin(recipe.replace(seed=self._other.snapshot.recipe.seed))

    def _do_branch(self, request: tuple[int, dict[str, Any]]) -> None:
        frame, changes = request
        if not self._snapshot.n_frames:
            raise Refused("There is no frame to branch from: this run has recorded no connectivity.")
        before = self._snapshot
        try:
            trace = self._trace()
        except ValueError as error:  # its folder is gone
            raise Refused(f"No branch: {error}") from None
        step = trace.frames[frame]
        then = trace.recipe.replace(**{name: value for event in trace.events["change"] if event["step"] < step
                                       for name, value in event["options"].items() if name in LIVE})
        changes = {name: value for name in LIVE
                   if (value := changes.get(name, getattr(self._recipe, name))) != getattr(then, name)}
        self._publish(state="building", message=f"Replaying to step {step:,} ...")
        try:
            run = branch(trace, frame, self.corpus, out=self._free_folder(), device=self._device, states=self._states,
                         on_step=self._replayed, **changes)
        except (ValueError, RuntimeError, OSError) as error:
            self._publish(state=before.state)  # the run stays as it was
            raise Refused(f"No branch: {error}") from None
        self.corpus = run.corpus
        self._set_aside(before)
        self._number += 1
        self._adopt(run, f"B continues from step {step:,}; A is the run that it has left.")

    def _replayed(self, step: int, goal: int) -> None:
        if self._closing:
            raise RuntimeError("the laboratory is being closed")
        if step % 20 == 0:
            self._publish(message=f"Replaying to step {goal:,}: {step:,}")

    def _do_single(self, _: None) -> None:
        if self._other is not None:
            self._other.end()
        self._other = None
        self._publish(message="")

    def _do_call(self, request: tuple[Callable[[], Any], list[Any]]) -> None:
        function, found = request
        try:
            found.append(function())
        except Exception as error:  # belongs to whoever asked, and is no failure of the run
            found.append(error)

    def _trace(self, other: bool = False) -> Trace:
        if other and self._other is None:
            raise RuntimeError("there is one run only, and so no A")
        source = self._other.source if other else self._writer or self._loaded
        if source is None:
            raise RuntimeError(f"there is no run yet, so nothing is recorded. {self._snapshot.message}")
        return source if isinstance(source, Trace) else Trace.of(source)

    # --- runs that begin and end

    def _begin(self, recipe: Recipe) -> None:
        """Start the run that the controls turn."""
        self._close_run()
        self._run, self._writer, self._number = None, None, self._number + 1
        self._publish(self._blank(recipe))
        self._adopt(Run(self.corpus, recipe, steps=self._steps, out=self._free_folder(), device=self._device))

    def _adopt(self, run: Run, message: str = "") -> None:
        self._run, self._writer = run, run.trace
        engine = weakref.ref(self)  # or the two would hold each other
        run.meanwhile = lambda: (mine := engine()) and mine._meanwhile()
        self._publish(self._blank(run.recipe), state="paused", message=message)

    def _blank(self, recipe: Recipe) -> Snapshot:
        self._recipe, self._budget, self.error, self._rate = recipe, 0, None, None
        # B has the seed of A, and a branch the model: what else the knobs say goes on waiting.
        self._planned = {name: value for name, value in self._planned.items() if getattr(recipe, name) != value}
        self._states = []
        return Snapshot(run=self._number, recipe=recipe, steps=self._steps or 0)

    def _set_aside(self, snapshot: Snapshot) -> None:
        """Make the run that the controls turned run A; an earlier A ends."""
        if self._other is not None:
            self._other.end()
        ended = snapshot.state in ENDED
        snapshot = replace(snapshot, other=None, planned={}, state=snapshot.state if ended else "paused", message="")
        self._other = _Other(snapshot, self._writer or self._loaded, None if ended else self._run)
        self._run = self._writer = None

    def _need_corpus(self) -> None:
        if self._loaded is not None:
            try:
                self.corpus = same_corpus(self._loaded, self.corpus)
            except BranchError as error:
                raise Refused(f"No run beside it: {error}") from None

    def _advance(self) -> None:
        self._budget -= 1
        self._run.step()
        self._follow()
        if self._run.step_number % _STATE_STEPS == 0:
            self._states.append(self._run.state())
            if len(self._states) > _MOST_STATES:
                del self._states[::2]
        self._ticks.append(time.perf_counter())
        if len(self._ticks) > 1:
            self._rate = (len(self._ticks) - 1) / max(self._ticks[-1] - self._ticks[0], 1e-9)
        if self._run.finished:
            self._budget = 0
            self._publish(state="playing")  # the last evaluation reads every test document
            self._run.evaluate(final=True)
            _end(self._run, "finished")
            self._publish(state="finished", message=FINISHED)
        else:
            self._publish(state="playing" if self._budget > 0 else "paused")

    def _follow(self) -> None:
        """Let run A take a step if B is ahead of it; where A fails, B goes on."""
        other = self._other
        if other is None or other.run is None or other.run.step_number >= self._run.step_number:
            return
        try:
            other.run.step()
            if other.run.finished:
                other.run.evaluate(final=True)
                other.end("finished")
        except Exception as error:
            other.end("failed", f"A failed: {_why(error)}")

    def _fail(self, error: Exception) -> None:
        self._budget, self.error = 0, error
        message = _why(error)
        if self._run is not None:
            _end(self._run, "failed", error=message)
        if self._run is not None and isinstance(error, OSError) and error.strerror:
            message = f"the run can no longer be recorded in {self._run.trace.folder} ({error.strerror})"
        self._publish(state="failed", message=message)

    def _stop(self) -> None:
        self._close_run()
        if self._other is not None:
            self._other.end()
        self._run = None  # the memory of the model; the trace stays
        self._publish(state="stopped", message="")

    def _close_run(self) -> None:
        if self._run is not None:
            _end(self._run, "interrupted")

    def _free_folder(self) -> Path | None:
        if self._out is None:
            return None
        folder, number = Path(self._out), 1
        while (folder / "run.json").exists():
            number += 1
            folder = Path(f"{self._out}-{number}")
        return folder

    def _publish(self, base: Snapshot | None = None, **fields: Any) -> None:
        if self._run is not None:
            fields |= dict(steps_per_second=self._rate, **_view(self._run))
        now = self._snapshot
        fields |= dict(handled=fields.get("handled", now.handled), planned=self._planned, to_go=self._budget,
                       other=None if self._other is None else self._other.look())
        self._publish_new(replace(base or now, **fields))

    def _publish_new(self, snapshot: Snapshot) -> None:
        with self._changed:
            before, self._snapshot = self._snapshot, replace(snapshot, version=self._snapshot.version + 1)
            self._changed.notify_all()
            turned = (before.handled, before.state) != (snapshot.handled, snapshot.state)
            if turned:
                self._turned.notify_all()
        if turned:
            with suppress(Exception):  # no words, and no reason to end the run
                self._tell()


def _end(run: Run, status: str, **fields: Any) -> None:
    """End the record of a run. Where it can no longer be written it stays as it is; raises OSError for one that is
    "finished"."""
    try:
        run.close(status, **fields)
    except OSError:
        if status == "finished":
            raise


def _why(error: Exception) -> str:
    """Why a run failed, in the words of the error where it has any for a reader."""
    meant = isinstance(error, (TrainingError, ValueError, RuntimeError, OSError)) and str(error)
    return meant or f"an unexpected error ended the run ({named(error)})"


def next_step(options: dict[str, Any]) -> str:
    """What a change of live knobs does, in words."""
    said = ", ".join(f"{name} = {value}" for name, value in options.items())
    return "The next step will rewire." if "rewire_now" in options else f"From the next step on: {said}."


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
    if sys.platform == "linux":  # where niceness is a thread's own
        nice = os.getpriority(os.PRIO_PROCESS, 0) + _NICE
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(nice, 19))
    command = commands.get()
    with _settings():
        while command is not _STOP:
            engine = reference()
            if engine is None:
                return
            busy = engine._turn(command)
            way, command = max(0.0, engine._way_until - time.monotonic()), engine._kept()
            del engine
            time.sleep(0)  # let the threads that draw and answer have the interpreter between two steps
            try:
                command = command or commands.get(timeout=way if busy else None)
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
