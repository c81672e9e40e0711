"""The fixed fan-in layer: the op, its backends, and the module on top."""

from .backends import backends
from .fixed_fan_in import FixedFanIn
from .op import fixed_fan_in

__all__ = ["FixedFanIn", "backends", "fixed_fan_in"]
