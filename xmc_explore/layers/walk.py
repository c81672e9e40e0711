"""Walk through a Triton kernel: what one of its programs loads and stores, recorded while the real kernel runs.

    found = walk(lambda: triton_kernels.forward(x, weight, indices, bias), program=(1, 0))
    found.table()                  # a row for each load and store, in order
    print(found.listing(step=3))   # the kernel's source, with an arrow at that line

Nothing is simulated: Triton's interpreter runs the kernel, on tensors of the CPU and whatever TRITON_INTERPRET says,
and its own load and store are listened to. Pointers become elements of the tensors that the kernel was given.
"""

from __future__ import annotations

import inspect
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

LINE = 128  # bytes that a GPU's cache fetches together

_one_at_a_time = threading.Lock()  # the interpreter is patched, and there is one of it


class OutOfBounds(IndexError):
    """A kernel was about to read or write memory of no tensor."""


@dataclass(frozen=True)
class Memory:
    """A tensor that a kernel was given: its name there, shape, bytes of a number, and first address."""

    name: str
    shape: tuple[int, ...]
    itemsize: int
    address: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Access:
    """One load, store or atomic addition: `elements` [lanes] are positions in the flattened tensor, -1 where masked."""

    kind: str
    tensor: Memory
    elements: np.ndarray
    line: int  # of the source file

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
    first_line: int = field(repr=False)

    def table(self) -> list[dict[str, Any]]:
        """A row for each access: line of code, kind, tensor, lanes, those not masked, bytes, lines of the cache."""
        code = self.source.splitlines()
        return [{"step": number, "code": code[a.line - self.first_line].strip(), "kind": a.kind,
                 "tensor": a.tensor.name, "lanes": a.elements.size, "not masked": int((a.elements >= 0).sum()),
                 "bytes": a.bytes, "lines of 128 bytes": a.lines} for number, a in enumerate(self.steps)]

    def listing(self, step: int) -> str:
        """The kernel's source with an arrow at the line of a step."""
        here = self.steps[step].line - self.first_line
        return "\n".join(f"{'-->' if n == here else '   '} {row}" for n, row in enumerate(self.source.splitlines()))


@contextmanager
def interpreted() -> Iterator[None]:
    """Inside, every kernel is run by Triton's interpreter, also one that was made to be compiled."""
    run, call = JITFunction.run, JITFunction.__call__
    language = [(place, dict(vars(place))) for place in (tl, tl.core, tl.math, tl.tensor, tl.dtype,
                                                         tl.core.tensor_descriptor_base)]
    twins: dict[Callable, interpreter.InterpretedFunction] = {}

    def twin(kernel: JITFunction) -> interpreter.InterpretedFunction:
        return twins.setdefault(kernel.fn, interpreter.InterpretedFunction(kernel.fn))

    with _one_at_a_time, triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        JITFunction.run = lambda self, *args, **kwargs: twin(self).run(*args, **kwargs)
        JITFunction.__call__ = lambda self, *args, **kwargs: twin(self)(*args, **kwargs)
        try:
            yield
        finally:
            JITFunction.run, JITFunction.__call__ = run, call
            # The interpreter changes the language, and after a helper such as tl.sum forgets to change it back: kernels
            # could not be compiled afterwards.
            for place, before in language:
                for name, value in dict(vars(place)).items():
                    if name not in before:
                        delattr(place, name)
                    elif value is not before[name]:
                        setattr(place, name, before[name])


def walk(work: Callable[[], Any], program: tuple[int, ...] = (0,), kernel: str | None = None) -> Walk:
    """Run `work()`, which launches Triton kernels on CPU tensors, and record what one program of one launch touches.

    `kernel` is the name of the kernel function; without one the first launch counts. `program` is the program id, one
    number an axis; axes that are not said are 0. Tensors of that launch must be contiguous, and small: all programs are
    run by the interpreter. Raises ValueError if that kernel was not launched, has no such program or was given other
    tensors, and OutOfBounds, naming program and line, before memory is touched that belongs to no tensor.
    """
    recorder = _Recorder((*program, 0, 0)[:3], kernel)
    with interpreted(), recorder.listening():
        try:
            work()
        except interpreter.InterpreterError as error:
            cause = error
            while cause is not None and not isinstance(cause, OutOfBounds):
                cause = cause.__cause__
            raise cause or error from None
    return recorder.result(program)


class _Recorder:
    """Listens to the interpreter: launches come by `GridExecutor`, loads and stores by its builder."""

    def __init__(self, program: tuple[int, int, int], kernel: str | None):
        self.program, self.kernel = program, kernel
        self.launch: dict[str, Any] | None = None  # the one that is recorded
        self.names: list[str] = []  # of all that were launched
        self.active = False
        self.steps: list[Access] = []
        self.moved: dict[str, dict[str, int]] = {"load": {}, "store": {}, "atomic add": {}}

    @contextmanager
    def listening(self) -> Iterator[None]:
        builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
        original = executor.__call__
        hooks = {"create_masked_load": lambda ptrs, mask, *_: self.note("load", ptrs, mask),
                 "create_masked_store": lambda ptrs, value, mask, *_: self.note("store", ptrs, mask),
                 "create_atomic_rmw": lambda op, ptrs, value, mask, *_: self.note("atomic add", ptrs, mask)}

        def hooked(name: str) -> Callable:
            real = getattr(builder, name)

            def listen(*args: Any) -> Any:
                if self.active:
                    hooks[name](*args)
                return real(*args)
            return listen

        def launch(grid: interpreter.GridExecutor, *args: Any, **kwargs: Any) -> None:
            self.names.append(grid.fn.__name__)
            if self.launch is None and self.kernel in (None, grid.fn.__name__):
                self.begin(grid, args, kwargs)
                self.active = True
            try:
                original(grid, *args, **kwargs)
                if self.active:
                    self.launch["grid"] = tuple(builder.grid_dim)
            finally:
                self.active = False

        for name in hooks:
            setattr(builder, name, hooked(name))  # on the one builder that there is; its class keeps the original
        executor.__call__ = launch
        try:
            yield
        finally:
            executor.__call__ = original
            for name in hooks:
                delattr(builder, name)

    def begin(self, grid: interpreter.GridExecutor, args: tuple, kwargs: dict) -> None:
        original = next(fn for fn, rewritten in interpreter.InterpretedFunction.rewritten_fn.items()
                        if rewritten is grid.fn)
        kwargs = {k: v for k, v in kwargs.items() if k in grid.arg_names}  # the rest (num_warps, ...) is the compiler's
        given = inspect.getcallargs(original, *args, **kwargs)
        tensors = {}
        for name, value in given.items():
            if isinstance(value, torch.Tensor):
                if value.device.type != "cpu" or not value.is_contiguous():
                    raise ValueError(f"{original.__name__}: {name} must be a contiguous tensor on the CPU to be walked "
                                     f"through; it is on {value.device}, strides {value.stride()}")
                tensors[name] = Memory(name, tuple(value.shape), value.element_size(), value.data_ptr())
        rows, first = inspect.getsourcelines(original)
        self.launch = {"kernel": original.__name__, "tensors": tensors, "source": "".join(rows), "first_line": first,
                       "constants": {name: given[name] for name in grid.constexprs},
                       "code": grid.fn.__code__}

    def note(self, kind: str, ptrs: interpreter.TensorHandle, mask: interpreter.TensorHandle) -> None:
        address = np.asarray(ptrs.data, dtype=np.uint64).astype(np.int64).ravel()
        asked = np.broadcast_to(np.asarray(mask.data, dtype=bool), np.shape(ptrs.data)).ravel()
        here = tuple(interpreter.interpreter_builder.grid_idx)
        at = address[asked] if asked.any() else address
        tensors = self.launch["tensors"].values()
        within = {t: (at >= t.address) & (at < t.address + t.size * t.itemsize) for t in tensors}
        tensor = next((t for t, lanes in within.items() if lanes.any()), None)
        inside, line = within.get(tensor, np.zeros(len(at), bool)), self.line()
        if asked.any() and not inside.all():
            row = self.launch["source"].splitlines()[line - self.launch["first_line"]].strip()
            raise OutOfBounds(f"program {here} of {self.launch['kernel']}, line {line}, `{row}`: {(~inside).sum()} of "
                              f"{len(at)} addresses lie outside {'every tensor' if tensor is None else tensor.name}; "
                              f"is there a mask, and does it cover both ends of the tile?")
        if tensor is None:  # nothing is read, and it cannot be said of what
            return
        size = int(asked.sum()) * tensor.itemsize
        self.moved[kind][tensor.name] = self.moved[kind].get(tensor.name, 0) + size
        if here == self.program:
            elements = np.where(asked, (address - tensor.address) // tensor.itemsize, -1)
            self.steps.append(Access(kind, tensor, elements, line))

    def line(self) -> int:
        """The line of the kernel that is being run."""
        frame = sys._getframe()
        while frame is not None and frame.f_code is not self.launch["code"]:
            frame = frame.f_back
        return frame.f_lineno

    def result(self, program: tuple[int, ...]) -> Walk:
        if self.launch is None:
            wanted = "no kernel" if self.kernel is None else f"no kernel {self.kernel!r}"
            raise ValueError(f"{wanted} was launched, only: {', '.join(dict.fromkeys(self.names)) or 'none'}")
        grid = self.launch["grid"]
        if any(not 0 <= p < n for p, n in zip(self.program, grid, strict=True)):
            raise ValueError(f"program {program} is outside the grid {grid} of {self.launch['kernel']}")
        stored = dict(self.moved["store"])
        for name, size in self.moved["atomic add"].items():
            stored[name] = stored.get(name, 0) + size
        kept = {k: self.launch[k] for k in ("kernel", "tensors", "constants", "source", "first_line")}
        return Walk(grid=grid, program=self.program, steps=self.steps, loaded=self.moved["load"], stored=stored, **kept)
