"""`Lab`: a run that is played, paused, stepped and changed while it is watched."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as W
from IPython import get_ipython
from IPython.display import display

from ..corpora import Corpus
from ..frames import FrameStore
from ..plots import method_of
from ..recipe import Recipe
from ..trace import Trace
from .canvas import ConnectivityCanvas
from .charts import Charts
from .engine import ENDED, Engine, Snapshot

FRAMES_PER_SECOND = 12
SETTLE_SECONDS = 0.02  # a single step is then painted once, when it is done, and not when it begins
BLIND_SECONDS = 1.0  # between two paints while no browser answers
EVAL_INTERVAL = 100
NO_PICTURE = {"dense": "A dense output layer: every label reads every feature, so there is no connectivity to draw.",
              "bottleneck": "A bottleneck is dense on both sides, so there is no connectivity to draw."}

TENTHS = tuple(n / 10 for n in range(11))
# option, label, what it does, values, and how a value is said
KNOBS = (
    ("lr_factor", "learning rates", "What every learning rate is multiplied by",
     (0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0), "× {:g}".format),
    ("rewire_interval", "rewire every", "Steps from one rewire to the next",
     (0, 5, 10, 20, 50, 100, 200, 500, 1000), lambda v: f"{v} steps" if v else "never"),
    ("rewire_fraction", "share that is rewired", "Share of all connections that a rewire moves; it falls in time",
     (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5), lambda v: f"{100 * v:g} %"),
    ("aux_weight", "auxiliary weight", "Share of the auxiliary objective in the loss; it falls to 0 at its end",
     TENTHS, lambda v: f"{v:g}" if v else "none"),
    ("aux_cutoff", "auxiliary ends after", "Share of the run after which the auxiliary objective is over",
     TENTHS, lambda v: f"{100 * v:g} %"),
)
BUTTONS = (
    ("Play", "Train until the end, or until Pause"),
    ("Pause", "Stop after the step that is being taken"),
    ("Step", "Train on one batch"),
    ("+10", "Train on ten batches"),
    ("Reset", "Start over from step 0 with the knobs as they stand; what was recorded is left alone"),
)


class Lab:
    """A live run on a corpus: show it as the last line of a cell.

    `steps` defaults to the recipe's epochs; a recipe that leaves `eval_interval` at 0 is evaluated every 100 steps, or
    ten times a run where that is more often. `out` is the folder of the trace (a temporary one without it; "-2", "-3",
    ... is appended where it is taken). `run(steps)` trains without a click, for papermill; `trace`, `recipe` and
    `state` say what has come of it; `close()` ends it. Running a cell again closes what that cell had made before.
    """

    def __init__(self, corpus: Corpus, recipe: Recipe | None = None, *, steps: int | None = None,
                 out: str | Path | None = None):
        beside = _of_this_cell()
        recipe = recipe or Recipe()
        if not recipe.eval_interval and (steps is None or steps > 10 * EVAL_INTERVAL):
            recipe = recipe.replace(eval_interval=EVAL_INTERVAL)  # ten times a run is too seldom for who is watching
        self.corpus = corpus
        self.engine = Engine(corpus, recipe, steps=steps, out=out)
        self._bins = corpus.bins()
        self._about = f"{corpus.name!r}; {self._bins.describe()}"
        self._painting = threading.Lock()
        self._painted = Snapshot(version=-1)
        self._store: FrameStore | None = None
        self._saved, self._saved_text = None, ""
        self._build(self.engine.snapshot.recipe)
        self._answered = threading.Event()
        self.canvas.observe(lambda _: self._answered.set(), "seen")
        self.engine.start()
        self._painter = threading.Thread(target=self._paint_on, name="xmc-painter", daemon=True)
        self._painter.start()
        beside.append(self)

    # --- in code

    @property
    def state(self) -> str:
        """ "building", "paused", "playing", "finished", "failed" or "stopped"."""
        return self.engine.snapshot.state

    @property
    def recipe(self) -> Recipe:
        """The recipe as the knobs have left it."""
        return self.engine.snapshot.recipe

    @property
    def trace(self) -> Trace:
        """What was recorded so far."""
        return self.engine.trace()

    def run(self, steps: int) -> Trace:
        """Train for `steps` steps, return when they are done. Raises whatever made the run fail."""
        try:
            self.engine.run_for(steps)
        finally:
            self._paint(self.engine.snapshot)
        return self.trace

    def close(self) -> None:
        """End the run and take the laboratory off the screen; `trace` stays. Harmless the second time."""
        self.engine.close()
        if threading.current_thread() is not self._painter:
            self._answered.set()
            self._painter.join(10)
        _close(self.widget)

    # --- the parts

    def _build(self, recipe: Recipe) -> None:
        self.buttons = {name: W.Button(description=name, tooltip=tip) for name, tip in BUTTONS}
        self.buttons["Play"].button_style = "primary"
        engine = self.engine
        for name, press in (("Play", engine.play), ("Pause", engine.pause), ("Step", engine.step),
                            ("+10", lambda: engine.step(10)), ("Reset", engine.reset)):
            self.buttons[name].on_click(lambda _, press=press: press())
        self.knobs = {knob[0]: _knob(*knob, recipe) for knob in KNOBS}
        for option, knob in self.knobs.items():
            knob.disabled = option.startswith("rewire") and recipe.output != "sparse"
            knob.observe(lambda change, option=option: engine.change(**{option: change.new}), "value")
        self.status, self.message = W.HTML(), W.HTML()
        self.status.add_class("xmc-status-box")
        self.fixed = W.HTML(_definitions(self.corpus, recipe))
        self.charts, self.canvas = Charts(), ConnectivityCanvas()
        toolbar = W.HBox([*self.buttons.values(), self.status])
        knobs = W.VBox([*self.knobs.values(), self.fixed])
        body = W.HBox([knobs, self.canvas, self.charts.figure])
        self.widget = W.VBox([toolbar, self.message, body])
        for box, name in ((self.widget, "xmc-lab"), (toolbar, "xmc-toolbar"), (knobs, "xmc-knobs"),
                          (body, "xmc-body"), (self.fixed, "xmc-fixed")):
            box.add_class(name)
        for widget in (*self.buttons.values(), *self.knobs.values(), self.canvas, self.charts.figure):
            _hear_while_a_cell_runs(widget)

    # --- painting: the painter's thread, and `run` once when it is done

    def _paint_on(self) -> None:
        """Show the latest snapshot, as often as the browser keeps up with and at most `FRAMES_PER_SECOND` times."""
        while self._painted.state != "stopped":
            self.engine.wait(lambda s: s.version > self._painted.version)
            time.sleep(SETTLE_SECONDS)
            snapshot, started = self.engine.snapshot, time.monotonic()
            self._answered.clear()
            self._paint(snapshot)
            if snapshot.state == "stopped":
                return
            self._answered.wait(BLIND_SECONDS)
            time.sleep(max(0.0, started + 1 / FRAMES_PER_SECOND - time.monotonic()))

    def _paint(self, snapshot: Snapshot) -> None:
        with self._painting:
            if snapshot.version <= self._painted.version:
                return
            try:
                self.status.value = _status(snapshot)
                self.message.value = _message(snapshot, self._about)
                self.charts.draw(snapshot)
                with self.canvas.drawing:
                    self._draw_connectivity(snapshot)
                    self.canvas.tick += 1
                self._save(snapshot)
            except Exception as error:  # a thread that dies would leave a picture that looks alive
                self.message.value = _words(f"The picture cannot be drawn ({error!r}); the run goes on.", wrong=True)
            self._painted = snapshot

    def _draw_connectivity(self, snapshot: Snapshot) -> None:
        before = self._painted
        if snapshot.run != before.run:
            self._store = None
        if not snapshot.features:
            if snapshot.run != before.run or snapshot.state != before.state:
                words = "" if snapshot.state == "building" else NO_PICTURE.get(snapshot.recipe.output, "")
                self.canvas.clear(words)
            return
        done = before.rewires
        if self._store is None:
            self._store, done = FrameStore(snapshot.frames), 0
            self.canvas.begin(self._store, self._bins, self.corpus.label_names, snapshot.features)
            self.canvas.show(0)
        if snapshot.rewires > done:
            self.canvas.show(snapshot.rewires, flash=True)

    # --- what a saved notebook keeps

    def _ipython_display_(self) -> None:
        display(self._bundle(), raw=True)
        self._saved_text = _text(self.corpus, self.engine.snapshot)
        self._saved = display(_saved(self._saved_text), raw=True, display_id=True)

    def _bundle(self) -> dict[str, Any]:
        return {**self.widget._repr_mimebundle_(), "text/plain": repr(self)}

    def _save(self, snapshot: Snapshot) -> None:
        text = _text(self.corpus, snapshot)
        if self._saved is not None and snapshot.state in ("paused", *ENDED) and text != self._saved_text:
            self._saved_text = text
            self._saved.update(_saved(text), raw=True)

    def __repr__(self) -> str:
        return _text(self.corpus, self.engine.snapshot)


def _hear_while_a_cell_runs(widget: W.Widget) -> None:
    """Let the browser say in which thread of the kernel its messages are heard; JupyterLab keeps one for widgets.

    From 7.4 on ipykernel overrules it: a message goes to the thread that the widget was made in, which is the one that
    runs the cells, so no button answers before the cell is done.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = lambda data, wanted: wanted


def _knob(option: str, label: str, tip: str, values: tuple, say: Callable[[Any], str], recipe: Recipe) -> W.Widget:
    value = getattr(recipe, option)
    choices = sorted({*values, value})  # a recipe may stand between two of ours
    # On release, not while dragging: each change is recorded, and a trace should hold decisions.
    return W.SelectionSlider(options=[(say(v), v) for v in choices], value=value, description=label,
                             tooltip=tip, continuous_update=False)


def _definitions(corpus: Corpus, recipe: Recipe) -> str:
    """What only a reset with another recipe could change, as a list of terms."""
    rows = [("labels", f"{corpus.n_labels:,}"), ("documents", f"{len(corpus.train):,}"), ("encoder", recipe.encoder)]
    if recipe.output == "sparse":
        rows.append(("fan-in", recipe.fan_in))
    rows += [("batch", recipe.batch_size), ("seed", recipe.seed)]
    return "<dl>" + "".join(f"<dt>{html.escape(term)}</dt><dd>{html.escape(str(value))}</dd>"
                            for term, value in rows) + "</dl>"


def _text(corpus: Corpus, s: Snapshot) -> str:
    """What a laboratory was, for whoever cannot see it."""
    lines = [f"Lab on {corpus.name!r}: {method_of(s.recipe)}, seed {s.recipe.seed}",
             f"  step {s.step} of {s.steps}, {s.rewires} rewires, {s.state}"]
    if s.metrics:
        shown = ("P@1", "recall@5", "recall@5/head", "recall@5/torso", "recall@5/tail")
        lines.append("  " + ", ".join(f"{name} {s.metrics[name]:.1f}" for name in shown if name in s.metrics))
    return "\n".join(lines + [f"  {s.message}"] * bool(s.message))


def _status(s: Snapshot) -> str:
    rate = "–" if s.steps_per_second is None else f"{s.steps_per_second:.0f}"
    rewires = "1 rewire" if s.rewires == 1 else f"{s.rewires} rewires"
    # A reader that speaks each of twelve steps a second is of no use; it speaks when the run comes to rest.
    live = "off" if s.state == "playing" else "polite"
    return (f'<div class="xmc-status" role="status" aria-live="{live}" data-step="{s.step}" data-state="{s.state}">'
            f"<b>step {s.step}</b> of {s.steps or '…'} · {rewires} · {rate} steps/s · <b>{s.state}</b></div>")


def _message(s: Snapshot, about: str) -> str:
    if s.state == "failed":
        return _words(f"{s.message}. Reset starts over.", wrong=True)
    if s.message:
        return _words(s.message)
    if s.state == "building":
        return _words("Building the model: the first time takes some seconds.")
    return _words(f"{method_of(s.recipe)} on {about}")


def _words(text: str, wrong: bool = False) -> str:
    kind = "xmc-message xmc-wrong" if wrong else "xmc-message"
    return f'<div class="{kind}" role="{"alert" if wrong else "note"}">{html.escape(text)}</div>'


def _saved(text: str) -> dict[str, str]:
    return {"text/html": f'<pre class="xmc-saved">{html.escape(text)}\n  (what is left of a live laboratory: '
                         "run the cell for another)</pre>"}


def _close(widget: W.Widget) -> None:
    """Close a widget with all that it is made of; ipywidgets itself would keep the parts for ever."""
    for part in getattr(widget, "children", ()):
        _close(part)
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(part, W.Widget):
            part.close()
    widget.close()


_of_cell: dict[str, tuple[str, list[Lab]]] = {}  # cell -> (the request that ran it last, the laboratories it made)


def _of_this_cell() -> list[Lab]:
    """The laboratories that this run of the running cell has made so far; those of an earlier run are closed."""
    shell = get_ipython()
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = parent.get("metadata", {}).get("cellId")
    if cell is None:  # no notebook, or a front end that does not say which cell is running
        return []
    request = parent["header"]["msg_id"]
    last, labs = _of_cell.get(cell, ("", []))
    if last != request:
        for old in labs:
            old.close()
        _of_cell[cell] = request, []
    return _of_cell[cell][1]
