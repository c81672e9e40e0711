"""What every corpus is, wherever it came from: two splits, a label matrix, names, and a fingerprint."""

from __future__ import annotations

import hashlib
import math
import textwrap
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

BIN_NAMES = ("head", "torso", "tail")


class CorpusError(ValueError):
    """A corpus that cannot be used; the message names the file and line (or the value) and the way out."""


@dataclass(frozen=True, eq=False)
class Split:
    """One half of a corpus: `labels` [N, L] of ones, and `texts` (N strings) or `features` [N, F], or both.

    `excluded` [N, L], where given, marks (document, label) pairs that are never scored: the reciprocal
    pairs that the repository's `filter_labels_*.txt` lists.
    """

    labels: csr_array
    texts: list[str] | None = None
    features: csr_array | None = None
    excluded: csr_array | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]


@dataclass(frozen=True, eq=False)
class LabelBins:
    """Head, torso and tail: `of_label` [L] holds 0, 1 or 2; the edges are shares of all assignments.

    The paper defines no bins. Ours: sort labels by training frequency, most frequent first; the head is the
    shortest prefix that holds `edges[0]` of all (document, label) assignments, the torso runs on to
    `edges[1]`, the tail is the rest, labels never seen in training included.
    """

    edges: tuple[float, float]
    of_label: np.ndarray
    frequency: np.ndarray = field(repr=False)

    @property
    def names(self) -> tuple[str, str, str]:
        return BIN_NAMES

    def labels(self, name: str) -> np.ndarray:
        """Indices of the labels in bin `name`."""
        return np.flatnonzero(self.of_label == BIN_NAMES.index(name))

    def totals(self) -> dict[str, tuple[str, ...] | np.ndarray]:
        """A column a name, a row a bin: "bin", "labels", "assignments", and "share" of all assignments in percent."""
        assignments = np.bincount(self.of_label, self.frequency, minlength=len(BIN_NAMES))
        return {"bin": BIN_NAMES, "labels": np.bincount(self.of_label, minlength=len(BIN_NAMES)),
                "assignments": assignments.astype(np.int64), "share": 100 * assignments / max(assignments.sum(), 1)}

    def describe(self) -> str:
        parts = []
        for i, name in enumerate(BIN_NAMES):
            f = self.frequency[self.of_label == i]
            span = f"used {f.min():,}\N{EN DASH}{f.max():,} times" if len(f) else "empty"
            parts.append(f"{name} {len(f):,} labels ({span})")
        return ", ".join(parts)


def label_bins(frequency: np.ndarray, edges: tuple[float, float] = (0.5, 0.8)) -> LabelBins:
    """Split labels into head, torso and tail by their training frequency [L]; see `LabelBins`."""
    try:
        low, high = edges
        fits = bool(0 < low < high < 1)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"bin edges are shares of the assignments, 0 < head < torso < 1; got {edges!r}")
    frequency = np.asarray(frequency)
    order = np.argsort(-frequency, kind="stable")
    total = max(int(frequency.sum()), 1)
    share_before = (np.cumsum(frequency[order]) - frequency[order]) / total
    of_label = np.empty(len(frequency), dtype=np.int8)
    of_label[order] = np.searchsorted([low, high], share_before, side="right")
    of_label[frequency == 0] = 2
    return LabelBins((low, high), of_label, frequency)


def checked_propensity(pair: tuple[float, float]) -> tuple[float, float]:
    """The pair (A, B) if it is one; raises `CorpusError` otherwise."""
    try:
        a, b = pair
        if 0 < a < math.inf and 0 < b < math.inf:
            return a, b
    except (TypeError, ValueError):
        pass
    raise CorpusError(f"propensity={pair!r} must be two positive numbers, (A, B)")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents with labels: text or features, CSR labels, label names, a train/test split, a fingerprint.

    `propensity` is the pair (A, B) of the propensity model (Jain et al., KDD 2016) that PSP uses for this corpus.
    `support` [L, S] holds, for the planted corpus only, the input features that truly decide each label.
    Raises `CorpusError` if the parts do not fit together or a split is empty.
    """

    name: str
    train: Split
    test: Split
    label_names: list[str]
    source: str = ""
    propensity: tuple[float, float] = (0.55, 1.5)
    support: np.ndarray | None = None

    def __post_init__(self):
        checked_propensity(self.propensity)
        for which, split in (("train", self.train), ("test", self.test)):
            n, n_labels = split.labels.shape
            if n == 0:
                raise CorpusError(f"corpus {self.name!r}: the {which} split has no document")
            if n_labels != len(self.label_names):
                raise CorpusError(f"corpus {self.name!r}: {which} has {n_labels} label columns, but there are "
                                  f"{len(self.label_names)} label names")
            if split.texts is None and split.features is None:
                raise CorpusError(f"corpus {self.name!r}: {which} has neither texts nor features")
            if split.texts is not None and len(split.texts) != n:
                raise CorpusError(f"corpus {self.name!r}: {which} has {len(split.texts)} texts for {n} rows of labels")
            if split.features is not None and split.features.shape[0] != n:
                raise CorpusError(f"corpus {self.name!r}: {which} has {split.features.shape[0]} rows of features "
                                  f"for {n} rows of labels")
            if split.labels.nnz == 0:
                raise CorpusError(f"corpus {self.name!r}: no document of {which} has a label")
        if (self.train.features is None) != (self.test.features is None):
            raise CorpusError(f"corpus {self.name!r}: only one of train and test has features")
        if self.train.features is not None and self.train.features.shape[1] != self.test.features.shape[1]:
            raise CorpusError(f"corpus {self.name!r}: train has {self.train.features.shape[1]} features, "
                              f"test {self.test.features.shape[1]}")

    @property
    def n_labels(self) -> int:
        return len(self.label_names)

    @property
    def n_features(self) -> int | None:
        """Width of the feature matrix, None for a corpus of texts only."""
        return None if self.train.features is None else self.train.features.shape[1]

    @cached_property
    def label_frequency(self) -> np.ndarray:
        """How many training documents carry each label, [L]."""
        return np.bincount(self.train.labels.indices, minlength=self.n_labels)

    def bins(self, edges: tuple[float, float] = (0.5, 0.8)) -> LabelBins:
        """Head, torso and tail of this corpus by training frequency; move `edges` to move the bins."""
        return label_bins(self.label_frequency, edges)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over every text, feature, label and name: equal data, equal fingerprint."""
        h = hashlib.sha256()
        for split in (self.train, self.test):
            for m in (split.labels, split.features, split.excluded):
                if m is not None:
                    h.update(repr(m.shape).encode())
                    h.update(m.indptr.astype(np.int64).tobytes())
                    h.update(m.indices.astype(np.int64).tobytes())
                    h.update(m.data.astype(np.float32).tobytes())
            if split.texts is not None:
                h.update("\0".join(split.texts).encode())
        h.update("\0".join(self.label_names).encode())
        return h.hexdigest()[:16]

    def __repr__(self) -> str:
        a, b = self.propensity
        kind = "texts" if self.train.texts is not None else f"rows of {self.n_features:,} features"
        per_doc = self.train.labels.nnz / len(self.train)
        frequency = self.label_frequency
        title, *lines = [
            f"Corpus {self.name!r}: {len(self.train):,} training and {len(self.test):,} test {kind}, "
            f"{self.n_labels:,} labels",
            f"{per_doc:.1f} labels a document; a label is used {frequency.mean():.1f} times on average, "
            f"median {np.median(frequency):.0f}, most {frequency.max():,} "
            f"({self.label_names[int(frequency.argmax())]!r})",
            f"bins at {self.bins().edges}: {self.bins().describe()}",
            f"propensity A={a}, B={b}; fingerprint {self.fingerprint}",
            self.source,
        ]
        return "\n".join([title, *(textwrap.fill(row, 100, initial_indent="  ", subsequent_indent="    ")
                                   for row in lines)])
