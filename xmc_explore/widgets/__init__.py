"""The live laboratory: the only place that knows ipywidgets, anywidget and threads."""

from .lab import Lab
from .scrub import scrub
from .steps import StepPicture
from .tail import LongTailExplorer

__all__ = ["Lab", "LongTailExplorer", "StepPicture", "scrub"]
