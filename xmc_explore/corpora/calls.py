"""The built-in corpus: Python functions, described by their docstrings and labelled with the functions they call."""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sysconfig
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from ..processes import cores, side_by_side
from .cache import entry_path, load_arrays, save_arrays
from .corpus import Corpus, CorpusError, Split

STDLIB = "python"
PACKAGES = {  # import name -> name of its distribution
    "networkx": "networkx", "numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "sklearn": "scikit-learn",
    "sympy": "sympy", "torch": "torch", "transformers": "transformers",
}
# The small corpus takes whole packages, not a sample of documents: a sample thins every label, so most of the tail
# would fall below `min_uses`. It leaves out torch and transformers, the slowest to parse and the fullest of copies,
# so that a server with a CUDA build of torch and a laptop without one make the same corpus.
SIZES = {"calls": (*PACKAGES, STDLIB), "calls-small": ("numpy", "pandas", "scipy", "sklearn", STDLIB)}
TEST_SHARE = 0.15

_BUILDER = 2  # raise whenever what a parsed package holds changes
_PARTS = ("texts", "share", "indptr", "indices", "names", "counts")
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "idlelib", "turtledemo", "site-packages", "dist-packages",
                    "__pycache__"}
# Written from another file of the package, as a third of transformers' are: the same functions once more.
_GENERATED = re.compile(rb"\A(?:#[^\n]*\n)*#[^\n]*automatically generated from", re.I)
_FILES_PER_BATCH = 24
_MOST_PROCESSES = 8
# What every function with a docstring contains: the end of its signature, then a string. Other code can match too.
_DOCSTRING = re.compile(rb"""\)\s*(?:->[^:]*)?:\s*(?:#[^\n]*\n\s*)*[rRuU]?["']""")
# A function: the line of its def, then all blank lines, comments, deeper lines and closing brackets that follow.
_FUNCTION = re.compile(rb"^([ \t]*)(?:async +)?def [^\n]*\n(?:(?:\1[ \t)\]}][^\n]*|[ \t\r]*(?:#[^\n]*)?)\n)*", re.M)
_STUB = b"class _left_out_: 0"
_WORD_BREAK = re.compile(r"_+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_BLANK_LINE = re.compile(r"\n\s*\n")
_LETTERS = re.compile(r"[^\W\d_]+")


def load_calls(name: str = "calls", *, min_uses: int = 5, cache: Path | None = None, progress: bool = True,
               roots: Mapping[str, str | Path] | None = None) -> Corpus:
    """Functions of installed Python packages as documents, the names of the functions they call as labels.

    A document's text is the function's name in words and the first paragraph of its docstring; functions without a
    docstring are left out. Its labels are the names called in its body, nested functions included, its own name
    excluded. Sources are parsed, never imported or run; tests are left out.

    Functions with equal text are one document, which keeps the names that at least half of them call: for two that
    is the union, while the 98 `forward` methods of transformers that begin "Example:" do not end up with 172 labels.
    Labels that fewer than `min_uses` documents carry, training and test counted together, are dropped, then documents
    without a label. "calls" reads all `PACKAGES` and the standard library; "calls-small" numpy, pandas, scipy, sklearn
    and the standard library, enough for live work. `roots` (name -> folder) reads your own code instead.

    Leakage: code is copied, and so are docstrings. The split therefore hashes one min-wise sample (Broder, 1997) of
    the paragraph's three-word runs, name left out, so paragraphs that share most of their words mostly fall on one
    side. Measured with torch 2.13 and transformers 5.23, a test document shares its whole paragraph with no training
    document, and 4.9 % (small: 3.7 %) have one with a word overlap (Jaccard) of 0.8 or more; hashing the whole text
    would leave 2.9 % and 10.7 % (2.8 % and 10.1 %).

    Parsed packages are kept in `cache` (default `cache_dir()`), one entry per package version. Raises `CorpusError`
    for an unknown name, `min_uses` below 1, a folder that is not there, or if no document is left.
    """
    if name not in SIZES:
        raise CorpusError(f"no built-in corpus {name!r}; there are {', '.join(map(repr, SIZES))}")
    if min_uses < 1:
        raise CorpusError(f"min_uses is a number of documents, 1 or more; got {min_uses}")
    sources, absent = _installed(SIZES[name]) if roots is None else (_given(roots), [])
    if not sources:
        raise CorpusError(f"corpus {name!r}: roots names no folder to read")
    parsed = _parsed(sources, cache, progress)
    texts, share, labels, label_names = _merge(parsed, min_uses)
    if not texts:
        raise CorpusError(f"corpus {name!r}: no name is called by {min_uses} documents or more in "
                          f"{', '.join(str(s.folder) for s in sources)}; lower min_uses or add sources")
    train, test = (Split(labels[rows], [texts[i] for i in rows])
                   for rows in (np.flatnonzero(share >= TEST_SHARE), np.flatnonzero(share < TEST_SHARE)))
    n_files, n_unparsed = np.sum([p["counts"] for p in parsed], axis=0)
    source = (f"functions of {', '.join(f'{s.name} {s.version}' for s in sources)}; {n_files:,} files, {n_unparsed} of "
              f"them left out because they do not parse; labels carried by {min_uses} documents or more")
    if absent:
        source += f"; not installed: {', '.join(absent)}"
    return Corpus(name, train, test, label_names, source)


def not_cached(name: str = "calls", cache: Path | None = None) -> list[str]:
    """Packages that `load_calls` would have to read, as `cache` (default `cache_dir()`) lacks their entry."""
    sources, _ = _installed(SIZES[name])
    return [f"{s.name} {s.version}" for s in sources if not _entry(s, cache).exists()]


@dataclass(frozen=True)
class _Source:
    name: str
    version: str
    folder: Path

    @cached_property
    def files(self) -> list[Path]:
        found = []
        for folder, subfolders, names in os.walk(self.folder):
            subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
            found += [file for n in names if n.endswith(".py") and (file := Path(folder, n)).is_file()]
        return found


def _installed(names: tuple[str, ...]) -> tuple[list[_Source], list[str]]:
    """Where the packages lie, found without importing them, and the names of those that are not installed."""
    sources, absent = [], []
    for name in names:
        if name == STDLIB:
            sources.append(_Source(name, platform.python_version(), Path(sysconfig.get_paths()["stdlib"])))
            continue
        spec = importlib.util.find_spec(name)
        try:
            version = importlib.metadata.version(PACKAGES[name])
        except importlib.metadata.PackageNotFoundError:
            spec = None
        if spec is None or not spec.submodule_search_locations:
            absent.append(name)
        else:
            sources.append(_Source(name, version, Path(spec.submodule_search_locations[0])))
    return sources, absent


def _given(roots: Mapping[str, str | Path]) -> list[_Source]:
    """Folders named by the caller; a digest of their files stands in for a version."""
    sources = []
    for name, folder in sorted(roots.items()):
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise CorpusError(f"{folder}: no such folder (given as roots[{name!r}])")
        digest = hashlib.sha256()
        for file in sorted(_Source(name, "", folder).files, key=lambda f: f.relative_to(folder).as_posix()):
            digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode("utf-8", "replace"))
            digest.update(file.read_bytes())
        sources.append(_Source(name, digest.hexdigest()[:12], folder))
    return sources


def _entry(source: _Source, cache: Path | None) -> Path:
    return entry_path(f"calls-{source.name}", {"builder": _BUILDER, "python": platform.python_version(),
                                               "package": source.name, "version": source.version}, cache)


def _parsed(sources: list[_Source], cache: Path | None, progress: bool) -> list[dict]:
    """Per source: its functions' texts, place in the split, and names called, out of the cache or freshly parsed."""
    paths = [_entry(s, cache) for s in sources]
    parsed = [load_arrays(path, expected=_PARTS) for path in paths]
    missing = [i for i, entry in enumerate(parsed) if entry is None]
    jobs = [(i, str(file)) for i in missing for file in sources[i].files]
    functions: dict[int, list] = {i: [] for i in missing}
    unparsed = dict.fromkeys(missing, 0)
    for i, found in _parse_all(jobs, progress) if jobs else ():
        if found is None:
            unparsed[i] += 1
        else:
            functions[i] += found
    writable = True
    for i in missing:
        parsed[i] = _pack(functions[i], len(sources[i].files), unparsed[i])
        writable = writable and save_arrays(paths[i], **parsed[i])  # one warning is enough
    return parsed


def _pack(functions: list[tuple[str, float, list[str]]], n_files: int, n_unparsed: int) -> dict:
    functions = sorted(functions)  # whatever order the files and the processes came in
    names = sorted({n for _, _, called in functions for n in called})
    column = {n: i for i, n in enumerate(names)}
    return {"texts": [text for text, _, _ in functions], "share": np.array([share for _, share, _ in functions]),
            "indptr": np.cumsum([0] + [len(called) for _, _, called in functions]),
            "indices": np.array([column[n] for _, _, called in functions for n in called], dtype=np.int32),
            "names": names, "counts": np.array([n_files, n_unparsed])}


def _merge(parsed: list[dict], min_uses: int) -> tuple[list[str], np.ndarray, csr_array, list[str]]:
    """Texts (sorted), their place in the split [N], labels [N, L] and label names (sorted)."""
    texts = sorted({t for p in parsed for t in p["texts"]})
    names = sorted({n for p in parsed for n in p["names"]})
    row_of, column_of = {t: i for i, t in enumerate(texts)}, {n: i for i, n in enumerate(names)}
    row = np.array([row_of[t] for p in parsed for t in p["texts"]], dtype=np.int64)
    share = np.zeros(len(texts))
    rows, columns, start = [], [], 0
    for p in parsed:
        here = row[start:start + len(p["texts"])]
        share[here] = p["share"]
        rows.append(np.repeat(here, np.diff(p["indptr"])))
        columns.append(np.array([column_of[n] for n in p["names"]], dtype=np.int64)[p["indices"]])
        start += len(here)
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    # [documents, names]: how many copies of the document call the name; equal coordinates are summed.
    callers = csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(texts), len(names)))
    copies = np.bincount(row, minlength=len(texts))
    callers.data = (2 * callers.data >= np.repeat(copies, np.diff(callers.indptr))).astype(np.float32)
    callers.eliminate_zeros()
    kept_labels = np.flatnonzero(np.bincount(callers.indices, minlength=len(names)) >= min_uses)
    labels = callers[:, kept_labels]
    kept = np.flatnonzero(np.diff(labels.indptr))
    labels = labels[kept]
    labels.sort_indices()
    return [texts[i] for i in kept], share[kept], labels, [names[i] for i in kept_labels]


# --- parsing, in worker processes: nothing below may need torch ---


def _parse_all(jobs: list[tuple[int, str]], progress: bool) -> Iterator[tuple[int, list | None]]:
    """(source, functions or None if the file does not parse) for each job (source, file), in no certain order."""
    from tqdm.auto import tqdm

    todo = {i: jobs[i:i + _FILES_PER_BATCH] for i in range(0, len(jobs), _FILES_PER_BATCH)}
    processes = min(cores(), _MOST_PROCESSES)
    with tqdm(total=len(jobs), desc="Reading functions", unit="file", disable=not progress) as bar:
        if len(todo) > 1 and processes > 1:
            try:
                for key, result in side_by_side(_parse_batch, {i: (batch,) for i, batch in todo.items()}, processes):
                    results = result()
                    bar.update(len(todo.pop(key)))
                    yield from results
            except (RuntimeError, OSError, ImportError, AssertionError) as error:
                warnings.warn(f"no worker processes here ({type(error).__name__}: {error}); one process does it all, "
                              f"more slowly", stacklevel=2)
        for batch in todo.values():
            yield from _parse_batch(batch)
            bar.update(len(batch))


def _parse_batch(batch: list[tuple[int, str]]) -> list[tuple[int, list | None]]:
    collecting = gc.isenabled()
    gc.disable()  # a syntax tree has no cycles; tracking its nodes costs a fifth of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escape sequences
            return [(source, _parse_file(file)) for source, file in batch]
    finally:
        if collecting:
            gc.enable()


def _parse_file(file: str) -> list[tuple[str, float, list[str]]] | None:
    """(text, place in the split, names called) of each function with a docstring, or None if the file is no Python."""
    try:
        source = Path(file).read_bytes()
        documented = [] if _GENERATED.match(source) else _documented(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return None
    found = []
    for function in documented:
        doc = ast.get_docstring(function).encode("utf-8", "replace").decode()  # it may hold half a surrogate pair
        paragraph = " ".join(_BLANK_LINE.split(doc.strip(), maxsplit=1)[0].split())
        words = " ".join(filter(None, _WORD_BREAK.split(function.name))).lower() or function.name
        found.append((f"{words}: {paragraph}", _share(paragraph), sorted(_called(function) - {function.name})))
    return found


def _documented(source: bytes) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that have a docstring, from a syntax tree without the others, as parsing is what takes the time.

    Cutting works on lines, so it can cut inside a function it should keep whole, one with a text that is indented less
    than its code, say. The stub left behind gives that away, and then the whole source is parsed.
    """
    if not _DOCSTRING.search(source):
        return []
    try:
        short = _FUNCTION.sub(_stub_if_undocumented, source)
        documented = _with_docstring(ast.parse(short))
        lines = short.splitlines()
        if not any(_STUB in line for f in documented for line in lines[f.lineno - 1:f.end_lineno]):
            return documented
    except SyntaxError:
        pass
    return _with_docstring(ast.parse(source))


def _stub_if_undocumented(function: re.Match[bytes]) -> bytes:
    code = function[0]
    # A triple quote must stay: without it, where strings begin and end would change for the rest of the file.
    if b'"""' in code or b"'''" in code or _DOCSTRING.search(code):
        return code
    return function[1] + _STUB + b"\n"  # a statement that any decorator above may stand on


def _with_docstring(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    found, stack = [], [tree]
    while stack:  # only statements can hold a function, so expressions are not visited
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (ast.get_docstring(node) or "").strip():
            found.append(node)
        for block in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, block, None)
            if isinstance(inner, list):
                stack += inner
    return found


def _called(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names called in the body: f(...) and x.f(...) both give f."""
    targets = [node.func for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return {t.id if isinstance(t, ast.Name) else t.attr for t in targets if isinstance(t, (ast.Name, ast.Attribute))}


def _share(paragraph: str) -> float:
    """A number in [0, 1) that paragraphs with mostly the same three-word runs mostly share."""
    words = _LETTERS.findall(paragraph.lower())
    runs = (" ".join(words[i:i + 3]).encode() for i in range(max(1, len(words) - 2)))
    sample = min(runs, key=lambda run: (zlib.crc32(run), run))
    return int.from_bytes(hashlib.sha256(sample).digest()[:6], "big") / 2**48
