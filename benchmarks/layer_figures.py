"""Pictures of `benchmarks.layer`: how near to D/K, and how a step grows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.layer import CENTRE, GOAL, GROWTH, IN_PLACE, SIZES, WAYS, along, slopes, targets, timed
from xmc_explore.plots import Picture
from xmc_explore.plots.drawing import line, listed, log_axis, panels, picture
from xmc_explore.plots.style import DENSE, RUNS, Look
from xmc_explore.race import STEP

LOOKS: dict[str, Look] = {
    "FixedFanIn": RUNS[0], IN_PLACE: replace(RUNS[0], dash="dot", symbol="star"), "nn.Linear": DENSE,
    "dense bfloat16, in place": replace(DENSE, dash="dot", symbol="square"),
    "masked dense": replace(DENSE, dash="dash", symbol="diamond"), "torch CSR": RUNS[1], "embedding_bag": RUNS[2],
    "naive gather": replace(RUNS[2], dash="dash", symbol="cross"), "bottleneck, equal FLOPs": RUNS[3],
    "GroupedFixedFanIn": RUNS[4], "GroupedFixedFanIn, in place": replace(RUNS[4], dash="dot", symbol="star")}


def figures(rows: pd.DataFrame) -> dict[str, Picture]:
    """"speed" and "growth", as far as the rows hold what they show."""
    made = {"speed": speed(rows), "growth": growing(rows)}
    return {name: picture for name, picture in made.items() if picture is not None}


def speed(rows: pd.DataFrame) -> Picture | None:
    """How near the layer comes to D/K times the speed of nn.Linear, on each target row."""
    table = targets(rows)
    if table.empty:
        return None
    figure = panels("How near to D/K times as fast as nn.Linear (below: B, D, K)", ["of D/K"], title_text="",
                    tickvals=list(range(len(table))), ticktext=[f"{r.B}<br>{r.D}<br>{r.K}" for r in table.itertuples()])
    lowest = {}
    for words, look in zip(WAYS.values(), (RUNS[0], RUNS[4], RUNS[2]), strict=True):
        if f"{words}, of D/K" not in table:
            continue
        share = table[f"{words}, of D/K"].astype(float)
        lowest[words] = share.min()
        line(figure, np.arange(len(share)), share.to_numpy(), words, look)
    for level in (GOAL, 1.0):
        figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=level, y1=level,
                         line=dict(color=DENSE.color, dash="dash", width=1))
    figure.update_layout(height=440, margin_b=86)
    figure.update_yaxes(rangemode="tozero")
    return picture(figure, f"Lowest of {len(table)} shapes: {listed(f'{w} {v:.2f}' for w, v in lowest.items())} of D/K "
                           f"(dashed: 1, a layer as efficient as the dense one, and {GOAL}).", table)


def growing(rows: pd.DataFrame) -> Picture | None:
    """A whole step of each peer over L, K and B, one varied at a time."""
    steps = timed(rows)[timed(rows)["kind"] == STEP]
    parts = [along(steps, field) for field in GROWTH]
    if any(part[field].nunique() < 3 for field, part in zip(GROWTH, parts, strict=True)):
        return None
    c = CENTRE
    titles = (f"labels L (K={c.fan_in}, B={c.batch})", f"fan-in K (L={c.n_labels:,})", f"batch B (L={c.n_labels:,})")
    ms = pd.concat(parts)["median ms"]
    figure = panels(f"A whole step with Adam (ms), {c.width} features", [""], title_text="")
    figure.update_layout(height=520, yaxis=log_axis(ms))
    table = []
    for i, (field, part, title) in enumerate(zip(GROWTH, parts, titles, strict=True)):
        axis = f"x{i + 1 if i else ''}"
        values = GROWTH[field][::2] if len(GROWTH[field]) > 4 else GROWTH[field]
        figure.update_layout({axis.replace("x", "xaxis"): dict(
            title_text=title, type="log", domain=[i * 0.35, i * 0.35 + 0.3], anchor="y", tickvals=values,
            ticktext=[f"{v / 1e6:.1f}M" if v > 1e6 else f"{v // 1000}k" if v > 2000 else str(v) for v in values])})
        for name, look in LOOKS.items():
            one = part[part["peer"] == name].drop_duplicates(field).sort_values(field)
            if len(one):
                line(figure, one[field].to_numpy(), one["median ms"].to_numpy(), name, look, group=name, legend=i == 0)
                figure.data[-1].update(xaxis=axis)
                table.append(one.assign(over=field)[["over", "peer", *SIZES, "median ms"]])
    table = pd.concat(table).round(2)
    found = slopes(steps).set_index(["peer", "over"])["slope"]
    name = IN_PLACE if all((IN_PLACE, field) in found for field in GROWTH) else "FixedFanIn"
    said = [f"{words} {found[name, field]:.2f}"
            for field, words in (("n_labels", "labels"), ("fan_in", "fan-in"), ("batch", "documents"))]
    return picture(figure, f"{name}: slope of log time over log size is {listed(said)}.", table,
                   f"Lines on logarithmic axes for {listed(dict.fromkeys(table['peer']))}, over labels, fan-in and "
                   f"documents in a batch; the numbers are in the table of the report.")
