"""Ranking metrics of extreme classification, batch by batch: no N x L matrix of scores is ever held.

Every value is a percentage. Of row i let y be its labels, top_r the label ranked r-th, q the inverse propensities:

- P@k       mean over rows of (hits in the top k) / k; the denominator stays k for rows with fewer labels.
- nDCG@k    mean over rows of DCG / ideal DCG, discount 1 / log2(r + 1), ideal cut at min(k, |y|).
- PSP@k     sum over rows of q over the hits, divided by the same sum for the best ranking: a ratio of means, not a
            mean of ratios (Jain et al., KDD 2016; normalised as in napkinXC and pyxclib).
- PSnDCG@k  like PSP@k with gains q, each row's DCG first divided by its unweighted ideal DCG.
- coverage@k  distinct labels hit at least once in a top k, over distinct labels of the rows seen (napkinXC).
- recall@k  hits in the top k over all assignments, pooled over rows ("micro"), so that it agrees with its bins;
            napkinXC's recall is the mean over rows instead.
- P@k/head, /torso, /tail  the part of P@k that comes from labels of that bin: the three add up to P@k.
- PSP@k/head, ...  the part of PSP@k that comes from labels of that bin: the three add up to PSP@k.
- recall@k/head, ...  the share of the bin's own assignments that is found in the top k.

A row without labels counts as 0 in the means over rows. A ratio with nothing below the line (recall of a bin with no
assignment, say) is NaN. PSP depends on the propensity model's A and B: `Evaluator.describe()` says them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse

from .corpora import BIN_NAMES, Corpus, LabelBins


def inverse_propensity(label_frequency, n_train: int, a: float = 0.55, b: float = 1.5) -> torch.Tensor:
    """Inverse propensity q_l = 1 + C (N_l + B)^-A with C = (ln N - 1)(B + 1)^A, as float64 [L].

    `label_frequency` [L] counts the training documents of each label, `n_train` is N, both of the training split
    (Jain et al., KDD 2016). Raises ValueError if N <= e, A < 0, B <= 0, or a frequency is not in 0..N.
    """
    frequency = torch.as_tensor(label_frequency).to("cpu", torch.float64)
    if frequency.ndim != 1:
        raise ValueError(f"label_frequency must be one count per label, [L]; got shape {tuple(frequency.shape)}")
    if not n_train > math.e:
        raise ValueError(f"the propensity model needs more than e training documents (n_train >= 3); got {n_train}")
    if not (0 <= a < math.inf and 0 < b < math.inf):
        raise ValueError(f"the propensity model needs A >= 0 and B > 0; got A={a}, B={b}")
    outside = ~((frequency >= 0) & (frequency <= n_train))
    if outside.any():
        raise ValueError(f"label_frequency must lie in 0..{n_train} (n_train); {int(outside.sum())} labels do not, "
                         f"the first is label {int(outside.nonzero()[0])} with {frequency[outside][0].item():g}")
    return 1 + (math.log(n_train) - 1) * (b + 1) ** a * (frequency + b) ** -a


class NotFiniteError(ValueError):
    """Scores that are NaN or infinite."""


class Evaluator:
    """Accumulates metrics over batches (`update`, `update_topk`), then gives them all (`compute`).

    `label_frequency` [L] and `n_train` describe the training split; `propensity` is (A, B); `bin_of_label` [L] holds
    0 (head), 1 (torso) or 2 (tail), None for no values per bin. All sums are float64 on the CPU, O(L) in all.
    Raises ValueError for a k below 1 or above L and for bins that do not fit; see also `inverse_propensity`.
    """

    def __init__(self, label_frequency, n_train: int, *, ks: Sequence[int] = (1, 3, 5),
                 propensity: tuple[float, float] = (0.55, 1.5), bin_of_label=None):
        self.inv_propensity = inverse_propensity(label_frequency, n_train, *propensity)
        self.n_train, self.n_labels, self.propensity = int(n_train), len(self.inv_propensity), tuple(propensity)
        if not len(ks) or any(k != int(k) or k < 1 for k in ks):
            raise ValueError(f"ks must be whole numbers from 1 up; got {ks}")
        self.ks = tuple(int(k) for k in ks)
        self._max_k = max(self.ks)
        if self._max_k > self.n_labels:
            raise ValueError(f"k={self._max_k} needs at least as many labels; there are {self.n_labels}. A run "
                             f"measures up to k=5, so its corpus has 5 or more; an Evaluator takes smaller ones: ks=")
        self.bin_names = () if bin_of_label is None else BIN_NAMES
        bins = torch.zeros(self.n_labels).byte() if bin_of_label is None else torch.as_tensor(bin_of_label).cpu()
        if bins.shape != (self.n_labels,) or bins.is_floating_point() or not ((bins >= 0) & (bins < 3)).all():
            raise ValueError(f"bin_of_label must hold 0, 1 or 2 for each of the {self.n_labels} labels; got "
                             f"{bins.dtype}, shape {tuple(bins.shape)}, values {bins.unique().tolist()[:5]}")
        self._bin = bins.long()
        self._discount = 1 / torch.log2(torch.arange(2, self._max_k + 2, dtype=torch.float64))
        # ideal DCG by number of labels; inf for none, so that a row without labels adds 0
        self._ideal = torch.cat([torch.tensor([math.inf]).double(), self._discount.cumsum(0)])
        self.reset()

    @classmethod
    def for_corpus(cls, corpus: Corpus, ks: Sequence[int] = (1, 3, 5), bins: LabelBins | None = None) -> Evaluator:
        """An evaluator with the corpus's label frequencies, propensity and bins (`corpus.bins()` unless given)."""
        return cls(corpus.label_frequency, len(corpus.train), ks=ks, propensity=corpus.propensity,
                   bin_of_label=(bins or corpus.bins()).of_label)

    def describe(self) -> str:
        """What the values depend on, in one line: ks, labels, propensity A and B, bins."""
        bins = ", ".join(f"{name} {int((self._bin == i).sum()):,}" for i, name in enumerate(self.bin_names))
        a, b = self.propensity
        return (f"k = {', '.join(map(str, self.ks))} of {self.n_labels:,} labels; propensity A={a}, B={b} over "
                f"{self.n_train:,} training documents; bins: {bins or 'none'}")

    def __repr__(self) -> str:
        return f"Evaluator({self.describe()}; {self.documents:,} documents so far)"

    def reset(self, per_label: bool = False) -> None:
        """Forget every document seen; with `per_label`, count for each label from now on (see `of_labels`)."""
        self.documents = 0
        self._counts = None
        if per_label:
            self._counts = {name: torch.zeros((self.n_labels, self._max_k), dtype=torch.int32)
                            for name in ("hits", "predicted")}  # by label and rank
            self._counts["assignments"] = torch.zeros(self.n_labels, dtype=torch.int32)
        n_bins = max(len(self.bin_names), 1)
        shapes = dict.fromkeys(("nDCG", "PSP", "best PSP", "PSnDCG", "best PSnDCG"), (self._max_k,))  # at k = 1, 2, ...
        shapes |= {"hits": (n_bins, self._max_k), "gains": (n_bins, self._max_k)}  # by bin and rank
        shapes |= {"assignments": (n_bins,)}
        self._sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        self._seen = torch.zeros(self.n_labels, dtype=torch.bool)
        self._best_rank = torch.full((self.n_labels,), self._max_k)  # max k: never hit

    def update(self, scores: torch.Tensor, labels: sparse.csr_array, excluded: sparse.csr_array | None = None) -> None:
        """Add a batch: `scores` [B, L] on any device, rows `labels` [B, L], ties broken as `torch.topk` does.

        A pair in `excluded` [B, L] never enters the top k, as in the repository's filtered evaluation; `labels` stays
        as it is. `scores` is not modified: a longer top k is taken and the excluded pairs are dropped from it.
        Raises ValueError for shapes that differ and for scores that are not finite.
        """
        shapes = [tuple(part.shape) for part in (scores, labels, excluded) if part is not None]
        if len(shapes[0]) != 2 or any(shape != (len(scores), self.n_labels) for shape in shapes):
            raise ValueError(f"scores {shapes[0]}, labels {shapes[1]}{f', excluded {shapes[2]}' if shapes[2:] else ''} "
                             f"do not fit: expected [B, {self.n_labels}]")
        # min and max show NaN and infinities without a [B, L] temporary
        if len(scores) and not all(bool(edge.isfinite()) for edge in scores.aminmax()):
            raise NotFiniteError(
                f"{int((~scores.isfinite()).sum())} of {scores.numel()} scores are NaN or infinite; for labels "
                "that were not scored use update_topk, with index -1 in the empty places")
        self.update_topk(scores.topk(self.depth(excluded)).indices, labels, excluded)

    def depth(self, excluded: sparse.csr_array | None = None) -> int:
        """How many labels of each row an update needs: the largest k, and as many as `excluded` takes from a row."""
        pairs = [] if excluded is None else _pairs(excluded)
        most = int(torch.bincount(pairs // self.n_labels).max()) if len(pairs) else 0
        return min(self._max_k + most, self.n_labels)

    def update_topk(self, indices: torch.Tensor, labels: sparse.csr_array, excluded: sparse.csr_array | None = None
                    ) -> None:
        """Add a batch given each row's labels, best first: `indices` [B, >= max k], -1 for "no prediction" (a miss).

        Pairs in `excluded` [B, L] are dropped first: give `depth(excluded)` labels a row, and max k are left.
        Raises ValueError for shapes that differ, too few columns, indices that are no labels, or one twice in a row.
        """
        indices, k, n_labels = torch.as_tensor(indices).cpu(), self._max_k, self.n_labels
        fits = (len(indices), n_labels)
        if (indices.ndim != 2 or indices.shape[1] < k or tuple(labels.shape) != fits
                or excluded is not None and tuple(excluded.shape) != fits):
            more = "" if excluded is None else f", excluded {tuple(excluded.shape)}"
            raise ValueError(f"top-k indices {tuple(indices.shape)} and labels {tuple(labels.shape)}{more} do not fit: "
                             f"expected [B, {k} or more] and [B, {n_labels}]")
        if indices.is_floating_point():
            raise ValueError(f"top-k indices must be whole numbers; got {indices.dtype} (scores? those go to update)")
        if excluded is not None and len(out := _pairs(excluded)):
            dropped = _isin(indices, out, n_labels)
            kept_first = torch.argsort(dropped.byte(), dim=1, stable=True)
            indices = indices.masked_fill(dropped, -1).gather(1, kept_first)
        indices, size = indices[:, :k].long(), len(indices)
        if ((indices < -1) | (indices >= n_labels)).any():
            raise ValueError(f"top-k indices must lie in -1..{n_labels - 1}; got {indices.min()}..{indices.max()}")
        ordered = indices.sort(dim=1).values
        if (twice := (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            row = int(twice.any(1).nonzero()[0])
            raise ValueError(f"a label may stand once in a row's top k; row {row} is {indices[row].tolist()}")

        pairs = _pairs(labels)
        row, column = pairs // n_labels, pairs % n_labels
        n_true = torch.bincount(row, minlength=size)
        hits = _isin(indices, pairs, n_labels)  # [B, k]
        hit_label, hit_rank = indices[hits], hits.nonzero()[:, 1]
        gains, best = torch.zeros(2, size, k, dtype=torch.float64)
        gains[hits] = self.inv_propensity[hit_label]
        order = torch.from_numpy(np.lexsort((-self.inv_propensity[column], row)))  # best ranking: falling q in each row
        rank = torch.arange(len(row)) - (n_true.cumsum(0) - n_true)[row]
        fits = rank < k
        best[row[fits], rank[fits]] = self.inv_propensity[column[order[fits]]]

        ideal = self._ideal[torch.minimum(n_true[:, None], torch.arange(1, k + 1))]  # [B, k]
        sums = self._sums
        for name, gain in (("nDCG", hits), ("PSnDCG", gains), ("best PSnDCG", best)):
            sums[name] += ((gain * self._discount).cumsum(1) / ideal).sum(0)
        sums["PSP"] += gains.cumsum(1).sum(0)
        sums["best PSP"] += best.cumsum(1).sum(0)
        sums["hits"].index_put_((self._bin[hit_label], hit_rank), torch.ones(()).double(), accumulate=True)
        sums["gains"].index_put_((self._bin[hit_label], hit_rank), self.inv_propensity[hit_label], accumulate=True)
        sums["assignments"] += torch.bincount(self._bin[column], minlength=len(sums["assignments"]))
        self._seen[column] = True
        self._best_rank.scatter_reduce_(0, hit_label, hit_rank, "amin")
        if self._counts is not None:
            one, given = torch.ones((), dtype=torch.int32), indices >= 0
            self._counts["hits"].index_put_((hit_label, hit_rank), one, accumulate=True)
            self._counts["predicted"].index_put_((indices[given], given.nonzero()[:, 1]), one, accumulate=True)
            self._counts["assignments"].index_put_((column,), one, accumulate=True)
        self.documents += size

    def merge(self, other: Evaluator) -> None:
        """Add what `other` has seen, as if its batches had come here; ValueError if it measures something else."""
        if (self.describe() != other.describe() or not torch.equal(self.inv_propensity, other.inv_propensity)
                or not torch.equal(self._bin, other._bin) or (self._counts is None) != (other._counts is None)):
            raise ValueError("only evaluators of the same ks, label frequencies, propensity and bins merge, both with "
                             "or both without counts per label:\n"
                             f"  {self.describe()}\n  {other.describe()}")
        for name, value in other._sums.items():
            self._sums[name] += value
        for name, count in (self._counts or {}).items():
            count += other._counts[name]
        self._seen |= other._seen
        self._best_rank = torch.minimum(self._best_rank, other._best_rank)
        self.documents += other.documents

    def compute(self) -> dict[str, float]:
        """All metrics in percent, "P@1", "nDCG@3", "recall@5/tail" and so on, and "documents", the number of rows.

        Raises RuntimeError before the first document.
        """
        if not self.documents:
            raise RuntimeError("no document seen yet: call update first")
        sums, out = self._sums, {"documents": self.documents}
        found, gains, assignments = sums["hits"].cumsum(1), sums["gains"].cumsum(1), sums["assignments"]  # [bins, k]

        def put(name: str, part: torch.Tensor, whole) -> None:
            out[name] = float(100 * part.double() / whole)  # a tensor, so that 0 / 0 is NaN

        for k in self.ks:
            put(f"P@{k}", found[:, k - 1].sum(), k * self.documents)
            put(f"nDCG@{k}", sums["nDCG"][k - 1], self.documents)
            put(f"PSP@{k}", sums["PSP"][k - 1], sums["best PSP"][k - 1])
            put(f"PSnDCG@{k}", sums["PSnDCG"][k - 1], sums["best PSnDCG"][k - 1])
            put(f"coverage@{k}", (self._best_rank < k).sum(), self._seen.sum())
            put(f"recall@{k}", found[:, k - 1].sum(), assignments.sum())
            for i, name in enumerate(self.bin_names):
                put(f"P@{k}/{name}", found[i, k - 1], k * self.documents)
                put(f"PSP@{k}/{name}", gains[i, k - 1], sums["best PSP"][k - 1])
                put(f"recall@{k}/{name}", found[i, k - 1], assignments[i])
        return out

    def of_labels(self, k: int) -> dict[str, np.ndarray]:
        """Counts for each label [L]: "assignments", and of the top k "predicted" (how often it was given) and "hits".

        hits / predicted is the label's precision@k, hits / assignments its recall@k. Raises ValueError for a k above
        the largest of `ks`, RuntimeError without `reset(per_label=True)`.
        """
        if self._counts is None:
            raise RuntimeError("labels were not counted one by one: call reset(per_label=True) before the first update")
        if not 1 <= k <= self._max_k:
            raise ValueError(f"k must be in 1..{self._max_k}, the largest of ks={self.ks}; got {k}")
        found = {name: self._counts[name][:, :k].sum(1, dtype=torch.int32).numpy() for name in ("predicted", "hits")}
        return {"assignments": self._counts["assignments"].numpy().copy(), **found}


def _pairs(matrix: sparse.csr_array) -> torch.Tensor:
    """The (row, column) pairs of a matrix's nonzero entries, each once, as sorted keys row * L + column."""
    coo = matrix.tocoo()
    row, column = (torch.from_numpy(np.asarray(part, dtype=np.int64)[coo.data != 0]) for part in (coo.row, coo.col))
    return torch.unique(row * matrix.shape[1] + column)


def _isin(indices: torch.Tensor, pairs: torch.Tensor, n_labels: int) -> torch.Tensor:
    """Which of the labels `indices` [B, k] are among their row's `pairs`; -1 is never."""
    return torch.isin(torch.arange(len(indices))[:, None] * n_labels + indices, pairs) & (indices >= 0)
