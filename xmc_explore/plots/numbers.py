"""A few numbers side by side: what a cell has counted or measured, as a picture with caption and table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .drawing import listed, log_axis, mark, number, panels, picture
from .picture import Picture
from .style import BINS, looks_of


def numbers(values: Mapping[str, float] | pd.Series | pd.DataFrame, title: str, unit: str, *, log: bool = False,
            marks: Mapping[str, float] | None = None) -> Picture:
    """A row of dots for each name; of a table, for each name in its index a dot a column. NaN is left out.

    Bins and methods look as everywhere. `unit` says what is counted, `marks` are vertical lines (words -> place).
    Raises ValueError where there is no number, and for a logarithmic axis where one is not above 0.
    """
    table = values.astype(float) if isinstance(values, pd.DataFrame) else pd.Series(values, dtype=float).to_frame(unit)
    everything = table.to_numpy()
    everything = np.append(everything[np.isfinite(everything)], list((marks or {}).values()))
    if not np.isfinite(table.to_numpy()).any() or (log and (everything <= 0).any()):
        raise ValueError(f"{title!r} needs numbers{', all above 0 for its logarithmic axis' if log else ''}; got "
                         f"{table.to_dict()}")
    low, high, alone = everything.min(), everything.max(), len(table.columns) == 1
    if log:  # with room for the number behind the last dot
        axis = log_axis(everything) | dict(range=[np.log10(low / 1.5), np.log10(high * (high / low) ** 0.15 * 1.5)])
    else:
        top = max(1.2 * high, 0.0) or 1.0
        room = 0.03 * top if low < 0.03 * top else 0.0  # a dot at 0 would stand on the name of its row
        axis = dict(range=[min(1.1 * low, 0.0) - room, top])
    figure = panels(title, [""], title_text=unit + ", log scale" * log, **axis)
    figure.update_layout(hovermode="closest", height=max(170 + 36 * len(table), 260), margin_t=92)
    figure.update_yaxes(tickvals=list(range(len(table))), ticktext=[str(name) for name in table.index], ticks="",
                        showgrid=False, range=[len(table) - 0.5, -1.2 if marks else -0.5])  # with room for their words
    of_bins = alone and set(table.index) <= BINS.keys()
    drawn = {name: table.iloc[:, 0].where(table.index == name) for name in table.index} if of_bins else table
    looks = looks_of(map(str, drawn)) | BINS
    gap = 0 if alone else 0.8 / len(table.columns)
    for i, (name, column) in enumerate(drawn.items()):
        there = np.flatnonzero(np.isfinite(column))
        look, x = looks[str(name)], column.to_numpy()[there]
        figure.add_scatter(
            x=x, y=there + gap * (i - (len(table.columns) - 1) / 2), name=str(name), showlegend=not alone,
            mode="markers+text" if alone else "markers", text=[number(v) for v in x], textposition="middle right",
            cliponaxis=False,  # a dot on the axis is a whole dot
            marker=dict(color=look.color, symbol=look.symbol, size=11), textfont_size=14,
            hovertemplate=f"{name} %{{x:.4~g}}<extra></extra>")
    for words, place in (marks or {}).items():
        mark(figure, place, words)
    said = [(str(name), column.dropna()) for name, column in table.items()]
    each = [f"{name}: " + listed(f"{row} ({number(v)})" for row, v in column.items()) for name, column in said]
    ends = [f"{name}: from {number(column.min())} ({column.idxmin()}) to {number(column.max())} ({column.idxmax()})"
            for name, column in said if len(column)]
    return picture(figure, f"{'; '.join(each if everything.size <= 8 else ends)}.",
                   table.rename_axis(index=table.index.name or "of", columns=None).reset_index(),
                   f"Dots on an axis of {unit}: {'; '.join(each)}.")
