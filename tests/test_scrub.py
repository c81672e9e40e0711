"""Scrubbing without a browser: one run, two runs, what is linked, and what stays in a saved notebook."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest
from canvas_reader import Reader, by_feature
from corpus_for_tests import tiny_corpus
from frames_for_tests import drawn
from ipywidgets.widgets.widget import _instances as live_widgets

import xmc_explore as xe
from xmc_explore.plots import Picture
from xmc_explore.widgets import guarded

RECIPE = xe.Recipe(encoder="bag", hidden=32, fan_in=4, aux_clusters=4, warmup=5, rewire_interval=10, eval_interval=20)


def test_running_a_cell_again_closes_what_it_made_before(traces, monkeypatch):
    running = {}
    shell = SimpleNamespace(get_parent=lambda: {"header": {"msg_id": running["request"]},
                                                "metadata": {"cellId": running["cell"]}})
    monkeypatch.setattr(guarded, "get_ipython", lambda: shell)
    monkeypatch.setattr(guarded, "_of_cell", {})
    kinds = (lambda: xe.scrub(traces[0]), lambda: xe.scrub({"A": traces[0], "B": traces[1]}),
             lambda: xe.LongTailExplorer(traces[0]))
    before = set(live_widgets)
    running.update(request="1", cell="a")
    other = [make() for make in kinds]
    running.update(request="2", cell="b")
    [make() for make in kinds]
    after = set(live_widgets)
    running.update(request="3", cell="b")
    again = [make() for make in kinds]
    assert len(set(live_widgets)) == len(after) and not set(live_widgets) - before <= after
    assert all(view.widget.comm is not None for view in other + again)
    for view in other + again:
        view.close()
    assert set(live_widgets) == before


@pytest.fixture(scope="module")
def traces():
    corpus = tiny_corpus(texts=False)
    return [xe.train(corpus, RECIPE.replace(seed=seed, rewire_interval=10 + 10 * seed), steps=60, progress=False)
            for seed in (0, 1)]


def test_one_run(traces):
    trace = traces[0]
    view = xe.scrub(trace)
    (canvas,) = view.canvases.values()
    reader = Reader(canvas)
    assert view.frame == len(trace.frames) - 1 and canvas.transport and canvas.panel == "side"
    np.testing.assert_array_equal(reader.indices, by_feature(trace.connectivity(-1)[reader.labels])[0])
    view.frame = 2
    np.testing.assert_array_equal(reader.indices, by_feature(trace.connectivity(2)[reader.labels])[0])
    table = trace.of_labels(5)
    assert canvas.scores["P@5"][0] == pytest.approx(table.precision[reader.labels[0]], abs=0.051)
    view.close()


def test_close_leaves_no_widget(traces):
    before = set(live_widgets)
    view = xe.scrub({"A": traces[0], "B": traces[1]}, xe.plots.per_bin(traces[0]))
    view.difference = True
    view.close()
    xe.scrub(traces[0]).close()
    assert set(live_widgets) == before


def test_a_run_that_is_still_recorded():
    store = drawn(30, 4, 20, 3)
    view = xe.scrub(store)
    (canvas,) = view.canvases.values()
    store._frames.append({"step": 400, "slots": np.array([0], np.int32), "new": np.array([19], np.int16)})
    canvas.set_state({"hovered": 3})
    assert canvas.frames == 5


def test_two_runs_stand_at_the_same_step(traces):
    a, b = traces
    assert len(a.frames) > len(b.frames) > 1
    view = xe.scrub({"A": a, "B": b})
    first, second = view.canvases.values()
    for frame in (3, 0, len(a.frames) - 1):
        view.frame = frame
        assert b.frames[second.frame] <= a.frames[frame]
        assert second.frame + 1 == len(b.frames) or b.frames[second.frame + 1] > a.frames[frame]
    for frame in (0, 1):
        second.set_state({"frame": frame})
        assert a.frames[first.frame] == b.frames[frame] and second.frame == frame
    view.difference = True
    reader = Reader(first)
    assert reader.head["pair"] == ["A", "B"] and "only in A" in first.caption
    view.frame = 0
    assert first.caption.startswith("Connections at step 0")
    view.difference = False
    assert first.caption.startswith("At the start")


def test_figures_follow(traces):
    figure = go.Figure([go.Scatter(x=[0, 60], y=[1, 2], name=name) for name in ("all", "head", "tail")])
    view = xe.scrub(traces[0], Picture(figure, "", None, ""))
    (canvas,) = view.canvases.values()
    (linked,) = view.figures
    view.frame = 1
    assert linked.layout.shapes[-1].x0 == linked.layout.shapes[-1].x1 == traces[0].frames[1]
    canvas.set_state({"brushed": "tail"})
    assert [line.opacity for line in linked.data] == [None, 0.12, 1.0]
    canvas.set_state({"brushed": ""})
    assert [line.opacity for line in linked.data] == [None, 1.0, 1.0]
    assert linked._config["showSendToCloud"] is False


def test_what_a_saved_notebook_keeps(traces, monkeypatch):
    shown = []
    monkeypatch.setattr(sys.modules["xmc_explore.widgets.scrub"], "display", lambda data, raw: shown.append(data))
    view = xe.scrub({"one": traces[0], "two": traces[1]})
    view._ipython_display_()
    live, kept = shown
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == view.widget.model_id
    images = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,', kept["text/html"])
    assert len(images) == 2 and images[0].startswith("one: Rewire at step") and "xmc-saved" in kept["text/html"]


def test_what_cannot_be_scrubbed(traces):
    dense = xe.train(tiny_corpus(texts=False), xe.Recipe.method("dense", encoder="bag", hidden=16), steps=2,
                     progress=False)
    with pytest.raises(ValueError, match="'run' recorded no connectivity"):
        xe.scrub(dense)
    with pytest.raises(ValueError, match="one run or two .* got 3"):
        xe.scrub(dict.fromkeys("ABC", traces[0]))
    with pytest.raises(ValueError, match="cannot be compared: .* features beside"):
        xe.scrub({"A": traces[0], "B": drawn(30, 4, 20, 3)})


@pytest.mark.parametrize("wrong", [None, "runs/first", {"A": 3}])
def test_what_is_no_run_is_not_scrubbed(wrong):
    with pytest.raises(TypeError, match="no trace; load one with xe.Trace"):
        xe.scrub(wrong)
