"""The knobs of the laboratory: those that turn a run while it trains, and those that wait for its next reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as W

from ..corpora import Corpus
from ..recipe import Recipe

TENTHS = tuple(n / 10 for n in range(11))
# option, label, what it does, values, and how a value is said
SLIDERS = (
    ("lr_factor", "learning rates", "What every learning rate is multiplied by",
     (0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0), "× {:g}".format),
    ("rewire_interval", "rewire every", "Steps from one rewire to the next",
     (0, 5, 10, 20, 50, 100, 200, 500, 1000), lambda v: f"{v} steps" if v else "never"),
    ("rewire_fraction", "share that is rewired", "Share of all connections that a rewire moves; it falls in time",
     (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5), lambda v: f"{100 * v:g} %"),
    ("rewire_threshold", "rewired below", "A rewire moves the connections whose weight is smaller; it falls in time",
     (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2), "{:g}".format),
    ("aux_weight", "auxiliary weight", "Share of the auxiliary objective in the loss; it falls to 0 at its end",
     TENTHS, lambda v: f"{v:g}" if v else "none"),
    ("aux_cutoff", "auxiliary ends after", "Share of the run after which the auxiliary objective is over",
     TENTHS, lambda v: f"{100 * v:g} %"),
)
CHOICES = (
    ("loss", "loss", "What is minimised", (("cross-entropy", "bce"), ("squared hinge", "squared_hinge"))),
    ("growth_mode", "grow", "Which connections a rewire grows: any (SET), or those of the largest gradient (RigL)",
     (("random", "random"), ("gradient", "gradient"))),
    ("reset_moments", "moments", "What becomes of the optimizer's moments of a replaced slot",
     (("set to zero", True), ("kept", False))),
    ("prune_mode", "drop", "Which connections a rewire drops: a share, or all whose weight is below a threshold",
     (("a share", "fraction"), ("all below", "threshold"))),
)
# These need a new model, or another order of the documents.
REBUILD = (
    ("fan_in", "fan-in", "Connections that a label keeps", (2, 4, 8, 16, 32, 64), str),
    ("intermediate", "intermediate", "Width of a layer before the output layer",
     (0, 256, 512, 1024, 2048), lambda v: str(v) if v else "none"),
    ("encoder", "encoder", "What makes a vector of a document", ("bag", "transformer", "features"), str),
    ("seed", "seed", "Of everything random: weights, connections, the order of the documents", (0, 1, 2, 3, 4), str),
)
LIVE_KNOBS = tuple(knob[0] for knob in (*SLIDERS, *CHOICES))
REBUILD_KNOBS = tuple(knob[0] for knob in REBUILD)
REWIRING = ("rewire_interval", "rewire_fraction", "rewire_threshold", "growth_mode", "reset_moments", "prune_mode")
EFFECT = {"fraction": "rewire_fraction", "threshold": "rewire_threshold"}  # of the two, the one that the mode looks at


class Knobs:
    """`live` and `rebuild` are the knobs by option; `widget` holds all, `show` says which are on the screen.

    Turning one calls `change` or `plan` with the option and its value; the button calls `change(rewire_now=True)`.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus | None, change: Callable[..., None], plan: Callable[..., None]):
        self.live = {knob[0]: _slider(*knob, recipe) for knob in SLIDERS}
        self.live |= {option: _dropdown(option, label, tip, choices, recipe) for option, label, tip, choices in CHOICES}
        self.rebuild = {option: _dropdown(option, label, tip, _said(option, values, say, recipe, corpus), recipe)
                        for option, label, tip, values, say in REBUILD}
        self.rewire_now = W.Button(description="Rewire now", tooltip="Rewire with the next step, whatever the interval")
        self.rewire_now.on_click(lambda _: change(rewire_now=True))
        for knobs, turn in ((self.live, change), (self.rebuild, plan)):
            for option, knob in knobs.items():
                knob.observe(lambda event, option=option, turn=turn: turn(**{option: event.new}), "value")
        self._sparse = recipe.output == "sparse"
        if not self._sparse:
            for option in REWIRING:
                self.live[option].disabled = True
            self.rewire_now.disabled = True
        self.heading = W.HTML("<b>on reset</b>")
        self.widget = W.VBox()
        self.widget.add_class("xmc-knobs")
        for option in (*(knob[0] for knob in SLIDERS), "loss"):
            self.live[option].add_class("xmc-wide")
        self.live["prune_mode"].observe(lambda event: self._fit(event.new), "value")
        self._fit(recipe.prune_mode)
        self.heading.add_class("xmc-wide")
        self._marked: set[str] = set()
        self.show(None)

    @property
    def all(self) -> tuple[W.Widget, ...]:
        return (*self.live.values(), self.rewire_now, *self.rebuild.values())

    def show(self, names: tuple[str, ...] | None) -> None:
        """Put these knobs on the screen; None: all."""
        def chosen(option: str) -> bool:
            return (names is None or option in names) and (self._sparse or option != "fan_in")

        rebuild = [knob for option, knob in self.rebuild.items() if chosen(option)]
        self.widget.children = [*(knob for option, knob in self.live.items() if chosen(option)),
                                *([self.rewire_now] if chosen("rewire_now") else []),
                                *([self.heading, *rebuild] if rebuild else [])]

    def _fit(self, prune_mode: str) -> None:
        """Of share and threshold show the one that a rewire looks at; the list keeps its focus, as no child goes."""
        for mode, option in EFFECT.items():
            self.live[option].layout.display = "" if mode == prune_mode else "none"

    def set(self, **options: Any) -> None:
        """Turn knobs as a hand would."""
        for option, value in options.items():
            {**self.live, **self.rebuild}[option].value = value

    def mark(self, planned: dict[str, Any]) -> None:
        """Mark the knobs whose value waits for a reset."""
        for option in self._marked ^ set(planned):
            knob = self.rebuild.get(option)
            if knob is not None:
                (knob.add_class if option in planned else knob.remove_class)("xmc-planned")
        if self._marked != set(planned):
            self.heading.value = "<b>on reset</b>" + (": press Reset" if planned else "")
        self._marked = set(planned)


def _slider(option: str, label: str, tip: str, values: tuple, say: Callable[[Any], str], recipe: Recipe) -> W.Widget:
    value = getattr(recipe, option)
    choices = sorted({*values, value})  # a recipe may stand between two of ours
    # On release, not while dragging: each change is recorded, and a trace should hold decisions.
    return W.SelectionSlider(options=[(say(v), v) for v in choices], value=value, description=label,
                             tooltip=tip, continuous_update=False)


def _dropdown(option: str, label: str, tip: str, choices: tuple, recipe: Recipe) -> W.Widget:
    return W.Dropdown(options=choices, value=getattr(recipe, option), description=label, tooltip=tip)


def _said(option: str, values: tuple, say: Callable[[Any], str], recipe: Recipe, corpus: Corpus | None) -> tuple:
    value = getattr(recipe, option)
    if option == "encoder" and corpus is not None:
        there = {"bag": True, "transformer": corpus.train.texts is not None,
                 "features": corpus.train.features is not None}
        values = tuple(v for v in values if there[v])
    values = (*values, *([] if value in values else [value]))
    return tuple((say(v), v) for v in (values if option == "encoder" else sorted(values)))
