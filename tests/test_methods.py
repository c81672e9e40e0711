"""The benchmark of the methods: what `--add` keeps and adds, and what it will not set side by side."""

import re

import pandas as pd
import pytest
from corpus_for_tests import tiny_corpus

from benchmarks import machine, methods

LOW = "dense, low precision"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """What `python -m benchmarks.methods` does to a folder, with a corpus and a machine that a test may change."""
    monkeypatch.setattr(methods, "RESULTS", tmp_path)
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    corpora = {"tiny": tiny_corpus(), "tiny, other texts": tiny_corpus(seed=1)}
    monkeypatch.setattr(methods.xe, "load_corpus", corpora.get)

    def run(*arguments, corpus="tiny", steps=3, seeds=2, commit="1234567"):
        monkeypatch.setattr(methods, "commit", lambda: commit)
        methods.main(["--corpus", corpus, "--steps", str(steps), "--seeds", str(seeds), *arguments])
        return (tmp_path / "methods_runs.csv").read_text(), (tmp_path / "methods.md").read_text()

    run.folder = tmp_path
    return run


def test_what_is_added_leaves_the_rows_that_are_there_and_says_where_it_was_measured(bench, capsys):
    before, text = bench("--only", "dense", "--only", "static")
    assert "| measured |" not in text and text.count("- date: ") == 1
    after, text = bench("--add", "--only", LOW, commit="0000012+")
    assert after.startswith(before)
    rows = pd.read_csv(bench.folder / "methods_runs.csv", dtype=str)
    assert list(zip(rows["method"], rows["seed"], rows["commit"], strict=True))[4:] == [
        (LOW, "0", "0000012+"), (LOW, "1", "0000012+")]
    assert not rows.isna().any().any()
    assert re.search(r"- date: .*; commit: 1234567; .*; dense, static\n- date: .*; commit: 0000012\+; .*; " + LOW, text)
    table = pd.read_csv(bench.folder / "methods.csv").set_index("method")
    assert list(table.index) == ["dense", "static", LOW]
    assert table["measured"].str.endswith((", 1234567", ", 0000012+")).all() and ", 0000012+ |\n" in text
    mean, spread = (rows[rows["method"] == LOW]["P@1"].astype(float).agg(f) for f in ("mean", "std"))
    assert table.loc[LOW, "P@1"] == f"{mean:.2f} ± {spread:.2f}"
    capsys.readouterr()


def test_by_default_all_that_is_lacking_is_added(bench, monkeypatch, capsys):
    monkeypatch.setattr(methods, "VARIANTS", {name: (name, {}) for name in ("static", LOW)})
    bench("--only", "static")
    bench("--add")
    assert list(pd.read_csv(bench.folder / "methods.csv")["method"]) == ["static", LOW]
    capsys.readouterr()


def test_without_add_the_file_is_made_anew(bench, capsys):
    bench("--only", "dense")
    bench("--only", "static", steps=2)
    assert list(pd.read_csv(bench.folder / "methods.csv")["method"]) == ["static"]
    capsys.readouterr()


@pytest.mark.parametrize("changes, words", [
    ({"corpus": "tiny, other texts"}, r"fingerprint is '[0-9a-f]{16}' here and '[0-9a-f]{16}' in methods_runs.csv"),
    ({"steps": 4}, "steps is 4 here and 3 in methods_runs.csv"),
    ({"seeds": 1}, r"seeds \[0, 1\] are in methods_runs.csv; --seeds 1 would give \[0\]"),
    ({"only": "static"}, "'static' is in methods_runs.csv already"),
])
def test_what_has_other_conditions_is_refused_before_anything_is_trained(bench, monkeypatch, capsys, changes, words):
    before, _ = bench("--only", "static")
    monkeypatch.setattr(methods, "run", lambda *_: pytest.fail("trained"))
    only = changes.pop("only", LOW)
    with pytest.raises(SystemExit, match=words):
        bench("--add", "--only", only, **changes)
    assert (bench.folder / "methods_runs.csv").read_text() == before
    capsys.readouterr()


def test_a_file_that_is_not_there_or_of_another_kind_is_refused(bench, capsys):
    with pytest.raises(SystemExit, match=r"no methods_runs.csv to add to; run once without --add"):
        bench("--add")
    (bench.folder / "methods_runs.csv").write_text("method,seed\ndense,0\n")
    with pytest.raises(SystemExit, match="lacks the column 'GPU'"):
        bench("--add")
    capsys.readouterr()


def test_the_committed_table_is_that_of_the_committed_runs():
    rows = pd.read_csv(machine.RESULTS / "methods_runs.csv")
    table = pd.read_csv(machine.RESULTS / "methods.csv").set_index("method")
    assert list(table.index) == list(rows["method"].unique())
    means = rows.groupby("method")["P@1"].mean()
    assert all(table.loc[name, "P@1"].startswith(f"{mean:.2f} ") for name, mean in means.items())


def test_the_commit_is_seven_digits_or_unknown(monkeypatch, tmp_path):
    assert re.fullmatch(r"[0-9a-f]{7}\+?|unknown", machine.commit())
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")
    assert machine.commit() == "unknown"
