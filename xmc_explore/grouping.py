"""Which labels share their indices, and which get a dense head: what a recipe's `grouping` and `head_share` mean."""

from __future__ import annotations

import numpy as np

from .auxiliary import balanced_clusters, label_centroids
from .corpora import Corpus
from .recipe import Recipe


def group_order(corpus: Corpus, recipe: Recipe, labels: np.ndarray) -> np.ndarray:
    """An order [n] of `labels` [n], as positions in them: each `recipe.group_size` in a row are one group.

    "frequency" puts labels together that are about as frequent (what HASTE's published settings do), "random" any,
    "clusters" those whose training documents use the same words: recursive balanced 2-means of `label_centroids`.
    """
    rng = np.random.default_rng([recipe.seed, 19])
    if recipe.grouping == "random":
        return rng.permutation(len(labels))
    if recipe.grouping == "frequency":
        return np.argsort(-corpus.label_frequency[labels], kind="stable")
    n_groups = -(-len(labels) // recipe.group_size)
    vectors = label_centroids(corpus, recipe)[labels]
    return np.argsort(balanced_clusters(vectors, n_groups, rng, exactly=recipe.group_size), kind="stable")


def head_labels(corpus: Corpus, share: float) -> np.ndarray:
    """The most frequent labels, as few as hold this share of the assignments, in ascending order; at least one is left.

    0 is none. With 0.5 they are the head of `label_bins`.
    """
    frequency = corpus.label_frequency
    order = np.argsort(-frequency, kind="stable")
    before = (np.cumsum(frequency[order]) - frequency[order]) / max(frequency.sum(), 1)
    return np.sort(order[:-1][before[:-1] < share])
