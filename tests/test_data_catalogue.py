"""data/: every number has a source, agrees with the others, and with what the code does."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from xmc_explore.corpora import repository
from xmc_explore.recipe import PAPER

DATA = Path(__file__).parent.parent / "data"
WHOLE = ("n_train", "n_test", "n_labels", "bow_features")
DECIMAL = ("points_per_label", "labels_per_point", "propensity_a", "propensity_b")

with (DATA / "benchmarks.csv").open(encoding="utf-8", newline="") as file:
    BENCHMARKS = list(csv.DictReader(file))
each_benchmark = pytest.mark.parametrize("row", BENCHMARKS, ids=[row["name"] for row in BENCHMARKS])


@each_benchmark
def test_every_number_is_one_and_has_a_source(row):
    assert None not in row and None not in row.values()  # as many fields as the header has
    assert all(int(row[column]) > 0 for column in WHOLE if row[column])
    assert all(float(row[column]) > 0 for column in DECIMAL if row[column])
    assert row["name"] and row["n_labels"] and row["source"]


def documents(row) -> float:
    """How many documents the published averages of a benchmark are taken over."""
    return float(row["points_per_label"]) * int(row["n_labels"]) / float(row["labels_per_point"])


COUNTED = [row for row in BENCHMARKS if row["n_train"]]
TRAINING_ONLY = {row["name"] for row in COUNTED if documents(row) < 1.01 * int(row["n_train"])}


@pytest.mark.parametrize("row", COUNTED, ids=[row["name"] for row in COUNTED])
def test_the_averages_agree_with_the_counts(row):
    expected = int(row["n_train"]) + (0 if row["name"] in TRAINING_ONLY else int(row["n_test"]))
    assert documents(row) == pytest.approx(expected, rel=0.01)


def test_the_readme_names_the_benchmarks_whose_averages_are_of_the_training_half():
    text = (DATA / "README.md").read_text(encoding="utf-8")
    sentence = text.split("`points_per_label` is")[1].split("it counts training documents")[0]
    assert {row["name"] for row in COUNTED if row["name"] in sentence} == TRAINING_ONLY


def test_recipes_are_the_six_of_the_paper():
    assert {row["recipe"] for row in BENCHMARKS} - {""} == set(PAPER)
    for row in BENCHMARKS:
        if row["recipe"]:
            assert row["n_labels"] == next(r["n_labels"] for r in BENCHMARKS if r["name"] == row["recipe"])


@each_benchmark
def test_formats_and_propensities_are_those_of_the_reader(row):
    assert set(row["formats"].split()) <= {f.key for f in repository._FORMATS}
    if row["propensity_a"]:
        (a, b), _ = repository._propensity(row["name"])
        assert (float(row["propensity_a"]), float(row["propensity_b"])) == (a, b)


def table(heading: str) -> list[list[str]]:
    """The cells of the README's table whose first column is headed so."""
    lines = (DATA / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_memory_table_follows_from_the_label_counts():
    labels = {row["name"]: int(row["n_labels"]) for row in BENCHMARKS}
    rows = table("benchmark")
    assert len(rows) >= 9 and set(PAPER) <= {row[0] for row in rows}
    for name, n_labels, *cells in rows:
        assert int(n_labels.replace(",", "")) == labels[name]
        gib = [labels[name] * bytes_per_label / 2**30 for bytes_per_label in (768 * 16, 32 * 18, 128 * 18)]
        assert cells == [f"{x:.2f}" for x in gib] + ["yes" if x <= 8 else "no" for x in gib]


def test_the_format_table_is_that_of_the_reader():
    assert [row[0].strip("`") for row in table("format")] == [f.key for f in repository._FORMATS]
    assert [line.split("|")[1].strip() for line in repository.__doc__.splitlines() if line.startswith("| ")][1:] == [
        f.key for f in repository._FORMATS]
