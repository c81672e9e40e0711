"""The curves of a laboratory without a browser: their latest values in words, and all of them in a static picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from ..plots import Picture, method_of
from ..plots.drawing import STEP, line, listed, log_if_wide, number, panels, picture, plain
from .charts import LINES, LOOKS, RUN_DASH, counted, points
from .engine import Snapshot

# A panel of each, from top to bottom: what it is called in words and beside its axis.
PANELS = {(1, 2): ("P@1 (%) and its parts", "P@1, its<br>parts (%)"), (2, 2): ("recall@5 (%)", "recall@5 (%)"),
          (1, 1): ("loss", "loss"), (2, 1): ("encoder gradient norm", "gradient norm"),
          (3, 1): ("share of the encoder's gradient", "share of<br>gradient")}


def described(snapshot: Snapshot) -> str:
    """What the curves show, and the latest value of each: for whoever does not see them."""
    return " ".join(_latest(name, side) for name, side in _sides(snapshot).items())


def drawn(snapshot: Snapshot) -> Picture | None:
    """The curves as a figure of panels one above the other, with a table of all evaluations; None before the first."""
    sides = _sides(snapshot)
    two = len(sides) > 1
    found = {}  # panel -> its curves
    for run, side in sides.items():
        for curve in LINES:
            x, y = points(side.events.get(curve.kind, []), counted(side)[curve.kind], curve.field)
            if np.isfinite(y).any() and (curve.panel != (2, 1) or y.any()):  # no norm: an encoder without parameters
                found.setdefault(curve.panel, []).append((run, curve, x, y))
    rows = [panel for panel in PANELS if panel in found]
    if not rows:
        return None
    figure = panels(f"How did runs {listed(sides)} go?" if two else "How did the run go?", [PANELS[p][1] for p in rows])
    named = set()
    for row, panel in enumerate(rows, 1):
        for run, curve, x, y in found[panel]:
            name, look = f"{run}: {curve.name}" if two else curve.name, LOOKS[curve.name]
            look = replace(look, dash=RUN_DASH[run]) if two else look
            line(figure, x, y, name, look, row=row, group=name, legend=name not in named)
            named.add(name)
        if panel in ((1, 1), (2, 1)):
            log_if_wide(figure, row)
    figure.update_yaxes(rangemode="tozero", selector=lambda axis: axis.type != "log")
    return picture(figure, described(snapshot), _evaluations(sides))


def _sides(snapshot: Snapshot) -> dict[str, Snapshot]:
    return {"B": snapshot} if snapshot.other is None else {"A": snapshot.other, "B": snapshot}


def _latest(run: str, side: Snapshot) -> str:
    values: dict[tuple[int, int], list[tuple[str, str]]] = {panel: [] for panel in PANELS}
    for curve in LINES:
        if n := counted(side)[curve.kind]:
            event = side.events[curve.kind][n - 1]
            value = event.get("metrics", event).get(curve.field)
            if value is not None and np.isfinite(value) and (value or curve.panel != (2, 1)):  # no norm: as above
                values[curve.panel].append((curve.name, plain(value) if curve.kind == "eval" else number(value)))
    said = [f"{PANELS[panel][0]} {', '.join(value if name == 'all' else f'{name} {value}' for name, value in pairs)}"
            for panel, pairs in values.items() if pairs]
    alone = run == "B" and side.other is None
    after = ("After" if alone else f"Run {run}, {method_of(side.recipe)}, after") + f" {side.step:,} step"
    after += "s" * (side.step != 1)
    return f"{after}: {'; '.join(said)}." if said else f"{after} there is no curve yet."


def _evaluations(sides: dict[str, Snapshot]) -> pd.DataFrame:
    fields = [curve.field for curve in LINES if curve.kind == "eval"]
    rows = [({"run": run} if len(sides) > 1 else {}) | {STEP: event["step"]}
            | {field: event["metrics"].get(field, np.nan) for field in fields}
            for run, side in sides.items() for event in side.events.get("eval", [])[:side.evaluations]]
    return pd.DataFrame(rows, columns=[*["run"] * (len(sides) > 1), STEP, *fields])
