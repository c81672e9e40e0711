"""Walk through a Triton kernel: Triton's interpreter runs it, and its own load and store are listened to.

Pointers become elements of the tensors that the kernel was given. `python -m xmc_explore.layers.walker` makes the walks
that are shipped.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from .walk import FOLDER, Access, Memory, OutOfBounds, Walk

_one_at_a_time = threading.Lock()  # the interpreter is patched, and there is one of it


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


def record(work: Callable[[], Any], program: tuple[int, ...] = (0,), kernel: str | None = None) -> Walk:
    """See `walk`."""
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
        self.address: dict[str, int] = {}
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
                tensors[name] = Memory(name, tuple(value.shape), value.element_size())
                self.address[name] = value.data_ptr()
        rows, first = inspect.getsourcelines(original)
        self.code, self.first_line = grid.fn.__code__, first
        constants = {k: given[k] if isinstance(given[k], int) else str(given[k]) for k in grid.constexprs}
        self.launch = {"kernel": original.__name__, "tensors": tensors, "source": "".join(rows), "constants": constants}

    def note(self, kind: str, ptrs: interpreter.TensorHandle, mask: interpreter.TensorHandle) -> None:
        address = np.asarray(ptrs.data, dtype=np.uint64).astype(np.int64).ravel()
        asked = np.broadcast_to(np.asarray(mask.data, dtype=bool), np.shape(ptrs.data)).ravel()
        here = tuple(interpreter.interpreter_builder.grid_idx)
        at = address[asked] if asked.any() else address
        starts = {t: self.address[t.name] for t in self.launch["tensors"].values()}
        within = {t: (at >= start) & (at < start + t.size * t.itemsize) for t, start in starts.items()}
        tensor = next((t for t, lanes in within.items() if lanes.any()), None)
        inside, line = within.get(tensor, np.zeros(len(at), bool)), self.line()
        if asked.any() and not inside.all():
            row = self.launch["source"].splitlines()[line].strip()
            raise OutOfBounds(f"program {here} of {self.launch['kernel']}, line {line}, `{row}`: {(~inside).sum()} of "
                              f"{len(at)} addresses lie outside {'every tensor' if tensor is None else tensor.name}; "
                              f"is there a mask, and does it cover both ends of the tile?")
        if tensor is None:  # nothing is read, and it cannot be said of what
            return
        size = int(asked.sum()) * tensor.itemsize
        self.moved[kind][tensor.name] = self.moved[kind].get(tensor.name, 0) + size
        if here == self.program:
            elements = np.where(asked, (address - starts[tensor]) // tensor.itemsize, -1)
            self.steps.append(Access(kind, tensor, elements, line))

    def line(self) -> int:
        """The line of the kernel's source that is being run, from 0."""
        frame = sys._getframe()
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back
        return frame.f_lineno - self.first_line

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
        return Walk(program=self.program, steps=self.steps, loaded=self.moved["load"], stored=stored, **self.launch)


# --- the walks that are shipped -----------------------------------------------------------------------------------


def example() -> tuple[torch.Tensor, ...]:
    """x [40, 24], weight and indices [70, 4], bias [70], grad [40, 70]: two tiles of documents, three of labels."""
    g = torch.Generator().manual_seed(0)
    x, weight, bias, grad = (torch.randn(size, generator=g) for size in ((40, 24), (70, 4), (70,), (40, 70)))
    indices = torch.rand(70, 24, generator=g).argsort(1)[:, :4].to(torch.int16)
    return x, weight, indices, bias, grad


def shipped() -> dict[str, Walk]:
    """The walks of data/walks by name, made anew."""
    from . import triton_kernels as kernels

    x, weight, indices, bias, grad = example()
    plan = kernels.plan(indices, x.shape[1])
    return {"forward": record(lambda: kernels.forward(x, weight, indices, bias), (2, 1)),
            **{name: record(lambda plan=plan: kernels.backward(grad, x, weight, indices, (True,) * 3, plan), (1,),
                            f"{name}_kernel") for name, plan in (("weight_gradient", plan), ("segment", plan),
                                                                 ("scatter", ()))}}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, found in shipped().items():
        found.save(FOLDER / f"{name}.json")
