"""Runs that come with the project, so that every picture is there before any training.

    python -m xmc_explore.recordings                  make them anew: minutes; elsewhere they differ in details
    python -m xmc_explore.recordings planted-set      one of them

`xe.recordings()` lists them, `xe.load_recording(name)` loads one: a trace like any other, corpus not needed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .corpora import load_corpus
from .files import replacing
from .recipe import Recipe
from .trace import Trace

FOLDER = Path(__file__).resolve().parent.parent / "data" / "recordings"

_CALLS = dict(rewire_interval=20, eval_interval=40, probe_interval=40)
_PLANTED = dict(encoder="features", fan_in=16, rewire_interval=50, rewire_fraction=0.3, output_lr=0.02,
                eval_interval=120)


@dataclass(frozen=True)
class Recording:
    """How a recording was made: `python -m xmc_explore.recordings` does it again."""

    about: str
    corpus: str
    recipe: Recipe
    steps: int


RECORDINGS = {
    "calls-small-set": Recording(
        "SET on calls-small: a sparse output layer, rewired at random, and nothing to help the encoder",
        "calls-small", Recipe.method("SET", **_CALLS), 1200),
    "calls-small-auxiliary": Recording(
        "the same with the auxiliary objective, from the same encoder on the same batches",
        "calls-small", Recipe.method("SET + auxiliary", **_CALLS), 1200),
    "planted-set": Recording(
        "SET on the planted corpus, where the true support of every label is known: which does it find?",
        "planted", Recipe.method("SET", **_PLANTED), 3600),
}


def load_recording(name: str) -> Trace:
    """The trace of a shipped run. Raises ValueError for a name that is none, FileNotFoundError where they are not."""
    if name not in RECORDINGS:
        raise ValueError(f"no recording is called {name!r}; there is {', '.join(map(repr, RECORDINGS))}")
    folder = FOLDER / name
    if not (folder / "run.json").exists():
        raise FileNotFoundError(f"{folder} is not there: recordings lie in the repository's data/recordings and not in "
                                f"the installed package. Work in a checkout, or make one of your own: xe.train(..., "
                                f"out='runs/{name}'), then xe.Trace('runs/{name}')")
    return Trace(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m xmc_explore.recordings",
                                     description="Make the recordings in data/recordings anew.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECORDINGS)}; without any, all")
    names = parser.parse_args().names or list(RECORDINGS)
    if unknown := [name for name in names if name not in RECORDINGS]:
        parser.error(f"no recording is called {', '.join(unknown)}")
    from .training import train

    for name in names:
        make = RECORDINGS[name]
        with replacing(FOLDER / name) as beside:
            trace = train(load_corpus(make.corpus), make.recipe, steps=make.steps, out=beside)
            if trace.status != "finished":
                raise SystemExit(f"{name}: {trace.status}; the recording stays as it was")
        size = sum(path.stat().st_size for path in (FOLDER / name).rglob("*") if path.is_file())
        print(f"{Trace(FOLDER / name)}\n  {size / 1e6:.2f} MB\n")


class _Recordings(ModuleType):
    def __call__(self) -> dict[str, str]:
        """The names of the recordings, each with what it shows."""
        return {name: recording.about for name, recording in RECORDINGS.items()}


sys.modules[__name__].__class__ = _Recordings  # `xe.recordings` is a module for `python -m`, and callable: see `doctor`

if __name__ == "__main__":
    main()
