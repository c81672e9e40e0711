"""What the figures share: which runs they show and how those look, lines and marks, words and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..recipe import Recipe
from ..trace import Trace
from ..wording import numeral
from .picture import Picture
from .style import AUXILIARY, INK, TEMPLATE, Look, looks_of

STEP = "training step"
POINTS = 4000  # of one line: a longer run is drawn at evenly spaced steps
MARK = Look(INK, "dash", "circle")  # of a line that marks a place
NO_PROBE = "{} (give the recipe a probe_interval, and {!r} among its probes; an encoder without parameters has none)"
NO_GRADIENT = "a gradient in the encoder (encoder='features' has no parameters)"

Traces = Trace | Sequence[Trace] | Mapping[str, Trace | Sequence[Trace]]


# --- runs ---------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A trace with its name and look in a figure; runs of one `group` (seeds) share both look and legend."""

    name: str
    trace: Trace
    look: Look
    group: str


def method_of(recipe: Recipe) -> str:
    """What the method of a recipe is called: "dense", "bottleneck", "static", "SET", "grouped SET + head", ..."""
    name = recipe.output
    if name == "sparse":
        name = {"random": "SET", "gradient": "RigL"}[recipe.growth_mode] if recipe.rewires else "static"
        name = "grouped " * (recipe.group_size > 1) + name + " + head" * (recipe.head_share > 0)
    return (name + " + intermediate" * bool(recipe.intermediate) + " + auxiliary" * bool(recipe.aux_weight)
            + ", low precision" * (recipe.output_dtype != "float32"))


def runs_of(*traces: Traces) -> list[Run]:
    """Every run with its name and look: names are given (a dict) or those of the methods."""
    named: dict[str, list[Trace]] = {}
    for item in traces:
        if isinstance(item, Mapping):
            named |= {str(k): list(v) if isinstance(v, Sequence) else [v] for k, v in item.items()}
            continue
        for trace in item if isinstance(item, Sequence) else [item]:
            name = method_of(trace.recipe) if isinstance(trace, Trace) else ""
            number = 1 + sum(k.split(" #")[0] == name for k in named)
            named[name if number == 1 else f"{name} #{number}"] = [trace]
    found = [t for group in named.values() for t in group]
    if not found or not all(isinstance(t, Trace) for t in found):
        raise ValueError("give traces: one, a list, or a dict of names; got "
                         + (", ".join(type(t).__name__ for t in found) or "none"))
    looks = looks_of(named)
    return [Run(name if len(group) == 1 else f"{name}, {which}", t, looks[name], name)
            for name, group in named.items() for which, t in zip(_told_apart(group), group, strict=True)]


def _told_apart(group: list[Trace]) -> list[str]:
    seeds = [f"seed {t.recipe.seed}" for t in group]
    return seeds if len(set(seeds)) == len(group) else [f"run {i}" for i in range(1, len(group) + 1)]


def having(runs: list[Run], quantity: str, words: str, test: Callable[[np.ndarray], Any] = len) -> list[Run]:
    """The runs that recorded a quantity. Raises ValueError saying what is missing if none did."""
    kept = []
    for run in runs:
        try:
            kept += [run] if test(run.trace.history(quantity)[1]) else []
        except KeyError:
            continue
    if not kept:
        said = listed(f"{run.name} ({run.trace.status}, {run.trace.steps:,} steps)" for run in runs)
        raise ValueError(f"nothing to draw: {words} was not recorded in {said}")
    return kept


# --- drawing ------------------------------------------------------------------------------------------------------


def panels(title: str, y_titles: Sequence[str], heights: Sequence[float] | None = None, **x: Any) -> go.Figure:
    """An empty figure of panels one above the other. They share one x axis, so that one hover reads all of them."""
    n, gap = len(y_titles), 0.05
    heights = heights or [1 / n] * n
    layout: dict[str, Any] = dict(template=TEMPLATE, title_text=title, height=(400, 540, 620, 740, 860)[n - 1])
    top = 1.0
    for i, (text, height) in enumerate(zip(y_titles, heights, strict=True)):
        bottom = 0.0 if i == n - 1 else top - height * (1 - gap * (n - 1))
        layout[f"yaxis{i + 1 if i else ''}"] = dict(title_text=text, domain=[bottom, top], hoverformat=".4~g")
        top = bottom - gap
    steps = dict(title_text=STEP, hoverformat=",d", rangemode="tozero", unifiedhovertitle_text=STEP + " %{x}")
    return go.Figure(layout=layout | {"xaxis": (x or steps) | {"anchor": f"y{n if n > 1 else ''}"}})


def line(figure: go.Figure, x: np.ndarray, y: np.ndarray, name: str, look: Look, *, row: int = 1, width: float = 2,
         group: str | None = None, legend: bool = True, faint: bool = False) -> None:
    """One line; its dash and a few markers say what its colour says. A faint one is behind another and has no hover.

    Below the first panel the name says the panel too: the hover, the table and the description list all panels.
    """
    if row > 1:
        name += ", " + _one_line(figure.layout[f"yaxis{row}"].title.text).removesuffix(" (log scale)")
    thin = slice(None) if len(x) <= POINTS else np.union1d(np.linspace(0, len(x) - 1, POINTS).astype(int),
                                                           np.flatnonzero(np.isnan(y)))
    figure.add_scatter(
        x=x[thin], y=y[thin], name=name, yaxis=f"y{row if row > 1 else ''}", legendgroup=group or name,
        showlegend=legend and not faint, line=dict(color=look.color, dash=look.dash, width=1 if faint else width),
        mode="lines" if faint else "lines+markers", opacity=0.35 if faint else 1,
        marker=dict(symbol=look.symbol, size=8, maxdisplayed=12), hoverinfo="skip" if faint else None)


def smoothed(figure: go.Figure, runs: list[Run], quantity: str, smooth: int | None, row: int = 1,
             unit: str = "steps") -> str:
    """A quantity of each step, thin, and its running median, bold; returns "... (a to b), ..." of the latter.

    `smooth` is the window of the median in steps (or in probes, where that is the `unit`); by default a fortieth of the
    run.
    """
    ends: dict[str, list[tuple[float, float]]] = {}
    windows = set()
    for run in runs:
        steps, values = run.trace.history(quantity.format(run.name))
        window = max(1, smooth if smooth is not None else len(steps) // 40)
        gaps = _gaps(steps)
        spell = np.searchsorted(gaps, np.arange(len(steps)))  # no median across a gap, and no line
        middle = pd.Series(values).groupby(spell).rolling(window, center=True, min_periods=1).median().to_numpy()
        steps = np.insert(steps, gaps + 1, steps[gaps] + 1)
        values, middle = (np.insert(np.asarray(of, float), gaps + 1, np.nan) for of in (values, middle))
        if window > 1:
            line(figure, steps, values, f"{run.name} each step", run.look, row=row, group=run.group, faint=True)
        first = row == 1 and run.group not in ends
        line(figure, steps, middle, run.group if first else run.name, run.look, row=row, width=3, group=run.group,
             legend=first)
        ends.setdefault(run.group, []).append((middle[0], middle[-1]))
        windows.add(window)
    said = [f"{group} ({' to '.join(span(values) for values in zip(*pairs, strict=True))})"
            for group, pairs in ends.items()]
    over = f"running median over {listed(map(str, sorted(windows)))} {unit}" if max(windows) > 1 else f"all {unit}"
    return f"{over}, from the first step to the last: {listed(said)}"


def _gaps(steps: np.ndarray) -> np.ndarray:
    """After which places nothing was recorded for far longer than from one record to the next."""
    apart = np.diff(steps)
    return np.flatnonzero(apart > 3 * np.median(apart)) if len(apart) else np.zeros(0, int)


def level(figure: go.Figure, y: float, text: str, row: int = 1) -> None:
    """A horizontal line through one panel with a word at its end, beside the panel where no curve runs through it."""
    axis = f"y{row if row > 1 else ''}"
    at = np.log10(y) if figure.layout[f"yaxis{axis[1:]}"].type == "log" else y
    figure.add_shape(type="line", xref="paper", x0=0, x1=1, yref=axis, y0=y, y1=y,
                     line=dict(color=MARK.color, dash=MARK.dash, width=1.5))
    if text:
        figure.add_annotation(xref="paper", x=1, yref=axis, y=at, text=text, showarrow=False, xanchor="left",
                              yanchor="middle", xshift=4, font_color=INK)
        figure.update_layout(margin_r=24 + 8 * max(map(len, text.split("<br>"))))


def log_axis(values: np.ndarray) -> dict[str, Any]:
    """A logarithmic axis with ticks for `values`: at powers of ten, or at 1, 2, 5 as well where they span little."""
    values = values[values > 0]
    low, high = (np.log10(values.min()), np.log10(values.max())) if len(values) else (0, 1)
    if high - low > 1.5:
        return dict(type="log", dtick=1, tickformat=",~r", minor=dict(dtick="D1", ticks="outside", ticklen=3))
    ticks = [m * 10.0**e for e in range(int(np.floor(low)) - 1, int(np.ceil(high)) + 1) for m in (1, 2, 5)]
    return dict(type="log", tickvals=ticks, ticktext=[f"{t:,.6g}" for t in ticks])


def log_if_wide(figure: go.Figure, row: int = 1) -> None:
    """A logarithmic axis where the bold lines of a panel span more than a factor of 20."""
    axis = str(row) if row > 1 else ""
    y = np.concatenate([t.y for t in figure.data if t.yaxis == f"y{axis}" and t.hoverinfo != "skip"])
    y = y[y > 0]
    if len(y) and y.max() > 20 * y.min():
        title = figure.layout[f"yaxis{axis}"].title.text + (" (log scale)" if row == 1 else "<br>(log scale)")
        figure.update_layout({f"yaxis{axis}": log_axis(y) | {"title_text": title}})


def mark_cutoffs(figure: go.Figure, runs: list[Run]) -> str:
    """A vertical line at the last step with an auxiliary objective, if the run went on; returns it in words."""
    said: dict[int, dict[str, None]] = {}
    for run in runs:
        steps, weight = run.trace.history("aux_weight")
        if weight.any() and (last := int(steps[np.flatnonzero(weight)[-1]])) < steps[-1]:
            said.setdefault(last, {})[run.group] = None
    for step in said:
        mark(figure, step, "auxiliary ends", AUXILIARY)
    ends = [f"at step {step:,} ({listed(groups)})" for step, groups in said.items()]
    return f"; the auxiliary objective ends {listed(ends)}" if ends else ""


def mark(figure: go.Figure, x: float, text: str, look: Look = MARK) -> None:
    """A vertical line through every panel with a word at its top."""
    log = figure.layout.xaxis.type == "log"
    figure.add_shape(type="line", x0=x, x1=x, yref="paper", y0=0, y1=1,
                     line=dict(color=look.color, dash=look.dash, width=1.5))
    figure.add_annotation(x=np.log10(x) if log else x, yref="paper", y=1, text=text, showarrow=False, xanchor="left",
                          yanchor="top", xshift=4, font_color=INK)


# --- words and tables ---------------------------------------------------------------------------------------------


def picture(figure: go.Figure, caption: str, table: pd.DataFrame | None = None, alt: str | None = None) -> Picture:
    """The finished figure, its legend put where it fits; table and description are made from its lines if not given."""
    title = figure.layout.title.text
    shown = sum(t.type == "scatter" and t.showlegend is not False for t in figure.data)
    if shown > 4:  # beside the panels, where it cannot grow into the title
        figure.update_layout(legend=dict(orientation="v", x=1.01, y=1, yanchor="top"), margin_t=64)
    elif shown < 2:
        figure.update_layout(showlegend=False, margin_t=64)
    return Picture(figure, caption, table_of(figure, STEP) if table is None else table,
                   f"{title}{'' if title.endswith('?') else '.'} {alt or _description(figure)}")


def table_of(figure: go.Figure, index: str) -> pd.DataFrame:
    """What the lines of a figure draw, one column a line."""
    columns = {t.name: pd.Series(t.y, index=t.x) for t in figure.data}
    return pd.concat(columns, axis=1).sort_index().rename_axis(index).reset_index()


def _description(figure: go.Figure) -> str:
    """The kind of figure, its axes, and each line with how it looks and where it runs, for whoever cannot see it."""
    said = []
    for t in figure.data:
        y = np.asarray(t.y, dtype=float)
        y = y[np.isfinite(y)]
        if t.hoverinfo != "skip" and len(y):
            said.append(f"{t.name} ({t.line.dash} line, {t.marker.symbol}) from {number(y[0])} to {number(y[-1])}, "
                        f"lowest {number(y.min())}, highest {number(y.max())}")
    x = np.concatenate([t.x for t in figure.data])
    return (f"Line chart of {listed(_one_line(axis.title.text) for axis in figure.select_yaxes())} over "
            f"{figure.layout.xaxis.title.text}, {number(x.min())} to {number(x.max())}: {'; '.join(said)}.")


def _one_line(text: str) -> str:
    return text.replace("<br>", " ")


def listed(parts: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *rest, last = parts
    return f"{', '.join(rest)} and {last}" if rest else last


def number(value: float) -> str:
    return numeral(value, ",.0f" if abs(value) >= 100 else ".3g")


def span(values: Iterable[float]) -> str:
    """One number, or the least and the greatest of several."""
    return "\N{EN DASH}".join(dict.fromkeys(map(number, (min(values), max(values)))))


def plain(value: float) -> str:
    return "no value" if np.isnan(value) else numeral(value, ".1f")


def percent(value: float) -> str:
    return "no value" if np.isnan(value) else f"{numeral(value, '.1f')} %"
