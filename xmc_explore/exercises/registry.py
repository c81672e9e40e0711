"""Every exercise by name."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from ..wording import did_you_mean
from .exercise import Exercise

_MACHINERY = {"exercise", "registry", "progress", "checking", "pictures"}


@cache
def all_exercises() -> dict[str, Exercise]:
    """Name -> exercise, in the order of the notebooks. Raises ValueError if two have one name."""
    found: dict[str, Exercise] = {}
    package = import_module(__package__)
    modules = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in _MACHINERY]
    listed = [e for name in modules for e in import_module(f".{name}", __package__).EXERCISES]
    for exercise in sorted(listed, key=lambda e: e.notebook):  # a stable sort: the modules' own order stays
        if exercise.name in found:
            raise ValueError(f"two exercises are called {exercise.name!r}")
        found[exercise.name] = exercise
    return found


def find(name: str, kind: type[Exercise] = Exercise) -> Exercise:
    """The exercise called `name`. Raises KeyError with the nearest name, TypeError for no string or another kind."""
    known = all_exercises()
    if not isinstance(name, str):
        raise TypeError(f"an exercise is asked for by its name, as in ex.show({next(iter(known))!r}); got {name!r}")
    if name not in known:
        raise KeyError(f"no exercise is called {name!r}{did_you_mean(name, known)}")
    if not isinstance(known[name], kind):
        use = {"WriteFunction": "check", "Prediction": "predict", "Knob": "reach"}[type(known[name]).__name__]
        raise TypeError(f"exercise {name!r} is answered with {use}(...)")
    return known[name]
