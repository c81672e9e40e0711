"""Which recorded moment of a run, or of two, is on the screen: the latest of a live run, until the slider is moved."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable

import ipywidgets as W

from .engine import Snapshot
from .guarded import Guarded


def moments(snapshot: Snapshot) -> list[int]:
    """The steps of all recorded frames of a run and of the one beside it; of evaluations where there are no frames."""
    sides = [side for side in (snapshot, snapshot.other) if side is not None]
    steps = {step for side in sides if side.store is not None for step in side.store.steps[:side.n_frames]}
    if not steps:
        steps = {0} | {e["step"] for side in sides for e in side.events.get("eval", [])[:side.evaluations]}
    return sorted(steps)


def frame_at(snapshot: Snapshot, step: int) -> int:
    """The last frame of a run at or before a step; -1 if it has none."""
    return bisect_right(snapshot.store.steps[:snapshot.n_frames], step) - 1 if snapshot.n_frames else -1


class Slider(Guarded, W.IntSlider):
    """A slider that one thread may move while another hears from the browser."""


BUTTONS = (("fast-backward", "First frame"), ("step-backward", "One frame back"), ("step-forward", "One frame on"),
           ("fast-forward", "Last frame, and follow the run"))


class Scrubber:
    """`step` is the step scrubbed to, or None while the live end is followed; `moved` is called when that changes."""

    def __init__(self, moved: Callable[[], None]):
        self.step: int | None = None
        self._moved = moved
        self._moments, self._live = [0], 0
        self.shown = 0  # the step on the screen
        self._mover = 0  # the thread that moves the slider itself
        self.slider = Slider(min=0, max=1, disabled=True, readout=False, description="frame", continuous_update=True)
        self.slider.observe(self._heard, "value")
        self.label = W.HTML()
        self.label.add_class("xmc-where")
        self.buttons = [W.Button(icon=icon, tooltip=tip) for icon, tip in BUTTONS]
        for button, move in zip(self.buttons, (lambda: 0, lambda: self.at - 1, lambda: self.at + 1,
                                               lambda: self.last), strict=True):
            button.on_click(lambda _, move=move: self.to(move()))
        self.looks = W.ToggleButtons(options=["A", "B", "difference"], value="difference",
                                     tooltips=["Connections of run A", "Connections of run B",
                                               "Connections that only one of them has"])
        self.looks.observe(lambda _: moved(), "value")
        self.looks.layout.display = "none"
        back, on = self.buttons[:2], self.buttons[2:]
        self.widget = W.HBox([*back, self.slider, *on, self.label, self.looks])
        self.widget.add_class("xmc-scrubber")

    @property
    def at(self) -> int:
        """The position among the moments."""
        return self._live if self.step is None else max(0, bisect_right(self._moments, self.step) - 1)

    @property
    def last(self) -> int:
        return len(self._moments) - 1

    def to(self, position: int) -> None:
        """Scrub to a moment; to the live end is to follow it."""
        position = max(0, min(position, self.last))
        self.step = None if position >= self._live else self._moments[position]
        if position > self._live:  # what only A has reached so far
            self.step = self._moments[position]
        self._moved()

    def follow(self) -> None:
        self.step = None
        self._moved()

    def to_step(self, step: int) -> None:
        """Scrub to the last moment at or before a step."""
        self.to(bisect_right(self._moments, step) - 1)

    def _heard(self, event: dict) -> None:
        if threading.get_ident() != self._mover:
            self.to(event.new)

    def paint(self, snapshot: Snapshot) -> int:
        """Bring the slider up to date with a run; returns the step that is on the screen."""
        found = moments(snapshot)
        self._live, self._moments = max(0, bisect_right(found, snapshot.step) - 1), found
        at = self.at
        self._mover = threading.get_ident()
        try:
            with self.slider.drawing:
                if self.slider.max != max(len(found) - 1, 1):  # the browser's slider needs some way to go
                    self.slider.max = max(len(found) - 1, 1)
                self.slider.disabled = len(found) == 1
                if self.slider.value != at:
                    self.slider.value = at
        finally:
            self._mover = 0
        self.label.value = self._words(at, snapshot)
        self.looks.layout.display = "" if snapshot.other is not None else "none"
        self.shown = snapshot.step if self.step is None else self._moments[at]
        return self.shown

    def _words(self, at: int, snapshot: Snapshot) -> str:
        step = self._moments[at]
        what = "the start" if step == 0 else f"rewire at {step:,}" if snapshot.n_frames else f"evaluation at {step:,}"
        live = ", live" if self.step is None and snapshot.state != "recorded" else ""
        return f'<span data-frame="{at}" data-step="{step}">frame {at + 1}/{len(self._moments)} ({what}){live}</span>'
