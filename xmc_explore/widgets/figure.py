"""A plotly figure that is drawn in place while the browser looks on."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import plotly.graph_objects as go
import traitlets
from plotly.serializers import custom_serializers

from ..corpora import BIN_NAMES
from ..plots.style import CONFIG
from .guarded import Guarded

FADED = 0.12  # of the opacity that a line has


class Figure(Guarded, go.FigureWidget):
    """A figure that one thread may draw while another hears from the browser; without plotly's tools if `bare`."""

    bare = False

    def __init__(self, *args: Any, **options: Any):
        self._own: dict[str, float] = {}  # opacity of a line
        super().__init__(*args, **options)

    # After each drawing the page sends back all that plotly has worked out; Jupyter would send it to the page again.
    _js2py_traceDeltas = traitlets.Dict(allow_none=True).tag(sync=True, echo_update=False, **custom_serializers)
    _js2py_layoutDelta = traitlets.Dict(allow_none=True).tag(sync=True, echo_update=False, **custom_serializers)

    @traitlets.default("_config")
    def _from_the_first(self) -> dict[str, Any]:
        """A page may draw with what it hears first."""
        return CONFIG | ({"displayModeBar": False} if self.bare else {})

    @traitlets.validate("_config")
    def _ours(self, proposal: Any) -> dict[str, Any]:
        """Plotly sets its own while the widget is made."""
        return proposal["value"] | self._from_the_first()

    def show_bin(self, name: str) -> None:
        """Leave the lines of one bin as they are and let those of the others fade; "" brings all back."""
        with self.drawing, self.batch_update():
            for line in self.data:
                of = next((b for b in BIN_NAMES if b in (line.name, line.legendgroup)), None)
                if of is not None:
                    own = self._own.setdefault(line.uid, 1.0 if line.opacity is None else line.opacity)
                    line.opacity = own if name in ("", of) else FADED * own

    def say_again(self) -> None:
        """Draw all of it on a page that has drawn an empty figure."""
        with self.drawing:
            self._send_addTraces_msg(deepcopy(self._data))
            self._send_relayout_msg(deepcopy(self._layout))
            self._send_relayout_msg({"width": None})  # where plotly is told a height it holds on to its width, too


class BareFigure(Figure):
    bare = True
