"""Reading traces, the damaged ones above all."""

import gzip
import shutil

import numpy as np
import pytest
from corpus_for_tests import tiny_corpus

import xmc_explore as xe
from xmc_explore.trace import TraceError
from xmc_explore.training import Run


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces") / "run"
    recipe = xe.Recipe(encoder="features", aux_clusters=4, fan_in=6, warmup=5, batch_size=32, rewire_interval=10)
    xe.train(tiny_corpus(texts=False), recipe, steps=50, out=folder, progress=False)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def events(folder, text):
    (folder / "events.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def test_history_table_and_metrics_agree(folder):
    trace = xe.Trace(folder)
    steps, loss = trace.history("loss")
    assert steps.tolist() == list(range(1, 51)) and np.isfinite(loss).all()
    assert trace.table("step")["loss"].tolist() == loss.tolist()
    steps, precision = trace.history("P@1")
    assert steps.tolist() == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert trace.metrics("test")["P@1"] == precision[-1] == trace.table("eval")["P@1"].iloc[-1]
    assert len(trace.history("auxiliary")[0]) == 20
    with pytest.raises(KeyError, match="'P@2' is not recorded for 'test'; there is .*P@1"):
        trace.history("P@2")
    with pytest.raises(KeyError, match="no evaluation on 'train' was recorded"):
        trace.metrics("train")
    assert "finished, 50 of 50 steps" in repr(trace) and "3 rewires" in repr(trace)
    assert max(map(len, repr(trace).splitlines())) <= 100  # what fits at presenter size


def test_a_dense_run_has_no_connectivity():
    trace = xe.train(tiny_corpus(texts=False), xe.Recipe.method("dense", encoder="features"), steps=3, progress=False)
    assert trace.frames == []
    with pytest.raises(IndexError, match="its output layer is not sparse"):
        trace.connectivity()


def test_frames_in_any_order(folder):
    trace = xe.Trace(folder)
    forward = [trace.connectivity(i) for i in range(4)]
    for i in (3, 1, 2, 0, -1):
        assert np.array_equal(trace.connectivity(i), forward[i])
    with pytest.raises(IndexError, match="frame 4 of 4"):
        trace.connectivity(4)


def test_a_frame_says_when_each_connection_was_born(folder):
    trace = xe.Trace(folder)
    frame = trace.frame(-1)
    assert (frame.number, frame.step) == (3, 30) and trace.store.steps == trace.frames == [0, 10, 20, 30]
    assert (frame.born.ravel()[trace.changed(3)] == 30).all() and set(np.unique(frame.born)) <= {0, 10, 20, 30}
    assert np.array_equal(frame.indices, trace.connectivity(3)) and trace.groups is None


def test_a_trace_of_format_1_still_loads(folder):
    trace, path = xe.Trace(folder), folder / "run.json"
    expected = [trace.connectivity(i) for i in range(4)]
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    for number in range(1, 4):
        slots = trace.changed(number)
        np.savez_compressed(folder / "connectivity" / f"{number:05d}.npz", step=np.int64(10 * number),
                            slots=slots.astype(np.int32), new=expected[number].ravel()[slots])
    old = xe.Trace(folder)
    for number in range(4):
        assert np.array_equal(old.connectivity(number), expected[number])


@pytest.mark.parametrize("damage, words", [
    (lambda f: shutil.rmtree(f), "is not a trace: it has no run.json"),
    (lambda f: (f / "run.json").write_text("{"), "run.json: not JSON"),
    (lambda f: (f / "run.json").write_text("[1]"), "expected an object, found list"),
    (lambda f: (f / "run.json").write_text('{"format": 99}'), "trace format 99, this version reads 1 and 2"),
    (lambda f: (f / "run.json").write_text('{"format": 1, "recipe": {"fan_on": 3}}'), "did you mean 'fan_in'"),
    (lambda f: (f / "labels.json").unlink(), "labels.json is missing"),
    (lambda f: events(f, '{"kind": "step"}\nnonsense\n'), "events.jsonl.gz, line 2: not an event"),
    (lambda f: events(f, "3\n"), "events.jsonl.gz, line 1: not an event"),
    (lambda f: truncate(f / "events.jsonl.gz"), "events.jsonl.gz: damaged .*; copy the trace again"),
    (lambda f: (f / "events.jsonl.gz").write_bytes(b"plain"), "events.jsonl.gz: damaged"),
    (lambda f: (f / "connectivity" / "00001.npz").write_bytes(b"PK"), "00001.npz: not a frame of connectivity"),
    (lambda f: np.savez(f / "connectivity" / "00001.npz", step=np.array([{}], dtype=object)), "00001.npz: not a frame"),
    (lambda f: np.savez(f / "connectivity" / "00001.npz", step=1), "00001.npz: not a frame of connectivity .it has no"),
    (lambda f: truncate(f / "connectivity" / "00002.npz"), "00002.npz: not a frame of connectivity"),
])
def test_damage_is_named(folder, damage, words):
    damage(folder)
    with pytest.raises(TraceError, match=words):
        xe.Trace(folder)


def test_weights_are_recorded_as_often_as_their_bytes_allow(tmp_path, monkeypatch):
    recipe = xe.Recipe(encoder="features", aux_weight=0.0, fan_in=6, warmup=5, batch_size=32, rewire_interval=5)
    for limit, expected in ((10**9, list(range(0, 61, 5))), (5 * 180, [0, 20, 40, 60]), (179, [])):
        monkeypatch.setattr("xmc_explore.trace.WEIGHT_BYTES", limit)
        run = Run(tiny_corpus(texts=False), recipe, steps=92)
        for _ in range(60):
            run.step()
        run.close("interrupted")
        trace = xe.Trace.of(run.trace)
        assert [f["step"] for f in run.trace.frames if "weight" in f] == expected
        frame, now = trace.frame(-1), run.model.output.weight.detach().numpy()
        if not expected:
            assert frame.weight is None
        else:
            assert frame.weight_step == 60
            assert (np.abs(frame.weight - now).max(1) <= np.abs(now).max(1) / 254 * 1.001).all()


def test_what_is_missing_is_noted(folder):
    (folder / "connectivity" / "00002.npz").unlink()
    trace = xe.Trace(folder)
    assert trace.frames == [0, 10] and "00002.npz is missing" in trace.notes[0] and "note:" in repr(trace)
    (folder / "events.jsonl.gz").unlink()
    trace = xe.Trace(folder)
    assert trace.steps == 0 and trace.status == "running or killed" and "before its first step" in trace.notes[0]


def test_two_hundred_rewires_of_five_thousand_labels_take_ten_megabytes(tmp_path):
    from benchmarks.trace import record, size

    trace = record(tmp_path / "run")
    assert len(trace.frames) == 201 and trace.steps == 20_000
    assert sum("weight" in f for f in trace.store.recorded) >= 10
    assert size(trace.folder) <= 10
    churn = trace.history("churn")[1]
    assert abs(churn[0] - 0.15) < 0.001 and abs(churn[100] - 0.075) < 0.002  # no cheaper run than was promised


@pytest.mark.parametrize("folder", [None, 3])
def test_a_trace_is_loaded_from_a_folder(folder):
    with pytest.raises(TraceError, match=f"loaded from its folder; got {folder}"):
        xe.Trace(folder)


def test_a_file_is_no_trace(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="file is not a trace: it has no run.json"):
        xe.Trace(tmp_path / "file")
