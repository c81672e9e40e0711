"""The memory that one program of a Triton kernel touches, drawn step by step from a `Walk`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .drawing import listed, picture
from .picture import Picture
from .style import GRID, INK, TEMPLATE

if TYPE_CHECKING:  # a walk is made where Triton is; its figure needs none
    from ..layers.walk import Access, Memory, Walk

# What was not touched stays in the background of a light and of a dark page; a store is apart from both loads.
COLORS = (GRID, "#8FB8D4", "#0072B2", "#D55E00")
WORDS = ("not<br>touched", "touched<br>before", "loaded<br>now", "stored<br>now")
GAP = 3  # cells between two tensors
MOST = 40_000  # cells of a picture: it shows tiles, not sizes
WITH_SLIDER = 450  # pixels: slider and title are on the screen together at 1280 x 720 and a zoom of 125 %


class _Place(NamedTuple):
    """Where a tensor lies on the canvas: its first row and column, and its size there."""

    row: int
    column: int
    rows: int
    columns: int

    @property
    def cells(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)


def memory_traffic(walk: Walk, step: int | None = None) -> Picture:
    """Every tensor of a kernel as a block of cells, and which of them one program loads or stores at a step.

    Tensors with as many rows lie side by side, those with as many columns one above the other. Without `step` a slider
    below the figure goes through all of them, from the last; it needs no running kernel. `walk` is from
    `xmc_explore.layers.walk`. Raises ValueError for a step that was not walked and for tensors too large to draw.
    """
    if not walk.steps:
        raise ValueError(f"program {walk.program} of {walk.kernel} touched no memory: there is nothing to draw")
    last = len(walk.steps) - 1
    if step is not None and not -last - 1 <= step <= last:
        raise ValueError(f"step {step} was not walked; there are steps 0 to {last}")
    places, height, width = _places(walk)
    if height * width > MOST:
        raise ValueError(f"{height} x {width} cells are too many to draw (at most {MOST:,}): walk through a smaller "
                         f"problem, of two or three tiles")
    shown = last if step is None else step % (last + 1)
    figure = go.Figure(layout=dict(
        template=TEMPLATE, title_text=_title(walk, shown), hovermode="closest", showlegend=False,
        height=int(min(500, 150 + 4 * height)) if step is not None else WITH_SLIDER, margin=dict(t=64, b=24),
        xaxis=dict(showgrid=False, showline=False, ticks="", tickvals=[], range=[0, width]),
        yaxis=dict(showgrid=False, showline=False, ticks="", tickvals=[], range=[height, 0])))
    figure.add_heatmap(
        z=_cells(walk, places, height, width, shown), x=np.arange(width + 1), y=np.arange(height + 1), zmin=0, zmax=3,
        colorscale=[[(i + j) / 4 - 1e-6 * (j and i < 3), color]  # plotly's sampling wants positions that rise
                    for i, color in enumerate(COLORS) for j in (0, 1)], hoverinfo="text",
        text=_hover(walk, places, height, width), name="memory", xgap=0.4, ygap=0.4,
        colorbar=dict(tickvals=[0.375, 1.125, 1.875, 2.625], ticktext=list(WORDS), outlinewidth=0, title_text=""))
    for name, place in places.items():
        figure.add_annotation(x=place.column, y=place.row, text=_label(walk.tensors[name]), showarrow=False,
                              xanchor="left", yanchor="bottom", font_color=INK)
    if step is None:
        _add_slider(figure, walk, places, height, width)
    table = pd.DataFrame(walk.table())
    return picture(figure, _caption(walk, shown) if step is not None else _caption_of_all(walk), table,
                   f"Blocks of cells for the tensors {listed(walk.tensors)}; at step {shown} of {last} the code "
                   f"{table['code'][shown]} makes program {_id(walk)} {_said(walk.steps[shown])}.")


def _add_slider(figure: go.Figure, walk: Walk, places: dict[str, _Place], height: int, width: int) -> None:
    steps = []
    figure.frames = [go.Frame(name=str(n), data=[dict(type="heatmap", z=_cells(walk, places, height, width, n))],
                              layout=dict(title_text=_title(walk, n))) for n in range(len(walk.steps))]
    for n, access in enumerate(walk.steps):
        steps.append(dict(label=f"{n}: {access.kind} {access.tensor.name}", method="animate", args=[
            [str(n)], dict(mode="immediate", frame=dict(duration=0, redraw=True), transition=dict(duration=0))]))
    figure.update_layout(margin_b=72, sliders=[dict(
        active=len(steps) - 1, steps=steps, x=0, len=1, pad=dict(t=12), currentvalue_visible=False, font=dict(size=13),
        tickcolor=INK, bordercolor=INK, bgcolor=COLORS[2], activebgcolor=COLORS[3])])


def _places(walk: Walk) -> tuple[dict[str, _Place], int, int]:
    """A band for each number of rows; the column count that two bands share stands on the right of both."""
    matrices = [t.shape for t in walk.tensors.values() if len(t.shape) > 1]
    columns = [c for _, c in {(s[0], s[-1]) for s in matrices}]
    shared = max(columns, key=lambda c: (columns.count(c), c), default=64)
    sizes = {t.name: _matrix(t.shape, {s[0] for s in matrices}, shared) for t in walk.tensors.values()}
    room = {name: max(size[1], len(_label(walk.tensors[name]))) for name, size in sizes.items()}  # for its name above
    bands: dict[int, list[str]] = {}
    for name, (rows, _) in sizes.items():
        bands.setdefault(rows, []).append(name)
    for names in bands.values():
        names.sort(key=lambda n: sizes[n][1] == shared)
    widths = {rows: sum(room[n] + GAP for n in names) - GAP for rows, names in bands.items()}
    width, places, row = max(widths.values()), {}, GAP
    for rows, names in sorted(bands.items(), key=lambda band: widths[band[0]]):
        column = width
        for name in reversed(names):
            column -= room[name]
            places[name] = _Place(row, column, *sizes[name])
            column -= GAP
        row += rows + 2 * GAP
    return {name: places[name] for name in walk.tensors}, row - GAP, width


def _matrix(shape: tuple[int, ...], rows: set[int], most: int) -> tuple[int, int]:
    """Rows and columns to draw: a vector stands where a matrix has as many rows; else it lies, folded where long."""
    if len(shape) > 1:
        return math.prod(shape[:-1]), shape[-1]
    return (shape[0], 1) if shape[0] in rows else (math.ceil(shape[0] / most), min(shape[0], most))


def _label(tensor: Memory) -> str:
    return f"{tensor.name} [{' x '.join(map(str, tensor.shape))}]"


def _block(flat: np.ndarray, place: _Place, empty: Any) -> np.ndarray:
    """A tensor's values as it is drawn; what is left of a folded vector's last row is empty."""
    block = np.full(place.rows * place.columns, empty, flat.dtype)
    block[:len(flat)] = flat
    return block.reshape(place.rows, place.columns)


def _cells(walk: Walk, places: dict[str, _Place], height: int, width: int, step: int) -> np.ndarray:
    """0 not touched, 1 touched before, 2 loaded now, 3 stored now; NaN where there is no tensor."""
    canvas = np.full((height, width), np.nan, np.float32)
    for name, place in places.items():
        state = np.zeros(walk.tensors[name].size, np.float32)
        for access in walk.steps[:step]:
            if access.tensor.name == name:
                state[access.inside] = 1
        if walk.steps[step].tensor.name == name:
            state[walk.steps[step].inside] = 2 if walk.steps[step].kind == "load" else 3
        canvas[place.cells] = _block(state, place, np.nan)
    return canvas


def _hover(walk: Walk, places: dict[str, _Place], height: int, width: int) -> np.ndarray:
    text = np.full((height, width), "", object)
    for name, place in places.items():
        said = np.array([f"{name}[{', '.join(map(str, at))}]" for at in np.ndindex(walk.tensors[name].shape)], object)
        text[place.cells] = _block(said, place, "")
    return text


def _id(walk: Walk) -> str:
    axes = [p for p, n in zip(walk.program, walk.grid, strict=True) if n > 1] or [walk.program[0]]
    return f"({', '.join(map(str, axes))})" if len(axes) > 1 else str(axes[0])


def _title(walk: Walk, step: int) -> str:
    access = walk.steps[step]
    return f"{walk.kernel}, program {_id(walk)}, step {step}: {access.kind} {access.tensor.name}"


def _said(access: Access) -> str:
    verb = {"load": "load", "store": "store", "atomic add": "add to"}[access.kind]
    return (f"{verb} {len(access.inside):,} numbers of {access.tensor.name} in {access.lines} lines of 128 bytes, "
            f"{(access.elements < 0).sum():,} of {access.elements.size:,} lanes masked")


def _bytes(accesses: list[Access]) -> tuple[int, int]:
    """What was loaded, and what was stored."""
    return tuple(sum(a.bytes for a in accesses if (a.kind == "load") == load) for load in (True, False))


def _caption(walk: Walk, step: int) -> str:
    loaded, stored = _bytes(walk.steps[:step + 1])
    return (f"Step {step} of {len(walk.steps) - 1} of program {_id(walk)}: {_said(walk.steps[step])}; up to here the "
            f"program has asked for {loaded:,} bytes and stored {stored:,}.")


def _caption_of_all(walk: Walk) -> str:
    """For a figure whose step the reader chooses: true wherever the slider stands."""
    loaded, stored = _bytes(walk.steps)
    last = len(walk.steps) - 1
    return (f"Program {_id(walk)} from step 0 to step {last} asks for {loaded:,} bytes and stores {stored:,}; its last "
            f"step: {_said(walk.steps[last])}.")
