"""A folder of results that take seconds to make again: parsed packages, tokenised texts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np

from ..files import replacing

_VARIABLE = "XMC_EXPLORE_CACHE"


def cache_dir() -> Path:
    """The folder named by the environment variable XMC_EXPLORE_CACHE, or the user's cache folder for xmc_explore."""
    named = os.environ.get(_VARIABLE)
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("xmc_explore", appauthor=False)


def entry_path(kind: str, facts: dict, cache: Path | None = None) -> Path:
    """Where the entry made from `facts` lives: any fact that changes (a version, an option) is another file.

    `facts` must be JSON-able. `cache` is the folder, `cache_dir()` if None. Nothing is created.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    kind = re.sub(r"[^\w-]", "_", kind)
    return Path(cache_dir() if cache is None else cache).expanduser() / f"{kind}-{digest}.npz"


def save_arrays(path: Path, **values: np.ndarray | list[str]) -> bool:
    """Write arrays and lists of strings to the npz file `path`; readers see the old file or the whole new one.

    False, after a warning that names the way out, if the folder cannot be written.
    """
    # A list of strings becomes JSON bytes: an npz of str objects would need pickle to read.
    arrays = {f"{k}.json": np.frombuffer(json.dumps(v).encode(), np.uint8)
              for k, v in values.items() if isinstance(v, list)}
    arrays |= {k: v for k, v in values.items() if not isinstance(v, list)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside, open(beside, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        warnings.warn(f"the cache entry {path} could not be written ({error}); it will be made again next time. Set "
                      f"the environment variable {_VARIABLE} to a folder you can write to.", stacklevel=2)
        return False
    return True


def load_arrays(path: Path, expected: tuple[str, ...] = ()) -> dict[str, np.ndarray | list[str]] | None:
    """What `save_arrays` wrote to `path`, or None if there is no such file.

    A file that is cut off, altered or lacks one of the `expected` names gives a warning and None as well: make the
    entry again and save over it.
    """
    try:
        # Opened here, as np.load leaves a file open that it cannot read.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            # Reading a member to its end checks the CRC that the zip container keeps for it.
            arrays = {name: file[name] for name in file.files}
        values = {name: array for name, array in arrays.items() if not name.endswith(".json")}
        for name, array in arrays.items():
            if name.endswith(".json"):
                values[name.removesuffix(".json")] = json.loads(array.tobytes())
        if missing := [name for name in expected if name not in values]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a damaged file can make the readers below it raise nearly anything
        warnings.warn(f"the cache entry {path} cannot be used ({error}); it is made again.", stacklevel=2)
        return None
    return values
