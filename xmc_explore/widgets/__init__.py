"""The live laboratory: the only place that knows ipywidgets, anywidget and threads."""

from .lab import Lab

__all__ = ["Lab"]
