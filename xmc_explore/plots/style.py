"""One look for every figure: colours that survive colour-blindness (Okabe and Ito), each with a second cue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import plotly.graph_objects as go
import plotly.io as pio


@dataclass(frozen=True)
class Look:
    """A colour with the dash and marker that say the same to whoever cannot see it."""

    color: str
    dash: str
    symbol: str


INK = "#797979"  # kernel code cannot know Lab's theme: the one grey that reads equally (4.3 to 1) on white and on #111
GRID = "rgba(128,128,128,0.25)"

BINS = {
    "head": Look("#0072B2", "solid", "circle"),
    "torso": Look("#E69F00", "dash", "square"),
    "tail": Look("#D55E00", "dot", "triangle-up"),
}
ALL_LABELS = Look(INK, "solid", "hexagon")  # beside the bins
AUXILIARY = Look("#009E73", "dashdot", "diamond")
DENSE = Look("#7F7F7F", "solid", "x")
# For figures that compare runs: the dense one is grey and the one with the auxiliary objective green, as elsewhere.
# Orange and sky blue are darker than Okabe and Ito's, for a contrast of 3 to 1 on white.
RUNS = (
    Look("#0072B2", "solid", "circle"),
    Look("#CC79A7", "dash", "square"),
    Look("#BF8600", "dot", "triangle-up"),
    Look("#2E9BD6", "longdash", "cross"),
    Look("#D55E00", "longdashdot", "star"),
)
# A method looks the same in every figure, whichever others stand beside it.
METHODS = dict(zip(("SET", "RigL", "static", "bottleneck", "SET + intermediate"), RUNS, strict=True))


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """A look for each run of a figure: dense grey, "aux" green, known methods their own, others in order.

    Where two runs have one colour, the second and later ones differ in dash and marker.
    """
    found: dict[str, Look] = {}
    names = list(names)
    free = [look for name, look in METHODS.items() if name not in names]
    for name in names:
        if "dense" in name.lower():
            look = DENSE
        elif "aux" in name.lower():
            look = AUXILIARY
        elif name in METHODS:
            look = METHODS[name]
        else:
            look = free.pop(0) if free else RUNS[len(found) % len(RUNS)]
        taken = set(found.values())
        variants = (replace(look, dash=other.dash, symbol=other.symbol) for other in (look, *RUNS, AUXILIARY, DENSE))
        found[name] = next((v for v in variants if v not in taken), look)
    return found


# The share button of plotly uploads a figure to somebody's server; nobody here asked for that.
CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True,
          "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}

_axis = dict(gridcolor=GRID, zeroline=False, linecolor=INK, showline=True, ticks="outside", tickcolor=INK,
             automargin=True, separatethousands=True)  # 1,000 as in captions; plotly begins at five digits
pio.templates["xmc_explore"] = go.layout.Template(layout=dict(
    font=dict(family="system-ui, -apple-system, 'Segoe UI', sans-serif", size=15, color=INK),
    paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", colorway=[look.color for look in RUNS],
    xaxis=_axis, yaxis=_axis | dict(title_standoff=10), margin=dict(l=64, r=24, t=92, b=56),
    title=dict(x=0, xanchor="left", y=1, yanchor="top", yref="container", pad=dict(t=16, l=8),
               font=dict(size=18, weight=600)),
    legend=dict(orientation="h", x=0, xanchor="left", y=1.01, yanchor="bottom"),
    hovermode="x unified", hoversubplots="axis",
    hoverlabel=dict(namelength=-1, bgcolor="rgba(255,255,255,0.94)", bordercolor=INK, font=dict(color="#111", size=14)),
    modebar=dict(bgcolor="rgba(0,0,0,0)", color=INK, activecolor="#0072B2"),
))
TEMPLATE = "xmc_explore"
