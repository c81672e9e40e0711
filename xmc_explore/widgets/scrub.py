"""`scrub(trace)`: a recorded run to go through frame by frame, or two of them side by side. Nothing is trained."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets as W
import numpy as np
from IPython.display import display

from ..corpora import LabelBins, label_bins
from ..frames import FrameStore
from ..plots import Picture
from ..plots.drawing import STEP
from ..plots.still import still
from ..plots.style import INK
from ..trace import Trace
from .canvas import ConnectivityCanvas, caption_of, scores_of
from .figure import Figure
from .guarded import MOST_KEPT, close_with_parts, hear_while_a_cell_runs, live, of_this_cell, saved
from .page import Page

MARK = "frame"  # the name of the line at the step of the frame
LINKED = ("view", "color", "order", "hovered", "pinned", "brushed", "playing")  # of two canvases side by side


class Scrub:
    """What `scrub` shows: `canvases` by name, `figures`, `widget`; `frame` is the position in the (first) run.

    `difference` shows the connections that only one of two runs has. `close()` takes it off the screen, as running its
    cell again does.
    """

    def __init__(self, runs: Mapping[str, Trace | FrameStore], pictures: tuple[Picture, ...], corpus: Any):
        self._runs = {name: _parts(run, corpus) for name, run in runs.items()}
        alone = len(runs) == 1
        self.canvases = {name: ConnectivityCanvas(transport=True, panel="side" if alone else "line") for name in runs}
        for name, canvas in self.canvases.items():
            store, bins, names, features, scores = self._runs[name]
            canvas.begin(store, bins, names, features, scores=scores)
            canvas.show(len(store) - 1)
        self._first = next(iter(self.canvases.values()))
        self._pictures = pictures
        self.figures = [_linked(picture) for picture in pictures]
        self._difference = W.ToggleButton(description="difference", tooltip="Connections that only one of the runs has")
        self._difference.observe(lambda _: self._show(), "value")
        self._links: list[W.Widget] = []
        boxes = [W.VBox([W.HTML(f"<b>{html.escape(name)}</b>"), canvas]) for name, canvas in self.canvases.items()]
        self._boxes = boxes
        page = Page(*self.canvases.values(), *self.figures)
        drawn = [part for figure, picture in zip(self.figures, pictures, strict=True)
                 for part in (figure, W.HTML(picture.html()))]
        self.widget = W.VBox([*([self._first] if alone else [self._difference, W.HBox(boxes)]), *drawn, page])
        self.widget.add_class("xmc-scrub")
        for name, box in zip(self.canvases, boxes, strict=True):
            box.add_class("xmc-beside")
            if not alone and name != next(iter(runs)):
                canvas = self.canvases[name]
                canvas.transport = False  # one slider for both
                self._links = [W.jslink((self._first, trait), (canvas, trait)) for trait in LINKED]
                canvas.observe(self._moved_second, "frame")
        for widget in (*self.canvases.values(), self._difference, *self.figures, page):
            hear_while_a_cell_runs(widget)
        self._first.observe(lambda _: self._show(), "frame")
        self._first.observe(lambda _: self._filter(), "brushed")
        self._first.observe(lambda _: self._grow(), "hovered")
        self._show()
        of_this_cell().append(self)

    @property
    def frame(self) -> int:
        return self._first.frame

    @frame.setter
    def frame(self, value: int) -> None:
        self._first.frame = int(value)

    @property
    def difference(self) -> bool:
        return self._difference.value

    @difference.setter
    def difference(self, value: bool) -> None:
        self._difference.value = value

    def close(self) -> None:
        for part in (self.widget, self._difference, *self._boxes, *self._links):
            close_with_parts(part)

    # --- one frame everywhere

    def _show(self) -> None:
        (name, (store, *_)), *others = self._runs.items()
        at = max(0, min(self._first.frame, len(store) - 1))
        step = store.steps[at]
        if self.difference and others:
            (other, (second, *_)), = others
            self._first.show_difference(store.seek(at), second.seek(_at_step(second, step)), (name, other))
        elif self._first.in_difference:
            self._first.show(at)
        for other, (second, *_) in others:
            heading = f"{name} and {other}, the difference" if self.difference else name
            self._boxes[0].children[0].value = f"<b>{html.escape(heading)}</b>"
            self._boxes[list(self._runs).index(other)].layout.display = "none" if self.difference else None
            if not self.difference:
                self.canvases[other].frame = _at_step(second, step)
        for figure in self.figures:
            with figure.drawing, figure.batch_update():
                figure.update_shapes(dict(x0=step, x1=step), selector=dict(name=MARK))

    def _moved_second(self, change: Any) -> None:
        """The arrow keys on the second canvas move the first, and that moves the second."""
        canvas = change.owner
        store, second = self._runs[next(iter(self._runs))][0], self._runs[list(self._runs)[1]][0]
        if change.new != _at_step(second, store.steps[self._first.frame]):
            self._first.frame = _at_step(store, second.steps[min(change.new, len(second) - 1)])
            canvas.frame = _at_step(second, store.steps[self._first.frame])

    def _filter(self) -> None:
        for figure in self.figures:
            figure.show_bin(self._first.brushed)

    def _grow(self) -> None:
        """A run that is still being recorded has more frames by now."""
        self._first.frames = len(self._runs[next(iter(self._runs))][0])

    # --- in a notebook

    def _ipython_display_(self) -> None:
        display(live(self.widget), raw=True)
        stills = ""
        for name, (store, bins, _, features, _) in self._runs.items():
            frame = store.seek(-1)
            stills += still(name if len(self._runs) > 1 else "", frame, bins, features, caption_of(frame, bins))
        words = f"<p>(The last frame of {self._words()}: run the cell to scrub.)</p>"
        figures = "".join(picture.still(MOST_KEPT) for picture in self._pictures)
        display({"text/html": saved(stills + words + figures), "text/plain": repr(self)}, raw=True)

    def _words(self) -> str:
        return " and ".join(f"{len(store)}" for store, *_ in self._runs.values())

    def __repr__(self) -> str:
        runs = (f"{name}: {len(store)} frames, to step {store.steps[-1]:,}. {canvas.caption}" for
                (name, (store, *_)), canvas in zip(self._runs.items(), self.canvases.values(), strict=True))
        return "\n".join([*runs, *(picture.caption for picture in self._pictures)])


def scrub(run: Trace | FrameStore | Mapping[str, Trace], *pictures: Picture, corpus: Any = None) -> Scrub:
    """Go through a recorded run frame by frame; show it as the last line of a cell.

    A trace, or the frames of a run that is still being recorded (then `corpus` names and bins its labels); or two
    traces by name, {"A": ..., "B": ...}, side by side under one slider, with the difference at a button. Figures given
    beside it, `xe.plots.per_bin(trace)` say, follow: brushing a bin lets the lines of others fade, and in those over
    the training steps a line marks the step.
    Raises ValueError for a run without connectivity, and for two runs of different layers, TypeError for no run.
    """
    runs = dict(run) if isinstance(run, Mapping) else {"run": run}
    if not 1 <= len(runs) <= 2:
        raise ValueError(f"one run or two can be scrubbed together; got {len(runs)}")
    for name, one in runs.items():
        if not isinstance(one, (Trace, FrameStore)):
            raise TypeError(f"{name!r} is {one!r}, no trace; load one with xe.Trace(folder) or xe.load_recording(name)")
        if not len(one.store if isinstance(one, Trace) else one):
            raise ValueError(f"{name!r} recorded no connectivity: its output layer is not sparse")
    found = Scrub(runs, pictures, corpus)
    shapes = {f"{len(bins.of_label):,} labels, {features:,} features"
              for _, bins, _, features, _ in found._runs.values()}
    if len(shapes) > 1:
        found.close()
        raise ValueError(f"these two cannot be compared: {' beside '.join(sorted(shapes))}")
    return found


def _parts(run: Trace | FrameStore, corpus: Any) -> tuple[FrameStore, LabelBins, list[str], int, dict]:
    """Store, bins, label names, D and scores of a run."""
    if isinstance(run, Trace):
        return run.store, run.bins(), run.label_names, run.width, scores_of(run.label_counts)
    indices = run.seek(0).indices
    names = [f"label {i}" for i in range(len(indices))] if corpus is None else corpus.label_names
    bins = label_bins(np.ones(len(indices), np.int64)) if corpus is None else corpus.bins()
    return run, bins, names, run.width, {}


def _at_step(store: FrameStore, step: int) -> int:
    """The last frame that is not after a step."""
    return max(int(np.searchsorted(store.steps, step, side="right")) - 1, 0)


def _linked(picture: Picture) -> Figure:
    """A figure that follows the canvas: one bin alone, and a line at the step of the frame.

    An x axis that is not titled `STEP` counts something else, ages or ranks say, and has no place for a step.
    """
    figure = Figure(picture.figure)
    if figure.layout.xaxis.title.text == STEP:
        figure.add_shape(name=MARK, type="line", xref="x", yref="paper", x0=0, x1=0, y0=0, y1=1,
                         line=dict(color=INK, width=1))
    return figure
