"""Exercises of notebook 09: a line of a benchmark file, the label matrix of a table, the bill of one's own layer."""

from __future__ import annotations

import numpy as np

from .exercise import Mistake, Prediction, WriteFunction

# --- a line of the repository's format ----------------------------------------------------------------------------


def read_line(line):
    first, *pairs = line.rstrip("\n").split(" ")
    labels = [int(label) for label in first.split(",") if label]
    features = {int(index): float(value) for index, value in (pair.split(":") for pair in pairs if pair)}
    return labels, features


def _without_labels_wrong(line):
    """`line.split()` swallows the blank in front, and the first pair becomes the labels."""
    first, *pairs = line.split()
    labels = [int(label.split(":")[0]) for label in first.split(",")]
    return labels, {int(p.split(":")[0]): float(p.split(":")[1]) for p in pairs}


def _from_one(line):
    labels, features = read_line(line)
    return [label - 1 for label in labels], {index - 1: value for index, value in features.items()}


def _whole_values(line):
    labels, features = read_line(line)
    return labels, {index: int(value) for index, value in features.items()}


def _ones(line):
    labels, features = read_line(line)
    return labels, dict.fromkeys(features, 1.0)


def _line(rng):
    labels = sorted(rng.choice(50, rng.integers(1, 5), replace=False).tolist())
    if rng.random() < 0.75:  # often enough for one among the inputs of a check
        labels = []
    pairs = {int(i): round(float(rng.uniform(0.1, 9)), 3) for i in rng.choice(200, rng.integers(2, 6), replace=False)}
    return (",".join(map(str, labels)) + "".join(f" {i}:{v}" for i, v in sorted(pairs.items())) + "\n",)


# --- the label matrix of a table ----------------------------------------------------------------------------------


def label_matrix(tags):
    names = sorted({tag for row in tags for tag in row})
    column = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(tags), len(names)), dtype=int)
    for row, here in enumerate(tags):
        for tag in here:
            matrix[row, column[tag]] = 1
    return names, matrix


def _as_met(tags):
    names = list(dict.fromkeys(tag for row in tags for tag in row))
    return names, np.array([[int(name in row) for name in names] for row in tags])


def _counted(tags):
    names, _ = label_matrix(tags)
    return names, np.array([[row.count(name) for name in names] for row in tags])


def _first_only(tags):
    names, _ = label_matrix(tags)
    return names, np.array([[int(name in row[:1]) for name in names] for row in tags])


def _transposed(tags):
    names, matrix = label_matrix(tags)
    return names, matrix.T


def _table(rng):
    words = ["ash", "birch", "cedar", "elm", "fir", "oak", "pine"]
    rows = [[words[i] for i in rng.choice(7, rng.integers(0, 4), replace=False)] for _ in range(6)]
    return ([["pine", "ash", "pine"], *rows],)  # a tag that stands there twice, and an order that is not the alphabet's


# --- the bill ----------------------------------------------------------------------------------------------------


def _measured(trace) -> float:
    return next(e["output_bytes"] for e in trace.events["step"] if "output_bytes" in e) / 2**20


def _labels(trace) -> int:
    return trace.header["corpus"]["n_labels"]


EXERCISES = [
    WriteFunction(
        name="read_line", title="a line of a benchmark file", notebook="09", difficulty=2, importance=3, minutes=8,
        reference=read_line, inputs=_line,
        statement="In the oldest format of the repository a line is a document: its labels with commas between them, "
                  "then `index:value` for each feature that is not zero, for example `3,17 0:0.5 12:1.25`. A document "
                  "**without** labels starts with a blank: ` 0:0.5 12:1.25`. Write `read_line(line)`, which returns "
                  "the list of labels (whole numbers) and a dictionary from feature to value.",
        hints=('`line.split(" ")` keeps an empty string in front of a leading blank, `line.split()` does not.',
               'The first part holds the labels, also when it is empty; `"".split(",")` is `[""]`.'),
        mistakes=(
            Mistake("A document without labels", "Its first feature became its label: `split()` swallows the blank in "
                    "front. Split at single blanks.", _without_labels_wrong),
            Mistake("You counted from 1", "Labels and features count from 0 in this format, so nothing is to be taken "
                    "off.", _from_one),
            Mistake("The values were cut to whole numbers", "They are real numbers, often tf-idf: use `float`.",
                    _whole_values),
            Mistake("The values are missing", "A feature is not just there or not: keep the number behind the colon.",
                    _ones)),
        because="One wrong blank, and every document without labels gets a label from its words: no error, just "
                "numbers that are a little off. `xe.load_corpus` checks each line and names the first that is wrong."),
    WriteFunction(
        name="label_matrix", title="from tags to a label matrix", notebook="09", difficulty=2, importance=4, minutes=8,
        reference=label_matrix, inputs=_table,
        statement="`tags` is a list with one list of strings a document. Write `label_matrix(tags)`: it returns the "
                  "names of all labels, sorted, and an array `[N, L]` that is 1 where the document of that row carries "
                  "the label of that column, and 0 elsewhere.",
        hints=("`sorted({tag for row in tags for tag in row})` are the names.",
               "A dictionary from name to column saves searching the list for each tag."),
        mistakes=(
            Mistake("The names are in the order in which they were met", "Sort them: then the columns do not depend on "
                    "the order of the rows, and two halves of a table agree.", _as_met),
            Mistake("A tag that stands there twice counts twice", "A document carries a label or not: the entry is 1.",
                    _counted),
            Mistake("Only the first tag of each document", "A document may carry any number of labels.", _first_only),
            Mistake("The matrix is transposed", "Documents are rows, labels are columns: `[N, L]`.", _transposed)),
        because="`xe.corpus_from_table` does the same, keeps only the ones (CSR), and says which row it cannot read."),
    Prediction(
        name="own_layer", title="the bill of your own layer", notebook="09", difficulty=2, importance=4, minutes=5,
        unit="MiB", tolerance=0.1, answer=_measured,
        statement="Your corpus has $L$ labels; the layer keeps $K$ connections a label and learns with Adam. Predict "
                  "how many MiB ($2^{20}$ bytes) it takes in training: weights, gradients and two moments of 4 bytes "
                  "each, the same four numbers for each bias, and 2 bytes for each index. Then train and look.",
        hints=("A connection costs 4 x 4 bytes and 2 for its index.", "A label costs K connections and a bias of 16 "
               "bytes: $L (18 K + 16)$ bytes."),
        traps=((lambda trace: 4 * _labels(trace) * trace.recipe.fan_in / 2**20,
                "Those are the weights alone: gradients, moments and indices come on top."),
               (lambda trace: 16 * _labels(trace) * trace.width / 2**20,
                "That is the dense layer of the same size.")),
        because="The account grows with L and K only: the width of the encoder does not enter.",
        worked="`corpus.n_labels * (18 * fan_in + 16) / 2**20`"),
]
