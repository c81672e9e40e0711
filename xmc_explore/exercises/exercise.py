"""What an exercise is: three kinds, each a frozen value that the checker reads."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """`difficulty` and `importance` go from 1 to 5, `statement`, `hints` and `because` are Markdown.

    `because` is shown when the exercise is solved: what the answer is good for. Raises ValueError for values that do
    not fit.
    """

    name: str
    title: str
    notebook: str  # the start of its file name: "01"
    difficulty: int
    importance: int
    minutes: int
    statement: str
    hints: tuple[str, ...]
    because: str

    def __post_init__(self):
        for what in ("difficulty", "importance"):
            if getattr(self, what) not in range(1, 6):
                raise ValueError(f"exercise {self.name!r}: {what} must be from 1 to 5; got {getattr(self, what)!r}")
        if not self.hints:
            raise ValueError(f"exercise {self.name!r} has no hint")

    def solution(self) -> str:
        """The solution as Markdown."""
        raise NotImplementedError


@dataclass(frozen=True)
class Mistake:
    """A likely wrong answer: `function` makes it, `words` tell whoever made it what they did."""

    name: str
    words: str
    function: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class WriteFunction(Exercise):
    """Write a function that agrees with `reference` on whatever `inputs(rng)` draws.

    `inputs` returns the positional arguments; `mistakes` (two or more) are compared with a wrong answer to name it.
    `picture(arguments, yours, target)` may return a plotly figure or a `Picture` that shows yours beside the target.
    """

    reference: Callable[..., Any]
    inputs: Callable[[np.random.Generator], tuple]
    mistakes: tuple[Mistake, ...]
    tolerance: float = 1e-5
    picture: Callable[[tuple, Any, Any], Any] | None = None
    nothing: ClassVar[str] = "Your function returned `None`. Does each way through it end with a `return`?"

    def __post_init__(self):
        super().__post_init__()
        if len(self.mistakes) < 2:
            raise ValueError(f"exercise {self.name!r} must recognise at least two likely mistakes")

    def missing(self) -> str:
        """What this machine lacks to check an answer, in words; empty if nothing."""
        return ""

    def call(self, function: Callable, arguments: tuple) -> Any:
        """What an answer makes of `arguments`."""
        return function(*arguments)

    def usable(self, function: Callable, right: bool) -> Any:
        """What the notebook goes on with: the answer, or in its place the reference."""
        return function if right else functools.wraps(function)(lambda *args, **kw: self.reference(*args, **kw))

    def source(self) -> str:
        """The reference as code, as it would stand in the notebook."""
        return textwrap.dedent(inspect.getsource(self.reference))

    def solution(self) -> str:
        return f"```python\n{self.source()}```"


@dataclass(frozen=True, kw_only=True)
class WriteKernel(WriteFunction):
    """Write a Triton kernel: `launch(kernel, *arguments)` starts it and returns what it wrote, None if nothing.

    Answer, reference and mistakes are plain functions in Triton's language. `xe.walk` runs them, in Triton's
    interpreter, and stops one before it leaves its tensors. The notebook goes on with a compiled kernel.
    """

    launch: Callable[..., Any]
    nothing: ClassVar[str] = "Your kernel wrote nothing. Is there a `tl.store`?"

    def missing(self) -> str:
        return "" if find_spec("triton") else "Triton is not installed here, so no kernel can be run: read on."

    def call(self, function: Callable, arguments: tuple) -> Any:
        from ..layers.walk import walk

        found: list[Any] = []
        walk(lambda: found.append(self.launch(_compiled(function), *arguments)))
        return found[0]

    def usable(self, function: Callable, right: bool) -> Any:
        return _compiled(function if right else self.reference)


def _compiled(function: Callable) -> Any:
    import triton

    return triton.jit(getattr(function, "fn", function))  # who has written @triton.jit may keep it


@dataclass(frozen=True, kw_only=True)
class Prediction(Exercise):
    """Say a number before you look: right within the relative `tolerance` of `answer`.

    `answer` is a number, or a function of what the notebook hands to `predict(..., given=...)`, such as a trace.
    `traps` are wrong answers that are likely, each with words: (value or function, words).
    """

    answer: float | Callable[[Any], float]
    unit: str
    tolerance: float
    traps: tuple[tuple[float | Callable[[Any], float], str], ...] = ()
    worked: str = ""  # how one gets there, Markdown

    def solution(self) -> str:
        return self.worked


@dataclass(frozen=True, kw_only=True)
class Knob(Exercise):
    """Turn knobs until `condition(trace)` holds: it returns (reached, words that say how far it is)."""

    condition: Callable[[Any], tuple[bool, str]]
    worked: str  # one way to get there, Markdown; begins with its recipe, as code

    def recipe(self) -> str:
        """The recipe of `worked`, as it would stand in the notebook."""
        return self.worked.split("`")[1]

    def solution(self) -> str:
        return self.worked
