"""What any widget of ours needs: safety where one thread draws and another hears from the browser, and an end."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import ipywidgets as W
from IPython import get_ipython


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

    def say_again(self) -> None:
        """Tell the page everything but the script, which it has."""
        with self._drawing:
            self.send_state(set(self.keys) - {"_esm", "_css"})


def hear_while_a_cell_runs(widget: W.Widget) -> None:
    """Let the browser say in which thread of the kernel its messages are heard; JupyterLab keeps one for widgets.

    From 7.4 on ipykernel overrules it: a message goes to the thread that the widget was made in, which is the one that
    runs the cells, so no button answers before the cell is done.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = lambda data, wanted: wanted


def close_with_parts(widget: W.Widget) -> None:
    """Close a widget with all that it is made of; ipywidgets itself would keep the parts for ever."""
    for part in getattr(widget, "children", ()):
        close_with_parts(part)
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(part, W.Widget):
            part.close()
    widget.close()


class Closes(Protocol):
    """What a cell makes and its next run ends."""

    def close(self) -> None: ...


_of_cell: dict[str, tuple[str, list[Closes]]] = {}  # cell -> (the request that ran it last, what it made)


def of_this_cell() -> list[Closes]:
    """What this run of the running cell has made so far, to be added to; what an earlier run made is closed."""
    shell = get_ipython()
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = parent.get("metadata", {}).get("cellId")
    if cell is None:  # no notebook, or a front end that does not say which cell is running
        return []
    request = parent["header"]["msg_id"]
    last, made = _of_cell.get(cell, ("", []))
    if last != request:
        for old in made:
            old.close()
        _of_cell[cell] = request, []
    return _of_cell[cell][1]


# Of a notebook that is opened again JupyterLab says "Loading widget..." for ever, or, once it has asked the new kernel,
# "Error displaying widget: model not found". What stands in for the widget hides these words: they stand alone in the
# node of a widget, the one kind that JupyterLab marks with no MIME type. Where a notebook is not trusted, it shows the
# plain text of a widget instead and takes the style away; so that text is empty, as all of it stands below.
# A kernel that is restarted leaves widgets without an answer, without their looks, and each with a broken link.
_STYLE = """<style>
.jp-OutputArea-child:has(+ .jp-OutputArea-child .xmc-saved)
  .jp-OutputArea-output:not([data-mime-type]):not(:has(*)) { display: none; }
.jp-OutputArea-child:has(.jupyter-widgets-disconnected):has(+ .jp-OutputArea-child .xmc-saved) { display: none; }
</style>"""


def live(widget: W.Widget) -> dict[str, Any]:
    """What is put out of a widget right before what stands in for it.

    Jupyter would write out all that it is made of as well, for a text of 110 letters, while another thread draws on it.
    """
    return {"application/vnd.jupyter.widget-view+json": widget.get_view_spec(), "text/plain": ""}


MOST_KEPT = 150_000  # bytes of a picture: a notebook keeps it for as long as it exists


def saved(content: str) -> str:
    """HTML that stays in a saved notebook in the place of the widget that was put out right before it."""
    return f'<div class="xmc-saved">{_STYLE}{content}</div>'
