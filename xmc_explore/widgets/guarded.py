"""What makes a widget safe where one thread draws and another hears from the browser."""

from __future__ import annotations

import threading
from typing import Any


class Guarded:
    """Mixed into a widget: whoever draws on it holds `drawing`, and so does whoever brings a message from the browser.

    JupyterLab's messages arrive in a thread of their own (a subshell), and while traitlets takes one in it holds back
    every other change of that widget: what is drawn meanwhile may be merged with what comes next, and so be lost.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._drawing = threading.RLock()
        super().__init__(*args, **kwargs)

    @property
    def drawing(self) -> threading.RLock:
        return self._drawing

    def set_state(self, sync_data: dict[str, Any]) -> None:
        with self._drawing:
            super().set_state(sync_data)
