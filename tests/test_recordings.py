"""The recordings that ship: each loads anywhere, whole, and says how it was made."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import xmc_explore as xe
from xmc_explore.recordings import FOLDER, RECORDINGS


def test_they_are_listed_with_what_they_show():
    listed = xe.recordings()
    assert list(listed) == ["calls-small-set", "calls-small-auxiliary", "planted-set"] == list(RECORDINGS)
    assert sorted(p.name for p in FOLDER.iterdir()) == sorted(listed)  # and nothing else lies there
    assert all(20 < len(line) < 120 for line in listed.values())


@pytest.mark.parametrize("name", RECORDINGS)
def test_each_is_whole_and_any_frame_can_be_sought(name):
    trace, made = xe.load_recording(name), RECORDINGS[name]
    assert trace.status == "finished" and trace.notes == []
    assert trace.recipe == made.recipe and trace.steps == made.steps and trace.recipe.seed == 0
    assert trace.header["corpus"]["name"] == made.corpus and "torch" in trace.header["versions"]
    assert 30 <= len(trace.frames) - 1 <= 60
    n_labels = trace.header["corpus"]["n_labels"]
    for number in range(len(trace.frames)):
        frame = trace.frame(number)
        assert frame.indices.shape == frame.weight.shape == (n_labels, trace.recipe.fan_in)
        assert (np.diff(np.sort(frame.indices, axis=1)) > 0).all()  # distinct features in every row
        assert 0 <= frame.indices.min() and frame.indices.max() < trace.width
    assert len(trace.events["eval"]) >= 20 and len(trace.label_names) == n_labels
    assert {"churn/head", "age/tail", "explored"} <= trace.events["rewire"][-1].keys()


@pytest.mark.parametrize("name", RECORDINGS)
def test_each_is_small_and_holds_no_text_of_a_corpus_and_no_path(name):
    files = [p for p in (FOLDER / name).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 1_500_000
    assert {p.name for p in files if p.suffix == ".json"} == {"run.json", "labels.json"}
    assert all(len(label) < 80 for label in xe.load_recording(name).label_names)
    assert not re.search(r"[/\\](home|root|work|tmp|Users)", (FOLDER / name / "run.json").read_text())


def test_they_show_what_they_say():
    plain, auxiliary = xe.load_recording("calls-small-set"), xe.load_recording("calls-small-auxiliary")
    assert auxiliary.metrics()["P@1"] > plain.metrics()["P@1"] + 1
    assert auxiliary.recipe.replace(aux_weight=0.0) == plain.recipe
    assert auxiliary.metrics()["recall@5/torso"] > 2 * plain.metrics()["recall@5/torso"]
    for trace in (plain, auxiliary):
        probed = trace.events["probe"]
        assert len(probed) >= 20 and {"budget/share/head", "twin/cosine", "snr"} <= probed[0].keys()
    planted = xe.load_recording("planted-set")
    assert planted.support.shape == (1000, 8) and plain.support is None
    found = planted.events["rewire"][-1]
    assert found["found/head"] > 2 * planted.events["rewire"][0]["found/head"]
    assert found["found/head"] > found["found/torso"] > found["found/tail"]


def test_a_planted_recording_is_of_the_corpus_of_today():
    trace = xe.load_recording("planted-set")
    corpus = xe.load_corpus("planted")
    assert trace.header["corpus"]["fingerprint"] == corpus.fingerprint
    assert np.array_equal(trace.support, corpus.support)


def test_what_is_not_there(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no recording is called 'calls'; there is 'calls-small-set', "):
        xe.load_recording("calls")
    monkeypatch.setattr("xmc_explore.recordings.FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="recordings lie in the repository's data/recordings"):
        xe.load_recording("planted-set")


def test_they_load_without_torch_and_jupyter_and_however_they_are_asked_for():
    code = ("import sys, json, xmc_explore as xe; t = xe.load_recording('planted-set'); t.frame(-1); names = "
            "xe.recordings(); print(json.dumps([list(names), t.status, sorted(sys.modules)]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    names, status, loaded = json.loads(done.stdout)
    assert names == list(RECORDINGS) and status == "finished"
    assert not {"torch", "plotly", "ipywidgets", "jupyterlab", "IPython"} & set(loaded)
    done = subprocess.run([sys.executable, "-m", "xmc_explore.recordings", "nothing"], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 2 and "no recording is called nothing" in done.stderr
