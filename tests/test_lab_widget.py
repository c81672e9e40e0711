"""The laboratory without a browser: buttons, knobs, what is painted and sent, closing."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import struct
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import ipywidgets
import numpy as np
import pytest
from canvas_reader import Reader, by_feature
from hypothesis import given
from hypothesis import strategies as st
from ipywidgets.widgets.widget import _instances as live_widgets
from scipy.sparse import csr_array

import xmc_explore as xe
from xmc_explore.corpora import Corpus, Split
from xmc_explore.training import TrainingError
from xmc_explore.widgets import guarded, sharing
from xmc_explore.widgets import lab as lab_module
from xmc_explore.widgets.charts import LINES, MOST_POINTS, Charts, points
from xmc_explore.widgets.curves import described
from xmc_explore.widgets.engine import Engine, Snapshot
from xmc_explore.widgets.knobs import LIVE_KNOBS
from xmc_explore.widgets.lab import PRESENTED_TYPE, Lab
from xmc_explore.widgets.presets import PRESETS
from xmc_explore.widgets.scrubber import frame_at

PATIENCE = 60


def split(n: int, seed: int) -> Split:
    """Documents with 30 features, the first 20 of which are also their labels, of falling frequency."""
    features = np.random.default_rng(seed).random((n, 30)) < 1 / np.arange(2, 32)
    features[:, 0] |= ~features[:, :20].any(1)
    return Split(csr_array(features[:, :20].astype(np.float32)), None, csr_array(features.astype(np.float32)))


CORPUS = Corpus("tiny", split(300, 0), split(60, 1), [f"label <{i}>" for i in range(20)])
RECIPE = xe.Recipe(encoder="bag", hidden=16, fan_in=4, aux_clusters=4, warmup=5, rewire_interval=10, eval_interval=10,
                   batch_size=16)


@pytest.fixture
def make(monkeypatch):
    """A function that makes laboratories; they are closed in the end."""
    made = []
    monkeypatch.setattr(lab_module, "BLIND_SECONDS", 0.02)  # no browser will answer

    def make(recipe=RECIPE, *, steps=5000, **options):
        made.append(Lab(CORPUS, recipe, steps=steps, **options))
        return made[-1]

    yield make
    for lab in made:
        lab.close()


@pytest.fixture
def engine():
    """An engine without a thread."""
    engine = Engine(CORPUS, RECIPE.replace(aux_weight=0.0, eval_interval=100), steps=5000)
    yield engine
    engine.close()


def until(condition):
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
    return value


def painted(lab, condition):
    return until(lambda: condition(lab._painted) and lab._painted)


def built(lab):
    return painted(lab, lambda s: s.state == "paused")


def words(widget) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", widget.value))


# --- buttons and knobs


def test_the_public_name_is_the_laboratory():
    assert xe.Lab is Lab


def test_buttons_do_what_they_say(make):
    lab = make()
    built(lab)
    lab.buttons["Step"].click()
    assert painted(lab, lambda s: s.step == 1 and s.state == "paused")
    lab.buttons["+10"].click()
    assert painted(lab, lambda s: s.step == 11 and s.state == "paused")
    lab.buttons["Play"].click()
    painted(lab, lambda s: s.step > 30 and s.state == "playing")
    lab.buttons["Pause"].click()
    step = painted(lab, lambda s: s.state == "paused").step
    time.sleep(0.2)
    assert lab.engine.snapshot.step == step
    lab.buttons["Reset"].click()
    assert painted(lab, lambda s: s.run == 2 and s.state == "paused").step == 0
    assert all(button.tooltip for button in lab.buttons.values())


def test_the_status_line(make):
    lab = make()
    built(lab)
    assert words(lab.status) == "step 0 of 5,000 · 0 rewires · – steps/s · paused"
    lab.run(12)
    assert re.fullmatch(r"step 12 of 5,000 · 1 rewire · \d+ steps/s · paused", words(lab.status))
    assert "step 12 of 5,000, 1 rewire, paused" in repr(lab)
    for attribute in ('role="status"', 'aria-live="polite"', 'data-step="12"', 'data-state="paused"'):
        assert attribute in lab.status.value


def test_a_press_is_answered_before_it_is_obeyed(make, monkeypatch):
    lab = make()
    built(lab)
    begun, go_on, ordinary = threading.Event(), threading.Event(), lab.engine._run.step

    def long():
        begun.set()
        go_on.wait(PATIENCE)
        return ordinary()

    monkeypatch.setattr(lab.engine._run, "step", long)  # an evaluation, say
    lab.buttons["Play"].click()
    painted(lab, lambda s: s.state == "playing")
    assert begun.wait(PATIENCE)
    lab.knobs.live["lr_factor"].value = 0.1
    assert words(lab.message) == "From the next step on: lr_factor = 0.1." and lab.recipe.lr_factor == 1
    lab._change(lr_factor=-1.0)
    assert "From the next step" not in words(lab.message)  # it will be refused
    lab.buttons["Pause"].click()
    assert 'data-state="pausing"' in lab.status.value and lab.state == "playing"
    time.sleep(0.2)
    assert "pausing" in words(lab.status)
    go_on.set()
    assert painted(lab, lambda s: s.state == "paused") and "paused" in words(lab.status)


@pytest.mark.parametrize("option", LIVE_KNOBS)
def test_a_knob_changes_the_run(make, option):
    lab = make()
    built(lab)
    knob = lab.knobs.live[option]
    assert knob.value == getattr(RECIPE, option)
    knob.index += 1
    until(lambda: getattr(lab.recipe, option) == knob.value)
    lab.run(1)
    assert lab.trace.events["change"] == [
        {"kind": "change", "step": 0, "options": {option: pytest.approx(knob.value)}}]
    assert knob.description and knob.tooltip and not knob.disabled


def test_reset_keeps_the_knobs(make):
    lab = make()
    lab.run(3)
    lab.knobs.live["rewire_interval"].value = 5
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    lab.run(5)
    assert lab.trace.recipe.rewire_interval == 5 and lab.trace.frames == [0, 5]


def test_a_recipe_between_the_stops_of_a_knob(make):
    lab = make(RECIPE.replace(rewire_interval=37, lr_factor=0.123))
    assert lab.knobs.live["rewire_interval"].label == "37 steps" and lab.knobs.live["lr_factor"].value == 0.123


@pytest.mark.parametrize("output", ["dense", "bottleneck"])
def test_a_layer_that_is_not_sparse_has_nothing_to_rewire(make, output):
    lab = make(xe.Recipe.method(output, encoder="bag", hidden=16, warmup=5, eval_interval=10))
    lab.run(12)
    assert [name for name, knob in lab.knobs.live.items() if knob.disabled] == [
        "rewire_interval", "rewire_fraction", "rewire_threshold", "growth_mode", "reset_moments", "prune_mode"]
    assert output in lab.canvas.caption and lab.canvas.picture == b"" and lab.canvas.bands == []
    assert lab.charts.curve(0).y.size == 12


# --- what is painted


def curve(lab, field):
    return lab.charts.curve([line.field for line in LINES].index(field))


def test_the_figure_shows_the_trace(make):
    lab = make()
    trace = lab.run(35)
    for field in ("main", "grad", "P@1", "P@1/tail", "recall@5", "recall@5/head"):
        steps, values = trace.history(field)
        np.testing.assert_array_equal(curve(lab, field).x, steps)
        np.testing.assert_allclose(curve(lab, field).y, values, rtol=1e-6)
    assert lab.charts.figure._config["showSendToCloud"] is False
    lab.run(10)
    assert curve(lab, "main").x[-1] == 45 and curve(lab, "P@1").x.tolist() == [10, 20, 30, 40]
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2)
    until(lambda: all(len(lab.charts.curve(i).x) == 0 for i in range(len(LINES))))


def test_the_auxiliary_curve_ends_where_its_objective_ends(make):
    lab = make(RECIPE.replace(aux_cutoff=0.5), steps=20)
    lab.run(20)
    assert np.isfinite(curve(lab, "auxiliary").y).tolist() == [True] * 10 + [False] * 10


def test_the_legend_names_the_auxiliary_objective_where_there_is_one_and_last(make):
    def named(lab):
        shown = [line for line in lab.charts.figure.data if line.showlegend and line.visible]
        return [line.name for line in sorted(shown, key=lambda line: line.legendrank or 1000)]

    lab = make(RECIPE.replace(aux_weight=0.0))
    lab.run(3)
    assert named(lab) == ["all", "head", "torso", "tail"]
    lab.knobs.set(aux_weight=0.5)
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    lab.run(3)
    until(lambda: named(lab) == ["all", "head", "torso", "tail", "auxiliary"])


@given(st.integers(0, 5 * MOST_POINTS))
def test_thinning_keeps_the_last_point_and_moves_none(n):
    events = [{"step": i + 1, "loss": float(i)} for i in range(n + 7)]  # the run may be ahead of the snapshot
    steps, values = points(events, n, "loss")
    assert len(steps) <= MOST_POINTS + 1 and np.array_equal(values, steps - 1)
    if n <= MOST_POINTS:
        assert len(steps) == n
    if n:
        assert steps[0] == 1 and steps[-1] == n
        assert len(set(np.diff(steps)[:-1].tolist())) <= 1


def test_where_the_encoder_has_no_parameters_its_panel_says_so(make):
    def said(lab):
        shown = [words.text for words in lab.charts.figure.layout.annotations if words.visible]
        return [text for text in shown if "parameters" in text]

    lab = make(RECIPE.replace(encoder="features"))
    lab.run(3)
    assert said(lab) == ["This encoder<br>has no<br>parameters:<br>nothing to push."]  # no line wider than its panel
    assert not any(lab.charts.curve([line.field for line in LINES].index("grad")).y)
    assert not lab.charts.figure.layout.yaxis3.showticklabels
    lab.knobs.set(encoder="bag")
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    until(lambda: said(lab) == [])
    assert lab.charts.figure.layout.yaxis3.showticklabels


def test_the_budget_of_the_gradient_has_a_panel_once_it_was_probed(make):
    lab = make()
    lab.run(3)
    assert not lab.charts.figure.layout.yaxis5.visible and lab.charts.figure.layout.yaxis.domain[0] > 0.5
    lab.budget.value = True
    until(lambda: "probe_interval = 40, probes = budget" in words(lab.message))
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    trace = lab.run(80)
    for name in ("head", "torso", "tail", "auxiliary"):
        steps, values = trace.history(f"budget/share/{name}")
        assert steps.tolist() == [40, 80]
        np.testing.assert_allclose(curve(lab, f"budget/share/{name}").y, values, rtol=1e-6)
    layout = lab.charts.figure.layout
    assert layout.yaxis5.visible and layout.yaxis5.domain[1] < layout.yaxis3.domain[0] < layout.yaxis.domain[0]
    lab.budget.value = False
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 3 and s.state == "paused")
    until(lambda: not lab.charts.figure.layout.yaxis5.visible)
    assert lab.recipe.probe_interval == 0


def test_the_picture_shows_the_connectivity_of_the_trace(make):
    lab = make()
    built(lab)
    seen = Reader(lab.canvas)
    for steps in (25, 20):  # a rewire may be painted alone, or with the next
        trace = lab.run(steps)
    assert trace.frames == [0, 10, 20, 30, 40] and seen.head["step"] == 40
    assert sorted(seen.labels) == list(range(20))
    born = np.zeros(80, int)
    for frame in range(1, 5):
        born[trace.changed(frame)] = trace.frames[frame]
    indices, born = by_feature(trace.connectivity(-1)[seen.labels], born.reshape(20, 4)[seen.labels])
    np.testing.assert_array_equal(seen.indices, indices)
    np.testing.assert_array_equal(seen.births, born)


def test_the_caption_counts_what_moved(make):
    lab = make()
    built(lab)
    assert lab.canvas.caption == "At the start: each of 20 labels reads 4 features drawn at random."
    trace = lab.run(10)
    slots, bins = trace.changed(1), CORPUS.bins()
    moved = {name: np.isin(slots // 4, bins.labels(name)).sum() / (4 * len(bins.labels(name))) for name in bins.names}
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in moved.items())
    assert lab.canvas.caption == f"Rewire at step 10: {len(slots)} of 80 connections moved; {shares}."
    assert lab.canvas.names[0] == "label <0>"
    assert [band["name"] for band in lab.canvas.bands] == ["head", "torso", "tail"]


def test_whoever_is_pointed_at_has_the_scores_of_the_last_evaluation(make):
    lab = make()
    built(lab)
    seen = Reader(lab.canvas)
    lab.run(9)
    assert lab.canvas.scores == {}
    for step in (10, 20):
        table = lab.run(step - lab.engine.snapshot.step).of_labels(5).iloc[seen.labels]
        assert set(lab.canvas.scores) == {"P@5"} and lab.canvas.scored == f" at step {step}"
        np.testing.assert_allclose(np.array(lab.canvas.scores["P@5"], float), table.precision.round(1), atol=1e-9)
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    until(lambda: lab.canvas.scores == {})


def test_of_two_runs_the_scores_of_the_one_on_the_screen_are_told(make):
    lab = make(against=RECIPE.replace(seed=0, fan_in=8))
    built(lab)
    seen = Reader(lab.canvas)
    lab.run(20)
    precision = {run: trace.of_labels(5).precision.round(1).to_numpy() for run, trace in lab.traces.items()}
    assert not np.array_equal(precision["A"], precision["B"], equal_nan=True)
    assert list(lab.canvas.scores) == ["P@5 A", "B"] and lab.canvas.scored == " at step 20"
    for run, told in zip("AB", lab.canvas.scores.values(), strict=True):
        np.testing.assert_allclose(np.array(told, float), precision[run][seen.labels])
    for run in "AB":
        lab.scrubber.looks.value = run
        until(lambda: set(lab.canvas.scores) == {"P@5"})
        until(lambda: np.allclose(np.array(lab.canvas.scores["P@5"], float), precision[run][seen.labels],  # noqa: B023
                                  equal_nan=True))


def opacities(lab, runs="B"):
    """Of the curves of each name, where all agree."""
    found = {}
    for run in runs:
        for i, line in enumerate(LINES):
            found.setdefault(line.name, set()).add(lab.charts.curve(i, run).opacity or 1.0)
    return {name: next(iter(values)) if len(values) == 1 else values for name, values in found.items()}


def test_a_brushed_bin_is_brushed_in_the_curves_and_stays_so(make, sent):
    lab = make()
    lab.run(20)
    plain = dict.fromkeys(("all", "head", "torso", "tail", "auxiliary"), 1.0)
    brushed = plain | {"head": 0.12, "torso": 0.12}
    assert opacities(lab) == plain
    until(lambda: lab._painted.version == lab.engine.snapshot.version)
    time.sleep(0.2)
    sent.clear()
    lab.canvas.set_state({"brushed": "tail"})
    assert opacities(lab) == brushed
    assert all(w is lab.charts.figure for w, m, _ in sent if m["method"] == "update")
    assert sum(size for *_, size in sent) == 0 and len(json.dumps([m for _, m, _ in sent])) < 3000  # no points
    lab.run(20)
    assert len(curve(lab, "P@1/head").x) == 4 and opacities(lab) == brushed
    lab.present.value = True
    lab.present.value = False
    lab.compare.value = True
    painted(lab, lambda s: s.other is not None and s.state == "paused" and s.run == 2)
    lab.run(20)
    until(lambda: len(lab.charts.curve(0, "A").x) == 40)
    assert opacities(lab, "AB") == brushed
    lab.canvas.set_state({"brushed": ""})
    assert opacities(lab, "AB") == plain


def test_where_there_is_no_picture_no_bin_stays_brushed(make):
    lab = make(against=xe.Recipe.method("dense", encoder="bag", hidden=16, warmup=5, eval_interval=10))
    lab.run(12)
    lab.scrubber.looks.value = "A"
    until(lambda: lab.canvas.picture)
    lab.canvas.set_state({"brushed": "tail", "pinned": 3})
    lab.scrubber.looks.value = "B"
    until(lambda: "A dense output layer" in lab.canvas.caption)
    assert lab.canvas.brushed == "" and set(opacities(lab, "AB").values()) == {1.0}
    lab.scrubber.looks.value = "A"
    until(lambda: lab.canvas.picture)
    assert lab.canvas.pinned == 3


def test_a_pinned_label_stays_from_look_to_look_and_through_reset(make):
    lab = make()
    lab.run(20)
    seen = Reader(lab.canvas)
    lab.canvas.set_state({"pinned": 7})
    lab.compare.value = True
    painted(lab, lambda s: s.other is not None and s.state == "paused" and s.run == 2)
    lab.run(20)
    for look, pair in (("A", None), ("B", None), ("difference", ["A", "B"]), ("A", None)):
        lab.scrubber.looks.value = look
        until(lambda: lab._pictured[0][0] == look and seen.head["pair"] == pair)  # noqa: B023
        assert lab.canvas.pinned == 7
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 3 and s.state == "paused")
    until(lambda: seen.head["step"] == 0)
    assert lab.canvas.pinned == 7 and lab.canvas.history == b""


def test_the_picture_of_another_run_comes_in_one_message(make, sent):
    """A page that hears first that the old one is gone hides what has the focus, and the next key is lost."""
    lab = make(against=RECIPE.replace(rewire_fraction=0.5))
    lab.run(20)
    for look in ("A", "B", "difference"):
        sent.clear()
        lab.scrubber.looks.value = look
        until(lambda: lab._pictured[0][0] == look)  # noqa: B023
        until(lambda: updates(sent, lab.canvas, "picture"))
        assert len(updates(sent, lab.canvas, "picture")) == 1


# --- what is sent


@pytest.fixture
def sent(monkeypatch):
    """Every message to the browser: (widget, its message without bytes, how many bytes)."""
    messages = []
    original = ipywidgets.Widget._send

    def send(self, message, buffers=None):
        messages.append((self, message, sum(memoryview(b).nbytes for b in buffers or ())))
        return original(self, message, buffers)

    monkeypatch.setattr(ipywidgets.Widget, "_send", send)
    return messages


def updates(sent, widget, name):
    """What was sent of one trait."""
    return [m["state"].get(name, True) for w, m, _ in sent
            if w is widget and (m["state"].get(name) is not None or [name] in m["buffer_paths"])]


def test_the_picture_is_sent_at_a_rewire_and_at_no_other_step(make, sent):
    lab = make()
    built(lab)
    lab.run(9)
    sent.clear()
    lab.run(1)
    assert len(updates(sent, lab.canvas, "picture")) == 1
    sent.clear()
    lab.run(9)
    assert updates(sent, lab.canvas, "caption") == updates(sent, lab.canvas, "picture") == []


def test_curves_travel_as_bytes_and_in_one_message(engine, sent):
    charts = Charts()
    engine.run_for(2 * MOST_POINTS)
    sent.clear()
    charts.draw(engine.snapshot)
    (update,) = updates(sent, charts.figure, "_py2js_update")
    assert len(json.dumps(update)) < 2000
    drawn = 3 * (MOST_POINTS + 1) + 8 * engine.snapshot.evaluations
    assert [size for _, m, size in sent if m["state"].get("_py2js_update")] == [12 * drawn]  # an int32 and a float64
    sent.clear()
    charts.draw(engine.snapshot)
    assert sent == []


def at_rest(make, sent):
    """A laboratory that has trained, and painted all of it, with what it sent forgotten."""
    lab = make()
    lab.run(3)
    until(lambda: lab._painted.version == lab.engine.snapshot.version)
    time.sleep(0.2)
    sent.clear()
    return lab


def test_nothing_is_sent_while_nothing_happens(make, sent):
    at_rest(make, sent)
    time.sleep(0.5)
    assert sent == []


def test_words_come_while_the_painter_is_busy(make):
    lab = make()
    built(lab)
    with lab._painting:
        lab.buttons["Step"].click()
        until(lambda: 'data-step="1" data-state="paused"' in lab.status.value)
        lab.buttons["Play"].click()
        until(lambda: 'data-state="playing"' in lab.status.value)


def test_words_that_cannot_be_said_end_no_run():
    def fail():
        raise KeyError("a defect")

    engine = Engine(CORPUS, RECIPE, steps=10, tell=fail)
    assert engine.run_for(3).step == 3
    engine.close()


def test_the_painter_waits_for_the_browser_and_then_shows_the_latest(make, monkeypatch):
    monkeypatch.setattr(lab_module, "BLIND_SECONDS", PATIENCE)
    lab = make()
    until(lambda: lab.canvas.tick == 1)
    for steps in (3, 7):
        lab.engine.step(steps)
    lab.engine.wait(lambda s: s.step == 10, PATIENCE)
    time.sleep(0.2)
    assert lab.canvas.tick == 1 and lab._painted.step == 0
    lab.canvas.set_state({"seen": 1})
    until(lambda: lab.canvas.tick == 2)
    assert painted(lab, lambda s: s.step > 0).step == 10


def test_the_painter_rests_after_what_a_paint_has_cost_but_not_from_a_hand(make, monkeypatch):
    monkeypatch.setattr(lab_module, "PAINTER_SHARE", 1e-9)
    monkeypatch.setattr(lab_module, "BLIND_SECONDS", 0.01)
    lab = make()
    built(lab)
    until(lambda: lab.canvas.tick > 0)
    time.sleep(0.1)
    before = lab.canvas.tick
    lab.engine._publish(state="playing")  # as a step would, and not as a command
    time.sleep(0.2)
    assert lab.canvas.tick == before
    lab._say("by hand")
    until(lambda: lab.canvas.tick > before and "by hand" in words(lab.message))


@pytest.mark.parametrize(("settle", "paints"), [(PATIENCE, 1), (0.0, 2)], ids=["in time", "late"])
def test_a_step_that_takes_its_time_is_painted_as_soon_as_it_is_done(make, monkeypatch, settle, paints):
    monkeypatch.setattr(lab_module, "PAINTER_SHARE", 1e-9)  # a paint of its beginning would keep that of its end away
    monkeypatch.setattr(lab_module, "BLIND_SECONDS", 0.01)
    monkeypatch.setattr(lab_module, "SETTLE_SECONDS", settle)
    lab = make()
    built(lab)
    until(lambda: lab.canvas.tick > 0)
    time.sleep(0.1)
    ordinary, before = lab.engine._run.step, lab.canvas.tick
    monkeypatch.setattr(lab.engine._run, "step", lambda: (time.sleep(0.3), ordinary()))
    lab.buttons["Step"].click()
    assert "stepping" in words(lab.status)
    until(lambda: lab._painted.step == 1 and lab._painted.state == "paused")
    assert lab.canvas.tick == before + paints and "step 1 " in words(lab.status)


def test_the_curves_wait_for_a_hand_to_rest(make, monkeypatch):
    monkeypatch.setattr(lab_module, "HAND_SECONDS", 2 * PATIENCE)
    lab = make()
    built(lab)
    lab.buttons["Play"].click()
    until(lambda: lab._painted.step >= 20)
    assert len(lab.charts.curve(0).x) == 0 and lab._chart_due
    monkeypatch.setattr(lab_module, "HAND_SECONDS", 0)
    until(lambda: len(lab.charts.curve(0).x) > 0)


def test_the_page_is_not_sent_back_what_it_has_said(make, sent):
    lab = at_rest(make, sent)
    lab.canvas.set_state({"seen": lab.canvas.tick})
    lab.charts.figure.set_state({"_js2py_layoutDelta": {"layout_delta": {}, "layout_edit_id": -1}})
    lab.charts.figure.set_state({"_js2py_traceDeltas": {"trace_deltas": [], "trace_edit_id": -1}})
    assert not [m for _, m, _ in sent if m["method"] == "echo_update"]


def test_a_message_from_the_browser_does_not_swallow_an_update(engine, sent):
    """While a message from the browser is dealt with, traitlets holds back whatever else changes on that widget."""
    engine.run_for(5)
    charts = Charts()
    entered, go_on = threading.Event(), threading.Event()

    class Slow(dict):
        def __getitem__(self, name):  # is called while the notifications are held
            entered.set()
            go_on.wait(PATIENCE)
            return super().__getitem__(name)

    browser = threading.Thread(target=charts.figure.set_state, args=[Slow(_last_layout_edit_id=1)])
    browser.start()
    assert entered.wait(PATIENCE)
    sent.clear()
    painter = threading.Thread(target=charts.draw, args=(engine.snapshot,))
    painter.start()
    painter.join(0.3)
    go_on.set()
    browser.join(PATIENCE)
    painter.join(PATIENCE)
    assert len(updates(sent, charts.figure, "_py2js_update")) == 1


# --- errors


def test_a_failure_is_shown_and_raised_and_reset_heals(make):
    lab = make(RECIPE.replace(lr_factor=1e30, warmup=0, aux_weight=0.0, output_optimizer="sgd"))
    with pytest.raises(TrainingError, match="diverged"):
        lab.run(50)
    assert lab.state == "failed" and "diverged" in words(lab.message) and "Reset" in words(lab.message)
    assert 'role="alert"' in lab.message.value
    lab.knobs.live["lr_factor"].value = 0.1
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    assert lab.run(5).steps == 5 and 'role="alert"' not in lab.message.value


def test_after_a_failure_a_press_still_finds_words(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "find_browser", lambda: None)
    lab = make(RECIPE.replace(lr_factor=1e30, warmup=0, aux_weight=0.0, output_optimizer="sgd"))
    built(lab)
    lab.presets.value = "loss"
    lab.buttons["Play"].click()
    until(lambda: "diverged" in words(lab.message))
    lab.knobs.live["lr_factor"].value = 0.1
    until(lambda: words(lab.message) == "This run has ended: the change waits for Reset. Reset starts over.")
    lab._save_files(str(tmp_path))
    until(lambda: "Saved in" in words(lab.message))


def test_play_after_the_end_says_what_to_do(make):
    lab = make(steps=5)
    lab.run(5)
    assert words(lab.message) == "The run is finished. Reset starts another."
    lab.knobs.live["lr_factor"].value = 0.1
    until(lambda: "waits for Reset" in words(lab.message))
    lab.buttons["Play"].click()
    until(lambda: words(lab.message) == "The run is finished. Reset starts another.")
    assert lab.state == "finished"


def test_a_picture_that_cannot_be_drawn_does_not_end_the_painter(make, monkeypatch):
    lab = make()
    built(lab)

    def broken(*_):
        raise OSError("no <ink>")

    with monkeypatch.context() as patched:
        patched.setattr(lab.charts, "draw", broken)
        lab.buttons["Step"].click()
        until(lambda: "no <ink>" in words(lab.message))
    lab.buttons["Step"].click()
    until(lambda: list(curve(lab, "main").x) == [1, 2])


# --- the scrubber


def scrub(lab, position):
    """What the browser does when the slider is moved."""
    lab.scrubber.slider.set_state({"value": position})
    until(lambda: lab.scrubber.at == position and f'data-frame="{position}"' in lab.scrubber.label.value)


def test_scrubbing_shows_what_was_recorded_and_never_trains(make):
    lab = make()
    built(lab)
    seen = Reader(lab.canvas)
    trace = lab.run(45)
    assert words(lab.scrubber.label) == "frame 5/5 (rewire at 40), live"
    for position in (1, 3, 0):
        scrub(lab, position)
        until(lambda step=trace.frames[position]: seen.head["step"] == step)
        np.testing.assert_array_equal(seen.indices, by_feature(trace.connectivity(position)[seen.labels])[0])
    until(lambda: words(lab.scrubber.label) == "frame 1/5 (the start)")
    assert lab.engine.snapshot.step == 45
    until(lambda: lab.charts.figure.layout.shapes)
    assert [shape.x0 for shape in lab.charts.figure.layout.shapes] == [0] * 4
    assert [shape.yref for shape in lab.charts.figure.layout.shapes] == [  # it ends where a panel does
        "y domain", "y2 domain", "y3 domain", "y4 domain"]
    lab.scrubber.buttons[2].click()
    until(lambda: words(lab.scrubber.label) == "frame 2/5 (rewire at 10)")
    lab.scrubber.buttons[3].click()
    until(lambda: words(lab.scrubber.label) == "frame 5/5 (rewire at 40), live")
    assert lab.scrubber.step is None


def test_the_scrubber_follows_the_run_unless_it_was_moved_back(make):
    lab = make()
    lab.run(25)
    assert (lab.scrubber.slider.value, lab.scrubber.slider.max) == (2, 2)
    scrub(lab, 1)
    lab.run(20)
    assert (lab.scrubber.slider.value, lab.scrubber.slider.max, lab.scrubber.step) == (1, 4, 10)
    scrub(lab, 4)
    lab.run(10)
    assert (lab.scrubber.slider.value, lab.scrubber.step) == (5, None)


def test_a_page_that_is_a_reset_behind_asks_for_a_frame_that_is_no_more(make):
    lab = make()
    lab.run(40)
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    until(lambda: lab.canvas.frames == 1)
    lab.canvas.set_state({"frame": 3})
    until(lambda: lab.canvas.frame == 0 and lab.scrubber.step is None)
    dense = make(xe.Recipe.method("dense", encoder="bag", hidden=16, warmup=5, eval_interval=10))
    built(dense)
    dense.canvas.set_state({"frame": 1})
    assert dense.run(2).steps == 2


def test_a_run_without_frames_is_scrubbed_by_its_evaluations(make):
    lab = make(xe.Recipe.method("dense", encoder="bag", hidden=16, warmup=5, eval_interval=10))
    lab.run(25)
    assert words(lab.scrubber.label) == "frame 3/3 (evaluation at 20), live"


def test_a_recording_is_scrubbed_and_played_and_never_trained(make):
    trace = xe.train(CORPUS, RECIPE, steps=40, progress=False)
    lab = Lab.load(trace.folder)
    try:
        painted(lab, lambda s: s.state == "recorded")
        seen = Reader(lab.canvas)
        assert words(lab.scrubber.label) == "frame 3/3 (rewire at 20)" and "recording" in words(lab.message)
        precision = trace.of_labels(5).precision.round(1)[seen.labels]
        np.testing.assert_allclose(np.array(lab.canvas.scores["P@5"], float), precision)
        scrub(lab, 1)
        until(lambda: seen.head["step"] == 10)
        until(lambda: np.array_equal(curve(lab, "main").y, trace.history("main")[1]))
        lab.scrubber.to(0)
        lab.buttons["Play"].click()
        until(lambda: lab.scrubber.step is None and not lab._rolling)
        assert lab.state == "recorded" and lab.engine.snapshot.step == 40
        with pytest.raises(ValueError, match="needs a corpus"):
            Lab()
    finally:
        lab.close()


# --- two runs


def test_two_runs_side_by_side(make):
    lab = make()
    lab.run(20)
    seen = Reader(lab.canvas)
    lab.compare.value = True
    painted(lab, lambda s: s.other is not None and s.state == "paused" and s.run == 2)
    lab.knobs.live["rewire_fraction"].value = 0.5
    trace = lab.run(25)
    a = lab.traces["A"]
    assert a.recipe.rewire_fraction == 0.15 and lab.recipe.rewire_fraction == 0.5
    np.testing.assert_allclose(lab.charts.curve(0, "A").y, a.history("main")[1], rtol=1e-6)
    np.testing.assert_allclose(lab.charts.curve(0).y, trace.history("main")[1], rtol=1e-6)
    assert {lab.charts.curve(i, "A").line.dash for i in range(len(LINES))} == {"solid"}
    assert {lab.charts.curve(i).line.dash for i in range(len(LINES))} == {"dash"}
    assert "rewire_fraction 0.5" in words(lab.message) and lab.canvas.caption.startswith("Connections at step 20: only")
    assert seen.head["pair"] == ["A", "B"]
    only_a = [set(i.tolist()) - set(j.tolist()) for i, j in zip(a.connectivity(2), trace.connectivity(2), strict=True)]
    shown = [set(i[v == 1].tolist()) for i, v in zip(seen.indices, seen.births, strict=True)]
    assert shown == [only_a[label] for label in seen.labels]
    lab.scrubber.looks.value = "A"
    until(lambda: seen.head["pair"] is None)
    np.testing.assert_array_equal(seen.indices, by_feature(a.connectivity(2)[seen.labels])[0])
    lab.compare.value = False
    painted(lab, lambda s: s.other is None)
    until(lambda: not lab.charts.curve(0, "A").visible and lab.charts.curve(1).line.dash == "dashdot")
    assert lab.run(1).steps == 26


def test_of_a_sparse_and_a_dense_run_each_shows_what_it_has(make):
    lab = make(against=xe.Recipe.method("dense", encoder="bag", hidden=16, warmup=5, eval_interval=10))
    lab.run(12)
    assert "A dense output layer" in lab.canvas.caption
    lab.scrubber.looks.value = "A"
    until(lambda: lab.canvas.caption.startswith("Rewire at step 10"))
    lab.canvas.frame = 0  # as a key of the page does
    until(lambda: lab.scrubber.shown == 0 and lab.canvas.caption.startswith("At the start"))


def test_two_runs_that_cannot_be_leave_no_button_pressed(make):
    lab = Lab.load(xe.train(CORPUS, RECIPE, steps=10, progress=False))
    try:
        painted(lab, lambda s: s.state == "recorded")
        lab.compare.value = True
        until(lambda: "No run beside it" in words(lab.message) and not lab.compare.value)
        assert lab.state == "recorded"
    finally:
        lab.close()


def test_keys_go_through_the_moments_of_two_runs_and_the_frames_of_one(make):
    lab = make()
    lab.run(1)
    lab.compare.value = True
    painted(lab, lambda s: s.other is not None and s.state == "paused" and s.run == 2)
    lab.knobs.live["rewire_interval"].value = 20
    lab.run(40)
    a, b = (trace.frames for trace in lab.traces.values())
    assert a != b
    both = sorted({*a, *b})
    until(lambda: lab.canvas.frames == len(both) and lab.canvas.frame == len(both) - 1)
    for at in (0, 1, len(both) - 1, len(both) - 2):
        lab.canvas.frame = at  # as a key of the page does
        until(lambda: lab.scrubber.shown == both[at] and lab.canvas.frame == at)  # noqa: B023
    for look, steps in (("A", a), ("B", b)):
        lab.scrubber.looks.value = look
        until(lambda: not lab.canvas.in_difference and lab.canvas.frames == len(steps))  # noqa: B023
        for at in (0, 1, len(steps) - 1):
            lab.canvas.frame = at
            side = lab.engine.snapshot.other if look == "A" else lab.engine.snapshot
            until(lambda: frame_at(side, lab.scrubber.shown) == lab.canvas._shown.number == at)  # noqa: B023
            assert lab.canvas.frame == at


def test_the_last_frame_is_the_last_also_where_an_earlier_one_is_on_the_screen(make):
    lab = make()
    lab.run(20)
    lab.canvas.frame = 0
    until(lambda: lab.scrubber.shown == 0)
    lab.run(20)
    until(lambda: lab.canvas.frames == lab.engine.snapshot.n_frames)
    lab.canvas.frame = lab.canvas.frames - 1
    until(lambda: lab.scrubber.step is None)


def test_a_second_recipe_from_the_start(make):
    lab = make(against=RECIPE.replace(growth_mode="gradient"))
    lab.run(12)
    assert (lab.traces["A"].recipe.growth_mode, lab.trace.recipe.growth_mode) == ("random", "gradient")
    assert lab.compare.value and lab.knobs.live["growth_mode"].value == "gradient"


def test_rewind_and_branch(make):
    lab = make()
    first = lab.run(35)
    scrub(lab, 1)
    lab.knobs.live["lr_factor"].value = 0.1
    lab.branch.click()
    snapshot = painted(lab, lambda s: s.run == 2 and s.state == "paused")
    assert (snapshot.step, snapshot.other.step) == (10, 35) and "continues from step 10" in words(lab.message)
    trace = lab.run(10)
    assert trace.history("lr")[1][-1] == pytest.approx(0.1 * first.history("lr")[1][19])
    assert trace.history("loss")[1][:10].tolist() == first.history("loss")[1][:10].tolist()


# --- presets, sharing, files, presenter


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_shows_its_knobs_and_no_other(make, name):
    lab = Lab(CORPUS, preset=name, steps=50)
    try:
        shown = {knob for knob in lab.knobs.widget.children if knob in lab.knobs.all and knob.layout.display != "none"}
        wanted = PRESETS[name].knobs
        by_name = lab.knobs.live | lab.knobs.rebuild | {"rewire_now": lab.knobs.rewire_now}
        assert shown == {knob for option, knob in by_name.items()
                         if (wanted is None or option in wanted) and option != "rewire_threshold"}
        for option, value in PRESETS[name].options.items():
            assert getattr(lab.recipe, option) == value
    finally:
        lab.close()


def test_another_preset_turns_its_knobs(make):
    lab = make()
    built(lab)
    lab.presets.value = "rewiring"
    until(lambda: lab.recipe.aux_weight == 0)
    assert lab.knobs.rebuild["intermediate"] not in lab.knobs.widget.children and lab.preset == "rewiring"
    until(lambda: "rewiring" in words(lab.message))
    lab.presets.value = "gradient flow"  # it measures who pushes the encoder, which needs another run
    until(lambda: lab.budget.value and "press Reset" in words(lab.knobs.heading))
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    assert (lab.recipe.probe_interval, lab.recipe.probes) == (40, "budget")
    with pytest.raises(ValueError, match="no preset is called 'x'; choose one of 'everything'"):
        make(preset="x")


@pytest.mark.parametrize("preset", ["rewiring", "head and tail"])
def test_of_share_and_threshold_the_one_that_a_rewire_looks_at_is_shown(make, preset):
    lab = make(preset=preset)
    share, threshold = lab.knobs.live["rewire_fraction"], lab.knobs.live["rewire_threshold"]
    for mode, there, hidden in (("threshold", threshold, share), ("fraction", share, threshold)):
        lab.knobs.live["prune_mode"].value = mode
        assert there in lab.knobs.widget.children
        assert (there.layout.display, hidden.layout.display) == ("", "none")
        until(lambda mode=mode: lab.recipe.prune_mode == mode)
    lab.presets.value = "loss"
    lab.knobs.live["prune_mode"].value = "threshold"
    assert threshold not in lab.knobs.widget.children  # a lesson shows its own knobs alone


def test_a_knob_that_waits_for_reset_is_marked(make):
    lab = make()
    lab.run(2)
    knob = lab.knobs.rebuild["fan_in"]
    knob.value = 2
    until(lambda: "xmc-planned" in knob._dom_classes)
    assert "fan_in = 2" in words(lab.message) and "Reset" in words(lab.knobs.heading)
    lab.buttons["Reset"].click()
    painted(lab, lambda s: s.run == 2 and s.state == "paused")
    assert lab.trace.recipe.fan_in == 2 and "xmc-planned" not in knob._dom_classes


def test_rewire_now_and_a_number_of_steps(make):
    lab = make()
    built(lab)
    lab.knobs.rewire_now.click()
    lab.many.value = 3
    lab.buttons["+10"].click()
    painted(lab, lambda s: s.step == 3 and s.state == "paused")
    assert lab.trace.frames == [0, 1] and lab.buttons["+10"].description == "+3"


def test_a_laboratory_goes_into_a_text_and_comes_back(make):
    lab = make(RECIPE.replace(fan_in=3), against=RECIPE.replace(loss="squared_hinge"), steps=70, preset="loss")
    assert '"steps":70' in lab.share()  # before its run is built, too
    painted(lab, lambda s: s.other is not None and s.state == "paused")
    again = Lab.from_text(lab.share(), CORPUS)
    try:
        painted(again, lambda s: s.other is not None and s.state == "paused")
        assert again.share() == lab.share() and len(lab.share()) < 600
        assert (again.recipe.loss, again.engine.snapshot.other.recipe.fan_in) == ("squared_hinge", 3)
        assert (again.engine.snapshot.steps, again.preset) == (70, "loss")
    finally:
        again.close()


@pytest.mark.parametrize(("text", "said"), [
    ("", "copy the whole line"), ('{"xmc":1,"corpus":"tiny"', "copy the whole line"), ("[1]", "begin with"),
    ('{"xmc":2}', "version reads 1"), ('{"xmc":1,"corpus":"tiny"}', "needs 'steps'"),
    ('{"xmc":1,"corpus":"tiny","steps":"9"}', "steps must be of type int"),
    ('{"xmc":1,"corpus":"tiny","steps":0}', "at least 1"), ('{"xmc":1,"code":"1"}', "has no 'code'"),
    ('{"xmc":1,"corpus":"tiny","steps":9,"preset":"x"}', "no preset is called 'x'"),
    ('{"xmc":1,"corpus":"tiny","steps":9,"recipe":{"fan_im":3}}', "recipe: .* did you mean 'fan_in'"),
    ('{"xmc":1,"corpus":"tiny","steps":9,"recipe":{"seed":"__import__"}}', "recipe: .*seed must be of type int"),
    (None, "not a shared laboratory"), ("[" * 100_000, "not a shared laboratory"),
])
def test_a_text_that_is_no_laboratory(text, said):
    with pytest.raises(ValueError, match=said):
        Lab.from_text(text, CORPUS)


def test_files_of_a_run(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "find_browser", lambda: None)
    lab = make()
    trace = lab.run(25)
    files = lab.export(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "tiny-run1-step25.html", "tiny-run1-step25.json", "tiny-run1-step25.zip"]
    assert xe.Recipe.from_json(files["recipe"].read_text()) == lab.recipe
    assert "plotly" in files["figure"].read_text()[:500_000].lower()
    shutil.unpack_archive(files["trace"], tmp_path / "trace")
    again = xe.Trace(tmp_path / "trace")
    assert again.notes == [] and again.history("loss")[1].tolist() == trace.history("loss")[1].tolist()
    lab._save_files(str(tmp_path / "more"))
    until(lambda: "Saved in" in words(lab.message))
    assert str(tmp_path / "more") in words(lab.message) and "no browser" in words(lab.message)
    (tmp_path / "file").write_text("")
    lab._save_files(str(tmp_path / "file"))
    until(lambda: words(lab.message) == f"Not saved: no files can be written to {tmp_path / 'file'} (File exists); "
          "choose another folder")
    shutil.rmtree(trace.folder)
    lab._save_files(str(tmp_path))
    until(lambda: words(lab.message).startswith(f"Not saved: {trace.folder} is not a trace"))


def test_files_of_two_runs(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "find_browser", lambda: None)
    lab = make(against=RECIPE.replace(growth_mode="gradient"))
    lab.run(25)
    files = lab.export(tmp_path)
    stem = f"tiny-run{lab.engine.snapshot.run}-step25"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        stem + ending for ending in ("-A.json", "-A.zip", "-B.json", "-B.zip", ".html"))
    for run, growth in (("A", "random"), ("B", "gradient")):
        assert xe.Recipe.from_json(files[f"recipe-{run}"].read_text()).growth_mode == growth
        shutil.unpack_archive(files[f"trace-{run}"], tmp_path / run)
        again = xe.Trace(tmp_path / run)
        assert again.recipe.growth_mode == growth and again.steps == 25
    lab._save_files(str(tmp_path))
    until(lambda: words(lab.message) == f"Saved in {tmp_path}: {stem} (.html, -A.json, -B.json, -A.zip, -B.zip; no "
          "PNG: no browser on this machine).")


def test_the_page_has_the_connectivity_that_is_on_the_screen(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "find_browser", lambda: None)
    lab = make()
    lab.run(25)

    def stills() -> list[str]:
        page = lab.export(tmp_path)["figure"].read_text()
        assert re.search(r'role="img" aria-label="[^"]*fter 25 steps: P@1 \(%\) and its parts [0-9.]+, head ', page)
        assert "step 25 of 5,000" in page and "From the next step on" not in page
        return re.findall(r'<img alt="([^"]+)" src="data:image/png', page)

    lab.knobs.live["lr_factor"].value = 0.5
    (last,) = stills()
    assert last.startswith("Rewire at step 20: ")
    lab.scrubber.to(1)
    (before,) = stills()
    assert before.startswith("Rewire at step 10: ")
    lab.compare.value = True
    until(lambda: lab.engine.snapshot.other is not None)
    lab.run(25)
    a, b = stills()
    assert a.startswith("A: ") and b.startswith("B: ")


def test_dense_runs_have_a_page_without_connectivity(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "find_browser", lambda: None)
    lab = make(xe.Recipe.method("dense", encoder="bag", hidden=16, eval_interval=10))
    lab.run(10)
    assert "data:image/png" not in lab.export(tmp_path)["figure"].read_text().split("</script>")[-1]


def test_a_disk_that_is_full_is_named_and_nothing_half_written_stays(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "find_browser", lambda: None)
    lab = make()
    lab.run(5)

    def full(base, form, folder):
        Path(f"{base}.{form}").write_bytes(b"PK half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharing.shutil, "make_archive", full)
    path = tmp_path / "tiny-run1-step5.zip"
    with pytest.raises(OSError, match="make room there, or choose another folder") as caught:
        lab.export(tmp_path)
    assert str(caught.value) == (f"{path} cannot be written (No space left on device); make room there, or choose "
                                 "another folder")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["tiny-run1-step5.html", "tiny-run1-step5.json"]
    lab._save_files(str(tmp_path))
    until(lambda: words(lab.message) == f"Not saved: {caught.value}")


def test_presenter_mode(make):
    lab = make()
    built(lab)
    lab.present.value = True
    assert "xmc-present" in lab.widget._dom_classes and lab.page.presenting
    assert lab.charts.figure.layout.font.size == PRESENTED_TYPE
    assert {axis.nticks for axis in lab.charts.figure.select_xaxes()} == {3}
    lab.page.set_state({"presenting": False})  # Escape
    assert not lab.present.value and "xmc-present" not in lab.widget._dom_classes


# --- in a notebook


def test_close_leaves_no_thread_and_no_widget(make):
    before = set(live_widgets)
    lab = make()
    lab.run(3)
    lab.buttons["Play"].click()
    lab.close()
    assert not {t.name for t in threading.enumerate()} & {"xmc-engine", "xmc-painter"}
    assert set(live_widgets) <= before
    assert lab.state == "stopped" and lab.trace.status == "interrupted" and lab.trace.steps >= 3
    lab.close()


def test_running_a_cell_again_closes_what_it_made_before(make, monkeypatch):
    running = {}
    shell = SimpleNamespace(get_parent=lambda: {"header": {"msg_id": running["request"]},
                                                "metadata": {"cellId": running["cell"]}})
    monkeypatch.setattr(guarded, "get_ipython", lambda: shell)
    monkeypatch.setattr(guarded, "_of_cell", {})
    running.update(request="1", cell="a")
    first, beside = make(), make()
    running.update(request="2", cell="b")
    other = make()
    assert "stopped" not in (first.state, beside.state, other.state)
    running.update(request="3", cell="a")
    again = make()
    assert first.state == beside.state == "stopped"
    assert other.run(2).steps == again.run(2).steps == 2


def pixels(page: str) -> np.ndarray:
    """The RGBA picture in a page; its PNG is one block, of rows without a filter."""
    data = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompressobj().decompress(data[start:]), np.uint8).reshape(height, 1 + 4 * width)
    return rows[:, 1:].reshape(height, width, 4)


def test_what_a_saved_notebook_keeps(make, monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data)

    def display(data, raw, display_id=None):
        shown.append(data)
        return Handle()

    monkeypatch.setattr(lab_module, "display", display)
    lab = make()
    lab.run(12)
    lab._ipython_display_()
    view, kept = shown
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == lab.widget.model_id
    assert view["text/plain"] == "" and kept["text/plain"] == repr(lab)
    text = html.unescape(kept["text/html"])
    assert "step 12 of 5,000" in text and "P@1" in text and "SET + auxiliary" in text
    picture = pixels(kept["text/html"])
    assert picture.shape == (330, 640 // RECIPE.hidden * RECIPE.hidden, 4)
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 2
    lab.run(3)
    assert "step 15 of 5,000" in shown[-1]["text/html"] and len(shown[-1]["text/html"]) < lab_module.MOST_KEPT
    lab.buttons["+10"].click()
    until(lambda: "step 25 of 5,000" in shown[-1]["text/html"])  # once it rests
    assert not np.array_equal(pixels(shown[-1]["text/html"]), picture)
    lab.buttons["Step"].click()
    painted(lab, lambda s: s.step == 26)
    lab.close()
    assert "step 26 of 5,000" in shown[-1]["text/html"]


def kept_by(lab) -> str:
    return lab._kept(lab.engine.snapshot)["text/html"]


def curves_in(page: str) -> list[str]:
    return [base64.b64decode(data).decode() for data in re.findall(r'src="data:image/svg[^,]+,([^"]+)"', page)]


def test_to_show_it_is_not_to_write_it_out(make, monkeypatch):
    """The painter is at work by then, and a figure that changes cannot be written out."""
    lab, shown = make(), []
    monkeypatch.setattr(ipywidgets.Widget, "__repr__", lambda self: pytest.fail("all of it is written out"))
    monkeypatch.setattr(lab_module, "display", lambda data, **_: shown.append(data))
    lab._ipython_display_()
    assert shown[0] == {"text/plain": "", "application/vnd.jupyter.widget-view+json": {
        "version_major": 2, "version_minor": 0, "model_id": lab.widget.model_id}}


def test_the_figure_is_not_written_out_while_it_is_drawn():
    charts, said = Charts(), []
    reader = threading.Thread(target=lambda: said.append(repr(charts.figure)), daemon=True)
    with charts.figure.drawing:
        reader.start()
        reader.join(0.5)
        assert not said
    reader.join(PATIENCE)
    assert said[0].startswith("BareFigure")


@pytest.mark.parametrize("method", ["SET", "dense"])
def test_a_saved_notebook_keeps_the_curves(make, method):
    lab = make(xe.Recipe.method(method, encoder="bag", hidden=16, fan_in=4, warmup=5, eval_interval=10, batch_size=16))
    assert curves_in(kept_by(lab)) == []
    lab.run(25)
    page = kept_by(lab)
    (svg,) = curves_in(page)
    alt = ElementTree.fromstring(svg).attrib["aria-label"]
    assert alt.startswith("How did the run go? Line chart of P@1, its parts (%), recall@5 (%), loss")
    trace = lab.trace
    assert f"loss {trace.history('main')[1][-1]:.3g}" in page
    rows = re.findall(r'<tr><th scope="row">(\d+)</th><td>([0-9.]+)</td>', page)
    assert rows == [(str(step), f"{value:.5g}") for step, value in zip(*trace.history("P@1"), strict=True)]
    assert len(page) < lab_module.MOST_KEPT


def test_of_two_runs_both_have_their_curves_kept(make):
    lab = make(against=RECIPE.replace(growth_mode="gradient"))
    lab.run(20)
    page = kept_by(lab)
    (svg,) = curves_in(page)
    assert "A: head" in svg and "B: head" in svg and page.count('<th scope="row">A</th>') == 2
    assert "Run A, SET + auxiliary, after 20 steps: " in page and "Run B, RigL + auxiliary, after 20 steps: " in page


def test_curves_that_would_take_too_much_room_leave_their_words(make, monkeypatch):
    lab = make()
    lab.run(20)
    monkeypatch.setattr(lab_module, "MOST_KEPT", 4000)
    page = kept_by(lab)
    assert "data:image" not in page and "After 20 steps: P@1" in page and "Show as table" in page


def test_a_large_loss_is_said_as_in_captions():
    event = {"step": 1, "main": 11834.5, "grad": 0.25}
    said = described(Snapshot(step=1, records=1, events={"step": [event]}))
    assert said == "After 1 step: loss 11,834; encoder gradient norm 0.25."


def test_an_encoder_without_parameters_has_no_norm_in_words_either(make):
    lab = make(RECIPE.replace(encoder="features", hidden=30))
    lab.run(20)
    assert "; loss " in lab.alt.value and "norm" not in lab.alt.value


def test_curves_are_said_in_words(make):
    lab = make()
    built(lab)
    until(lambda: "there is no curve yet" in lab.alt.value)
    lab.run(20)
    said = lab.alt.value
    trace = lab.trace
    assert f"loss {trace.history('main')[1][-1]:.3g}, auxiliary {trace.history('auxiliary')[1][-1]:.3g}" in said
    assert f"recall@5 (%) {trace.metrics('test')['recall@5']:.1f}, head " in said
    before = said
    lab.buttons["Step"].click()
    painted(lab, lambda s: s.step == 21)
    until(lambda: "After 21 steps" in lab.alt.value)
    assert lab.alt.value != before


def test_a_picture_that_cannot_be_drawn_says_why_in_words(make, monkeypatch):
    lab = make()
    built(lab)
    monkeypatch.setattr(lab.scrubber, "paint", lambda snapshot: {}["a defect"])
    lab._paint(lab.engine.snapshot, asked=True)
    assert words(lab.message) == "The picture cannot be drawn (KeyError: a defect); the run goes on."


@pytest.mark.parametrize(("given", "words"), [
    (dict(corpus="calls-small"), "corpus='calls-small' is no Corpus; say xe.Lab"), (dict(trace="runs/x"), "no Trace"),
    (dict(trace=xe.load_recording("planted-set"), recipe="SET"), "recipe='SET' is no Recipe"),
])
def test_a_laboratory_of_something_else_is_refused_in_words(given, words):
    with pytest.raises(TypeError, match=words):
        Lab(**given)
