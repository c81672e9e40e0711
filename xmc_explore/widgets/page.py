"""What only the page can do for the laboratory: hide the code around it, copy, name what has no name, catch up."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from .guarded import Guarded


class Page(Guarded, anywidget.AnyWidget):
    """Takes no room. While `presenting`, the page shows no code; whatever `copy` is set to goes to the clipboard.

    It looks after the widgets that it is given: to one that the page was too busy to load in time all is said again.
    """

    _esm = Path(__file__).parent / "page.js"
    narrow = traitlets.Bool(False).tag(sync=True)  # is there no room for large type?
    presenting = traitlets.Bool(False).tag(sync=True)
    copy = traitlets.List(["", 0]).tag(sync=True)  # a text, and a number that makes it another change
    curves = traitlets.Unicode().tag(sync=True)  # the model of a plotly figure that waits for a hand to rest
    copied = traitlets.Int(0).tag(sync=True)  # the number of the text that went to the clipboard
    parts = traitlets.List().tag(sync=True)  # the models that it looks after, itself among them
    deaf = traitlets.List().tag(sync=True)  # those of them that had heard nothing

    def __init__(self, *parts: Guarded, **traits: Any):
        own = uuid.uuid4().hex  # known before the page is told of it: what comes later it may not hear
        self._parts = {part.model_id: part for part in parts} | {own: self}
        super().__init__(model_id=own, parts=list(self._parts), **traits)
        self.observe(self._say_again, "deaf")

    def _say_again(self, event: Any) -> None:
        for model_id in event.new:
            self._parts[model_id].say_again()
