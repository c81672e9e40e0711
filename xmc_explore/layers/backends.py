"""Which implementations of the fixed fan-in op run here, and which one is picked.

A backend is a module with `forward(x, weight, indices, bias)` and `backward(grad, x, weight, indices, needs, plan)`;
`reference.py` states the formulas and the layout of what they return. It may have `plan(indices, in_features)`: the
tensors that its backward pass wants made of the indices, once, until somebody writes to them; without it `plan` is ().
To add one, write the module and add a line to `backends`.
"""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch


@dataclass(frozen=True)
class Backend:
    """One implementation: whether it can be used here and, in words, why or why not.

    `devices` are those it runs on, () for any; `auto` says whether "auto" may choose it; `file` is its module.
    """

    name: str
    usable: bool
    reason: str
    devices: tuple[str, ...]
    auto: bool = True
    file: str = ""

    @property
    def module(self) -> ModuleType:
        return import_module(f".{self.file or self.name}", __package__)


class Backends(dict):
    """Name -> `Backend`, printed as a table."""

    def __repr__(self) -> str:
        rows = (f"{'usable' if b.usable else 'no    '}  {b.name:<10} {b.reason}" for b in self.values())
        return "\n".join(textwrap.fill(row, 100, subsequent_indent=19 * " ") for row in rows)


@cache
def backends() -> Backends:
    """Which backends of the fixed fan-in layer are usable on this machine, and why the others are not."""
    try:
        import_module(".cpu", __package__)
        cpu = Backend("cpu", True, "compiled with numba; the default for tensors on the CPU", ("cpu",))
    except ImportError as error:
        cpu = Backend("cpu", False, f"numba does not load ({error}); pip install numba", ("cpu",))
    reference = Backend("reference", True, "plain PyTorch; any device, slow", ())
    return Backends({b.name: b for b in (_find_triton(), cpu, reference)})


def _find_triton() -> Backend:
    """Triton compiles for CUDA; its interpreter, which runs kernels anywhere, has to be asked for before it loads."""
    interpret = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

    def no(reason: str) -> Backend:
        return Backend("triton", False, reason, ("cuda",))

    if not find_spec("triton"):
        return no("Triton is not installed (pip install triton; Linux only)")
    if not interpret and not torch.cuda.is_available():
        return no("no CUDA device; with TRITON_INTERPRET=1 set before Python starts, Triton's interpreter runs the "
                  "kernels on the CPU, for study")
    try:
        kernels = import_module(".triton_kernels", __package__)
    except Exception as error:  # a Triton that does not fit driver, Python or torch fails in its own ways
        return no(f"Triton does not load ({type(error).__name__}: {error})")
    if not interpret:
        return Backend("triton", True, "compiled with Triton; the default for tensors on CUDA", ("cuda",),
                       file="triton_kernels")
    if not all(type(f).__name__ == "InterpretedFunction" for f in (kernels.forward_kernel, kernels.tl.sum)):
        return no("TRITON_INTERPRET=1 came after Triton was loaded; set it before Python starts")
    return Backend("triton", True, "kernels run in Triton's interpreter (TRITON_INTERPRET=1): very slow, for study, "
                   "only if asked for by name", ("cpu", "cuda"), auto=False, file="triton_kernels")


def pick(name: str, device: torch.device) -> Backend:
    """The backend called `name`, or for "auto" the fastest usable one for `device`.

    Raises ValueError for an unknown name and RuntimeError for one that cannot be used here, with the reason.
    """
    known = backends()
    if name == "auto":
        return next(b for b in known.values() if b.usable and b.auto and (not b.devices or device.type in b.devices))
    if name not in known:
        raise ValueError(f"backend {name!r} is not known; choose one of 'auto', {', '.join(map(repr, known))}")
    if not known[name].usable:
        raise RuntimeError(f"backend {name!r} cannot be used here: {known[name].reason}")
    if known[name].devices and device.type not in known[name].devices:
        raise RuntimeError(f"backend {name!r} runs on {'/'.join(known[name].devices)}, the tensors are on {device}; "
                           f"use backend='auto'")
    return known[name]


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device called so, or without a name CUDA where there is one, else the CPU. Raises ValueError if unusable."""
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(usual if device is None else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device={device!r} cannot be used here ({str(error).splitlines()[0]}); leave it out for "
                         f"{usual!r}") from None
    return found
