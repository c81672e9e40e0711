"""`LongTailExplorer`: the long tail of a corpus, with its bin edges and an ideal law under the hand."""

from __future__ import annotations

import base64
import html
import threading
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as W
import numpy as np
import pandas as pd
from IPython.display import display

from ..corpora import Corpus, label_bins
from ..plots import Picture, long_tail
from ..plots.style import BINS
from ..plots.tail import zipf_fit
from ..trace import Trace
from .figure import BareFigure
from .guarded import close_with_parts, hear_while_a_cell_runs, live, of_this_cell, saved
from .page import Page

HERE = Path(__file__).parent
MOST_ZIPF, ZIPF_STEP = 2.0, 0.05


class _Page(Page):
    """Lab's own colours, and a name for each slider."""

    _css = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("lab.css", "tail.css"))


class _Labels(NamedTuple):
    """What `long_tail` needs of a corpus, read once."""

    label_names: list[str]
    label_frequency: np.ndarray


class LongTailExplorer:
    """Labels by frequency, with sliders for the two bin edges and for the exponent of an ideal Zipf law beside them.

    `source` is a corpus, or a trace, which adds what its last evaluation found in each bin, counted anew for every edge
    from what was recorded label by label. `edges` are shares of the assignments, (head, head + torso); `zipf` is an
    exponent from 0 to 2, by default the one that fits. `caption` says the picture in words, `table` has the bins;
    `close()` takes it off the screen, as running its cell again does. Raises ValueError for edges or an exponent that
    cannot be, and for a trace that recorded nothing label by label.
    """

    def __init__(self, source: Corpus | Trace, edges: tuple[float, float] = (0.5, 0.8), zipf: float | None = None):
        if not isinstance(source, (Corpus, Trace)):
            raise TypeError(f"a corpus (xe.load_corpus) or a trace is explored; got {source!r}")
        self._labels = _Labels(source.label_names, np.asarray(source.label_frequency))
        self._trace = source if isinstance(source, Trace) else None
        fit = zipf_fit(self._labels.label_frequency)[0]
        zipf = min(round(fit / ZIPF_STEP) * ZIPF_STEP, MOST_ZIPF) if zipf is None else zipf
        if not 0 <= zipf <= MOST_ZIPF:
            raise ValueError(f"zipf must lie in 0..{MOST_ZIPF:g}; got {zipf}")
        self._lock = threading.RLock()
        first = self._picture(edges, zipf)
        self._figure = BareFigure(first.figure)
        self._figure.update_layout(title_text="", margin=dict(t=64, l=56, r=12), font_size=13,
                                   xaxis_title_font_size=13, yaxis_title_font_size=13)
        low, high = (round(100 * edge) for edge in edges)
        self.head = _slider(W.IntSlider, low, 1, 98, 1, "head: first % of assignments", "d")
        self.torso = _slider(W.IntSlider, high, 2, 99, 1, "torso: up to %", "d")
        self.zipf = _slider(W.FloatSlider, zipf, 0.0, MOST_ZIPF, ZIPF_STEP, "exponent of the ideal law", ".2f")
        self._table, self._words = W.HTML(), W.HTML()
        knobs = W.VBox([self.head, self.torso, self.zipf])
        knobs.add_class("xmc-knobs")
        left = W.VBox([knobs, self._table])
        body = W.HBox([left, self._figure])
        body.add_class("xmc-tail-body")
        page = _Page(self._figure)
        self.widget = W.VBox([body, self._words, page])
        self.widget.add_class("xmc-lab")
        self._say(first)
        for slider in (self.head, self.torso, self.zipf):
            slider.observe(self._moved, "value")
            hear_while_a_cell_runs(slider)
        hear_while_a_cell_runs(self._figure)
        hear_while_a_cell_runs(page)
        of_this_cell().append(self)

    @property
    def edges(self) -> tuple[float, float]:
        return self.head.value / 100, self.torso.value / 100

    def close(self) -> None:
        close_with_parts(self.widget)

    def _moved(self, change: Any) -> None:
        """Draw and say what the sliders say; an edge that is pushed against the other takes it along."""
        with self._lock:
            if self.head.value >= self.torso.value:  # setting the other one comes back here
                if change.owner is self.head:
                    self.torso.value = self.head.value + 1
                else:
                    self.head.value = self.torso.value - 1
                return
            found = self._picture(self.edges, self.zipf.value)
            with self._figure.drawing, self._figure.batch_update():
                for drawn, new in zip(self._figure.data, found.figure.data, strict=True):
                    drawn.update(x=new.x, y=new.y, name=new.name, legendgroup=new.legendgroup)
                self._figure.layout.shapes = found.figure.layout.shapes
                self._figure.layout.annotations = found.figure.layout.annotations
            self._say(found)

    def _picture(self, edges: tuple[float, float], zipf: float) -> Picture:
        self.table, self._drawn = self._bins(edges), long_tail(self._labels, edges, zipf)
        return self._drawn

    def _bins(self, edges: tuple[float, float]) -> pd.DataFrame:
        if self._trace is not None:
            try:
                return self._trace.of_bins(edges)
            except KeyError as error:
                raise ValueError(f"{error.args[0]}; give its corpus to see the tail alone") from None
        return pd.DataFrame(label_bins(self._labels.label_frequency, edges).totals())

    def _say(self, found: Picture) -> None:
        self.caption = found.caption
        self._table.value = _html_table(self.table)
        self._words.value = ('<div class="xmc-tail-words" role="status" aria-live="polite">'
                             f"{html.escape(found.caption)}</div>")

    # --- in a notebook

    def _ipython_display_(self) -> None:
        display(live(self.widget), raw=True)
        still = self._drawn
        data = base64.b64encode(still.svg().encode()).decode()
        kept = saved(f'<p><img alt="{html.escape(still.alt)}" style="max-width:100%" '
                     f'src="data:image/svg+xml;base64,{data}"/></p>{_html_table(self.table)}'
                     f"<p>{html.escape(still.caption)} (As it stood at first: run the cell to move edges and "
                     f"exponent.)</p>")
        display({"text/html": kept, "text/plain": repr(self)}, raw=True)

    def __repr__(self) -> str:
        return self.caption


def _slider(kind: type, value: float, low: float, high: float, step: float, label: str, form: str) -> W.Widget:
    slider = kind(value=value, min=low, max=high, step=step, description=label, readout_format=form)
    slider.add_class("xmc-wide")
    return slider


def _html_table(table: pd.DataFrame) -> str:
    """The bins as a table whose rows carry the colours of the picture; percentages to one decimal."""
    columns = [name for name in table.columns if name != "bin"]
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = ""
    for row in table.to_dict("records"):
        cells = "".join(f'<td data-of="{name}">{_cell(row[name])}</td>' for name in columns)
        rows += (f'<tr data-bin="{row["bin"]}"><th scope="row" style="border-left:4px solid {BINS[row["bin"]].color};'
                 f'padding-left:6px">{row["bin"]}</th>{cells}</tr>')
    words = f"Bins at these edges ({', '.join(c for c in columns if table[c].dtype.kind == 'f')} in %)"
    return (f'<table class="xmc-tail-table"><caption>{words}</caption>'
            f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>")


def _cell(value: float) -> str:
    if isinstance(value, float):
        return "\N{EN DASH}" if np.isnan(value) else f"{value:.1f}"
    return f"{value:,}"
