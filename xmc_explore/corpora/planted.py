"""A synthetic corpus whose labels' true support is known, to watch rewiring find it."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from scipy.optimize import brentq
from scipy.sparse import csr_array
from scipy.special import ndtri

from .corpus import Corpus, CorpusError, Split

_LARGEST_SHARE = 0.5  # a label on more than half of the documents would be learnt from its bias alone
_SCORES_AT_ONCE = 1 << 22  # of the [L, N] scores, so that memory does not grow with L


def make_planted(n_train: int = 8000, n_test: int = 2000, n_labels: int = 1000, n_features: int = 256,
                 support: int = 8, zipf: float = 1.0, noise: float = 0.1, labels_per_document: float = 3.0,
                 seed: int = 0) -> Corpus:
    """A corpus of features [N, D] in which each label depends on `support` features and on nothing else.

    1. Features are independent normal draws: x[n, d] ~ N(0, 1).
    2. Label l has `support` = S distinct features s(l, 1..S), drawn evenly, with weights w(l, i) of random sign and
       size U(0.5, 1.5), scaled to sum_i w(l, i)^2 = 1. `Corpus.support` [L, S] holds s, sorted within a row.
    3. Its score is z[n, l] = sqrt(1 - noise) * sum_i w(l, i) x[n, s(l, i)] + sqrt(noise) * e[n, l], e ~ N(0, 1): the
       features explain 1 - noise of its variance.
    4. Its share of the documents is p(l) = min(1/2, c * l^-zipf), l = 1 the most frequent, with c such that the p(l)
       sum to `labels_per_document`; it is given where z[n, l] > t(l), the value that N(0, 1) exceeds with chance p(l).
    5. A document without any label gets the one for which z - t is largest.

    So a dense linear layer, or a fixed fan-in one with K >= S and the right indices, can be as good as the noise
    allows. Nothing but numpy's seeded generator and elementwise arithmetic decides a label, so a seed gives the same
    corpus everywhere. Raises `CorpusError` for values that no corpus can have.
    """
    for name, value in (("n_train", n_train), ("n_test", n_test), ("n_labels", n_labels), ("n_features", n_features),
                        ("support", support)):
        if not isinstance(value, Integral) or value < 1:
            raise CorpusError(f"planted: {name} must be 1 or more, a whole number; got {value!r}")
    for name, value in (("zipf", zipf), ("noise", noise), ("labels_per_document", labels_per_document)):
        if not isinstance(value, Real):
            raise CorpusError(f"planted: {name} must be a number; got {value!r}")
    if support > n_features:
        raise CorpusError(f"planted: a label cannot depend on support={support} distinct features out of "
                          f"n_features={n_features}")
    if not 0 <= zipf <= 10:
        raise CorpusError(f"planted: the exponent zipf must be from 0 (all labels alike) to 10; got {zipf}")
    if not 0 <= noise < 1:
        raise CorpusError(f"planted: noise is a share of the score's variance, from 0 to below 1; got {noise}")
    most = _LARGEST_SHARE * n_labels
    if not 1 <= labels_per_document <= most:
        raise CorpusError(f"planted: labels_per_document must be from 1 to half of n_labels={n_labels}, "
                          f"that is {most:g}; got {labels_per_document}")

    rng = np.random.default_rng(seed)
    n = n_train + n_test
    features = rng.standard_normal((n, n_features), dtype=np.float32)
    chosen = np.empty((n_labels, support), dtype=np.int32)
    rows = max(1, _SCORES_AT_ONCE // n_features)
    for start in range(0, n_labels, rows):  # the `support` smallest of D random numbers: distinct, and each set alike
        draw = rng.random((min(rows, n_labels - start), n_features), dtype=np.float32)
        chosen[start:start + rows] = np.sort(np.argpartition(draw, support - 1, axis=1)[:, :support], axis=1)
    weight = rng.uniform(0.5, 1.5, chosen.shape) * rng.choice([-1.0, 1.0], chosen.shape)
    weight = (weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32)
    threshold = -ndtri(_shares(n_labels, zipf, labels_per_document)).astype(np.float32)

    by_feature = np.ascontiguousarray(features.T)  # [D, N]
    closest, closest_margin = np.zeros(n, dtype=np.int64), np.full(n, -np.inf, dtype=np.float32)
    documents, labels = [], []
    rows = max(1, _SCORES_AT_ONCE // n)
    for start in range(0, n_labels, rows):
        here = slice(start, min(start + rows, n_labels))
        margin = rng.standard_normal((here.stop - start, n), dtype=np.float32)  # [labels of this chunk, N]
        margin *= np.float32(np.sqrt(noise))
        for i in range(support):
            # Not a matrix product: its order of summation, and with it a label on the edge, differs between machines.
            margin += (np.float32(np.sqrt(1 - noise)) * weight[here, i, None]) * by_feature[chosen[here, i]]
        margin -= threshold[here, None]
        label, document = np.nonzero(margin > 0)
        labels.append(label + start)
        documents.append(document)
        best = margin.argmax(axis=0)
        best_margin = margin[best, np.arange(n)]
        better = best_margin > closest_margin
        closest[better], closest_margin[better] = best[better] + start, best_margin[better]
    empty = np.flatnonzero(closest_margin <= 0)
    documents, labels = np.concatenate([*documents, empty]), np.concatenate([*labels, closest[empty]])
    assigned = csr_array((np.ones(len(labels), np.float32), (documents, labels)), shape=(n, n_labels))
    assigned.sort_indices()

    train, test = (Split(assigned[part], features=csr_array(features[part]))
                   for part in (slice(0, n_train), slice(n_train, n)))
    source = (f"synthetic: {support} of {n_features} features decide each label, zipf={zipf:g}, noise={noise:g}, "
              f"seed={seed}")
    return Corpus("planted", train, test, [f"label {i}" for i in range(1, n_labels + 1)], source, support=chosen)


def _shares(n_labels: int, zipf: float, labels_per_document: float) -> np.ndarray:
    """p(l) = min(1/2, c * l^-zipf) [L], summing to `labels_per_document`."""
    law = np.arange(1, n_labels + 1) ** -float(zipf)
    c = brentq(lambda log_c: np.minimum(_LARGEST_SHARE, np.exp(log_c) * law).sum() - labels_per_document,
               np.log(_LARGEST_SHARE / law.sum()), np.log(_LARGEST_SHARE / law[-1]) + 1e-9)
    return np.minimum(_LARGEST_SHARE, np.exp(c) * law)
