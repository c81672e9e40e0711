"""A plotly figure as an SVG picture, with no browser: what a saved notebook shows where plotly's script does not run.

Draws what the figures of this package are made of and nothing else: scatter traces with error bars, heatmaps, shapes
and annotations, on linear and logarithmic axes that stand side by side or one above the other.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from ..wording import numeral
from .style import INK

WIDTH = 900
POINTS = 400  # of a line: more than one for two pixels of its width says nothing
TEXT = 0.52  # mean width of a character, in type sizes
DASHES = {"dash": "9 6", "dot": "2 5", "dashdot": "9 4 2 4", "longdash": "15 6", "longdashdot": "15 5 2 5"}
# Markers as polygons of (angle in degrees clockwise from the top, radius).
_CROSS = [(a + s * d, r) for a in (0, 90, 180, 270) for s, d, r in ((-1, 20, 1.15), (1, 20, 1.15), (1, 45, 0.55))]
MARKERS = {
    "square": [(a, 1.25) for a in (45, 135, 225, 315)],
    "diamond": [(a, 1.3) for a in (0, 90, 180, 270)],
    "triangle-up": [(a, 1.3) for a in (0, 120, 240)],
    "hexagon": [(a, 1.1) for a in range(0, 360, 60)],
    "star": [(a, 1.4 if a % 72 == 0 else 0.6) for a in range(0, 360, 36)],
    "cross": _CROSS,
    "x": [(a + 45, r) for a, r in _CROSS],
}


def svg(figure: go.Figure, alt: str) -> str:
    """The figure as one <svg> element with `alt` as its label; text takes Lab's colour where there is one.

    Raises NotImplementedError for a kind of trace that is not drawn here.
    """
    canvas = _Canvas(figure)
    for axis in canvas.axes.values():
        canvas.draw_axis(axis)
    for shape in figure.layout.shapes:
        canvas.draw_shape(shape)
    for trace in figure.data:
        {"scatter": canvas.draw_scatter, "heatmap": canvas.draw_heatmap}.get(trace.type, canvas.refuse)(trace)
    for note in figure.layout.annotations:
        canvas.draw_annotation(note)
    canvas.draw_title_and_legend()
    style = f".xmc-svg text{{fill:{INK};fill:var(--jp-ui-font-color1,{INK});font-family:system-ui,sans-serif}}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="xmc-svg" role="img" aria-label="{escape(alt)}" '
            f'viewBox="0 0 {WIDTH} {canvas.height:.0f}" width="{WIDTH}" style="max-width:100%;height:auto">'
            f"<style>{style}</style>{''.join(canvas.parts)}</svg>")


class _Axis:
    """One axis: where it lies in pixels (`start` and `end`, an up-pointing one from below) and what it spans."""

    def __init__(self, name: str, layout: Any, span: tuple[float, float]):
        self.name, self.layout, self.vertical = name, layout, name[0] == "y"
        self.log = layout.type == "log"
        low, high = layout.domain or (0, 1)
        if self.vertical:
            low, high = 1 - low, 1 - high
        self.start, self.end = (span[0] + share * (span[1] - span[0]) for share in (low, high))
        self.low, self.high = math.inf, -math.inf

    def see(self, values: Any) -> None:
        values = np.asarray(values, dtype=float).ravel()
        values = values[np.isfinite(values) & ((values > 0) | (not self.log))]
        if len(values):
            self.low, self.high = min(self.low, values.min()), max(self.high, values.max())

    def settle(self, pad: float) -> None:
        """Fix the range once every value is seen."""
        if self.layout.range is not None:
            self.low, self.high = map(float, self.layout.range)
            return
        if self.low > self.high:
            self.low, self.high = 1.0, 10.0
        if self.log:
            self.low, self.high = math.log10(self.low), math.log10(self.high)
        room = (pad * (self.high - self.low)) or 0.5
        floor = 0.0 if self.layout.rangemode == "tozero" and self.low >= 0 else self.low - room
        self.low, self.high = floor, self.high + room

    def at(self, values: Any) -> np.ndarray:
        values = np.asarray(values, dtype=float)
        if self.log:
            values = np.log10(np.where(values > 0, values, np.nan))
        return self.start + (values - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        if self.layout.tickvals is not None:
            texts = self.layout.ticktext or [numeral(v, "g") for v in self.layout.tickvals]
            return list(zip(self.layout.tickvals, texts, strict=True))
        low, high = sorted((self.low, self.high))
        if self.log:
            steps = (1,) if high - low > 1.5 else (1, 2, 5)
            found = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
            found = [v for v in found if low - 1e-9 <= math.log10(v) <= high + 1e-9]
        else:
            rough = (high - low) / max(2, abs(self.end - self.start) / (32 if self.vertical else 80))
            unit = 10.0 ** math.floor(math.log10(rough))
            step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
            found = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        return [(v, numeral(v, ",.0f" if abs(v) >= 1000 else ".6g")) for v in found]


class _Canvas:
    def __init__(self, figure: go.Figure):
        self.figure, self.height = figure, float(figure.layout.height or 400)
        self.parts: list[str] = []
        margin = figure.layout.margin
        self.beside = figure.layout.legend.orientation == "v"
        bar = any(t.type == "heatmap" for t in figure.data)
        longest = max((len(t.name) for t in _in_legend(figure)), default=0)
        right = 150 if bar else 60 + 15 * TEXT * longest if self.beside else margin.r or 24
        ticks = [len(line) for t in figure.layout.yaxis.ticktext or () for line in _lines(t)]
        folded = any("<br>" in (axis.title.text or "") for axis in figure.select_yaxes())
        left = max(margin.l or 72, 24 + 15 * TEXT * max(ticks, default=0)) + 18 * folded
        self.left, self.right = left, WIDTH - right
        self.top, self.bottom = float(margin.t or 92), self.height - (margin.b or 60)
        used = {name for t in figure.data for name in (t.xaxis or "x", t.yaxis or "y")}
        self.axes = {name: _Axis(name, self._layout(name), (self.left, self.right) if name[0] == "x"
                                 else (self.top, self.bottom)) for name in sorted(used)}
        for t in figure.data:
            for name, values, error in ((t.xaxis or "x", t.x, t.error_x if t.type == "scatter" else None),
                                        (t.yaxis or "y", t.y, t.error_y if t.type == "scatter" else None)):
                if values is None:
                    continue
                values = np.asarray(values, dtype=float)
                self.axes[name].see(values)
                if error is not None and error.array is not None:
                    self.axes[name].see(values + np.asarray(error.array))
                    self.axes[name].see(values - np.asarray(error.arrayminus))
        for axis in self.axes.values():
            axis.settle(0 if bar else 0.03)

    def _layout(self, name: str) -> Any:
        return self.figure.layout[name[0] + "axis" + name[1:]]

    def refuse(self, trace: Any) -> None:
        raise NotImplementedError(f"no static picture of a {trace.type!r} trace")

    def add(self, tag: str, text: str | None = None, **attributes: Any) -> None:
        said = "".join(f' {k.replace("_", "-")}="{f"{v:.1f}" if isinstance(v, float) else escape(str(v))}"'
                       for k, v in attributes.items() if v is not None)
        self.parts.append(f"<{tag}{said}/>" if text is None else f"<{tag}{said}>{text}</{tag}>")

    def write(self, x: float, y: float, text: str, size: float = 15, anchor: str = "start", **attributes: Any) -> None:
        """Text at its baseline; lines of it go down from there."""
        rows = [f'<tspan x="{x:.1f}" dy="{0 if i == 0 else 1.2 * size:.1f}">{escape(line)}</tspan>'
                for i, line in enumerate(_lines(text))]
        self.add("text", "".join(rows), x=x, y=y, font_size=size, text_anchor=anchor, **attributes)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        fine = np.isfinite(x) & np.isfinite(y)
        return "".join(f"{'L' if i and fine[i - 1] else 'M'}{x[i]:.1f} {y[i]:.1f}" for i in np.flatnonzero(fine))

    def draw_axis(self, axis: _Axis) -> None:
        grid = dict(stroke="#808080", stroke_opacity=0.25)
        for value, text in axis.ticks():
            at, rows = float(axis.at(value)), _lines(text)
            if axis.vertical:
                if axis.layout.showgrid is not False:
                    self.add("path", d=f"M{self.left:.1f} {at:.1f}H{self.right:.1f}", **grid)
                self.write(self.left - 8, at + 5 - 9 * (len(rows) - 1), text, anchor="end")
            else:
                if axis.layout.showgrid is not False:
                    self.add("path", d=f"M{at:.1f} {self.top:.1f}V{self.bottom:.1f}", **grid)
                self.write(at, self.bottom + 22, text, anchor="middle")
        middle = (axis.start + axis.end) / 2
        title = axis.layout.title.text
        if axis.vertical:
            self.add("path", d=f"M{self.left:.1f} {axis.start:.1f}V{axis.end:.1f}", stroke=INK)
            self.write(18, middle, title or "", anchor="middle", transform=f"rotate(-90 18 {middle:.1f})")
        else:
            self.add("path", d=f"M{axis.start:.1f} {self.bottom:.1f}H{axis.end:.1f}", stroke=INK)
            self.write(middle, self.bottom + 48, title or "", anchor="middle")

    def draw_scatter(self, t: Any) -> None:
        x, y = self.axes[t.xaxis or "x"].at(t.x), self.axes[t.yaxis or "y"].at(t.y)
        mode, color, opacity = t.mode or "lines", t.line.color or t.marker.color, t.opacity
        if "lines" in mode:
            thin = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).astype(int)) if len(x) else []
            thin = np.union1d(thin, np.flatnonzero(np.isnan(y))).astype(int)  # the gaps of a line stay
            self.add("path", d=self.path(x[thin], y[thin]), fill="none", stroke=color, stroke_opacity=opacity,
                     stroke_width=t.line.width or 2, stroke_dasharray=DASHES.get(t.line.dash), stroke_linejoin="round")
        for error, axis, along in ((t.error_x, self.axes[t.xaxis or "x"], True),
                                   (t.error_y, self.axes[t.yaxis or "y"], False)):
            if error.array is not None:
                values = np.asarray(t.x if along else t.y, dtype=float)
                low, high = axis.at(values - np.asarray(error.arrayminus)), axis.at(values + np.asarray(error.array))
                for i in np.flatnonzero(np.isfinite(low) & np.isfinite(high)):
                    a, b, level = (low[i], high[i], y[i]) if along else (x[i], high[i], low[i])
                    bar = f"{a:.1f} {level:.1f}{'H' if along else 'V'}{b:.1f}"
                    self.add("path", d=f"M{bar}", stroke=color, stroke_width=2)
        if "markers" in mode:
            most = t.marker.maxdisplayed or len(x)
            for i in np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).astype(int)) if len(x) else ():
                self.marker(x[i], y[i], t.marker.symbol, color, (t.marker.size or 8) / 2, t.marker.line)
        if "text" in mode:
            for at_x, at_y, text in zip(x, y, t.text, strict=True):
                right = t.textposition == "middle right"  # else "top center"
                self.write(at_x + 10 * right, at_y + (5 if right else -10), text, 14, "start" if right else "middle")

    def marker(self, x: float, y: float, symbol: str | None, color: str, radius: float, rim: Any = None) -> None:
        if not (math.isfinite(x) and math.isfinite(y)):
            return
        look = dict(fill=color, stroke=rim and rim.color, stroke_width=rim and rim.width)
        if symbol not in MARKERS:
            return self.add("circle", cx=float(x), cy=float(y), r=float(radius), **look)
        turned = [(math.radians(a), r * radius) for a, r in MARKERS[symbol]]
        points = " ".join(f"{x + r * math.sin(a):.1f},{y - r * math.cos(a):.1f}" for a, r in turned)
        self.add("polygon", points=points, **look)

    def draw_heatmap(self, t: Any) -> None:
        """Cells as one picture with a pixel for each column and, as rows differ in height, a few hundred rows."""
        z, x_axis, y_axis = np.asarray(t.z, dtype=float), self.axes[t.xaxis or "x"], self.axes[t.yaxis or "y"]
        edges = y_axis.at(t.y)
        top, bottom = min(edges), max(edges)
        rows = 3 * 128
        middles = top + (np.arange(rows) + 0.5) / rows * (bottom - top)
        order = np.argsort(edges)
        row = np.clip(np.searchsorted(edges[order], middles) - 1, 0, len(z) - 1)
        row = row if edges[0] < edges[-1] else len(z) - 1 - row
        shown = z[row]
        low, high = t.zmin, t.zmax
        at, scale = [place for place, _ in t.colorscale], np.array([_rgba(color) for _, color in t.colorscale])
        colors = np.stack([np.interp(np.linspace(0, 1, 256), at, part) for part in scale.T], 1).astype(np.uint8)
        share = np.nan_to_num((shown - low) / ((high - low) or 1), nan=0)
        pixels = colors[np.clip(255 * share, 0, 255).astype(int)] * np.isfinite(shown)[..., None]
        x = x_axis.at(t.x)
        place = dict(preserveAspectRatio="none", style="image-rendering:pixelated")
        self.add("image", x=float(min(x)), y=float(top), width=float(max(x) - min(x)), height=float(bottom - top),
                 href=png(pixels), **place)
        bar, right = colors[::-1, None], self.right + 44
        self.add("image", x=right, y=self.top, width=16.0, height=self.bottom - self.top, href=png(bar), **place)
        values = t.colorbar.tickvals or (low, (low + high) / 2, high)
        for value, text in zip(values, t.colorbar.ticktext or [numeral(v) for v in values], strict=True):
            self.write(right + 22, self.bottom + 5 - (value - low) / (high - low) * (self.bottom - self.top), text)
        middle, x_title = (self.top + self.bottom) / 2, right - 8
        self.write(x_title, middle, t.colorbar.title.text or "", anchor="middle",
                   transform=f"rotate(-90 {x_title:.1f} {middle:.1f})")

    def _place(self, ref: str | None, value: float, vertical: bool) -> float:
        """Pixels of a shape's or annotation's coordinate: on an axis, or a share of the whole ("paper")."""
        name = (ref or ("y" if vertical else "x")).split(" ")[0]
        if name in self.axes and "domain" not in (ref or ""):
            axis = self.axes[name]  # annotations on a logarithmic axis are in exponents, shapes are not
            return float(axis.at(value))
        axis = self.axes.get(name)
        low, high = (axis.start, axis.end) if axis else (self.bottom, self.top) if vertical else (self.left, self.right)
        return low + value * (high - low)

    def draw_shape(self, shape: Any) -> None:
        x0, x1 = (self._place(shape.xref, v, False) for v in (shape.x0, shape.x1))
        y0, y1 = (self._place(shape.yref, v, True) for v in (shape.y0, shape.y1))
        if shape.type == "line":
            self.add("path", d=f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}", stroke=shape.line.color,
                     stroke_width=shape.line.width or 1, stroke_dasharray=DASHES.get(shape.line.dash))
        else:
            self.add("rect", x=min(x0, x1), y=min(y0, y1), width=abs(x1 - x0), height=abs(y1 - y0),
                     fill=shape.fillcolor)

    def draw_annotation(self, note: Any) -> None:
        axis = self.axes.get(note.xref or "x")
        x = self._place(note.xref, 10.0**note.x if axis and axis.log else note.x, False) + (note.xshift or 0)
        vertical = self.axes.get(note.yref or "y")
        y = self._place(note.yref, 10.0**note.y if vertical and vertical.log else note.y, True) - (note.yshift or 0)
        anchor = {"left": "start", "right": "end"}.get(note.xanchor, "middle")
        self.write(x, y + {"top": 16, "middle": 5}.get(note.yanchor, -4), note.text, size=14, anchor=anchor)

    def draw_title_and_legend(self) -> None:
        self.write(8, 32, self.figure.layout.title.text or "", size=18, font_weight=600)
        x, y = (self.right + 12, self.top + 14) if self.beside else (self.left, self.top - 18)
        for t in _in_legend(self.figure):
            color = t.line.color or t.marker.color
            if "lines" in (t.mode or "lines"):
                self.add("path", d=f"M{x:.1f} {y:.1f}h34", stroke=color, stroke_width=t.line.width or 2,
                         stroke_dasharray=DASHES.get(t.line.dash))
            if "markers" in (t.mode or ""):
                self.marker(x + 17, y, t.marker.symbol, color, 4)
            self.write(x + 40, y + 5, t.name)
            x, y = (x, y + 24) if self.beside else (x + 66 + 15 * TEXT * len(t.name), y)


def _in_legend(figure: go.Figure) -> list[Any]:
    hidden = figure.layout.showlegend is False
    return [] if hidden else [t for t in figure.data if t.type == "scatter" and t.showlegend is not False]


def _lines(text: str) -> list[str]:
    return [re.sub(r"<[^>]+>", "", line) for line in str(text).split("<br>")]


def _rgba(color: str) -> tuple[float, ...]:
    red, green, blue, *alpha = hex_to_rgb(color) if color.startswith("#") else map(float, re.findall(r"[\d.]+", color))
    return red, green, blue, 255 * (alpha[0] if alpha else 1)


def png(pixels: np.ndarray) -> str:
    """RGBA pixels [H, W, 4] as the address of a PNG."""
    height, width, _ = pixels.shape
    raw = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()
