"""`branch`: a run continued from a recorded frame, with other options from there on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checkpoints import State
from .corpora import Corpus, CorpusError, load_corpus
from .trace import Trace, plain, versions
from .training import Run


class BranchError(RuntimeError):
    """A run that cannot be continued here; the message says what differs and what to do."""


def branch(trace: Trace | str | Path, frame: int = -1, corpus: Corpus | None = None, *, steps: int | None = None,
           out: str | Path | None = None, device: str | torch.device | None = None, states: Iterable[State] = (),
           on_step: Callable[[int, int], None] | None = None, **changes: Any) -> Run:
    """The run of a trace as it was at a frame (a position in `trace.frames`), ready to go on.

    It starts from the last checkpoint at or before the frame, of the trace or of `states` kept in memory, else from
    the start, and takes the steps again up to the frame, with the changes that were made on the way. What comes out is
    compared with what was recorded. Then `changes` are made: options that a run can change, see `Run.change`, and
    `steps`, a new length of the whole run. Without any, the branch goes on exactly as the run did that was left alone
    from there on, if it is driven with as many threads (`trace.header["threads"]`).

    `corpus` is the one of the trace; without it, it is loaded by its name. `out` is the folder of the new trace, which
    holds the record from the start. `on_step(step, goal)` is called after each step that is taken again.
    Raises BranchError if this machine does not come to what was recorded or the corpus is another one, ValueError for
    an option that only a new model can have, IndexError if there is no such frame, TraceError for a damaged trace.
    """
    trace = trace if isinstance(trace, Trace) else Trace(trace)
    goal = trace.frame(frame)
    if steps is not None:
        if steps <= goal.step:
            raise ValueError(f"steps={steps} is no more than the {goal.step} steps before frame {goal.number}")
        changes["steps"] = steps
    corpus = same_corpus(trace, corpus)
    origin = {"trace": trace.folder.name, "frame": goal.number, "step": goal.step}
    made = [e for e in trace.events["change"] if e["step"] < goal.step]
    with _threads(trace.header.get("threads")):
        run = Run(corpus, trace.recipe, steps=trace.header.get("first_steps", trace.header["steps"]), out=out,
                  device=device or _device(trace), branched_from=origin)
        try:
            run.check_change(**changes)
            state = _nearest(trace, states, goal.step, len(made))
            if state is not None:
                run.restore(state, trace)
            _take_again(run, made[0 if state is None else state.values["changes"]:], goal.step, on_step)
            _compare(run, trace, goal.number)
            if changes:
                run.change(**changes)
        except BaseException as error:
            run.close("failed", error=str(error))
            raise
    return run


def _nearest(trace: Trace, states: Iterable[State], step: int, changes: int) -> State | None:
    """The last state at or before a step that has seen no later change."""
    kept = [s for s in states if s.step <= step and s.values["changes"] <= changes]
    best = max(kept, key=lambda s: s.step, default=None)
    stored = [s for s in trace.checkpoints if s <= step and (best is None or s > best.step)]
    return trace.checkpoint(stored[-1]) if stored else best


def _take_again(run: Run, changes: list[dict[str, Any]], goal: int, on_step: Callable[[int, int], None] | None) -> None:
    changes = list(changes)
    while True:
        while changes and changes[0]["step"] <= run.step_number:
            run.change(**changes.pop(0)["options"])
        if run.step_number == goal:
            return
        run.step()
        if on_step is not None:
            on_step(run.step_number, goal)


def _compare(run: Run, trace: Trace, number: int) -> None:
    """Raise BranchError unless the run came to what was recorded: connections to the bit, losses to seven digits."""
    ours, theirs = run.trace.store.recorded, trace.store.recorded[:number + 1]
    if len(ours) != len(theirs):
        raise BranchError(f"frame {number} of {trace.folder} was recorded at step {theirs[-1]['step']}, but taking "
                          f"the steps again gave {len(ours)} frames: {_differences(trace, run)}")
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for name in ("step", "indices", "slots", "new", "weight", "scale"):
            if name in a and name in b and not np.array_equal(a[name], b[name]):
                raise BranchError(f"taking the steps again gave other {name} than those recorded in frame {i} of "
                                  f"{trace.folder}: {_differences(trace, run)}")
    recorded = trace.store.seek(number, by_label=False).indices
    if not np.array_equal(run.model.sparse_layer.indices.cpu().numpy(), recorded):
        raise BranchError(f"the connections are other than those recorded in frame {number} of {trace.folder}: "
                          f"{_differences(trace, run)}")
    for a, b in zip(run.trace.events["step"], trace.events["step"], strict=False):
        if plain(a["loss"]) != b["loss"]:
            raise BranchError(f"taking the steps again gave another loss at step {b['step']} of {trace.folder}, "
                              f"{plain(a['loss'])} for {b['loss']}: {_differences(trace, run)}")


def _differences(trace: Trace, run: Run) -> str:
    """Where this machine is not the one of the trace, in words."""
    then = trace.header["versions"] | {"device": trace.header.get("device", "cpu")}
    now = versions() | {"device": run.device.type}
    different = [f"{name} {then.get(name)} there and {now[name]} here" for name in now if then.get(name) != now[name]]
    cause = ", ".join(different) or "versions and device are the same, so the processor may differ"
    return f"{cause}. Branch where the trace was made, or train anew here"


def same_corpus(trace: Trace, corpus: Corpus | None) -> Corpus:
    """The corpus that a trace was trained on: the given one, or, without it, the one of its name.

    Raises BranchError if there is none of that name, or another.
    """
    about = trace.header["corpus"]
    if corpus is None:
        try:
            corpus = load_corpus(about["name"])
        except CorpusError:
            raise BranchError(f"the corpus {about['name']!r} of {trace.folder} cannot be loaded by its name; load it "
                              f"and give it as corpus=") from None
    if corpus.fingerprint != about["fingerprint"]:
        raise BranchError(f"{trace.folder} was trained on {about['name']!r} with fingerprint {about['fingerprint']} "
                          f"({about.get('source', '')}); corpus {corpus.name!r} here has {corpus.fingerprint} "
                          f"({corpus.source}). A run goes on with the same documents only: give corpus= with the same "
                          f"options, or train anew")
    return corpus


def _device(trace: Trace) -> str:
    device = trace.header.get("device", "cpu")
    return device if device != "cuda" or torch.cuda.is_available() else "cpu"


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """Sums come out differently with another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
