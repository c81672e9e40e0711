"""Clusters of labels: sizes, what they are made of, and that like labels come together."""

from dataclasses import replace

import numpy as np
import pytest
from corpus_for_tests import tiny_corpus
from scipy.sparse import csr_array

import xmc_explore as xe
from xmc_explore.auxiliary import balanced_clusters, label_centroids, label_clusters
from xmc_explore.encoders import token_counts


def test_clusters_are_balanced():
    corpus = tiny_corpus()
    for clustering in ("kmeans", "random"):
        for n in (1, 4, 7, 30):
            cluster = label_clusters(corpus, xe.Recipe(aux_clusters=n, aux_clustering=clustering))
            sizes = np.bincount(cluster, minlength=n)
            assert len(sizes) == n and sizes.max() - sizes.min() <= 1


def test_random_clusters_are_those_of_the_seed_whatever_the_texts_are():
    corpus, recipe = tiny_corpus(), xe.Recipe(aux_clusters=7, aux_clustering="random")
    shuffled = replace(corpus, train=replace(corpus.train, texts=corpus.train.texts[::-1]))
    clusters = label_clusters(corpus, recipe)
    assert np.array_equal(label_clusters(shuffled, recipe), clusters)
    assert not np.array_equal(label_clusters(corpus, recipe.replace(seed=1)), clusters)


@pytest.mark.parametrize("texts", [True, False])
def test_centroids_are_unit_sums_of_what_the_documents_of_a_label_hold(texts):
    corpus, recipe = tiny_corpus(texts=texts), xe.Recipe()
    found = label_centroids(corpus, recipe)
    documents = corpus.train.features.toarray() if not texts else None
    if texts:  # tf-idf: counts times ln((1 + N) / (1 + documents with the token)) + 1, each document of length 1
        counts = token_counts(corpus.train, recipe.encoder_model, recipe.max_tokens)
        used = np.unique(counts.indices)
        counts, found = counts[:, used].toarray(), found[:, used]
        documents = counts * (np.log((1 + len(counts)) / (1 + (counts > 0).sum(0))) + 1)
        documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    sums = corpus.train.labels.toarray().T @ documents
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    assert np.allclose(found.toarray(), sums / np.where(length > 0, length, 1), atol=1e-6)


def test_balanced_two_means_finds_planted_clusters():
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(8), 25)
    vectors = np.zeros((200, 80))
    for i, c in enumerate(of):
        vectors[i, rng.choice(np.arange(10 * c, 10 * c + 10), 6, replace=False)] = 1
    order = rng.permutation(200)
    found = np.empty(200, int)
    found[order] = balanced_clusters(csr_array(vectors[order] / 6**0.5), 8, rng)
    pure = sum(np.bincount(found[of == c]).max() for c in range(8))
    assert pure >= 150  # chance would give about 55
