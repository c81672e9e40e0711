"""The table of claims: intervals, verdicts, and what a student is told."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import xmc_explore as xe
from benchmarks import after_the_paper as after
from benchmarks import claims as bench
from benchmarks import notebook_claims
from xmc_explore import claims

CLAIM = {"source": "Fig 1", "claim": "a is larger", "difference": "a less b", "unit": "points", "seeds": 5,
         "verdict": "reproduced", "mean": 1.0, "low": 0.5, "high": 1.5, "one_low": -0.2, "one_high": 2.2}


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(claims, "known", lambda: {"larger": CLAIM, "ours": CLAIM | {"source": "ours"}})


def test_an_interval_is_students():
    values = np.random.default_rng(0).normal(2, 1, 6)
    mean, low, high = bench.interval(values)
    expected = stats.t.interval(0.95, 5, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected) and mean == pytest.approx(values.mean())
    one_low, one_high = bench.one_run(values)
    assert one_low < low < high < one_high


def test_one_run_falls_into_its_range_19_times_of_20():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        values = rng.normal(0, 1, 6)
        low, high = bench.one_run(values[:5])
        inside += low <= values[5] <= high
    assert 0.93 < inside / 2000 < 0.97


@pytest.mark.parametrize(("spans", "said"), [
    ([(1, 0.5, 1.5)], "reproduced"), ([(1, -0.5, 2.5)], "not at this scale"), ([(-1, -1.5, -0.5)], "opposite"),
    ([(1, 0.5, 1.5), (0.1, -1, 1.2)], "not at this scale"), ([(1, 0.5, 1.5), (-1, -2, -0.1)], "opposite")])
def test_a_verdict_follows_from_the_intervals(spans, said):
    assert bench.verdict(spans) == said


def test_every_claim_rests_on_settings_that_are_run():
    names = {s.name for s in bench.settings()}
    asked: set[str] = set()

    class Rows:
        """Stands for the table of runs and notes which settings a claim asks for."""

        def __getitem__(self, key):
            if isinstance(key, str):
                return self
            return pd.DataFrame({"seed": [0], **{m: [1.0] for m in (*bench.METRICS, "early gradient norm",
                                                                    "replaced/head", "replaced/tail")}})

        def __eq__(self, name):
            asked.add(name)
            return True

    for claim in bench.CLAIMS:
        for _, of in claim.differences:
            of(Rows())
    assert asked <= names, asked - names
    assert len({c.key for c in bench.CLAIMS}) == len(bench.CLAIMS)


def test_a_student_is_told_what_the_numbers_say(table):
    verdicts = xe.claims.paper_says({"larger": 0.7, "ours": -3.0})
    first, second = verdicts.rows
    assert first["you"] == "+0.70 points"
    assert first["verdict"] == "Your run agrees. Over all seeds the claim holds here."
    assert second["verdict"].startswith("Your run does not show it. It lies outside")
    page = verdicts._repr_html_()
    assert page.count("<tr>") == 3 and "a is larger (Fig 1)" in page and "a is larger (Fig 1)" in repr(verdicts)
    assert "Nothing was measured" in xe.claims.paper_says({"larger": float("nan")}).rows[0]["verdict"]


def test_a_race_that_lies_outside_may_have_had_other_programs_beside_it():
    known = claims.known()
    assert "other programs at work" in claims.verdict(known["layer-step"], known["layer-step"]["one_high"] + 1)
    assert "other programs" not in claims.verdict(known["sparse-loses"], known["sparse-loses"]["one_high"] + 1)


def test_unknown_claims_are_refused(table):
    with pytest.raises(KeyError, match="did you mean 'larger'"):
        xe.claims.paper_says({"largr": 1.0})
    with pytest.raises(ValueError, match="larger, ours"):
        xe.claims.paper_says({})


def test_what_is_committed_agrees_with_the_runs():
    if not bench.RUNS.exists():
        pytest.fail("benchmarks/results/claims_runs.csv is missing: python -m benchmarks.claims")
    stored = json.loads(claims.FILE.read_text(encoding="utf-8"))
    again = bench.for_notebooks(bench.known())
    assert stored.keys() == again.keys()
    for key, claim in stored.items():
        assert claim["verdict"] == again[key]["verdict"] and claim["seeds"] >= 5
        assert claim["mean"] == pytest.approx(again[key]["mean"], abs=0.01)
    report = (bench.RESULTS / "claims.md").read_text(encoding="utf-8")
    assert len(re.findall(r"\| (?:reproduced|opposite|not at this scale) \|", report)) == len(stored)


def test_the_readme_gives_each_claim_the_verdict_of_the_table():
    verdict = "(reproduced|opposite|not at this scale)"
    readme = (bench.RESULTS.parent.parent / "README.md").read_text(encoding="utf-8")
    said = re.findall(rf"^\| ([^|]+) \| ([^|]+) \| {verdict} \|$", readme, re.M)
    report = (bench.RESULTS / "claims.md").read_text(encoding="utf-8")
    measured = re.findall(rf"^\| ([^|]+) \| ([^|]+) \|.*\| {verdict} \|$", report, re.M)
    assert len(measured) == len(bench.CLAIMS) and said == measured


def test_what_the_same_number_in_every_run_is_called(monkeypatch):
    same = CLAIM | {"runs": "walks", "mean": 10.667, "one_low": 10.667, "one_high": 10.667}
    monkeypatch.setattr(claims, "known", lambda: {"counted": same})
    (row,) = xe.claims.paper_says({"counted": 10 + 2 / 3}).rows
    assert row["expected here"] == "+10.67 (the same in 5 walks)"
    assert row["verdict"] == "Your run agrees. Over all walks the claim holds here."


def test_what_notebooks_alone_measure_agrees_with_its_runs():
    stored = json.loads(notebook_claims.DATA.read_text(encoding="utf-8"))
    again = bench.for_notebooks(notebook_claims.rows(), notebook_claims.CLAIMS)
    assert stored.keys() == again.keys() == {claim.key for claim in notebook_claims.CLAIMS}
    assert not stored.keys() & bench.for_notebooks(bench.known()).keys()
    for key, claim in stored.items():
        assert claim["verdict"] == again[key]["verdict"] and claim["seeds"] >= 5
        assert claim["mean"] == pytest.approx(again[key]["mean"], abs=0.01)


def test_a_part_that_is_measured_anew_leaves_the_others_with_their_conditions(tmp_path, monkeypatch):
    when = dict.fromkeys(notebook_claims.WHERE, "before")
    monkeypatch.setattr(notebook_claims, "RUNS", tmp_path / "runs.csv")
    monkeypatch.setattr(notebook_claims, "report", lambda: None)
    monkeypatch.setattr(notebook_claims, "conditions", lambda: when)
    monkeypatch.setattr(notebook_claims, "commit", lambda: when["commit"])
    monkeypatch.setattr(notebook_claims, "PARTS", {
        "one": lambda number: [{"setting": "a", "x": number}, {"setting": "b", "x": number}],
        "two": lambda number: [{"setting": "c", "y": number}]})
    notebook_claims.main([])
    before = pd.read_csv(notebook_claims.RUNS)
    when |= dict.fromkeys(notebook_claims.WHERE, "after")
    notebook_claims.main(["--only", "two"])
    after = pd.read_csv(notebook_claims.RUNS)
    pd.testing.assert_frame_equal(after[after["part"] == "one"], before[before["part"] == "one"])
    assert set(before["date"]) == {"before"} and len(after) == len(before) == 3 * notebook_claims.REPEATS
    assert set(after.loc[after["part"] == "two", "date"]) == {"after"}


def test_numbers_in_the_text_of_notebooks_are_those_of_the_record():
    found = pd.read_csv(notebook_claims.RUNS)
    folder = bench.RESULTS.parent.parent / "notebooks"
    text = {path.name[:2]: path.read_text(encoding="utf-8") for path in folder.glob("*.ipynb")}

    def mean(setting, column, form=".1f", scale=1.0):
        of = scale * found[found["setting"] == setting][column]
        assert len(of) >= 5
        return f"{of.mean():{form}} ± {of.std():{form}}"

    def span(setting, column, form):
        of = found[found["setting"] == setting][column]
        return f"{of.min():{form}} to {of.max():{form}}"

    worked = xe.exercises.find("tail_support").worked
    for size in (64, 512):
        assert f"{mean(f'tail support: batch of {size}', 'found/tail')} %" in worked
        assert mean(f"tail support: batch of {size}", "found/tail") in text["05"]
    assert mean("tail support: batch of 512", "found/head", ".0f") == "100 ± 0"
    kinds = [f"planted: {name}{kept}" for name in ("SET", "RigL") for kept in ("", ", moments kept")]
    for column in ("found/tail", "found/head", "P@1"):
        assert " | ".join(mean(kind, column) for kind in kinds) in text["05"]
    for biases in ("zero", "prior"):
        for column, form in (("dead features", ".0f"), ("dead read/tail", ".2f"), ("others read/tail", ".2f")):
            assert span(f"every 25: {biases}", column, form) in text["06"]
    for optimizer in ("every 25: prior", "every 25: prior, SGD"):
        for of_bin in ("head", "tail"):
            assert mean(optimizer, f"replaced/{of_bin}", ".2f", 0.01) in text["06"]
        assert mean(optimizer, "P@1") in text["06"] and mean(optimizer, "recall@5/tail") in text["06"]
    for column, form in (("cosine", ".2f"), ("cosine, late", ".2f")):
        assert mean("twin: SET", column, form) in text["07"]
        assert mean("twin: SET + auxiliary", column, form) in text["07"]
    assert mean("twin: SET", "log2 of the ratio of norms", ".1f", -1) in text["07"]
    for column, form in (("signal to noise, early", ".0f"), ("signal to noise, late", ".2f")):
        assert mean("twin: SET", column, form) in text["07"]


def test_notebook_02_says_what_few_bits_reached_as_it_is_recorded():
    found = pd.read_csv(after.RUNS).groupby("setting")
    text = (bench.RESULTS.parent.parent / "notebooks" / "02_the_memory_bill.ipynb").read_text(encoding="utf-8")

    def mean(setting, column="P@1"):
        of = found.get_group(setting)[column]
        assert len(of) >= 3
        return f"{of.mean():.1f} ± {of.std():.1f}"

    dense = {how: mean(f"dense, {how}") for how in ("float32, SGD in place", *(
        f"{bits}, {rounded}" for bits in ("bfloat16", "float8") for rounded in ("stochastic", "nearest")))}
    said = "{} % in float32, in bfloat16 {} rounded by chance and {} to the nearest, in FP8 {} by chance and {} to the"
    assert said.format(*dense.values()) in text
    tail = [mean(f"dense, float8, {rounded}", "recall@5/tail") for rounded in ("nearest", "stochastic")]
    assert "recall@5 of {} % in place of {}.".format(*tail) in text
    assert f"a P@1 of {mean('SET, bfloat16, stochastic')} %" in xe.exercises.find("forty_bytes").worked


def test_walks_ask_for_as_much_whatever_the_connections():
    pytest.importorskip("triton")  # for Linux only
    stored = pd.read_csv(notebook_claims.RUNS).query("setting == 'walk' and seed == 1")
    for name, value in notebook_claims.walk(1)[0].items():
        assert stored[name].item() == (value if isinstance(value, str) else pytest.approx(value, abs=1e-3))


def test_what_came_after_the_paper_agrees_with_its_runs():
    rows = pd.read_csv(after.RUNS)
    assert set(rows["setting"]) == set(after.VARIANTS)
    stored = json.loads(after.DATA.read_text(encoding="utf-8"))
    again = bench.for_notebooks(rows, after.CLAIMS)
    assert stored.keys() == again.keys() == {claim.key for claim in after.CLAIMS}
    for key, claim in stored.items():
        assert claim["verdict"] == again[key]["verdict"] and claim["seeds"] >= 3
        assert claim["mean"] == pytest.approx(again[key]["mean"], abs=0.01)
    measured, ledger = rows["measured bytes a label"], rows["predicted bytes a label"]
    assert ((measured - ledger).abs() <= 0.01 * ledger).all()


@pytest.mark.parametrize("number", [None, "3", [1.0]])
def test_what_was_measured_is_a_number(number):
    with pytest.raises(ValueError, match="'tail-behind' needs a number; got"):
        claims.paper_says({"tail-behind": number})
