"""Tiny corpora that train in a blink: words that mean labels."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from xmc_explore.corpora import Corpus, Split

WORDS = ("read write open close file array sum mean sort tree node graph edge path token model layer matrix vector "
         "plot axis color string parse match group index slice merge split").split()


def tiny_corpus(n_train: int = 300, n_test: int = 80, seed: int = 0, *, texts: bool = True) -> Corpus:
    """Documents of five words, the first three of them (by a Zipf law) labels; as texts, or as word counts."""
    rng = np.random.default_rng(seed)
    n = len(WORDS)
    chance = 1 / np.arange(1, n + 1)

    def split(size: int) -> Split:
        words = np.stack([rng.choice(n, 5, replace=False, p=chance / chance.sum()) for _ in range(size)])
        rows = np.repeat(np.arange(size), 3)
        labels = csr_array((np.ones(3 * size, np.float32), (rows, words[:, :3].ravel())), shape=(size, n))
        if texts:
            return Split(labels, [" ".join(WORDS[w] for w in row) for row in words])
        counts = csr_array((np.ones(5 * size, np.float32), (np.repeat(np.arange(size), 5), words.ravel())),
                           shape=(size, n))
        return Split(labels, features=counts)

    return Corpus("tiny", split(n_train), split(n_test), list(WORDS))
