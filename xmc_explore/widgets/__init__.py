"""The live laboratory: the only place that knows ipywidgets, anywidget and threads."""

from .lab import Lab
from .scrub import scrub
from .steps import StepPicture

__all__ = ["Lab", "StepPicture", "scrub"]
