"""`StepPicture`: seconds and memory of each step, drawn while a loop in the same cell goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import HTML, display

from ..plots import Picture, steps_and_memory


class StepPicture:
    """A `watch` for the demonstrations: one picture that is drawn anew at each call.

    It is a static picture at every moment, so a saved notebook shows the last one. `picture` is that last one.
    """

    def __init__(self):
        self.picture: Picture | None = None
        self._shown = display(HTML("<p>waiting for the first step</p>"), display_id=True)

    def __call__(self, seconds: Sequence[float], memory: Sequence[int], limits: Mapping[str, int], title: str) -> None:
        self.picture = steps_and_memory(seconds, memory, limits, title)
        if self._shown is not None:  # outside a notebook there is nowhere to draw
            self._shown.update(HTML(self.picture.svg() + self.picture.html()))
