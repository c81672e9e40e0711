"""What one program of a Triton kernel loads and stores: a walk through the kernel, kept as plain numbers.

    found = xe.walk(lambda: triton_kernels.forward(x, weight, indices, bias), program=(1, 0))
    found.table()                  # a row for each load and store, in order
    print(found.listing(step=3))   # the kernel's source, with an arrow at that line

Nothing is simulated: `walker.py` runs the real kernel and listens. A few walks are shipped (`load_walk`), as Triton is
for Linux only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing

FOLDER = Path(__file__).resolve().parent.parent.parent / "data" / "walks"
LINE = 128  # bytes that a GPU's cache fetches together


class OutOfBounds(IndexError):
    """A kernel was about to read or write memory of no tensor."""


@dataclass(frozen=True)
class Memory:
    """A tensor that a kernel was given: its name there, its shape, bytes of a number."""

    name: str
    shape: tuple[int, ...]
    itemsize: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Access:
    """One load, store or atomic addition: `elements` [lanes] are positions in the flattened tensor, -1 where masked."""

    kind: str
    tensor: Memory
    elements: np.ndarray
    line: int  # of the kernel's source, from 0

    @property
    def inside(self) -> np.ndarray:
        """The distinct elements that are touched."""
        return np.unique(self.elements[self.elements >= 0])

    @property
    def bytes(self) -> int:
        """Asked for by the lanes that are not masked; two lanes that ask for one number count twice."""
        return int((self.elements >= 0).sum()) * self.tensor.itemsize

    @property
    def lines(self) -> int:
        """Lines of the cache that hold them, for a tensor that starts at one."""
        return len(np.unique(self.inside * self.tensor.itemsize // LINE))


@dataclass(frozen=True)
class Walk:
    """What `program` of a `grid` of programs of one kernel did, access by access, and what all of them moved.

    `loaded` and `stored` are bytes by tensor name over the whole grid; `constants` are the kernel's constexprs.
    """

    kernel: str
    grid: tuple[int, ...]
    program: tuple[int, ...]
    tensors: dict[str, Memory]
    constants: dict[str, Any]
    steps: list[Access]
    loaded: dict[str, int]
    stored: dict[str, int]
    source: str = field(repr=False)

    def table(self) -> list[dict[str, Any]]:
        """A row for each access: line of code, kind, tensor, lanes, those not masked, bytes, lines of the cache."""
        code = self.source.splitlines()
        return [{"step": number, "code": code[a.line].strip(), "kind": a.kind,
                 "tensor": a.tensor.name, "lanes": a.elements.size, "not masked": int((a.elements >= 0).sum()),
                 "bytes": a.bytes, "lines of 128 bytes": a.lines} for number, a in enumerate(self.steps)]

    def listing(self, step: int) -> str:
        """The kernel's source with an arrow at the line of a step."""
        here = self.steps[step].line
        return "\n".join(f"{'-->' if n == here else '   '} {row}" for n, row in enumerate(self.source.splitlines()))

    def save(self, path: str | os.PathLike) -> None:
        """Write the walk as JSON; `load_walk` reads it."""
        steps = [{"kind": a.kind, "tensor": a.tensor.name, "line": a.line, "elements": a.elements.tolist()}
                 for a in self.steps]
        tensors = [{"name": t.name, "shape": t.shape, "itemsize": t.itemsize} for t in self.tensors.values()]
        kept = {name: getattr(self, name) for name in _PLAIN} | {"tensors": tensors, "steps": steps}
        with replacing(path) as beside:
            beside.write_text(json.dumps(kept), encoding="utf-8")


_PLAIN = ("kernel", "grid", "program", "constants", "loaded", "stored", "source")


def load_walk(name: str | os.PathLike) -> Walk:
    """A walk from a file, or one that is shipped, by its name: "forward", "weight_gradient", "segment", "scatter".

    Raises FileNotFoundError, with the names there are, and ValueError for a file that holds no walk.
    """
    path = Path(name) if Path(name).suffix else FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(repr(p.stem) for p in FOLDER.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there is no walk {os.fspath(name)!r}; shipped are {known}")
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        tensors = {t["name"]: Memory(t["name"], tuple(t["shape"]), int(t["itemsize"])) for t in kept["tensors"]}
        steps = [Access(a["kind"], tensors[a["tensor"]], np.array(a["elements"], dtype=np.int64), int(a["line"]))
                 for a in kept["steps"]]
        plain = {name: tuple(kept[name]) if name in ("grid", "program") else kept[name] for name in _PLAIN}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no walk ({type(error).__name__}: {error}); make it again with "
                         f"Walk.save") from error
    return Walk(tensors=tensors, steps=steps, **plain)


def walk(work: Callable[[], Any], program: tuple[int, ...] = (0,), kernel: str | None = None,
         otherwise: str | None = None) -> Walk:
    """Run `work()`, which launches Triton kernels on CPU tensors, and record what one program of one launch touches.

    `kernel` is the name of the kernel function; without one the first launch counts. `program` is the program id, one
    number an axis; axes that are not said are 0. Tensors of that launch must be contiguous, and small: all programs are
    run by Triton's interpreter, whatever TRITON_INTERPRET says. Where Triton is not installed, the shipped walk
    `otherwise` stands in, and it is said. Raises RuntimeError without either, ValueError if that kernel was not
    launched, has no such program or was given other tensors, and OutOfBounds, naming program and line, before memory is
    touched that belongs to no tensor.
    """
    if find_spec("triton"):
        from .walker import record

        return record(work, program, kernel)
    if otherwise is None:
        raise RuntimeError("Triton is not installed (pip install triton; Linux only), so no kernel can be walked "
                           "through; load_walk(name) has some that were recorded")
    found = load_walk(otherwise)
    print(f"Triton is not installed here: this is a recorded walk of {found.kernel}, program {found.program}.")
    return found
