"""One door to every corpus."""

from __future__ import annotations

from pathlib import Path

from .corpus import Corpus, CorpusError


def load_corpus(name_or_folder: str | Path, **options) -> Corpus:
    """Load a corpus by name ("calls", "calls-small", "planted") or from a folder in a repository format.

    Options go to the one that is loaded: `xmc_explore.corpora.calls.load_calls`, `.planted.make_planted`,
    `.repository.read_repository`. Raises `CorpusError` with the file and line for data that cannot be used.
    """
    if name_or_folder in ("calls", "calls-small"):
        from .calls import load_calls

        return load_calls(str(name_or_folder), **options)
    if name_or_folder == "planted":
        from .planted import make_planted

        return make_planted(**options)
    if not isinstance(name_or_folder, (str, Path)):
        raise CorpusError(f"a corpus is asked for by its name or its folder; got {name_or_folder!r}")
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise CorpusError(f'{folder}: no such folder, and no built-in corpus of that name; the built-in ones are '
                          f'"calls", "calls-small" and "planted"')
    from .repository import read_repository

    return read_repository(folder, **options)
