"""Yours beside the target: what a checker draws of an answer, right or wrong.

Each function here makes a `picture(arguments, yours, target)` for a `WriteFunction`. What students return can be
anything, so what cannot be drawn is left out, and the caption says so; no answer makes a picture fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..wording import numeral

Drawn = Callable[[tuple, Any, Any], Any]

YOURS, TARGET = "yours", "target"
MOST = 1e9  # no exercise asks for larger numbers, and one of them would flatten all others
WORDS = ("not<br>marked", "marked", "missing", "marked<br>in error")


def curves(title: str, unit: str, x_title: str, at: Callable[..., np.ndarray]) -> Drawn:
    """Two curves over `at(*arguments)`, for answers [n]."""

    def picture(arguments: tuple, yours: Any, target: np.ndarray) -> Any:
        from ..plots import drawing
        from ..plots.style import looks_of

        x, mine, looks = at(*arguments), _like(yours, target), looks_of((YOURS, TARGET))
        figure = drawing.panels(title, [unit], title_text=x_title, hoverformat=",d", rangemode="tozero")
        drawing.line(figure, x, target, TARGET, replace(looks[TARGET], dash="solid"), width=10)
        figure.data[0].opacity = 0.5  # a broad band, so that it shows below the other
        if mine is not None:
            drawing.line(figure, x, mine, YOURS, looks[YOURS], width=3)
        figure.update_yaxes(rangemode="tozero")
        said = _compared(mine, target, "points", lambda i: f"at {x_title} {x[i]:,}")
        return drawing.picture(figure, said, drawing.table_of(figure, x_title))
    return picture


def dots(title: str, unit: str, names: Sequence[str]) -> Drawn:
    """Two dots a name, for answers with a number for each."""

    def picture(arguments: tuple, yours: Any, target: np.ndarray) -> Any:
        from ..plots import numbers

        mine = _like(yours, target)
        columns = {TARGET: target} if mine is None else {YOURS: mine, TARGET: target}
        found = numbers(pd.DataFrame(columns, index=list(names)), title, unit)
        said = _compared(mine, target, "numbers", lambda i: f"for {names[i]}")
        return replace(found, caption=f"{said} {found.caption[0].upper()}{found.caption[1:]}")
    return picture


def cells(title: str, rows: str, columns: str, at: Callable[..., tuple[np.ndarray, np.ndarray]],
          value: Callable[..., np.ndarray] | None = None, value_name: str = "") -> Drawn:
    """Two tables of cells, marked or not, side by side, for Boolean answers [n, m].

    `at(*arguments)` gives the numbers of rows and columns; `value`, called `value_name`, a number a cell for the hover.
    """

    def picture(arguments: tuple, yours: Any, target: np.ndarray) -> Any:
        from ..plots import drawing

        mine, (row_names, column_names) = _like(yours, target), at(*arguments)
        blocks, said = {TARGET: target.astype(float)}, _alone(target)
        if mine is not None:
            state = np.select([np.isnan(mine), (mine != 0) == target, target], [np.nan, target, 2], 3)
            blocks, said = {YOURS: state} | blocks, _marked(state, target)
        i, j = np.indices(target.shape)
        table = {rows: row_names[i.ravel()], columns: column_names[j.ravel()]}
        table |= {name: [_word(s) for s in block.ravel()] for name, block in blocks.items()}
        if value is not None:
            table[value_name] = value(*arguments).ravel()
        table = pd.DataFrame(table)
        return drawing.picture(_side_by_side(title, blocks, table), said, table,
                               f"Cells, a row a {rows}, a column a {columns}: {' beside '.join(blocks)}. {said}")
    return picture


def _side_by_side(title: str, blocks: dict[str, np.ndarray], table: pd.DataFrame) -> Any:
    import plotly.graph_objects as go

    from ..plots.style import GRID, INK, TEMPLATE

    rows, columns = table.columns[:2]
    n, m = next(iter(blocks.values())).shape
    apart, empty = m + max(2, m // 8), np.full((n, max(2, m // 8)), np.nan)
    z = np.hstack([part for block in blocks.values() for part in (block, empty)][:-1])
    values = [f"<br>{name} {numeral(v)}" for name in table.columns[2 + len(blocks):] for v in table[name]]
    hover = np.full(z.shape, "", object)
    for left, name in zip(range(0, z.shape[1], apart), blocks, strict=True):
        said = [f"{name}: {rows} {i}, {columns} {j}<br>{word}" for i, j, word in
                zip(table[rows], table[columns], table[name], strict=True)]
        hover[:, left:left + m] = np.reshape([a + b for a, b in zip(said, values or [""] * len(said), strict=True)],
                                             (n, m))
    ticks = [(left + j + 0.5, str(table[columns][j])) for left in range(0, z.shape[1], apart)
             for j in range(0, m, max(1, m // 4))]
    figure = go.Figure(layout=dict(
        template=TEMPLATE, title_text=title, hovermode="closest", height=150 + 24 * n, margin_t=92,
        xaxis=dict(title_text=columns, showgrid=False, showline=False, range=[0, z.shape[1]],
                   tickvals=[x for x, _ in ticks], ticktext=[text for _, text in ticks]),
        yaxis=dict(title_text=rows, showgrid=False, showline=False, range=[n, 0],
                   tickvals=[i + 0.5 for i in range(n)], ticktext=[str(name) for name in table[rows][::m]])))
    figure.add_heatmap(
        z=z, x=np.arange(z.shape[1] + 1), y=np.arange(n + 1), zmin=0, zmax=3, text=hover, hoverinfo="text",
        name="cells", xgap=1.5, ygap=1.5,
        colorscale=[[(i + j) / 4 - 1e-6 * (j and i < 3), color]  # plotly's sampling wants positions that rise
                    for i, color in enumerate((GRID, "#0072B2", "#E69F00", "#D55E00")) for j in (0, 1)],
        colorbar=dict(tickvals=[0.375, 1.125, 1.875, 2.625], ticktext=list(WORDS), outlinewidth=0, title_text=""))
    off = np.argwhere(z > 1)
    figure.add_scatter(x=off[:, 1] + 0.5, y=off[:, 0] + 0.5, mode="markers", hoverinfo="skip", name="off",
                       marker=dict(symbol="x", color="#111", size=8))  # for whoever sees no colour
    for left, name in zip(range(0, z.shape[1], apart), blocks, strict=True):
        figure.add_annotation(x=left, y=0, text=f"<b>{name}</b>", showarrow=False, xanchor="left", yanchor="bottom",
                              font_color=INK)
    return figure


# --- what can be drawn, and words of it ---------------------------------------------------------------------------


def _like(yours: Any, target: np.ndarray) -> np.ndarray | None:
    """An answer as numbers of the target's shape, NaN where one cannot be drawn; None if none of them can."""
    try:
        found = np.asarray(yours)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal length, tensors with a gradient
        return None
    if found.shape != target.shape or found.dtype.kind not in "fiub":
        return None
    found = found.astype(float)
    found[~(np.abs(found) <= MOST)] = np.nan
    return None if np.isnan(found).all() else found


def _compared(mine: np.ndarray | None, target: np.ndarray, things: str, place: Callable[[int], str]) -> str:
    from ..plots.drawing import number

    if mine is None:
        return _alone(target)
    off = ~np.isclose(mine, target, rtol=1e-4, atol=1e-5)
    if not off.any():
        return "On one of the random inputs yours is the target everywhere."
    worst = int(np.argmax(np.where(off, np.nan_to_num(np.abs(mine - target), nan=np.inf), -1)))
    got = "no number" if np.isnan(mine[worst]) else number(mine[worst])
    return (f"On one of the random inputs yours is off the target in {off.sum():,} of {off.size:,} {things}, most of "
            f"all {place(worst)}: {got} in place of {number(target[worst])}.")


def _alone(target: np.ndarray) -> str:
    return (f"The target alone, on one of the random inputs: yours is no array of shape {list(target.shape)} with "
            f"numbers that can be drawn.")


def _marked(state: np.ndarray, target: np.ndarray) -> str:
    missing, wrong, unknown = (state == 2).sum(), (state == 3).sum(), np.isnan(state).sum()
    said = (f"On one of the random inputs {target.sum():,} of {target.size:,} cells are to be marked; yours has "
            f"{(state == 1).sum():,} of them")
    said += f", no number in {unknown:,} cells" if unknown else ""
    return f"{said}, and {wrong:,} that should not be." if missing or wrong or unknown else f"{said}, and no other."


def _word(state: float) -> str:
    return "no number" if np.isnan(state) else WORDS[int(state)].replace("<br>", " ")
