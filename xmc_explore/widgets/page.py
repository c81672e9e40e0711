"""What only the page can do for the laboratory: hide the code around it, copy, name what has no name."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from .guarded import Guarded


class Page(Guarded, anywidget.AnyWidget):
    """Takes no room. While `presenting`, the page shows no code; whatever `copy` is set to goes to the clipboard."""

    _esm = Path(__file__).parent / "page.js"
    narrow = traitlets.Bool(False).tag(sync=True)  # is there no room for large type?
    presenting = traitlets.Bool(False).tag(sync=True)
    copy = traitlets.List(["", 0]).tag(sync=True)  # a text, and a number that makes it another change
    curves = traitlets.Unicode().tag(sync=True)  # the model of a plotly figure that waits for a hand to rest
    copied = traitlets.Int(0).tag(sync=True)  # the number of the text that went to the clipboard
