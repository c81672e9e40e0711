"""`Picture`: a figure with its caption, its table and its description, and how a notebook shows them."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from ..wording import numeral
from .static import svg
from .style import CONFIG

PLOTLY = "application/vnd.plotly.v1+json"
ROWS = 50  # of a table on the page; `table` has them all

# A figure is drawn in a grey that reads on any ground. On a page that knows its theme (JupyterLab, nbconvert) the text
# of the figure before a caption takes the theme's own colour.
_STYLE = """<style>
.jp-OutputArea-child:has(+ .jp-OutputArea-child .xmc-picture) .main-svg text:not(.hoverlayer text)
{ fill: var(--jp-ui-font-color1) !important; }
.xmc-picture { max-width: 60em; line-height: 1.5; }
.xmc-picture th, .xmc-picture td { padding: 2px 0.5em; text-align: right; font-variant-numeric: tabular-nums; }
.xmc-picture .xmc-scroll { max-height: 24em; overflow: auto; }
</style>"""
_UNSEEN = "position:absolute;width:1px;height:1px;margin:-1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"


@dataclass(frozen=True)
class Picture:
    """A plotly `figure`; a `caption` of one sentence with its numbers; the `table` of what is drawn; `alt`, in words.

    In a notebook it shows the figure, the caption below it, and a table to unfold. The cell's output also holds a
    static picture, for wherever plotly's script does not run.
    """

    figure: go.Figure
    caption: str
    table: pd.DataFrame = field(repr=False)
    alt: str = field(repr=False)

    @property
    def title(self) -> str:
        return self.figure.layout.title.text

    def svg(self) -> str:
        """The figure as a static SVG element, labelled with `alt`."""
        return svg(self.figure, self.alt)

    def bundle(self) -> dict[str, Any]:
        """The figure by MIME type, as plotly's renderer (PLOTLY_RENDERER) gives it, and as HTML in any case.

        Where the renderer gives no HTML, that is the static picture. Empty outside a notebook, where plotly opens a
        browser window instead.
        """
        # A figure with a slider waits for its reader: no auto_play.
        # Not the figure's own method: that puts plotly's script, 4.8 MB, before each figure of a page, not once.
        bundle = pio.renderers._build_mime_bundle(self.figure.to_dict(), config=CONFIG, auto_play=False)
        if PLOTLY in bundle:  # JupyterLab resizes a figure by itself; where both do, a figure loses its height
            bundle[PLOTLY]["config"] = bundle[PLOTLY]["config"] | {"responsive": False}
        if "text/html" in bundle:
            bundle["text/html"] = f'<div role="img" aria-label="{escape(self.alt)}">{bundle["text/html"]}</div>'
        elif bundle:
            bundle["text/html"] = self._image()
        return bundle and bundle | {"text/plain": self.alt}

    def html(self) -> str:
        """The description (unseen, for screen readers), the caption, and the table, folded away."""
        return self._page(f'<p style="{_UNSEEN}">{escape(self.alt)}</p>')

    def still(self, most: int) -> str:
        """The same below the static picture, for where no script runs; without it where that is over `most` bytes.

        Nor is there one of a figure that holds more than this package draws.
        """
        try:
            page = self._page(self._image())
        except NotImplementedError:
            return self._page("")
        return page if len(page) <= most else self._page("")

    def _image(self) -> str:
        """The static picture as an <img>: of a notebook that it does not trust, JupyterLab drops an <svg>."""
        data = base64.b64encode(self.svg().encode()).decode()
        return f'<img alt="{escape(self.alt)}" src="data:image/svg+xml;base64,{data}">'

    def _page(self, above: str) -> str:
        caption = escape(self.caption).replace(" %", "\N{NO-BREAK SPACE}%")  # no line begins with a sign
        return (f'<div class="xmc-picture">{_STYLE}{above}<p style="margin-top:0.6em">{caption}</p>'
                f'<details><summary>Show as table</summary><div class="xmc-scroll" tabindex="0" role="region" '
                f'aria-label="{escape(self.title)}: table">{_html_table(self.table, self.title)}</div></details></div>')

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        if bundle := self.bundle():
            display(bundle, raw=True)
            display(HTML(self.html()))
        else:
            self.figure.show(config=CONFIG)
            print(self.caption)


def _html_table(table: pd.DataFrame, title: str) -> str:
    """A table whose header cells say what they head, evenly thinned to `ROWS` rows."""
    chosen = np.unique(np.linspace(0, len(table) - 1, min(len(table), ROWS)).round().astype(int)) if len(table) else []
    note = f" ({len(chosen)} of {len(table):,} rows, evenly spaced)" if len(chosen) < len(table) else ""
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in table.columns)
    rows = []
    for row in table.iloc[chosen].itertuples(index=False, name=None):
        first, *rest = map(_cell, row)
        rows.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    return (f"<table><caption>{escape(title)}{note}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return escape(value)
    if pd.isna(value):
        return "\N{EN DASH}"
    return numeral(value, ",.0f" if float(value).is_integer() or abs(value) >= 1e4 else ",.5g")
