"""Figures: what they draw is what was recorded, and a notebook that holds one is never blank."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas as pd
import plotly.io as pio
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from scipy.sparse import csr_array

import xmc_explore as xe
from xmc_explore import memory, plots, probes
from xmc_explore.corpora import BIN_NAMES, Corpus, Split
from xmc_explore.plots import style
from xmc_explore.plots.picture import ROWS
from xmc_explore.recipe import METHODS
from xmc_explore.training import Run

STEPS = 80
SVG = "{http://www.w3.org/2000/svg}"
TINY = dict(hidden=24, fan_in=4, aux_clusters=4, warmup=10, rewire_interval=10, batch_size=32, probe_interval=4)


TIMES = pd.DataFrame({kind: {"FixedFanIn": 3.0 + i, "masked dense": 0.4, "torch CSR": [2.0, np.nan][i % 2]}
                      for i, kind in enumerate(("forward", "gradient of x", "gradient of weight", "both", "step"))})


def tiny_corpus(n_labels: int = 60, n_features: int = 30) -> Corpus:
    """A few hundred rows whose labels decide their features; the last label is named like markup and never used."""
    random = np.random.default_rng(0)
    chance = np.append(1 / np.arange(1, n_labels), 0)
    support = np.stack([random.choice(n_features, 3, replace=False) for _ in range(n_labels)])

    def split(n: int) -> Split:
        labels = np.zeros((n, n_labels), np.float32)
        for row in labels:
            row[random.choice(n_labels, 3, replace=False, p=chance / chance.sum())] = 1
        features = np.zeros((n, n_features), np.float32)
        for i, label in np.argwhere(labels):
            features[i, support[label]] += 1
        return Split(csr_array(labels), features=csr_array(features))

    names = [f"label {i}" for i in range(n_labels - 1)] + ["<b>unused</b>"]
    return Corpus("tiny", split(300), split(80), names)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return tiny_corpus()


@pytest.fixture(scope="module")
def traces(corpus) -> dict[str, xe.Trace]:
    recipes = {name: xe.Recipe.method(name, **TINY) for name in ("dense", "SET", "RigL", "SET + auxiliary")}
    recipes["SET again"] = recipes["SET"].replace(seed=1)
    recipes["static"] = recipes["SET"].replace(rewire_interval=0)
    recipes["features"] = recipes["SET"].replace(encoder="features")
    recipes["fan-in 2"] = recipes["SET"].replace(fan_in=2)
    found = {name: xe.train(corpus, recipe, steps=STEPS, progress=False) for name, recipe in recipes.items()}
    planted = xe.load_corpus("planted", n_train=300, n_test=80, n_labels=60, n_features=24, support=4)
    found["planted"] = xe.train(planted, recipes["features"], steps=STEPS, progress=False)
    return found


@pytest.fixture(scope="module")
def stopped(corpus) -> xe.Trace:
    """A run that was interrupted after three steps, before any evaluation or rewire."""
    run = Run(corpus, xe.Recipe.method("SET", **TINY), steps=STEPS)
    for _ in range(3):
        run.step()
    run.close("interrupted")
    return xe.Trace.of(run.trace)


FIGURES = {
    "long_tail of a corpus": lambda t, c: plots.long_tail(c),
    "long_tail of a trace": lambda t, c: plots.long_tail(t["SET"], edges=(0.4, 0.9)),
    "loss of one": lambda t, c: plots.loss(t["SET"]),
    "loss of several": lambda t, c: plots.loss(t["dense"], t["SET"], t["SET + auxiliary"]),
    "precision": lambda t, c: plots.precision(t["SET"]),
    "per_bin": lambda t, c: plots.per_bin(t["SET"]),
    "gradient_norm": lambda t, c: plots.gradient_norm(
        {"dense": t["dense"], "SET": [t["SET"], t["SET again"]], "SET + auxiliary": t["SET + auxiliary"],
         "RigL": t["RigL"], "static": t["static"]}),
    "gradient_by_block": lambda t, c: plots.gradient_by_block(t["SET"]),
    "learning": lambda t, c: plots.learning(t["SET + auxiliary"]),
    "gradient_budget": lambda t, c: plots.gradient_budget(t["SET + auxiliary"]),
    "gradient_budget without auxiliary": lambda t, c: plots.gradient_budget(t["dense"]),
    "dense_twin of one": lambda t, c: plots.dense_twin(t["SET"]),
    "dense_twin of several": lambda t, c: plots.dense_twin(
        {"RigL": t["RigL"], "SET": [t["SET"], t["SET again"]], "SET + auxiliary": t["SET + auxiliary"]}),
    "by_sparsity": lambda t, c: plots.by_sparsity(
        [t["SET"], t["SET again"], t["fan-in 2"], t["dense"], t["SET + auxiliary"]]),
    "churn_by_frequency": lambda t, c: plots.churn_by_frequency(t["SET"]),
    "survival": lambda t, c: plots.survival(t["SET"]),
    "survival of all": lambda t, c: plots.survival(t["SET"], grown=False),
    "age": lambda t, c: plots.age(t["SET"]),
    "exploration": lambda t, c: plots.exploration(t["SET"]),
    "planted_support": lambda t, c: plots.planted_support(t["planted"]),
    "in_degree_drift": lambda t, c: plots.in_degree_drift(t["RigL"]),
    "magnitudes": lambda t, c: plots.magnitudes(t["SET"]),
    "overlap": lambda t, c: plots.overlap(t["SET"], c),
    "churn": lambda t, c: plots.churn(t["SET"]),
    "connectivity": lambda t, c: plots.connectivity(t["RigL"]),
    "connectivity replaced": lambda t, c: plots.connectivity(t["RigL"], 2, "replaced"),
    "connectivity born": lambda t, c: plots.connectivity(t["RigL"], 2, "born"),
    "connectivity died": lambda t, c: plots.connectivity(t["RigL"], 2, "died"),
    "connectivity at the start": lambda t, c: plots.connectivity(t["static"]),
    "in_degree": lambda t, c: plots.in_degree(t["RigL"]),
    "compare one run each": lambda t, c: plots.compare([t["dense"], t["SET"]]),
    "compare seeds": lambda t, c: plots.compare({"dense": t["dense"], "SET": [t["SET"], t["SET again"]]}),
    "memory_ledger": lambda t, c: plots.memory_ledger({"131K": 131_073, "3M": 2_812_281}),
    "memory_by_method": lambda t, c: plots.memory_by_method(),
    "memory_by_part": lambda t, c: plots.memory_by_part(),
    "memory_of_run": lambda t, c: plots.memory_of_run(t["SET"]),
    "gather": lambda t, c: plots.gather(t["RigL"], tile=1),
    "numbers": lambda t, c: plots.numbers({"P@1": 31.4, "P@3": 20.0}, "A constant answer", "%"),
    "numbers of a table": lambda t, c: plots.numbers(TIMES, "The race", "times nn.Linear", log=True, marks={"1": 1}),
    "steps_and_memory": lambda t, c: plots.steps_and_memory([2.0, 0.3, 0.2], [2**30] * 3, {"a dense layer": 2**35}),
}


@pytest.fixture(params=FIGURES)
def picture(request, traces, corpus) -> plots.Picture:
    return FIGURES[request.param](traces, corpus)


def named(figure, name: str):
    found, = (t for t in figure.data if t.name == name)
    return found


def numbers(text: str) -> list[float]:
    return [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\.?\d*", text)]


# --- every figure -------------------------------------------------------------------------------------------------


def test_every_figure_says_in_words_what_it_shows(picture):
    assert picture.title and picture.alt.startswith(picture.title)
    assert numbers(picture.caption), "no number in the caption"
    assert picture.caption.endswith(".") and not re.search(r"[.?] [A-Z]", picture.caption), "not one sentence"
    assert "nan" not in (picture.caption + picture.alt).lower()
    assert not re.search(r"\.\d{8}", picture.caption + picture.alt), "a number that nobody rounded"
    assert len(picture.table) and not picture.table.columns.duplicated().any()


def test_every_axis_has_a_name_or_named_ticks(picture):
    layout = picture.figure.layout
    for axis in (*picture.figure.select_xaxes(), *picture.figure.select_yaxes()):
        assert axis.title.text or axis.ticktext, axis
    if layout.xaxis.title.text == "training step":
        assert layout.hovermode is None and layout.template.layout.hovermode == "x unified"
        assert {t.xaxis or "x" for t in picture.figure.data} == {"x"}, "panels with an axis each share no hover"


def test_nothing_is_told_by_colour_alone(picture):
    for t in picture.figure.data:
        if t.type == "scatter":
            assert t.line.dash or t.marker.symbol
    cues = {t.name: (t.line.dash, t.marker.symbol) for t in picture.figure.data if t.type == "scatter" and t.showlegend}
    assert len(set(cues.values())) == len(cues)


def test_every_figure_is_drawn_without_a_browser_too(picture):
    root = ElementTree.fromstring(picture.svg())
    assert (root.tag, root.get("role"), root.get("aria-label")) == (f"{SVG}svg", "img", picture.alt)
    texts = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    assert picture.title in texts
    for t in picture.figure.data:
        if t.showlegend and picture.figure.layout.showlegend is not False:
            assert t.name in texts
    marks = [n for n in root.iter() if n.tag in {f"{SVG}circle", f"{SVG}polygon", f"{SVG}image"}]
    assert marks
    width, height = map(float, root.get("viewBox").split()[2:])
    for node in root.iter(f"{SVG}circle"):
        assert 0 <= float(node.get("cx")) <= width and 0 <= float(node.get("cy")) <= height
    assert "nan" not in picture.svg().replace(html.escape(picture.alt), "")


def test_the_table_on_the_page_is_accessible_and_short(picture):
    page = picture.html()
    caption = html.escape(picture.caption).replace(" %", "\N{NO-BREAK SPACE}%")
    assert caption in page and html.escape(picture.alt) in page
    assert "<details><summary>Show as table</summary>" in page, "open, or not there"
    table = ElementTree.fromstring(re.search(r"<table>.*</table>", page, re.DOTALL)[0])
    assert table.find("caption").text.startswith(picture.title)
    assert [th.text for th in table.iterfind("thead/tr/th[@scope='col']")] == list(picture.table.columns)
    rows = table.findall("tbody/tr")
    assert len(rows) == min(len(picture.table), ROWS) == len(table.findall("tbody/tr/th[@scope='row']"))
    thinned = f"{picture.title} ({ROWS} of {len(picture.table):,} rows, evenly spaced)"  # a title may end with "?"
    assert table.find("caption").text == (thinned if len(picture.table) > ROWS else picture.title)


@pytest.mark.parametrize(("value", "cell"), [
    (9228.0, "9,228"), (3326.44, "3,326.4"), (12671.6, "12,672"), (99999.7, "100,000"), (34602305424, "34,602,305,424"),
    (-1200.0, "\N{MINUS SIGN}1,200"), (192.381, "192.38"), (999.0, "999"), (0.25, "0.25"), (np.nan, "\N{EN DASH}")])
def test_a_table_writes_thousands_in_one_way(value, cell):
    drawn = plots.numbers({"one": 1.0, "two": 2.0}, "Two", "ms")
    page = replace(drawn, table=drawn.table.assign(column=value)).html()
    assert page.count(f"<td>{cell}</td>") == 2


def test_the_share_button_is_off_and_the_bundle_has_a_picture_to_fall_back_on(picture, monkeypatch):
    monkeypatch.setattr(pio.renderers, "_default_name", pio.renderers.default)
    monkeypatch.setattr(pio.renderers, "_default_renderers", [pio.renderers["plotly_mimetype"]])
    bundle = picture.bundle()
    assert set(bundle) == {"application/vnd.plotly.v1+json", "text/html", "text/plain"}
    image = ElementTree.fromstring(bundle["text/html"].replace(">", "/>"))
    assert image.get("alt") == picture.alt
    kind, data = image.get("src").split(",")
    assert kind == "data:image/svg+xml;base64" and base64.b64decode(data).decode() == picture.svg()
    plotly = bundle["application/vnd.plotly.v1+json"]
    assert plotly["config"]["showSendToCloud"] is False and plotly["config"]["responsive"] is False
    assert len(json.loads(json.dumps(plotly))["data"]) == len(picture.figure.data)
    monkeypatch.setattr(pio.renderers, "_default_renderers", [pio.renderers["notebook"]])
    monkeypatch.setattr(pio.renderers, "_to_activate", [])
    bundle = picture.bundle()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/html"].startswith(f'<div role="img" aria-label="{html.escape(picture.alt)}">')
    assert '"showSendToCloud": false' in bundle["text/html"] and '"responsive": true' in bundle["text/html"]


@pytest.mark.parametrize("figure", ["loss of one", "loss of several", "precision", "per_bin", "gradient_norm",
                                    "gradient_by_block", "churn", "in_degree", "learning", "gradient_budget",
                                    "dense_twin of several", "survival", "age", "exploration", "planted_support",
                                    "in_degree_drift", "magnitudes", "overlap"])
def test_the_table_holds_what_the_lines_draw(figure, traces, corpus):
    picture = FIGURES[figure](traces, corpus)
    table = picture.table.set_index(picture.table.columns[0])
    assert list(table) == [t.name for t in picture.figure.data]
    for t in picture.figure.data:
        pd.testing.assert_series_equal(table[t.name].dropna(), pd.Series(t.y, t.x).dropna(), check_names=False,
                                       check_index_type=False, check_dtype=False)


# --- one by one ---------------------------------------------------------------------------------------------------


def test_long_tail_draws_every_used_label_in_its_bin(corpus):
    picture, bins = plots.long_tail(corpus), corpus.bins()
    drawn = {int(x): int(y) for t in picture.figure.data for x, y in zip(t.x, t.y, strict=True)}
    used = np.sort(corpus.label_frequency[corpus.label_frequency > 0])[::-1]
    assert drawn == dict(enumerate(used.tolist(), start=1))
    head, torso = (len(bins.labels(name)) for name in ("head", "torso"))
    assert [s.x0 for s in picture.figure.layout.shapes] == [head + 0.5, head + torso + 0.5]
    total = corpus.label_frequency.sum()
    share = 100 * corpus.label_frequency[bins.labels("head")].sum() / total
    assert f"Of the {total:,} assignments the {head} head labels hold {share:.0f} %" in picture.caption
    assert f"at most {int(np.median(corpus.label_frequency))} training documents" in picture.caption
    assert f"and {len(corpus.label_names) - len(used)} have none" in picture.caption
    assert picture.title.endswith("?"), "with an exponent of 0 it is not a few"
    labels = picture.table.set_index("rank")["label"]
    assert labels[1] == corpus.label_names[int(corpus.label_frequency.argmax())]
    moved = plots.long_tail(corpus, edges=(0.2, 0.9))
    assert moved.figure.layout.shapes[0].x0 == len(corpus.bins((0.2, 0.9)).labels("head")) + 0.5


@pytest.mark.parametrize(("zipf", "first"), [(0.0, 0.5), (1.0, 0.5), (1.0, 0.2), (2.0, 0.5)])
def test_words_at_the_edges_of_bins_do_not_run_into_each_other(zipf, first):
    drawn = plots.long_tail(xe.load_corpus("planted", zipf=zipf), edges=(first, 0.8), zipf=zipf)
    words = {0.5: "50 %", 0.2: "20 % of<br>assignments"}  # only in the latter they lie far apart
    assert [a.text for a in drawn.figure.layout.annotations] == [words[first], "80 % of<br>assignments"]


def test_long_tail_thins_many_labels_but_keeps_the_ends():
    many = tiny_corpus(n_labels=2000)
    picture = plots.long_tail(many)
    x = np.concatenate([t.x for t in picture.figure.data])
    assert len(x) <= 900 and x.min() == 1 and x.max() == (many.label_frequency > 0).sum()


def test_loss_draws_each_step_and_its_running_median(traces):
    picture = plots.loss(traces["SET"], smooth=9)
    steps, values = traces["SET"].history("main")
    each, median = named(picture.figure, "SET each step"), named(picture.figure, "SET")
    assert np.array_equal(each.x, steps) and np.array_equal(each.y, values) and each.line.width < median.line.width
    assert median.y[40] == np.median(values[36:45]) and median.y[0] == np.median(values[:5])
    ends = f"{median.y[0]:.3g} to {median.y[-1]:.3g}"
    assert f"over 9 steps, from the first step to the last: SET ({ends})." in picture.caption
    alone = plots.loss(traces["SET"], smooth=1)
    assert [t.name for t in alone.figure.data] == ["SET"] and np.array_equal(alone.figure.data[0].y, values)


def test_loss_shows_the_auxiliary_objective_and_where_it_ends(traces):
    trace = traces["SET + auxiliary"]
    picture = plots.loss({"with": trace, "without": traces["SET"]}, smooth=1)
    assert [t.name for t in picture.figure.data if t.yaxis != "y"] == ["with, auxiliary loss", "with, its weight"]
    assert np.array_equal(named(picture.figure, "with, auxiliary loss").y, trace.history("auxiliary")[1])
    assert np.array_equal(named(picture.figure, "with, its weight").y, trace.history("aux_weight")[1])
    steps, weight = trace.history("aux_weight")
    last = int(steps[weight > 0].max())
    assert 0 < last < STEPS and [s.x0 for s in picture.figure.layout.shapes] == [last]
    assert f"; the auxiliary objective ends at step {last} (with)" in picture.caption


def test_no_line_is_drawn_across_steps_without_a_record(traces, monkeypatch):
    """A branch of a longer run takes its auxiliary objective up again."""
    trace = traces["SET + auxiliary"]
    again = [e if i < 20 or i >= 60 else {k: v for k, v in e.items() if k != "auxiliary"}
             for i, e in enumerate({**e, "auxiliary": 3.0 + (i >= 60)} for i, e in enumerate(trace.events["step"]))]
    monkeypatch.setitem(trace.events, "step", again)
    picture = plots.loss(trace, smooth=9)
    each, median = (named(picture.figure, f"SET + auxiliary{of}, auxiliary loss") for of in (" each step", ""))
    for drawn in (each, median):
        assert list(drawn.x) == [*range(1, 22), *range(61, STEPS + 1)]
        assert np.array_equal(drawn.y, [3.0] * 20 + [np.nan] + [4.0] * (STEPS - 60), equal_nan=True)
    assert picture.table.shape[0] == STEPS
    monkeypatch.setattr("xmc_explore.plots.drawing.POINTS", 10)
    assert np.isnan(named(plots.loss(trace).figure, "SET + auxiliary, auxiliary loss").y).sum() == 1


def test_ticks_separate_thousands_as_captions_do(traces):
    axis = plots.loss(traces["SET"]).figure.layout.template.layout.xaxis
    assert axis.separatethousands and axis.tickformat is None  # years and logarithmic axes bring their own


def test_precision_adds_up(traces):
    trace = traces["SET"]
    picture = plots.precision(trace)
    parts = sum(named(picture.figure, name).y for name in BIN_NAMES)
    total = named(picture.figure, "all labels")
    assert np.allclose(parts, total.y) and np.array_equal(total.y, trace.history("P@1")[1])
    for name in BIN_NAMES:
        assert np.array_equal(named(picture.figure, f"{name}, recall@5 (%)").y, trace.history(f"recall@5/{name}")[1],
                              equal_nan=True)
        assert f"{name} {trace.metrics()[f'recall@5/{name}']:.1f} %" in picture.caption
    assert f"P@1 is {trace.metrics()['P@1']:.1f} %" in picture.caption


def test_per_bin_draws_the_metric_it_was_asked_for(traces):
    picture = plots.per_bin(traces["SET"], "P@5")
    for name in BIN_NAMES:
        line = named(picture.figure, name)
        assert np.array_equal(line.y, traces["SET"].history(f"P@5/{name}")[1])
        assert (line.line.color, line.line.dash, line.marker.symbol) == tuple(vars(style.BINS[name]).values())
    with pytest.raises(ValueError, match="'nDCG@5' has no values per bin; choose one of P@1"):
        plots.per_bin(traces["SET"], "nDCG@5")


def test_gradients_are_those_of_the_run(traces):
    picture = plots.gradient_norm(traces["dense"], traces["SET"], smooth=1)
    for name in ("dense", "SET"):
        values = traces[name].history("grad")[1]
        assert np.array_equal(named(picture.figure, name).y, values)
        assert f"{name} ({values[0]:.3g} to {values[-1]:.3g})" in picture.caption
    blocks = plots.gradient_by_block(traces["SET"], smooth=1)
    assert [t.name for t in blocks.figure.data] == ["embedding", "first", "second"]
    assert np.array_equal(named(blocks.figure, "first").y, traces["SET"].history("grad/first")[1])


def test_the_budget_draws_what_was_probed(traces):
    trace = traces["SET + auxiliary"]
    picture = plots.gradient_budget(trace, smooth=1)
    for name in (*BIN_NAMES, "auxiliary"):
        share, norm = (trace.history(f"budget/{what}/{name}") for what in ("share", "norm"))
        drawn = named(picture.figure, name)
        assert np.array_equal(drawn.x, share[0]) and np.array_equal(drawn.y, share[1])
        assert np.array_equal(named(picture.figure, f"{name}, norm").y, norm[1])
        ends = " to ".join(plots.drawing.number(share[1][at]) for at in (0, -1))
        assert f"{name} ({ends})" in picture.caption
    assert re.search(r"the auxiliary objective ends at step \d+ \(SET \+ auxiliary\)", picture.caption)
    total = sum(named(picture.figure, name).y for name in (*BIN_NAMES, "auxiliary"))
    assert np.allclose(total, 1, atol=1e-5)
    assert {t.name for t in plots.gradient_budget(traces["dense"], smooth=1).figure.data if t.yaxis == "y"} == {
        *BIN_NAMES}


def test_the_dense_twin_has_a_second_line_where_the_auxiliary_objective_helps(traces):
    trace = traces["SET + auxiliary"]
    picture = plots.dense_twin(traces["SET"], trace, smooth=1)
    assert np.array_equal(named(picture.figure, "SET").y, traces["SET"].history("twin/cosine")[1])
    second = named(picture.figure, "SET + auxiliary, whole gradient")
    steps, total = trace.history("twin/cosine_total")
    at, weight = trace.history("aux_weight")
    on = np.isin(steps, at[weight > 0])
    assert 0 < on.sum() < len(on) and np.array_equal(second.y, total[on]) and np.array_equal(second.x, steps[on])
    assert np.array_equal(named(picture.figure, "SET, signal / noise").y, traces["SET"].history("snr")[1])
    with pytest.raises(ValueError, match="the dense twin .* was not recorded in dense"):
        plots.dense_twin(traces["dense"])


def test_learning_adds_up(traces):
    trace = traces["SET"]
    figure = plots.learning(trace, k=3).figure
    for metric, suffix in (("P@3", ""), ("PSP@3", ", PSP@3 (%)")):
        parts = sum(named(figure, name + suffix).y for name in BIN_NAMES)
        assert np.allclose(parts, named(figure, "all labels" + suffix).y)
        assert np.allclose(parts, trace.history(metric)[1])


def test_sparsity_groups_runs_by_method_and_fan_in(traces):
    runs = [traces[name] for name in ("SET", "SET again", "fan-in 2", "dense", "SET + auxiliary")]
    picture = plots.by_sparsity(runs)
    p1 = [trace.metrics()["P@1"] for trace in runs]
    found = named(picture.figure, "SET")
    assert found.x == pytest.approx([100 * 2 / 24, 100 * 4 / 24])
    assert found.y == pytest.approx([p1[2], (p1[0] + p1[1]) / 2])
    assert found.error_y.array == pytest.approx([0, abs(p1[0] - p1[1]) / 2])
    level = named(picture.figure, "dense")
    assert level.x == pytest.approx(found.x) and level.y == pytest.approx([p1[3]] * 2)
    assert picture.table.set_index(["method", "fan-in"]).loc[("SET", 4), "count"] == 2
    by_name = plots.by_sparsity({"mine": [traces["fan-in 2"], traces["SET"]]}, "recall@5/head")
    assert [t.name for t in by_name.figure.data] == ["mine"]
    with pytest.raises(ValueError, match="none of these runs is sparse"):
        plots.by_sparsity([traces["dense"]])


def test_seeds_share_a_look_and_a_legend_entry(traces):
    picture = plots.gradient_norm({"SET": [traces["SET"], traces["SET again"]], "dense": traces["dense"]}, smooth=1)
    first, second = (t for t in picture.figure.data if t.legendgroup == "SET")
    assert (first.showlegend, second.showlegend) == (True, False) and second.name == "SET, seed 1"
    assert first.line.color == second.line.color
    ends = sorted(trace.history("grad")[1][-1] for trace in (traces["SET"], traces["SET again"]))
    assert f"to {ends[0]:.3g}\N{EN DASH}{ends[1]:.3g}" in picture.caption


def test_churn_is_what_the_rewires_recorded(traces):
    trace = traces["SET"]
    picture = plots.churn(trace)
    rewires = trace.table("rewire")
    total = named(picture.figure, "all labels")
    assert np.array_equal(total.x, rewires.step) and np.allclose(total.y, 100 * rewires.churn)
    of_label, fan_in = trace.bins().of_label, trace.recipe.fan_in
    for i, name in enumerate(BIN_NAMES):
        replaced = [(of_label[trace.changed(f) // fan_in] == i).sum() for f in range(1, len(trace.frames))]
        assert np.allclose(named(picture.figure, name).y, 100 * np.array(replaced) / ((of_label == i).sum() * fan_in))
        assert f"{sum(replaced)} in {name}" in picture.caption


def test_churn_of_one_rewire_is_said_once(corpus):
    trace = xe.train(corpus, xe.Recipe.method("SET", **TINY | dict(rewire_interval=40)), steps=STEPS, progress=False)
    caption = plots.churn(trace).caption
    assert caption.startswith("1 rewire replaced") and caption.endswith("% of all at step 40.")


@pytest.mark.parametrize("frame", [0, 1, -1])
def test_connectivity_shows_each_connection_of_a_small_run(traces, frame):
    trace = traces["RigL"]
    picture, indices = plots.connectivity(trace, frame), trace.connectivity(frame)
    raster, = picture.figure.data
    order = np.argsort(-trace.label_frequency, kind="stable")
    expected = np.zeros((60, 24))
    for row, label in enumerate(order):  # 60 labels and 24 features: a cell is one possible connection
        expected[row, indices[label]] = 100
    assert np.array_equal(raster.z, expected)
    assert raster.y[0] == 0 and raster.y[-1] == 3 and (np.diff(raster.y) > 0).all()
    born = np.bincount(trace.changed(frame) // 4, minlength=60)[order]
    assert np.array_equal(picture.table["born here"], born)
    assert picture.table["connections"].eq(4).all()
    moved = trace.connectivity(frame) != trace.connectivity(0)
    for name in BIN_NAMES:
        labels = trace.bins().labels(name)
        slots = f"{4 * len(labels):,} in {name}"
        assert (f"{100 * moved[labels].mean():.1f} % in {name}" if frame else slots) in picture.caption
        if frame:
            new = np.isin(trace.changed(frame) // 4, labels).sum()
            assert f"{new} of {slots}" in plots.connectivity(trace, frame, "born").caption


def test_connectivity_counts_what_is_new_since_the_start(traces):
    trace = traces["RigL"]
    picture = plots.connectivity(trace, -1, "replaced")
    moved = trace.connectivity(-1) != trace.connectivity(0)
    order = np.argsort(-trace.label_frequency, kind="stable")
    assert moved.any() and np.array_equal(picture.table["not there at the start"], moved.sum(1)[order])
    z = picture.figure.data[0].z
    assert np.isfinite(z).sum() == 60 * 4 and np.nansum(z) == 100 * moved.sum()
    assert f"{100 * moved.mean():.1f} % of the 240 connections" in picture.caption


def test_labels_of_a_dense_head_have_no_connections_to_draw(corpus):
    recipe = xe.Recipe.method("SET", **TINY | dict(head_share=0.5))
    trace = xe.train(corpus, recipe, steps=40, progress=False)
    dense = trace.connectivity(0)[:, 0] < 0
    assert 0 < dense.sum() < 60 and (trace.bins().of_label[dense] == 0).all()
    drawings = [plots.churn, plots.churn_by_frequency, plots.survival, plots.age, plots.exploration, plots.magnitudes,
                plots.in_degree, plots.in_degree_drift, lambda t: plots.overlap(t, corpus)]
    for picture in (draw(trace) for draw in drawings):
        assert "head" not in {t.name for t in picture.figure.data}
        assert "nan" not in picture.caption and picture.svg()
    total = named(plots.exploration(trace).figure, "all labels").y
    assert total[1:] == pytest.approx(100 * trace.history("explored")[1])
    assert f"read by {4 * (60 - dense.sum()) / 24:.1f} labels" in plots.in_degree(trace).caption
    assert plots.connectivity(trace).table["connections"].sum() == 4 * (60 - dense.sum())


@pytest.mark.parametrize("frame", [1, -1])
def test_connectivity_shows_births_and_deaths(traces, frame):
    trace = traces["RigL"]
    now, before = trace.connectivity(frame), trace.connectivity(frame % len(trace.frames) - 1)
    order, slots = np.argsort(-trace.label_frequency, kind="stable"), trace.changed(frame)
    for value, indices in (("born", now), ("died", before)):
        expected = np.zeros((60, 24))
        np.add.at(expected, (slots // 4, indices.ravel()[slots]), 1)
        raster, = plots.connectivity(trace, frame, value).figure.data
        assert np.array_equal(raster.z, expected[order])
    with pytest.raises(ValueError, match="at the start nothing has died: choose a frame from 1 to"):
        plots.connectivity(trace, 0, "died")


def test_churn_by_frequency_counts_every_replacement(traces):
    trace = traces["SET"]
    picture = plots.churn_by_frequency(trace)
    total = sum(len(trace.changed(f)) for f in range(1, len(trace.frames)))
    unused = (trace.label_frequency == 0).sum()
    table = picture.table
    assert table["labels"].sum() == 60 - unused
    moved = np.bincount(np.concatenate([trace.changed(f) for f in range(1, len(trace.frames))]) // 4, minlength=60)
    drawn = (table["labels"] * table["replacements a slot"]).sum() * 4
    assert drawn == pytest.approx(moved[trace.label_frequency > 0].sum())
    assert f"replaced {plots.drawing.number(total / 240)} times" in picture.caption


def test_lives_ages_and_exploration_are_those_of_the_probes(traces):
    trace = traces["SET"]
    of_label = trace.bins().of_label
    curves = probes.survival(probes.lives(trace.store), trace.frames[-1], of_label)
    aged, tried = probes.ages(trace.store, of_label), probes.explored(trace.store, trace.width, of_label)
    for name in BIN_NAMES:
        drawn = named(plots.survival(trace).figure, name)
        assert np.array_equal(drawn.x, curves[name][0]) and np.allclose(drawn.y, 100 * curves[name][1])
        assert np.array_equal(named(plots.age(trace).figure, name).y, aged[name])
        assert np.allclose(named(plots.exploration(trace).figure, name).y, 100 * tried[name])
    fates = re.findall(r"(\S+(?: %)? of those in [a-z, ]+? )(die within [\d,]+|outlive [\d,]+) steps",
                       plots.survival(trace).caption)
    assert sorted(re.findall("|".join(BIN_NAMES), "".join(who for who, _ in fates))) == sorted(BIN_NAMES)
    assert len({who.split(" of ")[0] + fate for who, fate in fates}) == len(fates), "what is alike is said once"
    assert plots.age(trace).figure.layout.yaxis.rangemode == "tozero"
    total = named(plots.exploration(trace).figure, "all labels").y
    assert total[0] == pytest.approx(100 * 4 / 24)
    assert total[1:] == pytest.approx(100 * trace.history("explored")[1])
    grown = sum(len(trace.changed(f)) for f in range(1, len(trace.frames)))
    again = 100 * (1 - (total[-1] / 100 * 60 * 24 - 240) / grown)
    assert f"{again:.1f} % of what was grown had been tried before" in plots.exploration(trace).caption


def test_planted_support_starts_at_chance(traces):
    picture = plots.planted_support(traces["planted"])
    for name in BIN_NAMES:
        drawn, (_, values) = named(picture.figure, name), traces["planted"].history(f"found/{name}")
        assert drawn.x[0] == 0 and drawn.y[0] == pytest.approx(100 * 4 / 24) and np.allclose(drawn.y[1:], 100 * values)
    with pytest.raises(ValueError, match="for the corpus 'planted'"):
        plots.planted_support(traces["features"])


def test_in_degrees_of_a_fair_draw_have_a_spread_of_one():
    corpus = tiny_corpus(n_labels=3000, n_features=200)
    recipe = xe.Recipe.method("SET", **TINY | dict(encoder="features", rewire_interval=5))
    picture = plots.in_degree_drift(xe.train(corpus, recipe, steps=10, progress=False))
    for name in ("all labels", "tail"):
        assert named(picture.figure, name).y[0] == pytest.approx(1, abs=0.15)
    assert named(picture.figure, "all labels, correlation with start").y[0] == pytest.approx(1)


def test_magnitudes_are_those_of_the_frame(traces):
    trace = traces["SET"]
    picture, frame = plots.magnitudes(trace, 0), trace.frame(0)
    for i, name in enumerate(BIN_NAMES):
        mine = np.abs(frame.weight[trace.bins().of_label == i])
        assert named(picture.figure, name).y[0] == pytest.approx(mine.max())
        assert f"{name} {plots.drawing.number(np.median(mine))}" in picture.caption


def test_overlap_asks_for_the_corpus_of_the_trace(traces, corpus):
    picture = plots.overlap(traces["SET"], corpus, pairs=20)
    assert {"head", "put together by chance"} <= {t.name for t in picture.figure.data}
    with pytest.raises(ValueError, match="this trace is of corpus 'tiny' with fingerprint"):
        plots.overlap(traces["SET"], tiny_corpus(n_labels=50))


def test_connectivity_gathers_many_labels_and_features_into_few_cells():
    corpus = tiny_corpus(n_labels=700, n_features=200)
    recipe = xe.Recipe.method("SET", **TINY | dict(encoder="features"))
    trace = xe.train(corpus, recipe, steps=20, progress=False)
    picture = plots.connectivity(trace)
    raster, = picture.figure.data
    assert raster.z.shape[0] <= 128 and raster.z.shape[1] == 128
    widths = np.bincount(np.arange(200) * 128 // 200)
    ranks = [text.split("\N{EN DASH}") for text in picture.table["labels by frequency"]]
    assert all(len(set(ends)) == len(ends) for ends in ranks)  # one label is 46, not 46 to 46
    labels = [int(ends[-1]) - int(ends[0]) + 1 for ends in ranks]
    assert sum(labels) == 700
    assert np.isclose((raster.z / 100 * np.outer(labels, widths)).sum(), 700 * 4, rtol=1e-5)


def test_in_degree_counts_the_labels_of_each_feature(traces):
    trace = traces["RigL"]
    picture = plots.in_degree(trace)
    for frame, name in ((0, "at the start"), (-1, f"at step {trace.frames[-1]}")):
        degree = np.sort(np.bincount(trace.connectivity(frame).ravel(), minlength=24))[::-1]
        line = named(picture.figure, name)
        assert np.array_equal(line.y, degree) and np.array_equal(line.x, np.arange(1, 25))
        assert f"{name} the most read has {degree[0]} and {(degree == 0).sum()} have none" in picture.caption
    assert "read by 10.0 labels on average" in picture.caption


def test_gather_is_what_the_rows_of_a_tile_say(traces):
    trace = traces["RigL"]
    picture, rows = plots.gather(trace, tile=1), trace.connectivity(-1)[32:]
    dots, of_all, of_tile = picture.figure.data
    assert sorted(zip(dots.x, dots.y, strict=True)) == sorted((f, 32 + i) for i, row in enumerate(rows) for f in row)
    assert np.array_equal(of_all.y, np.bincount(trace.connectivity(-1).ravel(), minlength=trace.width))
    assert np.array_equal(of_tile.x, np.unique(rows)) and np.array_equal(of_tile.y, of_all.y[of_tile.x])
    assert f"ask for {rows.size} features, {len(of_tile.x)} of the {trace.width} different ones" in picture.caption
    assert picture.table["label"][0] == trace.label_names[32]
    with pytest.raises(ValueError, match="tile=2: 60 labels make tiles 0 to 1 of 32"):
        plots.gather(trace, tile=2)
    with pytest.raises(ValueError, match="dense: every label reads every feature"):
        plots.gather(traces["dense"])


def test_the_bill_of_a_run_is_what_the_run_measured(traces):
    trace = traces["SET"]
    table = plots.memory_of_run(trace).table.set_index("method")
    n_labels, measured = len(trace.label_frequency), trace.events["step"][0]["output_bytes"]
    recorded = table.loc["as recorded", ["weights", "indices", "gradients", "moments"]].sum() * 2**20
    assert recorded == pytest.approx(measured, abs=4 * 2**20 * 0.0005)  # the table has three decimals
    assert f"({measured:,} bytes predicted, {measured:,} measured in the run)" in plots.memory_of_run(trace).caption
    dense = memory.predicted("dense", trace.width, n_labels) / 2**20
    logits = 2 * trace.recipe.batch_size * n_labels * 4 / 2**20
    assert table.loc["its dense twin", "total"] == pytest.approx(dense + logits, abs=0.001)
    with pytest.raises(ValueError, match="a sparse layer of single labels in float32.*; the run is dense"):
        plots.memory_of_run(traces["dense"])


def test_compare_gives_mean_and_span_of_the_last_evaluations(traces):
    found = [traces["SET"].metrics(), traces["SET again"].metrics()]
    picture = plots.compare({"dense": traces["dense"], "SET": [traces["SET"], traces["SET again"]]}, ["P@1", "PSP@5"])
    for metric in ("P@1", "PSP@5"):
        values = [m[metric] for m in found]
        row, = picture.table.query("metric == @metric and method == 'SET'").itertuples()
        assert (row.min, row.max, row.runs) == (min(values), max(values), 2)
        assert np.isclose(row.mean, np.mean(values))
        dot, = (t for t in picture.figure.data if t.hovertemplate.startswith(metric) and t.name == "SET")
        assert np.isclose(dot.x[0], row.mean) and np.isclose(dot.x[0] - dot.error_x.arrayminus[0], min(values))
        assert np.isclose(dot.x[0] + dot.error_x.array[0], max(values)) and dot.text == (f"{row.mean:.1f}",)
    assert "means of up to 2 runs" in picture.caption and "least to the greatest" in picture.caption
    single = plots.compare([traces["dense"], traces["SET"]], ["P@1"])
    assert dict(zip(single.table.method, single.table.percent, strict=True)) == {
        name: traces[name].metrics()["P@1"] for name in ("dense", "SET")}
    assert "one run each" in single.caption and single.figure.data[0].error_x.array is None


def test_the_ledger_is_that_of_the_memory_module():
    picture = plots.memory_ledger({"small": 10_000, "large": 1_000_000}, width=512, fan_in=32)
    table = picture.table.set_index(["size", "output layer"])
    assert table.bytes["large", "dense"] == memory.predicted("dense", 512, 1_000_000)
    assert table.bytes["small", "sparse"] == memory.predicted("sparse", 512, 10_000, 32)
    rank = memory.bottleneck_width(512, 1_000_000, 32)
    assert table.bytes["large", "bottleneck"] == memory.predicted("bottleneck", 512, 1_000_000, rank)
    for t in picture.figure.data:
        assert np.array_equal(t.x, table.xs(t.name, level=1).bytes / 2**30)
    assert f"{table.bytes['large', 'dense'] / table.bytes['large', 'sparse']:.1f} times less" in picture.caption
    assert f"is {rank} wide" in picture.caption


def test_numbers_are_drawn_as_they_are():
    picture = plots.numbers({"P@1": 31.4, "P@3": -2.0}, "A constant answer", "%")
    dots, = picture.figure.data
    assert dots.x.tolist() == [31.4, -2.0] and dots.y.tolist() == [0, 1] and dots.text[1] == "\N{MINUS SIGN}2"
    assert picture.caption == "%: P@1 (31.4) and P@3 (\N{MINUS SIGN}2)."
    assert picture.table.columns.tolist() == ["of", "%"]
    table = plots.numbers(TIMES, "The race", "times nn.Linear", log=True, marks={"nn.Linear": 1})
    for t in table.figure.data:
        np.testing.assert_array_equal(t.x, TIMES[t.name].dropna())
    assert "gradient of x: from 0.4 (masked dense) to 4 (FixedFanIn); " in table.caption
    assert table.figure.layout.shapes[0].x0 == 1
    zero = plots.numbers({"Adam": 0.0, "SGD": 4.0}, "Moves", "a slot").figure
    assert zero.layout.xaxis.range[0] < 0, "a dot at 0 stands on the name of its row"
    assert plots.numbers({"Adam": 3.0, "SGD": 4.0}, "Moves", "a slot").figure.layout.xaxis.range[0] == 0
    bins = plots.numbers({name: 1.0 + i for i, name in enumerate(BIN_NAMES)}, "Dropped", "%").figure
    for i, t in enumerate(bins.data):
        assert (t.name, t.marker.color, t.y.tolist()) == (BIN_NAMES[i], style.BINS[BIN_NAMES[i]].color, [i])
    seeds = pd.DataFrame({"SET": [75.0, 85.0], "SET + auxiliary": [85.0, 90.0]}, index=["seed 0", "seed 1"])
    methods = plots.numbers(seeds, "One method, several seeds", "P@1 (%)")
    assert methods.caption.startswith("SET: seed 0 (75) and seed 1 (85); ")
    assert [(t.marker.color, t.marker.symbol) for t in methods.figure.data] == [
        (look.color, look.symbol) for look in (style.METHODS["SET"], style.AUXILIARY)]
    for values, log in (({"a": np.nan}, False), ({"a": 1.0, "b": 0.0}, True)):
        with pytest.raises(ValueError, match="'x' needs numbers"):
            plots.numbers(values, "x", "%", log=log)


def test_the_bill_by_method_and_by_part_is_the_ledger_of_the_memory_module():
    entries = pd.DataFrame(memory.ledger(fan_in=64, batch=32))
    whole = entries.groupby(["dataset", "method"])["bytes"].sum()
    picture = plots.memory_by_method(fan_in=64, batch=32)
    table = picture.table.set_index(["dataset", "method"])
    assert set(table.index.levels[1]) >= {"dense", "masked", "bottleneck", "Renee", "ELMO bfloat16", "HASTE"}
    for at, size in table["bytes"].items():
        assert size == whole[at]
    assert table.loc[("Amazon-3M", "Renee"), "published, whole process (GiB)"] == 39.7
    bars = plots.memory_by_part("Amazon-670K", fan_in=64, batch=32)
    for row in bars.table.set_index("method").itertuples():
        assert row.total == pytest.approx(whole["Amazon-670K", row.Index] / 2**30, abs=1e-3)
        assert row.total == pytest.approx(sum(row[1:-1]), abs=4e-3)
    elmo = bars.table.set_index("method").loc["ELMO bfloat16"]
    assert f"ELMO in bfloat16 {elmo.total:.3g}, of which weights are {elmo.weights:.3g}." in bars.caption
    for part in bars.table.columns[1:-1]:  # a mark lies on its own colour: its rim tells it apart
        mark = named(bars.figure, part).marker
        assert mark.line.width >= 1.5 and contrast(mark.line.color, mark.color) > 3
    assert 'stroke="#ffffff"' in bars.svg()  # without a browser too
    gradients = named(bars.figure, "gradients, bar")
    start = bars.table.set_index("method").loc["dense", ["weights", "indices", "mask"]].sum()
    assert gradients.x[0] == pytest.approx(start, abs=2e-3)
    gaps = np.diff(gradients.x)  # NaN from one bar to the next
    assert np.nanmax(gaps) <= 0.02 * bars.table["total"].max() and np.isnan(gaps).sum() > 2, "no answer to the mouse"
    assert set(np.round(gradients.customdata, 3)) == set(bars.table["gradients"]) - {0}


# --- what cannot be drawn -----------------------------------------------------------------------------------------


def test_what_a_run_did_not_record_is_said_in_words(traces, stopped):
    assert plots.loss(stopped).table["SET"].count() == 3
    for draw in (plots.precision, plots.per_bin, plots.compare):
        with pytest.raises(ValueError, match=r"an evaluation .* was not recorded in SET \(interrupted, 3 steps\)"):
            draw(stopped)
    with pytest.raises(ValueError, match="never rewired"):
        plots.churn(stopped)
    with pytest.raises(ValueError, match="rewire_interval=0"):
        plots.churn(traces["static"])
    for draw in (plots.survival, plots.age, plots.exploration, plots.in_degree_drift, plots.churn_by_frequency):
        with pytest.raises(ValueError, match="never rewired"):
            draw(traces["static"])
    for draw in (plots.gradient_budget, plots.dense_twin):
        with pytest.raises(ValueError, match="give the recipe a probe_interval.*was not recorded in SET"):
            draw(traces["features"])
    for draw in (plots.churn, plots.connectivity, plots.in_degree, plots.magnitudes):
        with pytest.raises(ValueError, match="output layer of this run is dense"):
            draw(traces["dense"])
    with pytest.raises(ValueError, match="encoder='features' has no parameters"):
        plots.gradient_norm(traces["features"])
    with pytest.raises(ValueError, match="encoder='features' has no parameters"):
        plots.gradient_by_block(traces["features"])
    with pytest.raises(IndexError, match="frame 99 of"):
        plots.connectivity(traces["SET"], 99)
    with pytest.raises(ValueError, match="choose 'connections', 'replaced', 'born' or 'died'"):
        plots.connectivity(traces["SET"], value="age")
    with pytest.raises(ValueError, match="'P@7' was not recorded; there is .*P@1"):
        plots.compare(traces["SET"], ["P@7"])
    with pytest.raises(ValueError, match="give traces.*got str"):
        plots.loss("SET")
    with pytest.raises(ValueError, match="give traces.*got none"):
        plots.gradient_norm({})
    with pytest.raises(ValueError, match="sizes is empty"):
        plots.memory_ledger({})
    with pytest.raises(ValueError, match="sizes is empty"):
        plots.memory_by_method({})


@pytest.mark.parametrize("name", ["age", "by_sparsity", "churn", "churn_by_frequency", "compare", "connectivity",
                                  "dense_twin", "exploration", "gather", "gradient_budget", "gradient_by_block",
                                  "gradient_norm", "in_degree", "in_degree_drift", "learning", "loss", "magnitudes",
                                  "memory_of_run", "per_bin", "planted_support", "precision", "survival"])
def test_a_figure_of_no_trace_says_what_it_wants(name):
    with pytest.raises(ValueError, match="give traces.*got NoneType"):
        getattr(plots, name)(None)


def test_figures_of_other_things_say_what_they_want(traces, corpus):
    with pytest.raises(ValueError, match="give a corpus or a trace; got NoneType"):
        plots.long_tail(None)
    with pytest.raises(ValueError, match="give traces.*got NoneType"):
        plots.overlap(None, corpus)
    with pytest.raises(ValueError, match="got NoneType for the corpus"):
        plots.overlap(traces["SET"], None)


def test_runs_without_the_quantity_are_left_out_of_a_comparison(traces, stopped):
    names = {t.name for t in plots.gradient_norm({"a": traces["SET"], "b": traces["features"]}, smooth=1).figure.data}
    assert names == {"a"}
    assert set(plots.compare({"a": traces["SET"], "b": stopped}).table["method"]) == {"a"}


def test_a_run_that_was_killed_at_once_has_nothing_to_draw(corpus):
    run = Run(corpus, xe.Recipe.method("SET", **TINY), steps=STEPS)
    run.close("interrupted")
    with pytest.raises(ValueError, match=r"the main loss was not recorded in SET \(interrupted, 0 steps\)"):
        plots.loss(xe.Trace.of(run.trace))


# --- looks --------------------------------------------------------------------------------------------------------


def contrast(a: str, b: str) -> float:
    """Contrast of two colours (WCAG 2, 1.4.3)."""
    def luminance(color: str) -> float:
        channels = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_ink_and_marks_read_on_light_and_on_dark_ground(ground):
    assert contrast(style.INK, ground) > 4.3
    for look in (*style.RUNS, style.AUXILIARY, style.DENSE, style.BINS["head"], style.BINS["tail"]):
        assert contrast(look.color, ground) >= 3
    greys = [f"#{g:02x}{g:02x}{g:02x}" for g in range(256)]
    worst = {g: min(contrast(g, "#ffffff"), contrast(g, "#111111")) for g in greys}
    assert max(worst, key=worst.get) == style.INK


def test_a_method_looks_the_same_beside_whatever_others():
    looks = style.looks_of(["mine", "RigL", "dense", "SET + auxiliary", "fan-in 8"])
    assert looks["dense"] == style.DENSE and looks["SET + auxiliary"] == style.AUXILIARY
    assert looks["RigL"] == style.looks_of(["RigL"])["RigL"]
    assert len(set(looks.values())) == 5
    green = style.looks_of(["aux 0.2", "aux 0.4", "aux 0.6"])
    assert {look.color for look in green.values()} == {style.AUXILIARY.color} and len(set(green.values())) == 3


def test_methods_are_called_what_the_recipes_call_them():
    assert {name: plots.method_of(xe.Recipe.method(name)) for name in METHODS} == {name: name for name in METHODS}


def test_a_long_run_is_drawn_at_evenly_spaced_steps(traces, monkeypatch):
    trace = traces["SET"]
    events = [{**trace.events["step"][i % STEPS], "step": i + 1} for i in range(20_000)]
    monkeypatch.setitem(trace.events, "step", events)
    picture = plots.loss(trace)
    assert all(len(t.x) == 4000 and t.x[0] == 1 and t.x[-1] == 20_000 for t in picture.figure.data)


# --- in a notebook ------------------------------------------------------------------------------------------------


@pytest.mark.notebook
def test_a_saved_notebook_and_its_page_hold_the_pictures(traces):
    folder = str(traces["RigL"].folder)
    cells = [f"import plotly.io as pio, xmc_explore as xe\ntrace = xe.Trace({folder!r})",
             "xe.plots.precision(trace)",
             "pio.renderers.default = 'notebook'\nxe.plots.churn(trace)",
             "xe.plots.in_degree(trace)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    kinds = [[set(output.data) for output in cell.outputs] for cell in notebook.cells[1:]]
    under = {"text/html", "text/plain"}
    assert kinds[0] == [{"application/vnd.plotly.v1+json"} | under, under]
    assert kinds[1] == [{"text/html"}, under, under] and kinds[2] == [under, under], "plotly's script comes once"
    page, _ = HTMLExporter().from_notebook_node(notebook)
    still, *live = plots.precision(traces["RigL"]), plots.churn(traces["RigL"]), plots.in_degree(traces["RigL"])
    assert page.count(f'alt="{still.alt}" src="data:image/svg+xml;base64,') == 1
    assert page.count('class="plotly-graph-div"') == 2
    for picture in live:
        assert f'aria-label="{picture.alt}"' in page
    for picture in (still, *live):
        assert picture.caption.replace(" %", "\N{NO-BREAK SPACE}%") in page


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_in_a_browser_text_takes_the_theme_and_nothing_is_shared(traces, browser, theme, monkeypatch):
    from plotly.offline import get_plotlyjs

    monkeypatch.setattr(pio.renderers, "_default_renderers", [pio.renderers["notebook"]])
    monkeypatch.setattr(pio.renderers, "_to_activate", [])
    picture = plots.loss(traces["SET"], traces["dense"])
    ink = {"light": "rgb(33, 33, 33)", "dark": "rgb(222, 222, 222)"}[theme]
    outputs = "".join(f'<div class="jp-OutputArea-child">{part}</div>'
                      for part in (picture.bundle()["text/html"], picture.html()))
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.route("**/*", lambda route: route.abort())  # a class room without a network
    page.set_content(f"<!doctype html><style>:root {{ --jp-ui-font-color1: {ink} }}</style>"
                     f"<script>{get_plotlyjs()}</script><main>{outputs}</main>")
    page.wait_for_selector(".main-svg .scatterlayer path.js-line")
    colors = page.locator(".main-svg text").evaluate_all("all => [...new Set(all.map(t => getComputedStyle(t).fill))]")
    assert colors == [ink]
    buttons = page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.dataset.title || b.dataset.attr)")
    assert buttons and not [b for b in buttons if "hare" in b or "loud" in b]
    assert page.get_by_role("img", name=picture.alt).count() == 1
    table = page.locator(".xmc-picture table")
    assert not table.is_visible()
    page.get_by_text("Show as table").click()
    assert table.is_visible() and table.locator("tbody tr").count() == ROWS
    title, legend = (page.locator(s).bounding_box() for s in (".gtitle", ".legend"))
    assert title["y"] + title["height"] <= legend["y"], "the legend covers the title"
    page.close()


def test_a_bill_of_an_unknown_data_set_says_which_there_are():
    with pytest.raises(KeyError, match="no data set is called 'Amazon'; choose one of .*Amazon-3M"):
        plots.memory_by_part("Amazon")
