"""Scrubbing without a browser: one run, two runs, what is linked, and what stays in a saved notebook."""

from __future__ import annotations

import base64
import html
import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from canvas_reader import Reader, by_feature
from corpus_for_tests import tiny_corpus
from frames_for_tests import drawn
from ipywidgets.widgets.widget import _instances as live_widgets

import xmc_explore as xe
from xmc_explore.frames import FrameStore
from xmc_explore.plots import Picture
from xmc_explore.trace import Trace
from xmc_explore.training import Run
from xmc_explore.widgets import guarded

scrub_module = sys.modules["xmc_explore.widgets.scrub"]  # a function of that name hides it
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


def test_how_many_features_there_are_is_known_or_found_in_every_frame():
    first = {"step": 0, "indices": np.array([[0, 1], [2, 3]], np.int16)}
    later = {"step": 10, "slots": np.array([1], np.int32), "new": np.array([9], np.int16)}
    for store, width in ((FrameStore([first, later]), 10), (FrameStore([first, later], width=16), 16)):
        view = xe.scrub(store)
        (canvas,) = view.canvases.values()
        assert Reader(canvas).head["width"] == width
        assert 9 in Reader(canvas).indices
        view.close()
    run = Run(tiny_corpus(texts=False), RECIPE, steps=30)
    assert run.trace.store.width == 32 == Trace.of(run.trace).store.width  # whatever a rewire has tried so far
    run.close("interrupted")


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
    figure = go.Figure([go.Scatter(x=[0, 60], y=[1, 2], name=name) for name in ("all", "head", "tail")],
                       dict(title_text="Three lines", xaxis_title_text="training step"))
    view = xe.scrub(traces[0], Picture(figure, "", pd.DataFrame(), ""))
    (canvas,) = view.canvases.values()
    (linked,) = view.figures
    view.frame = 1
    assert linked.layout.shapes[-1].x0 == linked.layout.shapes[-1].x1 == traces[0].frames[1]
    canvas.set_state({"brushed": "tail"})
    assert [line.opacity for line in linked.data] == [None, 0.12, 1.0]
    canvas.set_state({"brushed": ""})
    assert [line.opacity for line in linked.data] == [None, 1.0, 1.0]
    assert linked._config["showSendToCloud"] is False


def test_the_step_is_marked_where_the_axis_counts_steps(traces):
    plots, trace = xe.plots, traces[0]
    over_steps = [plots.per_bin(trace), plots.loss(trace), plots.age(trace)]
    others = [plots.survival(trace), plots.in_degree(trace), plots.connectivity(trace),
              plots.long_tail(tiny_corpus(texts=False))]
    view = xe.scrub(trace, *over_steps, *others)
    for frame in (1, 3):
        view.frame = frame
        for figure, picture in zip(view.figures, over_steps + others, strict=True):
            more = figure.layout.shapes[len(picture.figure.layout.shapes):]
            assert [(line.x0, line.x1) for line in more] == (
                [(trace.frames[frame], trace.frames[frame])] if picture in over_steps else [])
    view.close()


def test_figures_beside_it_have_caption_table_and_description(traces):
    picture = xe.plots.per_bin(traces[0])
    view = xe.scrub(traces[0], picture)
    words = view.widget.children[2].value
    assert html.escape(picture.alt) in words and "Show as table" in words
    assert html.escape(picture.caption.split(" %")[0]) in words and picture.caption in repr(view)


def test_of_what_follows_each_line_keeps_its_own_opacity_and_a_method_is_no_bin(traces):
    lines = [("head each step", "head", 0.35), ("head", "head", 1), ("tail each step", "tail", 0.35),
             ("grouped SET + head", "grouped SET + head", 0.7)]
    figure = go.Figure([go.Scatter(x=[0, 60], y=[1, 2], name=name, legendgroup=group, opacity=opacity)
                        for name, group, opacity in lines], dict(title_text="Four lines"))
    view = xe.scrub(traces[0], Picture(figure, "", pd.DataFrame(), ""))
    (canvas,) = view.canvases.values()
    (linked,) = view.figures
    for brushed in ("tail", "head", "tail"):
        canvas.set_state({"brushed": brushed})
    assert [line.opacity for line in linked.data] == pytest.approx([0.35 * 0.12, 0.12, 0.35, 0.7])
    canvas.set_state({"brushed": ""})
    assert [line.opacity for line in linked.data] == [0.35, 1, 0.35, 0.7]


def test_what_a_saved_notebook_keeps(traces, monkeypatch):
    shown = []
    monkeypatch.setattr(scrub_module, "display", lambda data, raw: shown.append(data))
    view = xe.scrub({"one": traces[0], "two": traces[1]})
    view._ipython_display_()
    live, kept = shown
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == view.widget.model_id
    images = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,', kept["text/html"])
    assert len(images) == 2 and images[0].startswith("one: Rewire at step") and "xmc-saved" in kept["text/html"]


def test_a_saved_notebook_keeps_the_figures_too(traces, monkeypatch):
    shown = []
    monkeypatch.setattr(scrub_module, "display", lambda data, raw: shown.append(data.get("text/html")))
    first, second = xe.plots.per_bin(traces[0]), xe.plots.survival(traces[0])
    bar = go.Figure(go.Bar(x=[1], y=[2]), dict(title_text="Bars"))
    ours = Picture(bar, "My own bar is 2.", pd.DataFrame(), "A bar")
    view = xe.scrub(traces[0], first, second, ours)
    view._ipython_display_()
    kept = shown[-1]
    svgs = [base64.b64decode(data).decode() for data in re.findall(r'src="data:image/svg[^,]+,([^"]+)"', kept)]
    assert [ElementTree.fromstring(svg).attrib["aria-label"] for svg in svgs] == [first.alt, second.alt]
    assert kept.count("Show as table") == 3 and "My own bar is 2." in kept  # what cannot be drawn has its words
    assert kept.index("data:image/png") < kept.index("data:image/svg") < kept.index("My own bar")
    monkeypatch.setattr(scrub_module, "MOST_KEPT", 5000)
    view._ipython_display_()
    assert "data:image/svg" not in shown[-1] and html.escape(second.caption.split(" %")[0]) in shown[-1]


def test_a_view_that_was_scrubbed_keeps_the_words_of_the_frame_that_it_shows(traces, monkeypatch):
    shown = []
    monkeypatch.setattr(scrub_module, "display", lambda data, raw: shown.append(data))
    view = xe.scrub(traces[0])
    view.frame = 0
    view._ipython_display_()
    assert f"Rewire at step {traces[0].frames[-1]}" in shown[-1]["text/html"]


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
