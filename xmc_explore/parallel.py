"""Several runs at once, each in a process of its own: many seeds, or methods side by side.

One run is not spread over processes: there is no data-parallel training here. A step of a fixed fan-in layer is small
enough for one machine, and rewiring by the gradient would need the gradients of all processes at each rewire.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from .corpora import Corpus
from .corpora.calls import main_module_hidden
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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(processes or cores, len(recipes))
    jobs = {name: (corpus, recipe, steps, folders[name], device) for name, recipe in recipes.items()}
    with tqdm(total=len(jobs), desc="runs", unit="run", disable=not progress) as bar:
        for name, error in (_one_after_the_other(jobs) if processes == 1 else
                            _side_by_side(jobs, processes, max(1, cores // processes))):
            if error is not None:
                error.add_note(f"in the run {name!r}, whose trace is {folders[name]}")
                raise error
            bar.update()
    traces = {name: Trace(folder) for name, folder in folders.items()}
    for trace in traces.values():
        trace._keep_alive = kept
    return traces


def _one_after_the_other(jobs):
    for name, job in jobs.items():
        try:
            _train(*job)
            yield name, None
        except Exception as error:
            yield name, error


def _side_by_side(jobs, processes: int, threads: int):
    """(name, error or None) of each job as it ends."""
    # Not fork: the caller may hold torch's threads and locks.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _use_threads, (threads,))
    try:
        with main_module_hidden():
            names = {pool.submit(_train, *job): name for name, job in jobs.items()}
        for future in as_completed(names):
            yield names[future], future.exception()
    finally:
        pool.shutdown(cancel_futures=True)


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _train(corpus: Corpus, recipe: Recipe, steps: int | None, folder: Path, device: str | None) -> None:
    from .training import train

    train(corpus, recipe, steps=steps, out=folder, device=device, progress=False)
