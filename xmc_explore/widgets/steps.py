"""`StepPicture`: seconds and memory of each step, drawn while a loop in the same cell goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import HTML, display

from ..plots import Picture, steps_and_memory


class StepPicture:
    """A `watch` for the demonstrations: one picture that is drawn anew at each call. `picture` is the last one.

    While the loop runs it is a static picture, which neither flickers nor stays blank when the notebook is opened
    again; after the last step it is the figure itself, like any other.
    """

    def __init__(self):
        self.picture: Picture | None = None
        self._figure, self._words = (display(HTML(""), display_id=True) for _ in range(2))

    def __call__(self, seconds: Sequence[float], memory: Sequence[int], limits: Mapping[str, int], title: str,
                 last: bool) -> None:
        self.picture = steps_and_memory(seconds, memory, limits, title)
        if self._figure is None:  # outside a notebook there is nowhere to draw
            return
        if last and (bundle := self.picture.bundle()):
            self._figure.update(bundle, raw=True)
        else:
            self._figure.update(HTML(self.picture.svg()))
        self._words.update(HTML(self.picture.html()))
