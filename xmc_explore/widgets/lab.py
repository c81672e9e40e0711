"""`Lab`: a run that is played, paused, stepped, changed, scrubbed and compared while it is watched."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as W
from IPython.display import display

from ..corpora import Corpus, load_corpus
from ..plots import method_of
from ..plots.still import still
from ..recipe import Recipe
from ..trace import Trace
from ..wording import named
from . import sharing
from .canvas import ConnectivityCanvas, caption_of, scores_of
from .charts import Charts
from .curves import described, drawn
from .engine import ENDED, Engine, Snapshot, next_step
from .guarded import MOST_KEPT, close_with_parts, hear_while_a_cell_runs, live, of_this_cell, saved
from .knobs import LIVE_KNOBS, REBUILD_KNOBS, Knobs
from .page import Page
from .presets import BUDGET, PRESETS, PROBE_INTERVAL, preset_of
from .scrubber import Scrubber, frame_at

FRAMES_PER_SECOND = 10
CHARTS_PER_SECOND = 1  # plotly takes the page some 50 ms each time, and no click is heard meanwhile
HAND_SECONDS = 0.3  # after a hand has moved the curves wait so long for the next move: they must not delay its answer
PAINTER_SHARE = 0.02  # of the time, for what the painter paints unasked: a larger layer is painted more seldom
SETTLE_SECONDS = 0.1  # a single step is then painted once, when it is done, and not when it begins
REST_SECONDS = 0.5  # after which the picture is kept in the notebook: not after each of many single steps
BLIND_SECONDS = 1.0  # between two paints while no browser answers
EVAL_INTERVAL = 100
# What the status line says of a command from the press on until it is obeyed, which is before the next step.
PENDING = {"play": "starting", "pause": "pausing", "step": "stepping", "reset": "resetting", "compare": "starting B",
           "branch": "branching"}
EXPORTS = "runs/exports"
TYPE, PRESENTED_TYPE, NARROW_TYPE = 13, 18, 15  # pixels; lab.css has the same
NO_PICTURE = {"dense": "A dense output layer: every label reads every feature, so there is no connectivity to draw.",
              "bottleneck": "A bottleneck is dense on both sides, so there is no connectivity to draw."}

# The icon stands for the word where the toolbar has no room for words (lab.css); its number says more than an icon.
BUTTONS = (
    ("Play", "play", "Play: train until the end, or until Pause"),
    ("Pause", "pause", "Pause: stop after the step that is being taken"),
    ("Step", "step-forward", "Step: train on one batch"),
    ("+10", "", "Train on as many batches as the box beside it says"),
    ("Reset", "undo", "Reset: start over from step 0 with the knobs as they stand; what was recorded is left alone"),
)


class Lab:
    """A live run on a corpus, or a recorded one: show it as the last line of a cell.

    `steps` defaults to the recipe's epochs; a recipe that leaves `eval_interval` at 0 is evaluated every 100 steps, or
    ten times a run where that is more often. `out` is the folder of the trace (a temporary one without it; "-2", "-3",
    ... is appended where it is taken). `against` is a second recipe: runs A (`recipe`) and B (`against`) then stand
    side by side, on the same documents in the same order. `trace` is a recording to scrub through instead of a run.
    `preset` (a name in `widgets.presets`) shows the knobs of one lesson alone; without a recipe it also sets one.

    `run(steps)` trains without a click, for papermill; `trace`, `recipe` and `state` say what has come of it; `share()`
    gives a short text from which `Lab.from_text` makes the same laboratory; `export(folder)` writes figure, recipe and
    trace; `close()` ends it. Running a cell again closes what that cell had made before.
    Raises ValueError where there is neither a corpus nor a recording, or no such preset, TypeError for what is none.
    """

    def __init__(self, corpus: Corpus | None = None, recipe: Recipe | None = None, *, against: Recipe | None = None,
                 steps: int | None = None, out: str | Path | None = None, trace: Trace | None = None,
                 preset: str = "everything"):
        if corpus is None and trace is None:
            raise ValueError("a laboratory needs a corpus to train on, xe.Lab(corpus), or a recording to look at, "
                             "xe.Lab(trace=...)")
        for name, value, kind in (("corpus", corpus, Corpus), ("trace", trace, Trace), ("recipe", recipe, Recipe),
                                  ("against", against, Recipe)):
            if not isinstance(value, (kind, type(None))):
                raise TypeError(f"{name}={value!r} is no {kind.__name__}; say xe.Lab(xe.load_corpus('calls-small'), "
                                f"xe.Recipe.method('SET')), or xe.Lab(trace=xe.Trace(folder))")
        options = preset_of(preset).options
        beside = of_this_cell()
        if trace is not None:
            recipe, against, steps = trace.recipe, None, steps or trace.header["steps"]
        elif recipe is None:
            recipe = Recipe().replace(**options)
        recipe, against = _evaluated(recipe, steps), against and _evaluated(against, steps)
        self.corpus, self.preset = corpus, preset
        self.engine = Engine(corpus, recipe, steps=steps, out=out, trace=trace, tell=self._tell)
        if against is not None:
            self.engine.compare(against)
        source = trace if corpus is None else corpus
        self._bins, self._names = source.bins(), source.label_names
        self._corpus = trace.header["corpus"] if corpus is None else {
            "name": corpus.name, "fingerprint": corpus.fingerprint}
        self._about = f"{self._corpus['name']!r}; {self._bins.describe()}"
        self._painting, self._telling = threading.Lock(), threading.Lock()
        self._painted, self._said = Snapshot(version=-1), ("", False)
        self._pictured: tuple = ()  # what the canvas shows
        self._scored: tuple = ()  # and the evaluations that it tells of
        self._shown = self._painted  # the run that it shows; of two that it compares, B
        self._charted, self._chart_due = 0.0, False  # when the curves were drawn; are they behind the rest?
        self._turned: dict[str, Any] = {}  # live knobs, by the last hand on them
        self._touched = 0.0  # when a hand was last heard of
        self._rolling = False  # is a recording being played?
        self._exporting: threading.Thread | None = None
        self._saved, self._saved_text, self._unsaved = None, "", False
        self._build(recipe if against is None else against)
        self._asked = threading.Event()
        self.canvas.observe(lambda _: self.engine.wake(), "seen")
        self.engine.start()
        self._painter = threading.Thread(target=self._paint_on, name="xmc-painter", daemon=True)
        self._painter.start()
        beside.append(self)

    @classmethod
    def load(cls, trace: Trace | str | Path, corpus: Corpus | None = None, **options: Any) -> Lab:
        """A laboratory on a recording: a trace, or the folder of one. Its corpus is needed only to train further."""
        return cls(corpus, trace=trace if isinstance(trace, Trace) else Trace(trace), **options)

    @classmethod
    def from_text(cls, text: str, corpus: Corpus | None = None) -> Lab:
        """The laboratory that `share` has described; a corpus is loaded by its name unless it is given.

        Raises ValueError for a text that is no such description, CorpusError if there is no such corpus.
        """
        state = sharing.from_text(text)
        corpus = corpus or load_corpus(state["corpus"])
        lab = cls(corpus, state.get("recipe"), against=state.get("against"), steps=state["steps"],
                  preset=state["preset"])
        if not corpus.fingerprint.startswith(state.get("fingerprint", "")):
            lab._say(f"The corpus {corpus.name!r} differs from the one of whoever shared this (other versions of its "
                     f"packages, say): numbers will differ too.")
        return lab

    # --- in code

    @property
    def state(self) -> str:
        """ "building", "paused", "playing", "finished", "failed", "stopped" or "recorded"."""
        return self.engine.snapshot.state

    @property
    def recipe(self) -> Recipe:
        """The recipe as the knobs have left it."""
        return self.engine.snapshot.recipe

    @property
    def trace(self) -> Trace:
        """What was recorded so far; of two runs, of B."""
        return self.engine.trace()

    @property
    def traces(self) -> dict[str, Trace]:
        """The record of each run: {"A": ..., "B": ...}, or {"B": ...} where there is one."""
        other = {} if self.engine.snapshot.other is None else {"A": self.engine.trace(other=True)}
        return other | {"B": self.engine.trace()}

    def run(self, steps: int) -> Trace:
        """Train for `steps` steps, return when they are done. Raises whatever made the run fail."""
        try:
            self.engine.run_for(steps)
        finally:
            self._paint(self.engine.snapshot, whole=True)
        return self.trace

    def share(self) -> str:
        """The state of this laboratory as one short line of text: corpus, steps, preset and what differs in recipes."""
        return self._share(self.engine.snapshot)

    def _share(self, snapshot: Snapshot) -> str:
        a = snapshot.other
        recipe = snapshot.recipe.replace(**snapshot.planned)
        return sharing.to_text(self._corpus["name"], self._corpus["fingerprint"], max(snapshot.steps, 1), self.preset,
                               recipe if a is None else a.recipe, None if a is None else recipe)

    def export(self, folder: str | Path = EXPORTS) -> dict[str, Path]:
        """Write figure, recipe and trace into a folder; returns the path of each, PNG only where there is a browser.

        The figure (HTML) has the curves and, below them, the connectivity at the frame on the screen. Of two runs there
        are the recipe and the trace of each: "recipe-A", "recipe-B", "trace-A", "trace-B".
        Raises OSError, naming the path, where that cannot be.
        """
        snapshot = self.engine.between_steps(lambda: self.engine.snapshot)  # not while it is built or loaded
        self._paint(snapshot, whole=True)
        name = f"{self._corpus['name']}-run{snapshot.run}-step{snapshot.step}"
        sides = {"": snapshot} if snapshot.other is None else {"A": snapshot.other, "B": snapshot}
        folder, traces = Path(folder).expanduser(), [self.engine.trace(other=run == "A") for run in sides]
        step = snapshot.step if self.scrubber.step is None else self.scrubber.step
        stills = "".join(f"<div>{self._still(side, step, run) or NO_PICTURE.get(side.recipe.output, '')}</div>"
                         for run, side in sides.items())
        said = self._text(snapshot if snapshot.state == "failed" else replace(snapshot, message=""))  # no advice
        below = f'<p class="words">{html.escape(said)}</p><div class="stills">{stills}</div>'
        files = sharing.export(folder, name, self.charts.copy(), *(side.recipe for side in sides.values()),
                               alt=described(snapshot), below=below)
        return files | self.engine.between_steps(lambda: sharing.pack(folder, name, *traces))

    def close(self) -> None:
        """End the run and take the laboratory off the screen; `trace` stays. Harmless the second time."""
        self.engine.close()
        for thread in (self._painter, self._exporting):
            if thread not in (None, threading.current_thread()):
                self.engine.wake()
                thread.join(10)
        for part in (self.widget, *self.knobs.all):
            close_with_parts(part)

    # --- the parts

    def _build(self, recipe: Recipe) -> None:
        engine = self.engine
        self.buttons = {name: W.Button(description=name, icon=icon, tooltip=tip) for name, icon, tip in BUTTONS}
        self.buttons["Play"].button_style = "primary"
        self.many = W.BoundedIntText(value=10, min=1, max=100_000, tooltip="How many steps the button before it takes")
        self.many.observe(lambda event: setattr(self.buttons["+10"], "description", f"+{event.new}"), "value")
        for name, press in (("Play", self._play), ("Pause", self._pause), ("Step", engine.step),
                            ("+10", lambda: engine.step(self.many.value)), ("Reset", engine.reset)):
            self.buttons[name].on_click(lambda _, press=press: self._press(press))
        self.knobs = Knobs(recipe, self.corpus, self._change,
                           lambda **options: self._press(lambda: engine.plan(**options)))
        self.presets = W.Dropdown(options=list(PRESETS), value=self.preset, tooltip="Show the knobs of one lesson")
        self.knobs.show(preset_of(self.preset).knobs)
        self.presets.observe(lambda event: self._choose(event.new), "value")
        self.compare = _toggle("A|B", "Keep this run as A and start B, on the same documents in the same order")
        self.compare.observe(lambda event: self._compare(event.new), "value")
        self.branch = W.Button(description="Branch", icon="code-fork", tooltip="Branch: keep this run as A, and "
                               "continue B from the frame on the screen with the knobs as they stand")
        self.branch.on_click(lambda _: self._press(self._branch))
        self.present = _toggle("Present", "Present: large type and no code; Escape ends it", "desktop")
        self.present.observe(lambda event: self._present(event.new), "value")
        self.more = _toggle("More", "More: share this, save what it shows, measure the gradient", "ellipsis-h")
        self.status, self.message = W.HTML(), W.HTML()
        self.status.add_class("xmc-status-box")
        self.scrubber = Scrubber(self._ask)
        self.charts, self.canvas = Charts(), ConnectivityCanvas()
        self.alt = W.HTML()
        self.alt.add_class("xmc-alt")
        self.page = Page(self.canvas, self.charts.figure, curves=self.charts.figure.model_id)
        self.page.observe(lambda event: setattr(self.present, "value", event.new), "presenting")
        self.page.observe(lambda _: self.present.value and self._present(True), "narrow")
        self.canvas.observe(self._frame_chosen, "frame")
        self.canvas.observe(self._space_pressed, "playing")
        self.canvas.observe(lambda event: self.charts.figure.show_bin(event.new), "brushed")
        toolbar = W.HBox([*list(self.buttons.values())[:4], self.many, self.buttons["Reset"], self.status, self.presets,
                          self.compare, self.branch, self.present, self.more, self.page])
        drawer = self._drawer()
        self.more.observe(lambda event: self._open(drawer, event.new), "value")
        body = W.HBox([self.knobs.widget, self.canvas, self.charts.figure])
        self.widget = W.VBox([toolbar, drawer, self.message, body, self.alt, self.scrubber.widget])
        for box, name in ((self.widget, "xmc-lab"), (toolbar, "xmc-toolbar"), (body, "xmc-body"),
                          (drawer, "xmc-drawer"), (self.many, "xmc-many")):
            box.add_class(name)
        for widget in (*self.buttons.values(), self.many, *self.knobs.all, self.presets, self.compare, self.branch,
                       self.present, self.more, *self._saving, self.scrubber.slider, *self.scrubber.buttons,
                       self.scrubber.looks, self.canvas, self.charts.figure, self.page):
            hear_while_a_cell_runs(widget)

    def _drawer(self) -> W.Widget:
        """The row that the button More shows."""
        folder = W.Text(value=EXPORTS, description="folder", tooltip="Where files are saved", continuous_update=False)
        save = W.Button(description="Save files", tooltip="Figure (HTML, and PNG with a browser), and recipe and "
                        "trace of each run")
        save.on_click(lambda _: self._save_files(folder.value))
        self.shared = W.Text(description="share", disabled=False, tooltip="This laboratory as text")
        self.shared.add_class("xmc-share")
        copy = W.Button(description="Copy", tooltip="Copy the text; xe.Lab.from_text makes the laboratory again")
        copy.on_click(lambda _: setattr(self.page, "copy", [self.shared.value, self.page.copy[1] + 1]))
        self.budget = W.Checkbox(value=_probed(self.engine.snapshot.recipe), indent=False,
                                 description="gradient budget (2 % slower, from Reset on)",
                                 tooltip=f"Measure at every {PROBE_INTERVAL}th step who pushes the encoder: head, "
                                         "torso, tail or auxiliary. A measurement takes less than one step")
        self.budget.observe(lambda event: self._probe(event.new), "value")
        self.page.observe(lambda _: self._say("Copied: xe.Lab.from_text(...) makes this laboratory again."), "copied")
        self._saving = (self.shared, copy, folder, save, self.budget)
        drawer = W.HBox(self._saving)
        drawer.layout.display = "none"
        return drawer

    # --- what controls do: every one returns at once

    def _press(self, command: Callable[[], Any]) -> None:
        self._said = ("", False)
        self._touch()
        try:
            command()
        except (RuntimeError, ValueError) as error:
            self._say(str(error), wrong=True)
        self._tell()  # at once: the engine may be in the middle of an evaluation

    def _play(self) -> None:
        if self.state == "recorded":
            if self.scrubber.at >= self.scrubber.last:
                self.scrubber.to(0)
            self._rolling = True
            self._ask()
        else:
            self.engine.play()

    def _change(self, **options: Any) -> None:
        self._turned = options
        self._press(lambda: self.engine.change(**options))

    def _pause(self) -> None:
        self._rolling = False
        if self.state != "recorded":
            self.engine.pause()

    def _compare(self, on: bool) -> None:
        if threading.get_ident() != self._hand:
            self._press(self.engine.compare if on else self.engine.single)

    def _branch(self) -> None:
        frame = frame_at(self.engine.snapshot, self.scrubber.shown)
        self.scrubber.follow()
        self.engine.branch(frame)

    def _choose(self, name: str) -> None:
        self.preset, preset = name, preset_of(name)
        self.knobs.show(preset.knobs)
        self.knobs.set(**{option: value for option, value in preset.options.items()
                          if option in LIVE_KNOBS + REBUILD_KNOBS})
        if preset.options.items() >= BUDGET.items():
            self.budget.value = True
        self._say(f"Preset {name!r}: {preset.about}.")

    def _open(self, drawer: W.Widget, on: bool) -> None:
        drawer.layout.display = "" if on else "none"
        self._ask()

    def _probe(self, on: bool) -> None:
        if threading.get_ident() != self._hand:
            self._press(lambda: self.engine.plan(**(BUDGET if on else {"probe_interval": 0})))

    def _present(self, on: bool) -> None:
        (self.widget.add_class if on else self.widget.remove_class)("xmc-present")
        self.page.presenting = on
        self.charts.size(TYPE if not on else NARROW_TYPE if self.page.narrow else PRESENTED_TYPE, presented=on)

    def _save_files(self, folder: str) -> None:
        if self._exporting is not None and self._exporting.is_alive():
            return self._say("The files before these are still being written.")

        def work() -> None:
            try:
                files = self.export(folder)
                figure = files["figure"].resolve()
                endings = ", ".join(path.name.removeprefix(figure.stem) for path in files.values())
                missing = "" if "picture" in files else "; no PNG: no browser on this machine"
                self._say(f"Saved in {figure.parent}: {figure.stem} ({endings}{missing}).")
            except Exception as error:  # whatever it is: nobody else would say that it is over
                known = isinstance(error, (OSError, ValueError, RuntimeError)) and str(error)
                self._say(f"Not saved: {known or named(error)}", wrong=True)

        self._say("Saving ...")
        self._exporting = threading.Thread(target=work, name="xmc-export", daemon=True)
        self._exporting.start()

    def _frame_chosen(self, event: dict[str, Any]) -> None:
        """The keys of the canvas move its frame: one of the run on it, or of all moments where it shows two."""
        if threading.get_ident() == self._hand or event.new >= self.canvas.frames:  # a page may be a reset behind
            return
        self._pictured = self._pictured[:1]
        if self.canvas.in_difference:
            self.scrubber.to(event.new)
        else:
            self.scrubber.to_step(self._shown.store.steps[event.new])

    def _space_pressed(self, event: dict[str, Any]) -> None:
        if threading.get_ident() != self._hand:
            self._press(self._play if event.new else self._pause)

    def _say(self, words: str, wrong: bool = False) -> None:
        self._said = (words, wrong)
        self._ask()

    def _ask(self) -> None:
        """Have the painter paint, though the run has not changed."""
        if not self._rolling:
            self._touch()
        self._asked.set()
        self.engine.wake()

    def _touch(self) -> None:
        """A hand has moved: its answer goes before the next step and before the curves."""
        self._touched = time.monotonic()
        self.engine.make_way()

    # --- painting: the painter's thread, and `run` once when it is done

    _hand = 0  # the thread that is painting

    def _paint_on(self) -> None:
        """Show the latest snapshot, as often as the browser keeps up with and at most `FRAMES_PER_SECOND` times.

        What was asked for by hand overtakes a paint that was not. In words a command is answered by the run's own
        thread (`_tell`): a picture takes longer, and so does what a notebook keeps.
        """
        asked = self._asked.is_set
        wait = partial(self.engine.wait, steps=False)
        while self._painted.state != "stopped":
            def due(s: Snapshot) -> bool:
                return s.version > self._painted.version or asked() or self._chart_due

            if not due(self.engine.wait(due, REST_SECONDS if self._unsaved else None)):
                self._save(self._painted)
                continue
            wait(lambda s: asked() or s.to_go != 1, SETTLE_SECONDS)
            by_hand = asked()
            self._asked.clear()
            snapshot, started, spent = self.engine.snapshot, time.monotonic(), time.thread_time()
            self._paint(snapshot, by_hand)

            def news(s: Snapshot, before: Snapshot = snapshot) -> bool:
                """Has a command been obeyed, or the run come to rest?"""
                return s.handled > before.handled or before.state != s.state != "playing"

            def free(s: Snapshot, by_hand: bool = by_hand) -> bool:
                """Is the browser done with this paint, or is there something that need not wait for it?"""
                return self.canvas.seen >= self.canvas.tick or asked() and not by_hand or s.state == "stopped"

            wait(free, BLIND_SECONDS)
            if self._rolling:
                self._roll()
            spent = time.thread_time() - spent  # of this thread alone: it is the run that the others compute
            pause = max(0.0, started + max(1 / FRAMES_PER_SECOND, spent / PAINTER_SHARE) - time.monotonic())
            wait(lambda s: asked() or news(s) or s.state == "stopped", pause)  # noqa: B023

    def _tell(self) -> None:
        """Say in words what is so at this moment; whoever is last says the latest."""
        with self._telling:
            snapshot = self.engine.snapshot
            pending, said = self.engine.pending, self._said
            self.status.value = _status(snapshot, pending)
            if pending == "change" and snapshot.state in ("paused", "playing") and _fits(snapshot.recipe, self._turned):
                said = next_step(self._turned), False  # no step can come before it
            self.message.value = _message(snapshot, self._about, *said)

    def _roll(self) -> None:
        """Play a recording: on to its next frame."""
        if self.scrubber.at >= self.scrubber.last:
            self._rolling = False
        else:
            self.scrubber.to(self.scrubber.at + 1)

    def _paint(self, snapshot: Snapshot, asked: bool = False, whole: bool = False) -> None:
        """Show a snapshot: what answers a hand at once, the curves with the next paint unless it is to be `whole`."""
        with self._painting:
            if snapshot.version <= self._painted.version and not asked and not self._chart_due:
                return
            now = time.monotonic()
            soon = now - self._charted < 1 / CHARTS_PER_SECOND and snapshot.state == "playing"
            answers = snapshot.handled > self._painted.handled or asked and not self._rolling
            self._chart_due = not whole and (answers or soon or now - self._touched < HAND_SECONDS)
            self._hand = threading.get_ident()
            if snapshot.state == "failed" and self._painted.state != "failed":
                self._said = ("", False)  # why it failed comes after whatever was said before
            try:
                self._tell()
                step = self.scrubber.paint(snapshot)
                # In one message: a page that hears first that the old picture is gone loses the focus that was on it.
                with self.canvas.drawing, self.canvas.hold_sync():
                    self._draw_connectivity(snapshot, step)
                    self.canvas.playing = snapshot.state == "playing" or self._rolling
                if not self._chart_due:
                    self.charts.draw(snapshot, None if self.scrubber.step is None else step)
                    self.alt.value = f"<p>Curves over training steps. {html.escape(described(snapshot))}</p>"
                    self._charted = time.monotonic()
                self.knobs.mark(snapshot.planned)
                if self.engine.obeyed(snapshot):  # or refused; before, a press would be taken back
                    self.compare.value = snapshot.other is not None
                if self.more.value:
                    self.shared.value = self._share(snapshot)
                with self.canvas.drawing:
                    self.canvas.tick += 1
                self._unsaved = self._saved is not None and snapshot.state in ("paused", *ENDED)
                if whole or snapshot.state == "stopped":
                    self._save(snapshot)
            except Exception as error:  # a thread that dies would leave a picture that looks alive
                words = f"The picture cannot be drawn ({named(error)}); the run goes on."
                self.message.value = _words(words, wrong=True)
            finally:
                self._hand = 0
            self._painted = snapshot

    def _draw_connectivity(self, snapshot: Snapshot, step: int) -> None:
        a, b, look = snapshot.other, snapshot, self.scrubber.looks.value
        if a is None or look == "difference" and a.features != b.features:
            look = "B"
        shown = self._shown = a if look == "A" else b
        runs = (look, snapshot.run, None if a is None else a.run)
        if not shown.features:
            words = NO_PICTURE.get(shown.recipe.output, "")
            if self._pictured != ("no picture", words):
                self.canvas.clear(words)
                if words:  # and so nothing that could bring the other bins back
                    self.canvas.brushed = ""
            self._pictured = "no picture", words
            return
        frames = tuple(frame_at(side, step) for side in ((a, b) if look == "difference" else (shown,)))
        if self._pictured != (runs, frames):
            if self._pictured[:1] != (runs,):
                self.canvas.begin(shown.store, self._bins, self._names, shown.features)
                self._scored = ()
            if look == "difference":
                self.canvas.show_difference(a.store.seek(frames[0]), b.store.seek(frames[1]))
            else:
                born = self._pictured[:1] == (runs,) and self.scrubber.step is None
                self.canvas.show(frames[0], flash=born)
            self._pictured = runs, frames
        self._tell_scores(*((a, b) if look == "difference" else (shown,)))
        if look == "difference":  # its keys go through the moments of both
            self.canvas.frame, self.canvas.frames = self.scrubber.at, self.scrubber.last + 1
        else:
            self.canvas.frames = shown.n_frames

    def _tell_scores(self, *sides: Snapshot) -> None:
        """P@k of each label at the last evaluation; of a difference, of both runs. More has no room in the line."""
        scored = self._pictured[0], *(side.evaluations for side in sides)
        if scored == self._scored:
            return
        scores: dict[str, Any] = {}
        for run, side in zip(("",) if len(sides) == 1 else ("A", "B"), sides, strict=True):
            for name, values in scores_of(side.of_labels).items():
                if name.startswith("P@"):
                    scores[run if scores else f"{name} {run}".strip()] = values
        steps = dict.fromkeys(side.events["eval"][side.evaluations - 1]["step"] for side in sides if side.of_labels)
        self.canvas.score(scores, f" at step {', '.join(f'{step:,}' for step in steps)}" if scores else "")
        self._scored = scored

    # --- what a saved notebook keeps

    def _ipython_display_(self) -> None:
        display(live(self.widget), raw=True)
        snapshot = self.engine.snapshot
        self._saved_text = self._text(snapshot)
        self._saved = display(self._kept(snapshot), raw=True, display_id=True)

    def _save(self, snapshot: Snapshot) -> None:
        """Keep what the notebook shows when no kernel is there: after each rest, and when the laboratory is closed."""
        text, self._unsaved = self._text(snapshot), False
        if self._saved is not None and snapshot.state in ("paused", *ENDED) and text != self._saved_text:
            self._saved_text = text
            self._saved.update(self._kept(snapshot), raw=True)

    def _kept(self, snapshot: Snapshot) -> dict[str, str]:
        """Words, the latest connectivity and the curves as pictures: a notebook keeps an output, but no widget."""
        picture = self._still(snapshot, snapshot.step, "" if snapshot.other is None else "B")
        picture = picture if len(picture) <= MOST_KEPT else ""
        curves = drawn(snapshot)
        curves = "" if curves is None else curves.still(MOST_KEPT - len(picture))
        words = html.escape(self._text(snapshot)) + "\n  (what is left of a live laboratory: run the cell for another)"
        return {"text/html": saved(f"{picture}<pre>{words}</pre>{curves}"), "text/plain": self._text(snapshot)}

    def _still(self, side: Snapshot, step: int, name: str) -> str:
        """The connectivity of a run at a step as a picture; nothing where there is none."""
        at = frame_at(side, step)
        if at < 0 or not side.features:
            return ""
        frame = side.store.seek(at)
        return still(name, frame, self._bins, side.features, caption_of(frame, self._bins))

    def _text(self, snapshot: Snapshot) -> str:
        return _text(self._corpus["name"], snapshot)

    def __repr__(self) -> str:
        return self._text(self.engine.snapshot)


def _evaluated(recipe: Recipe, steps: int | None) -> Recipe:
    """Ten times a run is too seldom for who is watching."""
    often = recipe.eval_interval or (steps is not None and steps <= 10 * EVAL_INTERVAL)
    return recipe if often else recipe.replace(eval_interval=EVAL_INTERVAL)


def _fits(recipe: Recipe, options: dict[str, Any]) -> bool:
    try:
        recipe.replace(**{name: value for name, value in options.items() if name != "rewire_now"})
    except ValueError:
        return False
    return True


def _probed(recipe: Recipe) -> bool:
    return recipe.probe_interval > 0 and "budget" in recipe.probes


def _toggle(name: str, tip: str, icon: str = "") -> W.Widget:
    return W.ToggleButton(description=name, icon=icon, tooltip=tip)


def _text(corpus: str, s: Snapshot) -> str:
    """What a laboratory was, for whoever cannot see it."""
    lines = [f"Lab on {corpus!r}: {method_of(s.recipe)}, seed {s.recipe.seed}",
             f"  step {s.step:,} of {s.steps:,}, {_rewires(s)}, {s.state}"]
    if s.metrics:
        shown = ("P@1", "recall@5", "recall@5/head", "recall@5/torso", "recall@5/tail")
        lines.append("  " + ", ".join(f"{name} {s.metrics[name]:.1f}" for name in shown if name in s.metrics))
    if s.other is not None:
        lines.append(f"  beside run A: {method_of(s.other.recipe)}, step {s.other.step:,}")
    return "\n".join(lines + [f"  {s.message}"] * bool(s.message))


def _rewires(s: Snapshot) -> str:
    return "1 rewire" if s.rewires == 1 else f"{s.rewires:,} rewires"


def _status(s: Snapshot, pending: str = "") -> str:
    rate = "–" if s.steps_per_second is None else f"{s.steps_per_second:.0f}"
    rate = "" if s.state == "recorded" else f" · {rate} steps/s"
    other = "" if s.other is None else f' data-other-step="{s.other.step}"'
    # A reader that speaks each of twelve steps a second is of no use; it speaks when the run comes to rest.
    live = "off" if s.state == "playing" else "polite"
    state = PENDING.get(pending, s.state)
    of, rest = f" of {f'{s.steps:,}' if s.steps else '…'}", f" · {_rewires(s)}{rate}"
    return (f'<div class="xmc-status" role="status" aria-live="{live}" data-step="{s.step}" data-state="{state}"'
            f'{other} title="step {s.step:,}{of}{rest} · {state}"><b>step {s.step:,}</b>'
            f'<span class="xmc-of">{of}</span><span class="xmc-rest">{rest}</span><span> · <b>{state}</b></span></div>')


def _message(s: Snapshot, about: str, said: str = "", wrong: bool = False) -> str:
    if said:
        return _words(said, wrong)
    if s.state == "failed":
        return _words(f"{s.message[:1].upper()}{s.message[1:].rstrip('.')}. Reset starts over.", wrong=True)
    if s.message:
        return _words(s.message)
    if s.state == "building":
        return _words("Building the model: the first time takes some seconds.")
    if s.other is not None:
        a = s.other
        said = a.message if a.state == "failed" else f"A: {method_of(a.recipe)}, step {a.step:,} ({a.state})"
        changed = {name: value for name, value in vars(s.recipe).items() if value != getattr(a.recipe, name)}
        turned = ", ".join(f"{name} {value}" for name, value in changed.items()) or "the same so far: turn a knob"
        return _words(f"{said} · B: {method_of(s.recipe)}, {turned}", wrong=a.state == "failed")
    return _words(f"{method_of(s.recipe)} on {about}")


def _words(text: str, wrong: bool = False) -> str:
    kind = "xmc-message xmc-wrong" if wrong else "xmc-message"
    return f'<div class="{kind}" role="{"alert" if wrong else "note"}">{html.escape(text)}</div>'
