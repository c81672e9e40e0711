"""Label clusters for the auxiliary objective: a small dense head that predicts which clusters a document touches."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from .corpora import Corpus
from .encoders import token_counts
from .recipe import Recipe

MAX_ROUNDS = 50  # of one balanced 2-means; it settles in about ten


def label_clusters(corpus: Corpus, recipe: Recipe) -> np.ndarray:
    """The cluster of each label, [L], numbered 0..C-1 with sizes that differ by at most one.

    "kmeans" groups labels whose training documents use the same words (the recipe of LightXML: centroids of tf-idf
    vectors, recursive balanced 2-means); "random" ignores them, as the paper's control does.
    Raises ValueError if there are fewer labels than clusters.
    """
    n_clusters = recipe.aux_clusters
    if n_clusters > corpus.n_labels:
        raise ValueError(f"aux_clusters={n_clusters} exceeds the {corpus.n_labels} labels of corpus {corpus.name!r}; a "
                         f"tenth of them is a good start, or none at all: aux_weight=0.0")
    rng = np.random.default_rng([recipe.seed, 3])
    if recipe.aux_clustering == "random":
        return rng.permutation(np.arange(corpus.n_labels) * n_clusters // corpus.n_labels)
    return balanced_clusters(label_centroids(corpus, recipe), n_clusters, rng)


def label_centroids(corpus: Corpus, recipe: Recipe) -> csr_array:
    """Unit-length sums of the tf-idf vectors of each label's training documents, [L, V]; zero for an unused label."""
    from sklearn.feature_extraction.text import TfidfTransformer  # half a second, with the scipy.stats it imports
    from sklearn.preprocessing import normalize

    counts = corpus.train.features
    if corpus.train.texts is not None:
        counts = TfidfTransformer().fit_transform(
            token_counts(corpus.train, recipe.encoder_model, recipe.max_tokens))
    return csr_array(normalize(corpus.train.labels.T @ counts))


def balanced_clusters(vectors: csr_array, n_clusters: int, rng: np.random.Generator,
                      exactly: int | None = None) -> np.ndarray:
    """Cut the rows of `vectors` [L, V] in two balanced halves by spherical 2-means, again and again; returns [L].

    Sizes differ by at most one, or with `exactly` all clusters have that size and the last has what is left.
    """
    cluster = np.empty(vectors.shape[0], dtype=np.int64)
    todo = [(np.arange(vectors.shape[0]), 0, n_clusters)]
    while todo:
        rows, first, n = todo.pop()
        if n == 1:
            cluster[rows] = first
            continue
        left = n // 2
        # Floor or ceiling of the exact share, whichever keeps every final cluster within one label of the others.
        small, extra = divmod(len(rows), n)
        size = small * left + min(extra, left) if exactly is None else left * exactly
        order = _two_means(vectors[rows], size, rng)
        todo += [(rows[order[:size]], first, left), (rows[order[size:]], first + left, n - left)]
    return cluster


def _two_means(x: csr_array, size: int, rng: np.random.Generator) -> np.ndarray:
    """An order of the rows of x such that the first `size` are one cluster and the rest the other."""
    one, two = (x[[i]].toarray()[0] for i in rng.choice(x.shape[0], 2, replace=False))
    best, order = -np.inf, None
    for _ in range(MAX_ROUNDS):
        found = np.argsort(-(x @ (one - two)), kind="stable")
        sums = [np.asarray(x[part].sum(0)).ravel() for part in (found[:size], found[size:])]
        lengths = [np.linalg.norm(s) for s in sums]
        if sum(lengths) <= best * (1 + 1e-4):  # total similarity of the rows to their own centre
            break
        best, order = sum(lengths), found
        one, two = (s / max(n, 1e-12) for s, n in zip(sums, lengths, strict=True))
    return order
