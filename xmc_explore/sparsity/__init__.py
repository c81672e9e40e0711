"""Dynamic sparse training: one update, two scores, a schedule."""

from .rewirer import RewireEvent, Rewirer
from .scores import Candidates, gradient, magnitude, uniform

__all__ = ["Candidates", "RewireEvent", "Rewirer", "gradient", "magnitude", "uniform"]
