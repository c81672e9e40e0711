"""The fixed fan-in layer and the one whose labels share indices in groups: ops, backends, and modules on top."""

from .backends import backends
from .fixed_fan_in import FixedFanIn
from .grouped import GroupedFixedFanIn, grouped_fixed_fan_in
from .head_tail import HeadTail
from .op import fixed_fan_in

__all__ = ["FixedFanIn", "GroupedFixedFanIn", "HeadTail", "backends", "fixed_fan_in", "grouped_fixed_fan_in"]
