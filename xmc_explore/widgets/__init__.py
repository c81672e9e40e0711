"""The live laboratory: the only place that knows ipywidgets, anywidget and threads."""

from .lab import Lab
from .steps import StepPicture

__all__ = ["Lab", "StepPicture"]
