"""The curves of one run or two: loss, gradient norm and metrics over steps, in one figure that is changed in place."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..corpora import BIN_NAMES
from ..plots.style import AUXILIARY, BINS, INK, TEMPLATE, Look
from .engine import Snapshot
from .figure import BareFigure

MOST_POINTS = 500
HEIGHT = 444  # pixels; lab.css has the same
TICKS, PRESENTED_TICKS = ([digit * 10.0**power for power in range(-6, 7) for digit in digits]
                          for digits in ((1, 2, 5), (1, 3)))  # of a logarithmic axis
ALL = Look(INK, "solid", "circle")


class Line(NamedTuple):
    """One curve: `field` of the events of a kind, drawn in a panel (row, column) with the look of `name`."""

    name: str
    kind: str
    field: str
    panel: tuple[int, int]


LINES = (
    Line("all", "step", "main", (1, 1)),
    Line("auxiliary", "step", "auxiliary", (1, 1)),
    Line("all", "step", "grad", (2, 1)),
    *(Line(name, "eval", f"{metric}{part}", (row, 2)) for row, metric in ((1, "P@1"), (2, "recall@5"))
      for name, part in (("all", ""), *((name, f"/{name}") for name in BIN_NAMES))),
    *(Line(name, "probe", f"budget/share/{name}", (3, 1)) for name in (*BIN_NAMES, "auxiliary")),
)
AUXILIARY_LOSS = 1  # where it is in LINES
TITLES = ("loss", "P@1 and its parts, %", "encoder gradient norm", "recall@5, %",  # row by row
          "who pushes the encoder")
PRESENTED_TITLES = ("loss", "P@1 in parts, %", "gradient norm", "recall@5, %", "who pushes")
# Where the panels of each column stand, from top to bottom; the budget of the gradient has one once it was probed.
TWO, THREE = ((0.58, 1.0), (0.0, 0.42)), ((0.74, 1.0), (0.38, 0.62), (0.0, 0.26))
TITLE_GAP = 0.01
NOTHING_TO_PUSH = "This encoder<br>has no<br>parameters:<br>nothing to push."
RUN_DASH = {"A": "solid", "B": "dash"}
LOOKS = {"all": ALL, "auxiliary": AUXILIARY, **BINS}


class Charts:
    """`figure` shows what `draw(snapshot)` was last given; only curves that grew are sent.

    Of two runs A is solid and B dashed, and the markers say which labels a curve is of.
    """

    def __init__(self):
        figure = make_subplots(rows=3, cols=2, shared_xaxes="all", horizontal_spacing=0.12, vertical_spacing=0.16,
                               specs=[[{}, {}], [{}, {}], [{}, None]], subplot_titles=TITLES)
        for name in ("A", "B"):  # in the legend alone
            figure.add_scatter(x=[None], y=[None], name=name, mode="lines", line=dict(color=INK, dash=RUN_DASH[name]),
                               visible=False, row=1, col=1)
        for run in ("A", "B"):
            first = set()
            for line in LINES:
                look = LOOKS[line.name]
                figure.add_trace(go.Scatter(
                    x=[], y=[], name=line.name, legendgroup=line.name, visible=run == "B",
                    showlegend=run == "B" and line.name not in {*first, "auxiliary"},
                    legendrank=1001 if line.name == "auxiliary" else 1000,  # the bins stay together
                    mode="lines" if line.kind == "step" else "lines+markers",
                    line=dict(color=look.color, dash=look.dash, width=1 if line.kind == "step" else 2),
                    marker=dict(symbol=look.symbol, size=6, color=look.color)), *line.panel)
                first.add(line.name)
        figure.update_layout(template=TEMPLATE, height=HEIGHT, autosize=True, font_size=13, uirevision="lab",
                             margin=dict(l=48, r=20, t=_top(13), b=40, autoexpand=False), hovermode="x unified",
                             legend=dict(x=0, xref="container", xanchor="left", y=1, yref="container", yanchor="top",
                                         font_size=13, tracegroupgap=0))
        figure.add_annotation(text=NOTHING_TO_PUSH, x=0.5, y=0.5, xref="x3 domain", yref="y3 domain", showarrow=False,
                              visible=False)
        figure.update_annotations(font_size=13, font_color=INK)
        # To see which of its numbers would not fit, plotly measures each of them at each drawing.
        figure.update_xaxes(ticklabeloverflow="allow").update_yaxes(ticklabeloverflow="allow")
        figure.update_xaxes(nticks=4, rangemode="tozero", spikethickness=1, spikecolor=INK, spikedash="dot")
        figure.update_xaxes(title=dict(text="step", standoff=4, font_size=13), showticklabels=True, tickangle=0,
                            tickformat=",")
        figure.update_yaxes(nticks=5, hoverformat=".3~g")
        figure.update_yaxes(rangemode="tozero", col=2)
        for row in (1, 2):
            figure.update_yaxes(type="log", **_ticks(TICKS), row=row, col=1)
        self._budget = False
        _arrange(figure, self._budget)
        self.figure = BareFigure(figure)
        n = len(LINES)
        self._keys, self._curves = self.figure.data[:2], {"A": self.figure.data[2:n + 2], "B": self.figure.data[n + 2:]}
        # of each run: which it is, and how many events of each kind are on the screen
        self._drawn: dict[str, tuple[int, dict[str, int]]] = {"A": (-1, {}), "B": (0, {})}
        self._marked: tuple[int | None, bool] = None, False  # the step that is marked; are there five panels?

    def curve(self, line: int, run: str = "B") -> go.Scatter:
        """The curve of a position in `LINES`."""
        return self._curves[run][line]

    def draw(self, snapshot: Snapshot, cursor: int | None = None) -> None:
        """Bring the curves up to date; `cursor` is a step to mark."""
        with self.figure.drawing:
            paired = self._drawn["A"][0] >= 0
            self._pair(snapshot.other is not None)
            with self.figure.batch_update():
                self._lay_out(snapshot, paired)
                if snapshot.other is not None:
                    self._draw("A", snapshot.other)
                self._draw("B", snapshot)
                self._mark(cursor)
            self._name_auxiliary()

    def _lay_out(self, snapshot: Snapshot, paired: bool) -> None:
        probed = snapshot.probes > 0 or snapshot.other is not None and snapshot.other.probes > 0
        if probed != self._budget:
            self._budget = probed
            _arrange(self.figure, probed)
        sides = (snapshot,) if snapshot.other is None else (snapshot, snapshot.other)
        nothing = all(side.recipe.encoder == "features" for side in sides)
        self.figure.layout.annotations[-1].visible = nothing
        # On a logarithmic axis that holds nothing plotly would crowd every number there is.
        self.figure.layout.yaxis3.update(showticklabels=not nothing, showgrid=not nothing)
        self._axes(snapshot, paired)

    def _mark(self, cursor: int | None) -> None:
        """Mark a step in each panel, and not across the titles between them."""
        if (cursor, self._budget) != self._marked:
            panels = [] if cursor is None else ["", "2", "3", "4", *["5"] * self._budget]
            self.figure.layout.shapes = [
                dict(type="line", x0=cursor, x1=cursor, y0=0, y1=1, xref=f"x{panel}", yref=f"y{panel} domain",
                     line=dict(color=INK, width=2, dash="dot")) for panel in panels]
            self._marked = cursor, self._budget

    def copy(self) -> go.Figure:
        """The figure as it is, without its widget."""
        with self.figure.drawing:
            return go.Figure(self.figure)

    def size(self, points: int, presented: bool = False) -> None:
        """Set the size of all type; large type has shorter titles and fewer ticks."""
        with self.figure.drawing, self.figure.batch_update():
            self.figure.update_layout(font_size=points, legend_font_size=points, margin_t=_top(points),
                                      margin_b=3 * points + 1, margin_l=3 * points + 9,  # of 13: as at first
                                      margin_r=round(1.5 * points))  # for half of a number at the end of an axis
            self.figure.update_annotations(font_size=points)
            # Large, 1,000 and 1,500 have no room beside each other.
            self.figure.update_xaxes(title_font_size=points, nticks=3 if presented else 4)
            self.figure.update_yaxes(nticks=3 if presented else 5, row=3, col=1)
            for row in (1, 2):
                self.figure.update_yaxes(**_ticks(PRESENTED_TICKS if presented else TICKS), row=row, col=1)
            for at, title in enumerate(PRESENTED_TITLES if presented else TITLES):
                self.figure.layout.annotations[at].text = title

    def _axes(self, snapshot: Snapshot, paired: bool) -> None:
        run, drawn = self._drawn["B"]
        empty = snapshot.step == 0 and snapshot.other is None
        if empty != (not drawn.get("step", 0) and not paired) or run != snapshot.run:
            # An empty logarithmic axis would show a dozen powers of ten.
            for row in (1, 2):
                self.figure.update_yaxes(row=row, col=1, **(dict(range=[0, 2]) if empty else dict(autorange=True)))

    def _pair(self, two: bool) -> None:
        if two == (self._drawn["A"][0] >= 0):
            return
        # One property at a time: of a curve that is left out in a change, plotly's page comes to forget that property.
        with self.figure.batch_update():
            for curve in (*self._keys, *self._curves["A"]):
                curve.visible = two
        with self.figure.batch_update():
            for line, a, b in zip(LINES, self._curves["A"], self._curves["B"], strict=True):
                a.line.dash = RUN_DASH["A"]
                b.line.dash = RUN_DASH["B"] if two else LOOKS[line.name].dash
        self._drawn["A"] = (0, {}) if two else (-1, {})

    def _name_auxiliary(self) -> None:
        """The legend has the auxiliary objective once there is something of it: in a narrow panel each name counts."""
        self.curve(AUXILIARY_LOSS).showlegend = any(
            line.name == "auxiliary" and curve.visible and np.isfinite(curve.y).any()
            for curves in self._curves.values() for line, curve in zip(LINES, curves, strict=True))

    def _draw(self, which: str, snapshot: Snapshot) -> None:
        lengths = counted(snapshot)
        run, drawn = self._drawn[which]
        for line, curve in zip(LINES, self._curves[which], strict=True):
            if run != snapshot.run or lengths[line.kind] != drawn.get(line.kind, 0):
                curve.x, curve.y = points(snapshot.events.get(line.kind, []), lengths[line.kind], line.field)
        self._drawn[which] = snapshot.run, lengths


def counted(snapshot: Snapshot) -> dict[str, int]:
    """How many events of each kind that a curve is drawn of a snapshot knows."""
    return {"step": snapshot.records, "eval": snapshot.evaluations, "probe": snapshot.probes}


def _ticks(ticks: list[float]) -> dict[str, Any]:
    return dict(tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks])


def _top(points: int) -> int:
    """Pixels over the panels: two lines of the legend, for two runs need as many, and a title."""
    return round(4.8 * points)


def _arrange(figure: go.Figure, budget: bool) -> None:
    """Place the panels, with the one of the gradient's budget or without it."""
    left, right = (*(THREE if budget else TWO), (0.0, 0.01))[:3], TWO
    axes = {1: left[0], 2: right[0], 3: left[1], 4: right[1], 5: left[2]}  # as plotly counts, row by row
    for number, domain in axes.items():
        suffix = "" if number == 1 else str(number)
        shown, lowest = budget or number < 5, number == 4 or number == (5 if budget else 3)
        figure.layout[f"yaxis{suffix}"].update(domain=domain, visible=shown)
        figure.layout[f"xaxis{suffix}"].update(visible=shown, showticklabels=lowest,
                                               title_text="step" if lowest else "")
        figure.layout.annotations[number - 1].update(y=domain[1] + TITLE_GAP, visible=shown)


def points(events: list[dict[str, Any]], n: int, field: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a field in the first `n` events: in each up to `MOST_POINTS`, then in every 2nd, 4th, ...

    The last is always among them.
    """
    stride = 1
    while n > stride * MOST_POINTS:
        stride *= 2  # powers of two: a point that is on the screen stays or goes, but never moves
    kept = [*range(0, n, stride)]
    if n and kept[-1] != n - 1:
        kept.append(n - 1)
    found = [(events[i]["step"], events[i].get("metrics", events[i]).get(field)) for i in kept]
    found = [(step, math.nan if value is None else value) for step, value in found]
    return (np.array([step for step, _ in found], np.int32), np.array([value for _, value in found], np.float64))
