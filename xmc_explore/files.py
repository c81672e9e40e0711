"""Files that are never half-written: each is made beside its place and then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write a file or a folder to, that takes the place of `path` when the block ends without an error.

    Until then, and for good if the block raises, what is at `path` stays as it is; readers see the old or the new one,
    whole, and the last of several writers wins. What is yielded has the name of `path` and lies in a new folder of its
    own beside it, which goes with all that is in it. A killed process leaves that folder behind, its name begins with a
    dot. Raises OSError where the folder of `path` is missing or cannot be written.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as own:
        beside = Path(own) / path.name
        yield beside
        if beside.is_dir() and path.is_dir():  # no system puts one folder in the place of another that is not empty
            os.replace(path, beside.with_name(f"{path.name}.old"))
        os.replace(beside, path)
