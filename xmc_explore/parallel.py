"""Several runs at once, each in a process of its own: many seeds, or methods side by side.

One run is not spread over processes: there is no data-parallel training here. A step of a fixed fan-in layer is small
enough for one machine, and rewiring by the gradient would need the gradients of all processes at each rewire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from .corpora import Corpus
from .processes import cores, side_by_side
from .recipe import Recipe
from .trace import TemporaryFolder, Trace


def train_many(corpus: Corpus, recipes: Mapping[str, Recipe], *, steps: int | None = None,
               out: str | Path | None = None, processes: int | None = None, device: str | None = None,
               progress: bool = True) -> dict[str, Trace]:
    """Train each recipe in a process of its own and return {name: trace}, in the order given.

    `processes` run at once, as many as there are cores by default, and share the cores out; with 1 all runs follow each
    other in this process. `out` is a folder that gets one trace folder a name; without one they live as long as the
    traces do. Another number of threads adds in another order, so numbers may differ from `train`'s in the last digits.
    Raises ValueError for no recipe or two names that make one folder name; what stops a run is raised with its name.
    """
    kept = TemporaryFolder() if out is None else None
    parent = kept.path if kept else Path(out)
    folders = {name: parent / (re.sub(r"[^\w.-]+", "-", name).strip("-") or "run") for name in recipes}
    if not recipes or len(set(folders.values())) < len(folders):
        raise ValueError("each recipe needs a name of its own: give {name: recipe}; "
                         f"got {', '.join(map(repr, recipes)) or 'none'}")
    processes = min(processes or cores(), len(recipes))
    threads = max(1, cores() // processes)
    jobs = {name: (corpus, recipe, steps, folders[name], device) for name, recipe in recipes.items()}
    with tqdm(total=len(jobs), desc="runs", unit="run", disable=not progress) as bar:
        for name, result in (side_by_side(_train, jobs, processes, _use_threads, threads) if processes > 1 else
                             ((name, partial(_train, *job)) for name, job in jobs.items())):
            try:
                result()
            except Exception as error:
                error.add_note(f"in the run {name!r}, whose trace is {folders[name]}")
                raise
            bar.update()
    traces = {name: Trace(folder) for name, folder in folders.items()}
    for trace in traces.values():
        trace._keep_alive = kept
    return traces


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _train(corpus: Corpus, recipe: Recipe, steps: int | None, folder: Path, device: str | None) -> None:
    from .training import train

    train(corpus, recipe, steps=steps, out=folder, device=device, progress=False)
