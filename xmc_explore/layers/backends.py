"""Which implementations of the fixed fan-in op run here, and which one is picked.

A backend is a module with `forward(x, weight, indices, bias)` and `backward(grad, x, weight, indices, needs, plan)`;
`reference.py` states the formulas and the layout of what they return. It may have `plan(indices, in_features)`: the
tensors that its backward pass wants made of the indices, once, until somebody writes to them; without it `plan` is ().
To add one, write the module and add a line to `_find`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import torch


@dataclass(frozen=True)
class Backend:
    """One implementation: whether it can be used here and, in words, why or why not."""

    name: str
    usable: bool
    reason: str
    devices: tuple[str, ...]

    @property
    def module(self) -> ModuleType:
        return import_module(f".{self.name}", __package__)


class Backends(dict):
    """Name -> `Backend`, printed as a table."""

    def __repr__(self) -> str:
        return "\n".join(f"{'usable' if b.usable else 'no    '}  {b.name:<10} {b.reason}" for b in self.values())


@cache
def _find() -> Backends:
    try:
        import_module(".cpu", __package__)
        cpu = Backend("cpu", True, "compiled with numba; the default for tensors on the CPU", ("cpu",))
    except ImportError as error:
        cpu = Backend("cpu", False, f"numba does not load ({error}); pip install numba", ("cpu",))
    triton = Backend("triton", False, "this version has no Triton kernels; CUDA tensors use the reference", ("cuda",))
    reference = Backend("reference", True, "plain PyTorch; any device, slow", ())
    return Backends({b.name: b for b in (triton, cpu, reference)})


def backends() -> Backends:
    """Which backends of the fixed fan-in layer are usable on this machine, and why the others are not."""
    return _find()


def pick(name: str, device: torch.device) -> Backend:
    """The backend called `name`, or for "auto" the fastest usable one for `device`.

    Raises ValueError for an unknown name and RuntimeError for one that cannot be used here, with the reason.
    """
    known = _find()
    if name == "auto":
        return next(b for b in known.values() if b.usable and (not b.devices or device.type in b.devices))
    if name not in known:
        raise ValueError(f"backend {name!r} is not known; choose one of 'auto', {', '.join(map(repr, known))}")
    if not known[name].usable:
        raise RuntimeError(f"backend {name!r} cannot be used here: {known[name].reason}")
    if known[name].devices and device.type not in known[name].devices:
        raise RuntimeError(f"backend {name!r} runs on {'/'.join(known[name].devices)}, the tensors are on {device}; "
                           f"use backend='auto'")
    return known[name]
