"""Work in several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(work: Callable[..., Any], jobs: Mapping[Hashable, tuple], processes: int,
                 begin: Callable[..., None] | None = None, *arguments: Any
                 ) -> Iterator[tuple[Hashable, Callable[[], Any]]]:
    """(name, what returns or raises as `work` did) for each of the jobs, {name: arguments of `work`}, as it ends.

    `processes` run at once; each calls `begin(*arguments)` first, if it is given.
    """
    # Not fork: the caller may hold torch's threads and locks.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), begin, arguments)
    try:
        with _main_module_hidden():
            names = {pool.submit(work, *job): name for name, job in jobs.items()}
        for future in as_completed(names):
            yield names[future], future.result
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """A spawned worker first runs the caller's script again, guard or no guard; ours need nothing from it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
