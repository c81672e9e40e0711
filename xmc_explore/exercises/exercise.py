"""What an exercise is: three kinds, each a frozen value that the checker reads."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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

    def __post_init__(self):
        super().__post_init__()
        if len(self.mistakes) < 2:
            raise ValueError(f"exercise {self.name!r} must recognise at least two likely mistakes")

    def source(self) -> str:
        """The reference as code, as it would stand in the notebook."""
        return textwrap.dedent(inspect.getsource(self.reference))

    def solution(self) -> str:
        return f"```python\n{self.source()}```"


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
    worked: str  # one way to get there, Markdown

    def solution(self) -> str:
        return self.worked
