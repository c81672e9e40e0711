"""How an answer is checked, and what is said of it."""

from __future__ import annotations

import copy
import html
import inspect
import linecache
import secrets
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from ..wording import numeral
from .exercise import Exercise, Knob, Prediction, WriteFunction, WriteKernel
from .progress import record
from .registry import find

TRIALS = 8  # random inputs a check draws
PATIENCE = 10.0  # seconds; what an answer is called on is tiny


# --- the three ways to answer -------------------------------------------------------------------------------------


def check(name: str) -> Callable[[Callable], Callable]:
    """A decorator: checks the function below it, says what it found, and hands back one that works.

    A right function comes back as it is. An unsolved or wrong one is replaced by the reference, so that the cells
    that follow run all the same; what was wrong is said, and a mistake that is known is called by its name.
    Raises KeyError if there is no such exercise.
    """
    exercise = find(name, WriteFunction)

    def decorate(function: Callable) -> Callable:
        if missing := exercise.missing():
            _say("unsolved", missing)
            return function
        right, kind, words, picture = examine(exercise, function)
        if kind != "unsolved":
            record(name, right)
        _say(kind, f"{words} Below, the reference stands in for it." if kind == "wrong" else words)
        if picture is not None:
            _display(picture)
        return exercise.usable(function, right)

    return decorate


def predict(name: str, guess: float | None, given: Any = None) -> None:
    """Compare a predicted number with what is so. `given` is what the exercise measures it on, a trace for example.

    `guess=None` is "not yet", and what is no number is told so: neither stops a notebook. Raises KeyError for an
    unknown exercise.
    """
    exercise = find(name, Prediction)
    if guess is None or guess is Ellipsis:
        return _say("unsolved", "No prediction yet: put a number in place of `None` and run on from there.")
    number = np.asarray(guess)
    if number.size != 1 or number.dtype.kind not in "iuf" or not np.isfinite(number).all():
        return _say("unsolved", f"A prediction is one number, as `12.5` is; got `{_short(guess)}`. Change it and run "
                                f"the cell again.")
    guess = number.item()
    answer = _value(exercise.answer, given)
    right = _near(guess, answer, exercise.tolerance)
    record(name, right)
    told = f"You said {_number(guess)}, it is **{_number(answer)} {exercise.unit}**."
    if right:
        return _say("right", f"{told} {exercise.because}")
    trap = next((words for value, words in exercise.traps if _near(guess, _value(value, given), 0.02)), "")
    _say("wrong", f"{told} {trap or f'{exercise.worked} {exercise.because}'.strip()}")


def reach(name: str, run: Any) -> None:
    """Has a run reached what the exercise asks for? `run` is a trace, or a laboratory whose trace is taken.

    Raises KeyError for an unknown exercise and TypeError for what is no run.
    """
    exercise = find(name, Knob)
    run = getattr(run, "trace", run)
    if not hasattr(run, "metrics"):
        raise TypeError(f"ex.reach({name!r}, run): run is a trace, as xe.train returns one, or a laboratory; got "
                        f"{_short(run)}")
    reached, words = exercise.condition(run)
    record(name, reached)
    _say("right" if reached else "unsolved", f"{words} {exercise.because if reached else ''}".strip())


def show(name: str) -> None:
    """The statement with difficulty, importance and minutes; below it hints, one after the other, and the solution."""
    exercise = find(name)
    _display_markdown(statement(exercise))


def solution(name: str) -> str:
    """The code (or the words) that solve an exercise; tests put it into the notebooks."""
    exercise = find(name)
    return exercise.source() if isinstance(exercise, WriteFunction) else exercise.solution()


# --- what is found ------------------------------------------------------------------------------------------------


def examine(exercise: WriteFunction, function: Callable, seed: int | None = None) -> tuple[bool, str, str, Any]:
    """(right, "right" | "wrong" | "unsolved", words, picture or None) of a function on fresh random inputs."""
    seed = secrets.randbelow(2**31) if seed is None else seed
    rng = np.random.default_rng(seed)
    answers, shown = [], None
    for _ in range(TRIALS):
        arguments = exercise.inputs(rng)
        target = exercise.call(exercise.reference, copy.deepcopy(arguments))
        handed = copy.deepcopy(arguments)
        inputs = f"inputs {_inputs(exercise, arguments)}; random seed {seed}"
        try:
            with _patience():
                yours = exercise.call(function, handed)
        except NotImplementedError:
            yours = Ellipsis
        except KeyboardInterrupt:
            words = f"You stopped it before it came back. Is there a loop without an end? ({inputs})"
            return False, "wrong", words, None
        except Exception as error:
            return False, "wrong", f"Your function stopped with {_told(error, function)} ({inputs}).", None
        if yours is Ellipsis or yours is None and _is_stub(function):
            return False, "unsolved", "Not solved yet: until then the reference stands in for it below.", None
        if yours is None:
            return False, "wrong", exercise.nothing, None
        right = agree(yours, target, exercise.tolerance)
        if right and not agree(handed, arguments, 0):
            return False, "wrong", "The result is right, but your function changed its inputs: work on a copy.", None
        if right and (kind := _other_kind(yours, target)):
            words = f"The numbers are right, but they come as `{type(yours).__name__}`: return a {kind}."
            return False, "wrong", words, None
        answers.append((arguments, yours, target, inputs))
        if shown is None or not right:
            shown = answers[-1]
    picture = exercise.picture(*shown[:3]) if exercise.picture and find_spec("plotly") else None
    if all(agree(yours, target, exercise.tolerance) for _, yours, target, _ in answers):
        return True, "right", f"Right, on {TRIALS} random inputs. {exercise.because}", picture
    for mistake in exercise.mistakes:
        if all(agree(yours, _quietly(exercise, mistake.function, arguments), exercise.tolerance)
               for arguments, yours, _, _ in answers):
            return False, "wrong", f"**{mistake.name}.** {mistake.words}", picture
    _, yours, target, inputs = shown
    same = _everywhere([(a[1], a[2]) for a in answers], exercise.tolerance)
    return False, "wrong", f"{same}{difference(yours, target)} ({inputs}).", picture


def agree(a: Any, b: Any, tolerance: float) -> bool:
    """Are two results the same: numbers, arrays, tensors, and tuples, lists and dictionaries of them?"""
    if isinstance(b, dict):
        return isinstance(a, dict) and a.keys() == b.keys() and all(agree(a[k], b[k], tolerance) for k in b)
    if isinstance(b, (tuple, list)):
        return (isinstance(a, (tuple, list)) and len(a) == len(b)
                and all(agree(x, y, tolerance) for x, y in zip(a, b, strict=True)))
    if isinstance(b, str) or b is None or callable(b):
        return a is b or (type(a) is type(b) and a == b)
    try:
        x, y = _array(a), _array(b)
    except (TypeError, ValueError, RuntimeError):
        return a is b
    if x.shape != y.shape:
        return False
    if x.dtype.kind not in "fiubc" or y.dtype.kind not in "fiubc":
        return bool(np.array_equal(x, y))
    return bool(np.allclose(x.astype(np.float64), y.astype(np.float64), rtol=tolerance, atol=tolerance, equal_nan=True))


def difference(yours: Any, target: Any) -> str:
    """In words, how a result differs."""
    if isinstance(target, (tuple, list)) and isinstance(yours, (tuple, list)) and len(yours) == len(target):
        for number, (a, b) in enumerate(zip(yours, target, strict=True), 1):
            if not agree(a, b, 1e-5):
                return f"Part {number} of {len(target)}: " + difference(a, b)
    if isinstance(target, dict) and isinstance(yours, dict):
        for key in [*target, *yours]:
            if key not in target or key not in yours:
                return f"Key {key!r} {'is missing' if key in target else 'should not be there'}"
            if not agree(yours[key], target[key], 1e-5):
                return f"At key {key!r}: " + difference(yours[key], target[key])
    try:
        x, y = _array(yours), _array(target)
    except (TypeError, ValueError, RuntimeError):
        return f"Expected a result like `{type(target).__name__}`, got `{type(yours).__name__}`"
    if x.shape != y.shape:
        expected, got = ("one number" if a.shape == () and a.dtype.kind in "iufb" else f"shape {list(a.shape)}"
                         if a.shape or a.dtype.kind != "O" else f"`{type(value).__name__}`"
                         for a, value in ((y, target), (x, yours)))
        return f"Expected a result of {expected}, got {got}"
    if x.dtype.kind not in "fiubc" or y.dtype.kind not in "fiubc":
        return f"Expected `{_short(target)}`, got `{_short(yours)}`"
    if y.size == 1:
        return f"Expected {_number(float(y.reshape(())))}, got {_number(float(x.reshape(())))}"
    x, y = x.astype(np.float64), y.astype(np.float64)
    off = ~np.isclose(x, y, rtol=1e-5, atol=1e-5, equal_nan=True)
    worst = np.unravel_index(np.argmax(np.where(off, np.abs(x - y), -1)), y.shape)
    place = ", ".join(map(str, worst))
    return (f"{off.sum():,} of {y.size:,} values differ, most of all at [{place}]: expected {_number(y[worst])}, "
            f"got {_number(x[worst])}")


def _everywhere(pairs: list[tuple[Any, Any]], tolerance: float) -> str:
    """What all numbers of a wrong answer have in common, if it is a factor or a number added; else nothing."""
    try:
        x, y = (np.concatenate([_array(pair[i]).astype(np.float64).ravel() for pair in pairs]) for i in (0, 1))
        if any(_array(yours).shape != _array(target).shape for yours, target in pairs):
            return ""
    except (TypeError, ValueError, RuntimeError):
        return ""
    if len(x) < 2 or not np.isfinite([x, y]).all() or np.ptp(y) == 0:
        return ""
    factor, more = x @ y / (y @ y), (x - y).mean()
    if abs(factor) > 1e-9 and np.allclose(x, factor * y, rtol=10 * tolerance, atol=10 * tolerance):
        return "The sign is the wrong way round. " if abs(factor + 1) < 1e-6 else (
            f"All that you return is {_number(factor)} times what it should be. ")
    if np.allclose(x, y + more, rtol=10 * tolerance, atol=10 * tolerance):
        return f"All that you return is {_number(abs(more))} too {'large' if more > 0 else 'small'}. "
    return ""


def _other_kind(yours: Any, target: Any) -> str:
    """What the result should have been, if the cells below could stumble over what it is."""
    for kind, noun in ((torch.Tensor, "PyTorch tensor"), (np.ndarray, "NumPy array")):
        if isinstance(target, kind) and not isinstance(yours, kind):
            return noun
    return ""


def _is_stub(function: Callable) -> bool:
    """Does a function do nothing, as it stands in the notebook?"""
    code = getattr(getattr(function, "fn", function), "__code__", None)
    return code is not None and len(code.co_code) <= len((lambda: None).__code__.co_code)


def _told(error: Exception, function: Callable) -> str:
    """An error in a student's function: what it says, and at which line of theirs."""
    said = " ".join(str(error).split())
    said = f"{type(error).__name__}: {said if len(said) <= 300 else said[:297] + '...'}"
    code = getattr(function, "__code__", None)
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
    where = f" in line {lines[-1]}, `{linecache.getline(code.co_filename, lines[-1]).strip()}`" if lines else ""
    return f"`` {said} ``{where}" if "`" in said else f"`{said}`{where}"


@contextmanager
def _patience() -> Iterator[None]:
    """Says after `PATIENCE` seconds that something takes long, and how to stop it."""
    words = (f"Your function has run for {PATIENCE:.0f} seconds on tiny inputs. If there is a loop without an end, "
             f"interrupt it: *Kernel → Interrupt Kernel*, or ■ on top.")
    timer = threading.Timer(PATIENCE, _say, ("unsolved", words))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _quietly(exercise: WriteFunction, function: Callable, arguments: tuple) -> Any:
    """What a known mistake answers; one that stops with an error resembles nothing."""
    try:
        return exercise.call(function, copy.deepcopy(arguments))
    except Exception:
        return object()


def _array(value: Any) -> np.ndarray:
    return value.detach().float().numpy() if isinstance(value, torch.Tensor) and value.is_floating_point() else (
        np.asarray(value))


def _value(answer: Any, given: Any) -> float:
    return float(answer(given) if callable(answer) else answer)


def _near(guess: float, answer: float, tolerance: float) -> bool:
    return abs(guess - answer) <= tolerance * max(abs(answer), 1e-12)


def _number(value: float) -> str:
    return numeral(value, ",.0f" if abs(value) >= 1000 else ".4g")


def _short(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _inputs(exercise: WriteFunction, arguments: tuple) -> str:
    """What an answer was called on: name and shape, or the value where it is short."""
    names = inspect.signature(exercise.reference).parameters
    said = (f" {list(a.shape)}" if hasattr(a, "shape") else f" {a:.4g}" if isinstance(a, float) else
            f" {a!r}" if isinstance(a, (int, str)) else f", a {type(a).__name__}" for a in arguments)
    return ", ".join(name + words for name, words in zip(names, said, strict=False))


# --- what is shown ------------------------------------------------------------------------------------------------


def statement(exercise: Exercise) -> str:
    """An exercise as Markdown: it needs no widget, so it reads the same in a rendered page."""
    dots = {what: "●" * n + "○" * (5 - n) for what, n in (("difficulty", exercise.difficulty),
                                                          ("importance", exercise.importance))}
    kind = {WriteFunction: "write a function", WriteKernel: "write a kernel",
            Prediction: "predict, then look", Knob: "turn the knob until"}
    head = (f"#### Exercise: {exercise.title}\n\n*{kind[type(exercise)]} · difficulty {dots['difficulty']} · "
            f"importance {dots['importance']} · no more than {exercise.minutes} minutes*\n\n"
            f"{exercise.statement.strip()}\n")
    folded = [("Hint" if len(exercise.hints) == 1 else f"Hint {i}", text)
              for i, text in enumerate(exercise.hints, 1)] + [("Solution", exercise.solution())]
    return head + "".join(f"\n<details><summary>{html.escape(title)}</summary>\n\n{text.strip()}\n\n</details>\n"
                          for title, text in folded)


_MARK = {"right": "✓", "wrong": "✗", "unsolved": "…"}


def _say(kind: str, words: str) -> None:
    _display_markdown(f"{_MARK[kind]} {words}")


def _display_markdown(text: str) -> None:
    if _in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(text))
    else:
        print(text)


def _display(picture: Any) -> None:
    if _in_notebook():
        from IPython.display import display

        display(picture)


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None
