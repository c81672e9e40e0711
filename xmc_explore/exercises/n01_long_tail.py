"""Exercises of notebook 01: precision at k, the propensity of a label, recall per bin."""

from __future__ import annotations

import numpy as np

from .exercise import Mistake, Prediction, WriteFunction
from .pictures import dots

# --- precision at k -----------------------------------------------------------------------------------------------


def precision_at_k(scores, labels, k):
    top = np.argsort(-scores, axis=1)[:, :k]
    hits = np.take_along_axis(labels, top, axis=1).sum(axis=1)
    return (hits / k).mean()


def _divided_by_labels(scores, labels, k):
    top = np.argsort(-scores, axis=1)[:, :k]
    hits = np.take_along_axis(labels, top, axis=1).sum(axis=1)
    return (hits / np.minimum(k, np.maximum(labels.sum(axis=1), 1))).mean()


def _recall(scores, labels, k):
    top = np.argsort(-scores, axis=1)[:, :k]
    hits = np.take_along_axis(labels, top, axis=1).sum(axis=1)
    return (hits / np.maximum(labels.sum(axis=1), 1)).mean()


def _lowest(scores, labels, k):
    top = np.argsort(scores, axis=1)[:, :k]
    return (np.take_along_axis(labels, top, axis=1).sum(axis=1) / k).mean()


def _only_kth(scores, labels, k):
    top = np.argsort(-scores, axis=1)[:, k - 1:k]
    return np.take_along_axis(labels, top, axis=1).mean()


def _wrong_axis(scores, labels, k):
    return np.take_along_axis(labels, np.argsort(-scores, axis=0)[:k], axis=0).mean()


def _second_to_last(scores, labels, k):
    return np.take_along_axis(labels, np.argsort(-scores, axis=1)[:, 1:k + 1], axis=1).mean()


def _ranking(rng):
    n, n_labels = int(rng.integers(4, 9)), int(rng.integers(7, 12))
    labels = (rng.random((n, n_labels)) < 0.3).astype(int)
    labels[0, :2] = 1  # rows with few labels and with many
    return rng.standard_normal((n, n_labels)), labels, int(rng.integers(2, 5))


# --- inverse propensity -------------------------------------------------------------------------------------------


def inverse_propensity(frequency, n_train, a, b):
    c = (np.log(n_train) - 1) * (b + 1) ** a
    return 1 + c * (frequency + b) ** -a


def _swapped(frequency, n_train, a, b):
    c = (np.log(n_train) - 1) * (b + 1) ** a
    return 1 + c * (frequency + a) ** -b


def _log2(frequency, n_train, a, b):
    c = (np.log2(n_train) - 1) * (b + 1) ** a
    return 1 + c * (frequency + b) ** -a


def _without_minus(frequency, n_train, a, b):
    c = (np.log(n_train) - 1) * (b + 1) ** a
    return 1 + c * (frequency + b) ** a


def _not_inverted(frequency, n_train, a, b):
    return 1 / inverse_propensity(frequency, n_train, a, b)


def _frequencies(rng):
    return (rng.integers(0, 500, 12).astype(float), int(rng.integers(1000, 100_000)), float(rng.uniform(0.4, 0.7)),
            float(rng.uniform(0.8, 2.6)))


# --- recall of a bin ----------------------------------------------------------------------------------------------


def recall_per_bin(top, labels, bin_of_label):
    found, there = np.zeros(3), np.zeros(3)
    for row, picked in enumerate(top):
        for label in np.flatnonzero(labels[row]):
            there[bin_of_label[label]] += 1
            found[bin_of_label[label]] += label in picked
    return found / np.maximum(there, 1)


def _share_of_hits(top, labels, bin_of_label):
    found = np.zeros(3)
    for row, picked in enumerate(top):
        for label in picked:
            found[bin_of_label[label]] += labels[row, label]
    return found / max(found.sum(), 1)


def _precision_in_bin(top, labels, bin_of_label):
    found, said = np.zeros(3), np.zeros(3)
    for row, picked in enumerate(top):
        for label in picked:
            said[bin_of_label[label]] += 1
            found[bin_of_label[label]] += labels[row, label]
    return found / np.maximum(said, 1)


def _mean_over_rows(top, labels, bin_of_label):
    rows = []
    for row, picked in enumerate(top):
        found, there = np.zeros(3), np.zeros(3)
        for label in np.flatnonzero(labels[row]):
            there[bin_of_label[label]] += 1
            found[bin_of_label[label]] += label in picked
        rows.append(found / np.maximum(there, 1))
    return np.mean(rows, axis=0)


def _top(rng):
    n, n_labels, k = 12, 10, 4
    labels = (rng.random((n, n_labels)) < 0.35).astype(int)
    labels[0] = 1  # no bin is without assignments: what is its recall then?
    top = np.stack([rng.permutation(n_labels)[:k] for _ in range(n)])
    return top, labels, np.sort(np.concatenate([[0, 1, 2], rng.integers(0, 3, n_labels - 3)]))


def _share_of_most_frequent(corpus) -> float:
    return 100 * float(corpus.test.labels[:, [int(corpus.label_frequency.argmax())]].sum()) / len(corpus.test)


EXERCISES = [
    Prediction(
        name="one_answer", title="a model that always says the same", notebook="01", difficulty=1, importance=4,
        minutes=3, unit="%", tolerance=0.15, answer=_share_of_most_frequent,
        statement="A model puts the most frequent label of the corpus first, for every document, and never looks at "
                  "the text. Predict its P@1 on the test documents, in per cent, then run the cell below.",
        hints=("P@1 is the share of documents whose first answer is right.",
               "So it is the share of documents that carry that label: `corpus.label_frequency` has the counts in the "
               "training split, `len(corpus.train)` the number of documents."),
        traps=((lambda corpus: 100 * float(corpus.label_frequency.max() / corpus.label_frequency.sum()),
                "You divided by the number of *assignments*; a document carries several labels, so the share of "
                "documents is larger."),),
        because="One constant answer is right that often: this is what P@1 hides.",
        worked="`100 * corpus.label_frequency.max() / len(corpus.train)`: the most frequent label's share of the "
               "training documents; the test split has about the same."),
    WriteFunction(
        name="precision_at_k", title="precision at k", notebook="01", difficulty=2, importance=5, minutes=8,
        reference=precision_at_k, inputs=_ranking,
        statement=r"""Write `precision_at_k(scores, labels, k)`: the mean over documents of the share of the $k$ highest
scores that are right,

$$\mathrm{P@}k = \frac1N \sum_{i=1}^N \frac1k \sum_{r=1}^k y_{i,\mathrm{top}_r(i)} .$$

`scores` is `[N, L]`, a row a document, `labels` `[N, L]` of 0 and 1, both NumPy arrays. $\mathrm{top}_r(i)$ is the
label with the $r$-th highest score of document $i$, and $y_{i,l}$ is 1 if it has label $l$. The denominator is $k$ even
for a document with fewer labels.""",
        hints=("`np.argsort(-scores, axis=1)` sorts each row, best first.",
               "`np.take_along_axis(labels, top, axis=1)` reads the labels at those places."),
        mistakes=(
            Mistake("You divided by the number of labels where it is below k",
                    "P@k keeps k below the line, so a document with one label cannot reach 1 at k = 5.",
                    _divided_by_labels),
            Mistake("This is recall", "You divided by the number of labels of each document, not by k.", _recall),
            Mistake("You took the lowest scores", "`np.argsort` sorts upwards: negate the scores.", _lowest),
            Mistake("You looked at rank k alone", "All of the first k ranks count, not only the k-th.", _only_kth),
            Mistake("You ranked the documents", "The labels of one document are to be ranked: `axis=1`.", _wrong_axis),
            Mistake("The best label is left out", "The first k are `[:k]`: Python counts from 0.", _second_to_last)),
        because="`xe.metrics.Evaluator` does the same batch by batch, so that no `[N, L]` matrix is ever held."),
    WriteFunction(
        name="inverse_propensity", title="what a rare label is worth", notebook="01", difficulty=2, importance=3,
        minutes=6, reference=inverse_propensity, inputs=_frequencies,
        statement=r"""PSP@k weighs a hit on label $l$ by its inverse propensity (Jain et al., KDD 2016),

$$q_l = 1 + C\,(N_l + B)^{-A}, \qquad C = (\ln N - 1)(B + 1)^A ,$$

with $N_l$ the training documents of the label and $N$ all of them. Write
`inverse_propensity(frequency, n_train, a, b)`; `frequency` is a NumPy array.""",
        hints=("It is one line for C and one for q.", "`np.log` is the natural logarithm."),
        mistakes=(
            Mistake("A and B are swapped", "The exponent is A and the offset is B; many a text has them the other way "
                    "round.", _swapped),
            Mistake("That is the logarithm to base 2", "C has the natural logarithm, `np.log`.", _log2),
            Mistake("The exponent has lost its minus", "It is `** -a`: the more documents a label has, the *less* a "
                    "hit on it weighs.", _without_minus),
            Mistake("This is the propensity itself", "Its inverse is asked for: rare labels get the *large* numbers.",
                    _not_inverted)),
        because="A label seen once counts several times as much as one seen a hundred times. The values of A and B are "
                "conventions of the benchmark, so PSP columns of two papers are not always comparable."),
    WriteFunction(
        name="recall_per_bin", title="recall of head, torso and tail", notebook="01", difficulty=3, importance=5,
        minutes=12, reference=recall_per_bin, inputs=_top,
        picture=dots("What is found in each bin?", "recall", ("head", "torso", "tail")),
        statement="Write `recall_per_bin(top, labels, bin_of_label)`: of all (document, label) assignments in a bin, "
                  "the share whose label is among the document's answers. `top` `[N, k]` holds the answers of each "
                  "document, as numbers of labels, `labels` `[N, L]` is 0 and 1, `bin_of_label` `[L]` is 0 (head), "
                  "1 (torso) or 2 (tail). Return a NumPy array of three numbers, pooled over documents.",
        hints=("Count twice: assignments that are there, and those that were found; divide at the end.",
               "Go over the documents, and in each over `np.flatnonzero(labels[row])`."),
        mistakes=(
            Mistake("You divided by all hits", "That is how the hits are shared out among the bins; recall divides "
                    "each bin's hits by the bin's own assignments.", _share_of_hits),
            Mistake("This is precision in each bin", "You divided by what the model said; recall divides by what is "
                    "there.", _precision_in_bin),
            Mistake("You averaged over documents", "Here all assignments of a bin are pooled, so that a document with "
                    "many labels counts more.", _mean_over_rows)),
        because="It is the number that the rest of the course watches: P@1 can rise while this one stays at zero for "
                "the tail."),
]
