"""Read a folder in any format of the Extreme Classification Repository.

| format     | files (test half: tst for trn, test for train)                     | a line                          |
|------------|--------------------------------------------------------------------|---------------------------------|
| raw        | trn.json, and lbl.json for label names                             | {"title": .., "target_ind": []} |
| text       | train_raw_texts.txt, train_labels.txt                              | a document; its label strings   |
| split      | trn_X_Y.txt with trn_X_Xf.txt (features), trn_X.txt (texts) or both | "rows columns", then "i:v i:v"  |
| pecos      | Y.trn.npz with X.trn.npz (features), X.trn.txt (texts) or both     | scipy CSR; a document           |
| old        | train.txt, trn.txt or NAME_train.txt                               | "N D L", then "l1,l2 f:v f:v"   |
| old-splits | NAME_data.txt, NAME_trSplit.txt, NAME_tstSplit.txt                 | as old; row numbers from 1      |

A folder that holds several formats is read as the first of the table: texts before bags of words. Any file but an
npz may be gzipped, with .gz behind its name. Label names come from lbl.json (raw), from the labels themselves
(text), else from Y.txt, lbl.txt or output-items.txt, one a line, else they are the label indices.
`filter_labels_train.txt` and `filter_labels_test.txt` ("row column" a line) become `Split.excluded`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, load_npz
from tqdm.auto import tqdm

from .corpus import Corpus, CorpusError, Split, checked_propensity

_BLOCK = 8 << 20  # bytes parsed at a time: long enough for numpy, short enough to stay in memory
_BAR_FROM = 50_000_000  # bytes from which reading a file takes seconds and earns a progress bar
_MAX_INDEX = 2**31 - 1  # indices are kept as int32

_Parts = tuple[Split, Split, list[str] | None]  # train, test, label names where the format has its own

# What the placeholders of a file pattern stand for in each half.
_HALVES = ({"train": "train", "trn": "trn", "tr": "tr"}, {"train": "test", "trn": "tst", "tr": "tst"})

# A row as a regular expression: where it stops matching is where the line is wrong. All possessive: no backtracking.
_PAIR = rb"-?\d++:[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?+"
_PAIRS = re.compile(rb"[ \t]*+(?:" + _PAIR + rb"(?:[ \t]++|\Z))*+")
_LABELS_PAIRS = re.compile(rb"(?:-?\d++(?:,-?\d++)*+(?=[ \t]|\Z))?+(?:[ \t]++" + _PAIR + rb"(?=[ \t]|\Z))*+[ \t]*+")
_INTEGERS = re.compile(rb"[ \t]*+(?:-?\d++(?:[ \t]++|\Z))++")
_EXPECTED = {
    _PAIRS: "pairs index:value (index a whole number from 0, value a finite number)",
    _LABELS_PAIRS: "'label,label index:value index:value' (whole numbers from 0, finite values; a document without "
                   "labels starts with a blank)",
    _INTEGERS: "whole numbers between blanks",
}
_SEPARATORS = bytes.maketrans(b":,", b"  ")
_IS_SEPARATOR = np.isin(np.arange(256), list(b" \t\n,:"))


def read_repository(folder: str | Path, *, format: str | None = None, split: int = 0,
                    propensity: tuple[float, float] | None = None, name: str | None = None) -> Corpus:
    """Read a folder in any format of the table above as a `Corpus`: labels [N, L], features [N, D] float32 CSR.

    `format` picks one of several in the folder, `split` the column of the old-splits files, `propensity` is (A, B)
    of Jain et al. (KDD 2016), by default the pair usual for the folder's name; `name` replaces that name.
    Raises `CorpusError`, naming the file, the line and the fix, for a folder or a file that cannot be used.
    """
    files = _Folder(Path(folder))
    chosen = _choose(files, format)
    if split and chosen.key != "old-splits":
        raise CorpusError(f"{folder}: split={split} picks a column of NAME_trSplit.txt, but this folder is read as "
                          f"{chosen.key!r}, which has one split only; leave split out")
    options = {"split": split} if chosen.key == "old-splits" else {}
    train, test, names = chosen.read(files, **options)
    for part in ("labels", "features"):
        a, b = ((0, 0) if m is None else m.shape for m in (getattr(train, part), getattr(test, part)))
        if a[1] != b[1]:
            raise CorpusError(f"{folder}: {a[1]} columns of {part} in train, {b[1]} in test; the two halves of "
                              f"{', '.join(files.used)} must agree")
    if (train.texts is None) != (test.texts is None):
        raise CorpusError(f"{folder}: only one half has texts among {', '.join(files.used)}; add or remove the other")
    names = _read_names(files, train.labels.shape[1]) if names is None else names
    train, test = (_exclude(files, half, s) for half, s in zip(_HALVES, (train, test), strict=True))
    name = name or Path(folder).resolve().name
    (a, b), why = _propensity(name) if propensity is None else (checked_propensity(propensity), "as given")
    return Corpus(name, train, test, names, propensity=(a, b),
                  source=f"Extreme Classification Repository, format {chosen.key!r}: {', '.join(files.used)}; "
                         f"propensity A={a}, B={b} {why}")


# --- which format ---------------------------------------------------------------------------------------------------


class _Folder:
    """The files of a folder, looked up by pattern; `used` collects the names that were."""

    def __init__(self, path: Path):
        if not path.is_dir():
            raise CorpusError(f"{path}: no such folder")
        self.path, self.used = path, []
        self.names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())

    def find(self, patterns: str, half: dict[str, str] = _HALVES[0]) -> Path | None:
        """The file for the first of `patterns` (joined by "|") that has one, whatever its case, gzipped or not."""
        for pattern in patterns.format(**half).lower().split("|"):
            found = [n for n in self.names if fnmatchcase(n.lower().removesuffix(".gz"), pattern)
                     and n.lower().startswith("filter_labels") == pattern.startswith("filter_labels")]
            if len({n.removesuffix(".gz") for n in found}) > 1:
                raise CorpusError(f"{self.path}: {' and '.join(found)} could all be {pattern}; leave one there")
            if found:
                return self.path / found[0]  # sorted: the unpacked file comes before its .gz
        return None

    def use(self, patterns: str, half: dict[str, str] = _HALVES[0]) -> Path | None:
        """`find`, and remember the file as one that the corpus was read from."""
        path = self.find(patterns, half)
        if path is not None and path.name not in self.used:
            self.used.append(path.name)
        return path


@dataclass(frozen=True)
class _Format:
    key: str
    needs: tuple[str, ...]
    read: Callable[..., _Parts]

    def look(self, files: _Folder) -> dict[str, Path | None]:
        return {p.format(**half).replace("|", " or "): files.find(p, half) for half in _HALVES for p in self.needs}


def _choose(files: _Folder, key: str | None) -> _Format:
    candidates = [f for f in _FORMATS if key in (None, f.key)]
    if not candidates:
        raise CorpusError(f"format={key!r} is none of {', '.join(f.key for f in _FORMATS)}")
    message = [f"{files.path}: " + ("in no format of the repository" if key is None else f"not in format {key!r}"),
               f"  found: {', '.join(files.names[:20]) or 'nothing'}{', ...' if len(files.names) > 20 else ''}"]
    for candidate in candidates:
        look = candidate.look(files)
        missing = [name for name, path in look.items() if path is None]
        if not missing:
            return candidate
        half_there = f"; missing: {', '.join(missing)}" if len(missing) < len(look) else ""
        message.append(f"  {candidate.key} needs {', '.join(look)}{half_there}")
    raise CorpusError("\n".join(message))


def _propensity(name: str) -> tuple[tuple[float, float], str]:
    """(A, B) as in the repository's evaluation scripts: 0.5/0.4 Wikipedia, 0.6/2.6 Amazon, 0.55/1.5 all others."""
    for word, pair in (("wiki", (0.5, 0.4)), ("amazon", (0.6, 2.6))):
        if word in name.lower():
            return pair, f"because {name!r} has {word!r} in it (propensity=(A, B) sets another)"
    return (0.55, 1.5), "as for any set that is not from Wikipedia or Amazon (propensity=(A, B) sets another)"


# --- the formats ----------------------------------------------------------------------------------------------------


def _read_raw(files: _Folder) -> _Parts:
    names, names_path = None, files.use("lbl.json")
    if names_path is not None:
        names = [item["title"] or str(i) for i, (_, item) in enumerate(_json_lines(names_path, "title"))]
    limit = _MAX_INDEX if names is None else len(names)
    halves = []
    for half in _HALVES:
        path, texts, indices, lengths = files.use("{trn}.json", half), [], array("i"), array("i")
        for line, item in _json_lines(path, "title", "target_ind"):
            labels = _targets(path, line, item, limit)
            texts.append(" ".join(filter(None, (item["title"], item.get("content")))))
            indices.extend(labels)
            lengths.append(len(labels))
        halves.append((path, texts, np.array(indices), np.array(lengths)))
    n_labels = len(names) if names else 1 + max(int(indices.max(initial=-1)) for _, _, indices, _ in halves)
    splits = (Split(_matrix(path, None, indices, lengths, n_labels, first_line=1, is_labels=True), texts)
              for path, texts, indices, lengths in halves)
    return *splits, names


def _read_text(files: _Folder) -> _Parts:
    ids: dict[bytes, int] = {}  # labels are numbered as they first appear
    halves = []
    for half in _HALVES:
        path, indices, lengths = files.use("{train}_labels.txt", half), array("i"), array("i")
        for line, block in _blocks(path):
            _decode(path, line, block)  # only to check it: the split is on bytes, where just ASCII blanks separate
            for number, row in enumerate(block.split(b"\n")[:-1], line):
                labels = row.split()
                if len(set(labels)) < len(labels):
                    twice = max(labels, key=labels.count).decode()
                    raise _bad(path, number, f"label {twice!r} stands there twice; keep one")
                indices.extend([ids.setdefault(label, len(ids)) for label in labels])
                lengths.append(len(labels))
        halves.append((half, path, np.array(indices), np.array(lengths)))
    splits = (_half(path, _matrix(path, None, indices, lengths, len(ids), first_line=1, is_labels=True),
                    files.use("{train}_raw_texts.txt|{train}_texts.txt", half))
              for half, path, indices, lengths in halves)
    return *splits, [label.decode() for label in ids]


def _read_split(files: _Folder) -> _Parts:
    return _read_matrices(files, "{trn}_X_Y.txt", "{trn}_X.txt", "{trn}_X_Xf.txt", _read_pairs)


def _read_pecos(files: _Folder) -> _Parts:
    return _read_matrices(files, "Y.{trn}.npz", "X.{trn}.txt", "X.{trn}.npz", _read_npz)


def _read_matrices(files: _Folder, labels: str, texts: str, features: str, read: Callable) -> _Parts:
    splits = []
    for half in _HALVES:
        path = files.use(labels, half)
        splits.append(_half(path, read(path, True), files.use(texts, half), files.use(features, half), read))
    return *splits, None


def _read_old_file(path: Path) -> tuple[csr_array, csr_array]:
    rows = _read_rows(path, _LABELS_PAIRS, "documents features labels")
    _, n_features, n_labels = rows.header
    return (_matrix(path, None, rows.plain, rows.plains, n_labels, first_line=2, is_labels=True),
            _matrix(path, rows.value, rows.index, rows.pairs, n_features, first_line=2, is_labels=False))


def _read_old(files: _Folder) -> _Parts:
    parts = [_read_old_file(files.use("{train}.txt|{trn}.txt|*_{train}.txt", half)) for half in _HALVES]
    return *(Split(labels, features=features) for labels, features in parts), None


def _read_old_splits(files: _Folder, split: int) -> _Parts:
    labels, features = _read_old_file(files.use("*_data.txt"))
    splits, taken = [], set()
    for half in _HALVES:
        path = files.use("*_{tr}Split.txt", half)
        table = _read_table(path)
        if not 0 <= split < table.shape[1]:
            raise CorpusError(f"{path}: {table.shape[1]} columns, one a split; split={split} must be from 0 to "
                              f"{table.shape[1] - 1}")
        _in_range(path, 1, table[:, split], np.ones(len(table)), 1, labels.shape[0] + 1, "row")
        rows = table[:, split].astype(np.int32) - 1
        for line, row in enumerate(rows.tolist(), 1):
            if row in taken:
                raise _bad(path, line, f"row {row + 1} is taken already; a document belongs to one half, once")
            taken.add(row)
        splits.append(Split(labels[rows], features=features[rows]))
    return *splits, None


_FORMATS = (
    _Format("raw", ("{trn}.json",), _read_raw),
    _Format("text", ("{train}_raw_texts.txt|{train}_texts.txt", "{train}_labels.txt"), _read_text),
    _Format("split", ("{trn}_X_Y.txt", "{trn}_X_Xf.txt|{trn}_X.txt"), _read_split),
    _Format("pecos", ("Y.{trn}.npz", "X.{trn}.npz|X.{trn}.txt"), _read_pecos),
    _Format("old", ("{train}.txt|{trn}.txt|*_{train}.txt",), _read_old),
    _Format("old-splits", ("*_data.txt", "*_{tr}Split.txt"), _read_old_splits),
)


# --- parts of a corpus ----------------------------------------------------------------------------------------------


def _half(labels_path: Path, labels: csr_array, texts_path: Path | None, features_path: Path | None = None,
          read_features: Callable[[Path], csr_array] | None = None) -> Split:
    """A split out of its files, which must have as many documents each."""
    texts = None if texts_path is None else _read_lines(texts_path)
    features = None if features_path is None else read_features(features_path)
    for path, rows in ((texts_path, texts), (features_path, features)):
        n = labels.shape[0] if rows is None else len(rows) if isinstance(rows, list) else rows.shape[0]
        if n != labels.shape[0]:
            raise CorpusError(f"{path}: {n} documents, but {labels_path} has {labels.shape[0]}; document i must be row "
                              f"i of both")
    return Split(labels, texts, features)


def _read_pairs(path: Path, is_labels: bool = False) -> csr_array:
    rows = _read_rows(path, _PAIRS, "rows columns")
    return _matrix(path, rows.value, rows.index, rows.pairs, rows.header[1], first_line=2, is_labels=is_labels)


def _matrix(path: Path, values: np.ndarray | None, indices: np.ndarray, lengths: np.ndarray, n_columns: int, *,
            first_line: int | None, is_labels: bool) -> csr_array:
    """CSR [len(lengths), n_columns], sorted, without duplicates; labels become ones. `first_line` None: no lines."""
    def place(row):
        return f"{path}, " + (f"row {row} counted from 0" if first_line is None else f"line {row + first_line}")

    if len(lengths) == 0:
        raise CorpusError(f"{path}: no document in it")
    if values is not None:
        wrong = np.flatnonzero(~np.isfinite(values) | (is_labels & (values <= 0)))
        if len(wrong):
            need = "a label that applies has a value above 0, delete one that does not" if is_labels \
                else "it must be a finite float32 number"
            raise CorpusError(f"{place(_row(wrong[0], lengths))}: index {indices[wrong[0]]} has the value "
                              f"{values[wrong[0]]:g}; {need}")
    if is_labels:
        values = np.ones(len(indices), np.float32)
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    dtype = np.int32 if max(len(indices), n_columns) <= _MAX_INDEX else np.int64
    matrix = csr_array((values, indices.astype(dtype, copy=False), indptr.astype(dtype)),
                       shape=(len(lengths), n_columns))
    matrix.sort_indices()
    if not matrix.has_canonical_format:
        rows = np.repeat(np.arange(len(lengths)), lengths)
        twice = np.flatnonzero((matrix.indices[1:] == matrix.indices[:-1]) & (rows[1:] == rows[:-1]))[0]
        raise CorpusError(f"{place(rows[twice])}: index {matrix.indices[twice]} stands there twice; keep one")
    return matrix


def _read_npz(path: Path, is_labels: bool = False) -> csr_array:
    try:
        with path.open("rb") as stream:  # load_npz leaves the file open when it fails
            matrix = load_npz(stream)  # has allow_pickle=False
        if matrix.format != "csr" or matrix.dtype.kind not in "fiub":
            raise ValueError(f"it holds a {matrix.format} matrix of {matrix.dtype}")
        matrix.check_format(full_check=True)
    except Exception as error:  # numpy, zipfile, zlib and scipy have a dozen kinds between them for a damaged file
        raise CorpusError(f"{path}: not a scipy CSR matrix of numbers ({error}); write it with scipy.sparse.save_npz"
                          f"(file, matrix.tocsr())") from error
    return _matrix(path, _float32(matrix.data), matrix.indices, np.diff(matrix.indptr), matrix.shape[1],
                   first_line=None, is_labels=is_labels)


def _read_names(files: _Folder, n_labels: int) -> list[str]:
    path = files.use("Y.txt|lbl.txt|output-items.txt")
    if path is None:
        return [str(i) for i in range(n_labels)]
    names = _read_lines(path)
    if len(names) != n_labels:
        raise CorpusError(f"{path}: {len(names)} label names for {n_labels} labels; line i must name label i")
    return names


def _exclude(files: _Folder, half: dict[str, str], split: Split) -> Split:
    path = files.use("filter_labels_{train}.txt", half)
    if path is None:
        return split
    pairs = _read_table(path)
    if pairs.shape[1] != 2:
        raise _bad(path, 1, f"{pairs.shape[1]} numbers, but a line is 'row column'")
    for column, limit, what in zip(pairs.T, split.labels.shape, ("document", "label"), strict=True):
        _in_range(path, 1, column, np.ones(len(pairs)), 0, limit, what)
    excluded = csr_array((np.ones(len(pairs), np.float32), pairs.T.astype(np.int32)), shape=split.labels.shape)
    excluded.data[:] = 1  # a pair listed twice is excluded once
    return replace(split, excluded=excluded)


# --- lines ----------------------------------------------------------------------------------------------------------


def _bad(path: Path, line: int, what: str) -> CorpusError:
    return CorpusError(f"{path}, line {line}: {what}")


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """The file in pieces of whole lines, each ending in a newline, with the number of its first line."""
    line, pending, size = 1, bytearray(), path.stat().st_size
    with (path.open("rb") as raw, gzip.open(raw) if path.suffix.lower() == ".gz" else raw as stream,
          tqdm(total=size, desc=path.name, unit="B", unit_scale=True, leave=False, disable=size < _BAR_FROM) as bar):
        part = b"..."
        while part:
            try:
                part = stream.read1(_BLOCK // 8)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise _bad(path, line + pending.count(b"\n"), f"the gzip data is cut short or broken here ({error}); "
                                                              f"fetch the file again") from error
            pending += part
            if part and len(pending) < _BLOCK:
                continue
            cut = pending.rfind(b"\n") + 1 if part else len(pending)
            block = bytes(pending[:cut]).replace(b"\r\n", b"\n")
            del pending[:cut]
            if line == 1:
                block = block.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
            if block:
                block += b"\n" * (not block.endswith(b"\n"))
                yield line, block
                line += block.count(b"\n")
            bar.update(raw.tell() - bar.n)
    if line == 1:
        raise CorpusError(f"{path}: the file is empty; fetch it again, or delete it if it is optional")


def _decode(path: Path, line: int, block: bytes) -> str:
    try:
        return block.decode()
    except UnicodeDecodeError as error:
        before = block[:error.start]
        column = len(before) - before.rfind(b"\n")
        raise _bad(path, line + before.count(b"\n"), f"byte {column} of the line, "
                   f"0x{block[error.start]:02x}, is not UTF-8; save the file as UTF-8") from error


def _read_lines(path: Path) -> list[str]:
    # Not splitlines(): it also cuts at characters that occur inside a document.
    return [text for line, block in _blocks(path) for text in _decode(path, line, block).split("\n")[:-1]]


def _json_lines(path: Path, *keys: str) -> Iterator[tuple[int, dict]]:
    """Line number and object of each line; all `keys` are there, title and content are strings or null."""
    for first, block in _blocks(path):
        for line, text in enumerate(_decode(path, first, block).split("\n")[:-1], first):
            try:
                item = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise _bad(path, line, f"broken JSON ({error}); each line is one whole JSON object") from error
            if not isinstance(item, dict):
                raise _bad(path, line, f"{text[:60]!r} is not a JSON object")
            for key in keys:
                if key not in item:
                    raise _bad(path, line, f"the key {key!r} is missing; the line has {', '.join(item) or 'none'}")
            for key in ("title", "content"):
                if not isinstance(item.get(key), str | None):
                    raise _bad(path, line, f"{key} is {str(item[key])[:60]}, not a string")
            yield line, item


def _targets(path: Path, line: int, item: dict, limit: int) -> list[int]:
    labels = item["target_ind"]
    if not isinstance(labels, list) or not set(map(type, labels)) <= {int}:
        raise _bad(path, line, f"target_ind is {str(labels)[:60]}, not a list of whole numbers")
    if labels and not 0 <= min(labels) <= max(labels) < limit:
        wrong = next(i for i in labels if not 0 <= i < limit)
        raise _bad(path, line, f"target_ind has {wrong}; labels go from 0 to {limit - 1}")
    relevance = item.get("target_rel", [1] * len(labels))
    if not isinstance(relevance, list) or not set(map(type, relevance)) <= {int, float} \
            or len(relevance) != len(labels) or not all(r > 0 for r in relevance):
        raise _bad(path, line, f"target_rel is {str(relevance)[:60]}; it needs a number above 0 for each target_ind")
    return labels


@dataclass(frozen=True)
class _Rows:
    """A file of numbers: `plain` ones (labels), and pairs `index`:`value`; how many of each a row has."""

    header: list[int]
    plain: np.ndarray
    plains: np.ndarray
    index: np.ndarray
    value: np.ndarray
    pairs: np.ndarray


def _read_rows(path: Path, grammar: re.Pattern, head: str = "") -> _Rows:
    """Parse by blocks: the grammar finds a wrong line, numpy the numbers. `head` names the header's numbers."""
    header, parts, n_rows = [], [], 0
    for line, block in _blocks(path):
        if head and line == 1:
            first, block = block.split(b"\n", 1)
            header, line = _header(path, first, head), 2
        lines = block.split(b"\n")[:-1]
        if head and n_rows + len(lines) > header[0]:
            fit = header[0] - n_rows
            for extra, text in enumerate(lines[fit:], line + fit):
                if text.strip():
                    raise _bad(path, extra, f"the header promises {header[0]} rows, this is one more")
            lines = lines[:fit]  # blank lines at the end
        for i, text in enumerate(lines):
            if not grammar.fullmatch(text):
                raise _bad(path, line + i, f"found {_stumble(grammar, text)!r}, expected {_EXPECTED[grammar]}")
        if lines:
            block = b"\n".join(lines) + b"\n"
            parts.append(_numbers(path, line, block, header))
            n_rows += len(lines)
    if head and n_rows < header[0]:
        raise _bad(path, 1, f"the header promises {header[0]} rows, the file has {n_rows}; it is cut short, or the "
                            f"header is wrong")
    return _Rows(header, *map(np.concatenate, zip(*parts, strict=True)))


def _header(path: Path, first: bytes, head: str) -> list[int]:
    words, n = first.split(), len(head.split())
    if len(words) != n or not all(w.isdigit() and len(w) < 11 and 0 < int(w) <= _MAX_INDEX for w in words):
        raise _bad(path, 1, f"the header must be {n} whole numbers above 0, {head!r}, found "
                            f"{first[:60].decode(errors='replace')!r}")
    return [int(w) for w in words]


def _stumble(grammar: re.Pattern, text: bytes) -> str:
    """The word of a line at which the grammar stops."""
    matched = grammar.match(text)
    stop = matched.end() if matched else 0
    start = max(text.rfind(b" ", 0, stop), text.rfind(b"\t", 0, stop)) + 1
    return (text[start:].split() or [b""])[0][:60].decode(errors="replace")


def _numbers(path: Path, line: int, block: bytes, header: list[int]) -> tuple[np.ndarray, ...]:
    """The arrays of `_Rows` for one block that keeps to the grammar, checked against the header."""
    characters = np.frombuffer(block, np.uint8)
    separator = _IS_SEPARATOR[characters]
    ends = np.flatnonzero(separator[1:] & ~separator[:-1]) + 1  # the separator behind each number
    numbers = np.fromstring(block.translate(_SEPARATORS), sep=" ")
    is_index = characters[ends] == ord(":")
    is_value = np.concatenate([[False], is_index[:-1]]) if len(ends) else is_index
    is_plain = ~(is_index | is_value)
    newlines = np.flatnonzero(characters == ord("\n"))
    plains, pairs = (np.diff(np.searchsorted(ends[which], newlines, side="right"), prepend=0)
                     for which in (is_plain, is_index))
    plain, index, value = numbers[is_plain], numbers[is_index], _float32(numbers[is_value])
    if header:  # "rows columns" or "documents features labels"
        _in_range(path, line, plain, plains, 0, header[-1], "label")
        _in_range(path, line, index, pairs, 0, header[1], "index")
        plain, index = plain.astype(np.int32), index.astype(np.int32)
    return plain, plains, index, value, pairs


def _read_table(path: Path) -> np.ndarray:
    """A file of whole numbers with equally many on each line, float64 [lines, columns]: not yet checked for size."""
    rows = _read_rows(path, _INTEGERS)
    if len(wrong := np.flatnonzero(rows.plains != rows.plains[0])):
        raise _bad(path, 1 + wrong[0], f"{rows.plains[wrong[0]]} numbers, but line 1 has {rows.plains[0]}")
    return rows.plain.reshape(len(rows.plains), -1)


def _in_range(path: Path, line: int, numbers: np.ndarray, lengths: np.ndarray, low: int, high: int, what: str) -> None:
    if len(wrong := np.flatnonzero((numbers < low) | (numbers >= high))):
        raise _bad(path, line + _row(wrong[0], lengths), f"{what} {numbers[wrong[0]]:.0f} is out of range; "
                                                         f"they go from {low} to {high - 1}")


def _row(position: int, lengths: np.ndarray) -> int:
    return int(np.searchsorted(np.cumsum(lengths), position, side="right"))


def _float32(numbers: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # becomes inf, which `_matrix` reports with its line
        return numbers.astype(np.float32)
