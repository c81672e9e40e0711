"""A table of texts and tags, one document a row, as a corpus."""

from __future__ import annotations

import hashlib
import unicodedata
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from .corpus import Corpus, CorpusError, Split

if TYPE_CHECKING:
    import pandas as pd

TEST_SHARE = 0.15


def corpus_from_table(table: pd.DataFrame | str | Path, *, text: str = "text", tags: str = "tags",
                      separator: str | None = None, split: str | None = None, test_share: float = TEST_SHARE,
                      min_uses: int = 1, name: str | None = None,
                      propensity: tuple[float, float] = (0.55, 1.5)) -> Corpus:
    """Make a corpus of a pandas DataFrame or a CSV file: column `text` [N strings], column `tags` [N cells].

    A cell of `tags` is a list of strings, or one string that is cut at `separator` (";" unless you say otherwise).
    Blanks around a tag do not count, nor does how Unicode composes it (NFC).
    A text's hash decides whether it is for training or, with a chance of `test_share`, for testing: the same text
    always falls on the same side, whatever else is in the table; near-copies may fall on both. `split` names a column
    that says "train" or "test" instead. Tags that fewer than `min_uses` documents carry are dropped, then documents
    without a tag. `propensity` is (A, B) of Jain et al. (KDD 2016). Raises `CorpusError` with the row and the way out.
    """
    if not isinstance(test_share, Real) or not 0 < test_share < 1:
        raise CorpusError(f"test_share is a share of the documents, between 0 and 1; got {test_share!r}")
    if not isinstance(min_uses, Integral) or min_uses < 1:
        raise CorpusError(f"min_uses is a number of documents, 1 or more; got {min_uses!r}")
    where = f"table {name!r}" if name else "the table"
    if isinstance(table, (str, Path)):
        path, table = Path(table), _read_csv(Path(table))
        where, name = str(path), name or path.stem
    elif not hasattr(table, "columns"):
        raise CorpusError(f"a table is a pandas DataFrame or the path of a CSV file; got {type(table).__name__}")
    there = list(table.columns)
    for what, column in {"text": text, "tags": tags, "split": split}.items():
        if what == "split" and split is None:
            continue
        if column not in there:
            cut = next((c for c in ";\t|" if len(there) == 1 and c in str(there[0])), None)
            raise CorpusError(f"{where} has no column {column!r}; it has {', '.join(map(repr, there))}. " + (
                f"Read it with pandas.read_csv(path, sep={cut!r}, dtype=str, keep_default_na=False) and give that table"
                if cut else f"Name yours: corpus_from_table(table, {what}=...)"))
        if there.count(column) > 1:
            raise CorpusError(f"{where} has {there.count(column)} columns called {column!r}; rename all but one")
    if len(table) == 0:
        raise CorpusError(f"{where} has no row")
    texts = [_text(where, row, text, cell) for row, cell in enumerate(table[text])]
    lists = _lists(where, tags, list(table[tags]), separator)
    if split is None:
        is_test = np.array([_hashed(t) < test_share for t in texts])
    else:
        is_test = np.array([_side(where, row, split, cell) for row, cell in enumerate(table[split])])
    names, of_tag = np.unique([tag for row in lists for tag in row], return_inverse=True)
    labels = csr_array((np.ones(len(of_tag), np.float32), of_tag.astype(np.int32),
                        np.concatenate([[0], np.cumsum([len(row) for row in lists])])), shape=(len(lists), len(names)))
    used = np.bincount(of_tag, minlength=len(names)) >= min_uses
    if not used.any():
        raise CorpusError(f"{where}: no tag is carried by {min_uses} documents or more; lower min_uses")
    labels = csr_array(labels[:, used])
    has_label = np.diff(labels.indptr) > 0
    sides = [np.flatnonzero(has_label & (is_test == side)) for side in (False, True)]
    for rows, which in zip(sides, ("training", "testing"), strict=True):
        if len(rows) == 0:
            raise CorpusError(f"{where}: of {len(table)} rows none is for {which}" + (
                f"; change test_share={test_share}, or say it yourself in a column: split=..." if split is None else
                f" with a tag; column {split!r} says so"))
    train, test = (Split(csr_array(labels[rows]), [texts[i] for i in rows]) for rows in sides)
    source = f"{where}: {len(table):,} rows; tags carried by {min_uses} documents or more; " + (
        f"{(~has_label).sum():,} rows left without a tag were dropped; " if not has_label.all() else "") + (
        f"split by column {split!r}" if split else f"split by the texts' hashes, {100 * test_share:.0f} % for testing")
    return Corpus(name or "table", train, test, names[used].tolist(), source, propensity)


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        # As strings: a tag "007" is no number; and a cell "NA" or "None" is a word like any other. The header is read
        # as a row: then a row of more cells, with a comma that lacks quotes, is an error, and equal names stay equal.
        rows = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return rows[1:].set_axis(rows.iloc[0].tolist(), axis=1)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file") from None
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}; a table is one CSV file") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CorpusError(f"{path} is no CSV file: {str(error).strip()}. A cell with a comma or a line end in it needs "
                          f"quotes; a file of other separators is read with pandas.read_csv(path, sep=..., dtype=str, "
                          f"keep_default_na=False), and that table given") from error


def _text(where: str, row: int, column: str, cell: Any) -> str:
    if not isinstance(cell, str) or not cell.strip():
        raise CorpusError(f"{where}, row {row}: {column} is {cell!r}, not a text; drop such rows first "
                          f"(rows count from 0)")
    return cell


def _side(where: str, row: int, column: str, cell: Any) -> bool:
    if cell not in ("train", "test"):
        raise CorpusError(f"{where}, row {row}: {column} is {cell!r}; it must be 'train' or 'test'")
    return cell == "test"


def _lists(where: str, column: str, cells: list[Any], separator: str | None) -> list[list[str]]:
    """The tags of each row, each once, without blanks around them."""
    strings = [cell for cell in cells if isinstance(cell, str)]
    if separator is None:
        separator = ";"
        commas = sum("," in cell for cell in strings)
        if commas > len(strings) / 2 and not any(";" in cell for cell in strings):
            raise CorpusError(f"{where}: no cell of {column} has a ';' and {commas} have a ','; say which separates "
                              f"the tags: separator=',' (or separator=';' if each cell is one tag)")
    elif not isinstance(separator, str) or not separator:
        raise CorpusError(f"separator is a string that is not empty; got {separator!r}. Leave it out where cells are "
                          f"lists")
    found = []
    for row, cell in enumerate(cells):
        if isinstance(cell, str):
            cell = cell.split(separator)
        elif not isinstance(cell, (list, tuple, set, frozenset, np.ndarray)):
            raise CorpusError(f"{where}, row {row}: {column} is {cell!r}, neither a list nor a string; drop such rows "
                              f"first, or make it an empty list (of numbers, strings: .astype(str))")
        wrong = next((tag for tag in cell if not isinstance(tag, str)), None)
        if wrong is not None:
            raise CorpusError(f"{where}, row {row}: {column} has {wrong!r}, which is no string")
        found.append(sorted({unicodedata.normalize("NFC", tag.strip()) for tag in cell} - {""}))
    return found


def _hashed(text: str) -> float:
    """A number in [0, 1) that a text has on every machine; case and white space do not count."""
    digest = hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
