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
        self._made = False
        super().__init__(*args, **options)
        self._made = True
        self.open()

    def open(self) -> None:
        """Tell the page of it when all of it is there.

        Plotly would tell of an empty figure and say its curves in a message after that, which a busy page may miss.
        """
        if self._made:
            super().open()

    # After each drawing the page sends back all that plotly has worked out; Jupyter would send it to the page again.
    _js2py_traceDeltas = traitlets.Dict(allow_none=True).tag(sync=True, echo_update=False, **custom_serializers)
    _js2py_layoutDelta = traitlets.Dict(allow_none=True).tag(sync=True, echo_update=False, **custom_serializers)

    @traitlets.validate("_config")
    def _ours(self, proposal: Any) -> dict[str, Any]:
        """Plotly sets its own while the widget is made."""
        return proposal["value"] | CONFIG | ({"displayModeBar": False} if self.bare else {})

    def show_bin(self, name: str) -> None:
        """Leave the lines of one bin as they are and let those of the others fade; "" brings all back."""
        with self.drawing, self.batch_update():
            for line in self.data:
                of = next((b for b in BIN_NAMES if b in (line.name, line.legendgroup)), None)
                if of is not None:
                    own = self._own.setdefault(line.uid, 1.0 if line.opacity is None else line.opacity)
                    line.opacity = own if name in ("", of) else FADED * own

    @staticmethod
    def _remove_overlapping_props(*_: Any, **__: Any) -> list:
        """Plotly forgets what a page has worked out to be the same, and a page that is opened next shows its default:
        a legend with each name several times."""
        return []

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """A page that is opened asks for all of it; plotly itself would tell what the figure was at first."""
        if key is None:
            with self.drawing:
                self._trait_values |= deepcopy({"_widget_data": self._data, "_widget_layout": self._layout_obj._props})
        return super().get_state(key, drop_defaults)

    def to_dict(self) -> dict[str, Any]:
        """What plotly's own `repr`, copies and exports are made from."""
        with self.drawing:
            return super().to_dict()

    def say_again(self) -> None:
        """Draw all of it anew on a page that has drawn what it was told first, and heard nothing since."""
        with self.drawing:
            self._send_deleteTraces_msg(list(range(len(self._data))))
            self._send_addTraces_msg(deepcopy(self._data))
            self._send_relayout_msg(deepcopy(self._layout))
            self._send_relayout_msg({"width": None})  # where plotly is told a height it holds on to its width, too


class BareFigure(Figure):
    bare = True
