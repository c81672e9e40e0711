"""The long tail under the hand: what the sliders draw and say, without a browser and in one."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from corpus_for_tests import tiny_corpus
from ipywidgets import Widget
from ipywidgets.widgets.widget import _instances as live_widgets
from jupyter_browser import jupyter_lab, open_notebook, write_notebook
from playwright.sync_api import Locator, expect

import xmc_explore as xe
from xmc_explore.metrics import Evaluator
from xmc_explore.plots.tail import zipf_fit
from xmc_explore.widgets.figure import BareFigure


@pytest.fixture(scope="module")
def trace():
    return xe.load_recording("calls-small-set")


@pytest.fixture
def view(trace):
    view = xe.LongTailExplorer(trace)
    yield view
    view.close()


# --- the numbers


def test_the_bins_of_a_trace_are_those_of_its_last_evaluation(trace):
    metrics = trace.metrics("test")
    found = trace.of_bins().set_index("bin")
    for name in ("head", "torso", "tail"):
        for metric in ("P@1", "PSP@1", "recall@5"):
            assert found.loc[name, metric] == pytest.approx(metrics[f"{metric}/{name}"])
    assert found["labels"].sum() == len(trace.label_frequency) and found["share"].sum() == pytest.approx(100)


def test_bins_at_other_edges_are_what_an_evaluation_with_them_gives(monkeypatch):
    corpus, edges = tiny_corpus(texts=False), (0.3, 0.45)
    recipe = xe.Recipe(encoder="bag", hidden=32, fan_in=4, aux_clusters=4, warmup=5, eval_interval=20)
    usual = xe.train(corpus, recipe, steps=60, progress=False)
    found = usual.of_bins(edges)
    plain = Evaluator.for_corpus
    monkeypatch.setattr(Evaluator, "for_corpus", classmethod(
        lambda cls, corpus, **options: plain(corpus, **options | {"bins": corpus.bins(edges)})))
    again = xe.train(corpus, recipe, steps=60, progress=False).metrics("test")
    assert again["P@1"] == usual.metrics("test")["P@1"] > 0
    for row in found.to_dict("records"):
        for metric in ("P@1", "PSP@1", "recall@5"):
            assert row[metric] == pytest.approx(again[f"{metric}/{row['bin']}"], nan_ok=True)
    assert found["P@1"].sum() == pytest.approx(again["P@1"])


def test_the_fit_finds_the_exponent_of_an_ideal_law():
    assert zipf_fit(1e6 * np.arange(1, 400) ** -0.8) == pytest.approx((0.8, 1.0))
    assert zipf_fit(np.full(20, 7)) == pytest.approx((0.0, 1.0), abs=1e-9)
    with pytest.raises(ValueError, match="two labels that occur; got 1"):
        zipf_fit(np.array([5, 0, 0]))


def test_the_law_has_as_many_assignments_as_the_corpus(trace):
    picture = xe.plots.long_tail(trace, (0.5, 0.8), zipf=1.0)
    frequency = np.sort(trace.label_frequency)[::-1]
    law = picture.figure.data[-1]
    ideal = 1 / np.arange(1, len(frequency) + 1)
    ideal *= frequency.sum() / ideal.sum()
    assert law.name == "Zipf law, exponent 1.00"
    np.testing.assert_allclose(law.y, ideal[np.asarray(law.x) - 1])
    low, high = 10 ** np.array(picture.figure.layout.yaxis.range)
    assert low <= law.y.min() and law.y.max() <= high and high < ideal[0]  # what leaves the picture is not drawn
    share, needed = 100 * ideal[:64].sum() / ideal.sum(), 1 + np.searchsorted(np.cumsum(ideal), ideal.sum() / 2)
    assert f"the first 64 labels would hold {share:.0f} % of the assignments (here 50 %)" in picture.caption
    assert f"and {needed} would make up a head of 50 %" in picture.caption
    with pytest.raises(ValueError, match="0 or more; got -1"):
        xe.plots.long_tail(trace, zipf=-1)


# --- the sliders


def said(view, bin_name: str) -> list[str]:
    row = re.search(rf'<tr data-bin="{bin_name}">.*?</tr>', view._table.value)[0]
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def test_an_edge_moves_bins_and_words(view, trace):
    view.head.value = 30
    expected = trace.of_bins((0.3, 0.8))
    pd.testing.assert_frame_equal(view.table, expected)
    head = expected.iloc[0]
    assert said(view, "head") == [f"{head.labels:,}", f"{head.assignments:,}",
                                  *(f"{head[c]:.1f}" for c in ("share", "P@1", "PSP@1", "recall@5"))]
    assert view._figure.data[0].name == f"head ({head.labels:,} labels)" and len(view._figure.data[0].x) == head.labels
    assert view._figure.layout.shapes[0].x0 == head.labels + 0.5
    view.torso.value = 60
    assert view.table.iloc[1].labels == trace.of_bins((0.3, 0.6)).iloc[1].labels
    assert "at 60" not in view.caption and view.caption in view._words.value.replace("&#x27;", "'")


def test_the_exponent_moves_the_law_and_nothing_else(view):
    assert view.zipf.value == pytest.approx(1.05) and "fits this corpus is 1.07" in view.caption
    before, law = [list(line.y) for line in view._figure.data[:3]], list(view._figure.data[3].y)
    view.zipf.value = 0.0
    assert [list(line.y) for line in view._figure.data[:3]] == before and list(view._figure.data[3].y) != law
    assert len(set(np.round(view._figure.data[3].y, 6))) == 1
    assert "Under the ideal law of exponent 0.00 the first 64 labels would hold 4 %" in view.caption


def test_an_edge_takes_the_other_along(view):
    view.head.value = 90
    assert view.edges == (0.9, 0.91)
    view.torso.value = 20
    assert view.edges == (0.19, 0.2)
    assert view.table["share"].iloc[0] == pytest.approx(19, abs=3)


def test_an_empty_bin_is_drawn_as_empty(view):
    view.torso.value = 2  # one label holds more than two per cent of the assignments
    assert view.edges == (0.01, 0.02) and view.table["labels"].tolist()[1] == 0
    assert view._figure.data[1].name == "torso (0 labels)" and len(view._figure.data[1].x) == 0
    assert said(view, "torso")[-1] == "\N{EN DASH}"  # no recall of nothing


def test_a_corpus_has_bins_and_no_scores():
    corpus = tiny_corpus(texts=False)
    view = xe.LongTailExplorer(corpus, (0.4, 0.7), zipf=1.5)
    assert list(view.table) == ["bin", "labels", "assignments", "share"] and "exponent 1.50" in view.caption
    assert view.table["labels"].tolist() == [len(corpus.bins((0.4, 0.7)).labels(b)) for b in ("head", "torso", "tail")]
    view.close()


def test_what_cannot_be(trace, tmp_path):
    with pytest.raises(ValueError, match="0 < head < torso < 1; got .0.8, 0.5."):
        xe.LongTailExplorer(trace, (0.8, 0.5))
    with pytest.raises(ValueError, match="zipf must lie in 0..2; got 3"):
        xe.LongTailExplorer(trace, zipf=3)


def test_no_page_is_told_of_the_cloud(view):
    config = view._figure._config
    assert config["showSendToCloud"] is False and config["displayModeBar"] is False
    view._figure._config = {"plotlyServerURL": "https://example.org"}  # as plotly does while the widget is made
    assert view._figure._config["showSendToCloud"] is False


def test_what_a_page_hears_first_is_all_of_it_and_has_no_cloud(view, monkeypatch):
    first = []
    monkeypatch.setattr(Widget, "open", lambda widget: first.append(widget.get_state()))
    BareFigure(view._figure)
    (state,) = [state for state in first if "_widget_data" in state]
    assert state["_config"]["showSendToCloud"] is False and state["_config"]["displayModeBar"] is False
    assert [line["type"] for line in state["_widget_data"]] == [line.type for line in view._figure.data]
    assert state["_widget_layout"]["title"]["text"] == view._figure.layout.title.text


def test_close_leaves_no_widget(trace):
    before = set(live_widgets)
    xe.LongTailExplorer(trace).close()
    assert set(live_widgets) == before


def test_what_a_saved_notebook_keeps(view, monkeypatch):
    shown = []
    monkeypatch.setattr(sys.modules["xmc_explore.widgets.tail"], "display", lambda data, raw: shown.append(data))
    view._ipython_display_()
    live, kept = shown
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == view.widget.model_id
    assert live["text/plain"] == "" and kept["text/plain"] == view.caption
    root = ElementTree.fromstring(kept["text/html"])
    assert root.attrib["class"] == "xmc-saved" and len(root.findall(".//tr")) == 4
    (image,) = root.findall(".//img")
    assert image.attrib["src"].startswith("data:image/svg+xml;base64,") and "Zipf law" in image.attrib["alt"]


# --- in JupyterLab


SHOW = """\
import xmc_explore as xe
view = xe.LongTailExplorer(xe.load_recording("calls-small-set"))
view"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with jupyter_lab(tmp_path_factory.mktemp("served")) as server:
        yield server


def handle(opened, name: str) -> Locator:
    return opened.page.get_by_role("slider", name=name)


@pytest.mark.browser
def test_each_slider_changes_the_words(browser, server, trace):
    name = write_notebook(server.folder / "tail.ipynb", SHOW)
    with open_notebook(browser, server, name) as opened:
        opened.toggle_sidebar()
        opened.run_cell(0)
        words, table = (opened.page.locator(f".xmc-lab .xmc-tail-{part}") for part in ("words", "table"))
        labels = table.locator("tr[data-bin=head] td[data-of=labels]")
        recall = table.locator("tr[data-bin=torso] td[data-of='recall@5']")
        figure = opened.output(0).locator(".js-plotly-plot")
        expect(words).to_contain_text("the 64 head labels hold 50 %", timeout=60_000)
        expect(figure).to_contain_text("head (64 labels)", timeout=20_000)
        opened.screenshot("tail")
        handle(opened, "head: first % of assignments").focus()
        opened.page.keyboard.press("ArrowRight")
        head, torso, _ = trace.of_bins((0.51, 0.8)).to_dict("records")
        expect(words).to_contain_text(f"the {head['labels']} head labels hold 51 %")
        expect(labels).to_have_text(str(head["labels"]))
        expect(figure).to_contain_text(f"head ({head['labels']} labels)")
        expect(recall).to_have_text(f"{torso['recall@5']:.1f}")
        handle(opened, "torso: up to %").focus()
        opened.page.keyboard.press("ArrowLeft")
        moved = trace.of_bins((0.51, 0.79)).iloc[1]
        expect(words).to_contain_text(f"the {moved.labels:,} torso labels hold {moved.share:.0f} %")
        expect(recall).to_have_text(f"{moved['recall@5']:.1f}")
        handle(opened, "exponent of the ideal law").focus()
        opened.page.keyboard.press("ArrowRight")
        expect(words).to_contain_text("Under the ideal law of exponent 1.10")
        expect(figure).to_contain_text("Zipf law, exponent 1.10")
        for theme, light in (("JupyterLab Dark", "false"), ("JupyterLab Light", "true")):
            opened.choose("Settings", "Theme", theme)
            expect(opened.page.locator("body")).to_have_attribute("data-jp-theme-light", light)
            opened.page.wait_for_timeout(300)
            opened.screenshot(f"tail-{theme.split()[1].lower()}")
        expect(opened.page.locator(".xmc-saved")).to_be_hidden()
        opened.choose("File", "Save Notebook")
        expect(opened.page.locator(".jp-mod-current.jp-mod-dirty")).to_have_count(0)
        assert opened.cell_errors() == [] and opened.errors == [] and opened.foreign_requests(server) == []
    server.end_kernel(name)
    with open_notebook(browser, server, name) as opened:
        expect(opened.page.locator(".xmc-saved img")).to_be_visible(timeout=30_000)
        opened.screenshot("tail-reopened")


@pytest.mark.browser
def test_the_picture_fills_its_place_with_the_side_bar_open_or_not(browser, server):
    name = write_notebook(server.folder / "beside.ipynb", SHOW)
    with open_notebook(browser, server, name) as opened:
        opened.run_cell(0)
        figure = opened.output(0).locator(".js-plotly-plot")
        expect(figure).to_contain_text("head (64 labels)", timeout=60_000)
        for state in ("open", "closed"):
            opened.page.wait_for_function("""() => {
                const body = document.querySelector(".xmc-tail-body").getBoundingClientRect();
                const left = document.querySelector(".xmc-tail-table").getBoundingClientRect();
                const drawn = document.querySelector(".xmc-tail-body .main-svg").getBoundingClientRect();
                return drawn.left > left.right - 1 && Math.abs(drawn.right - body.right) < 4;
            }""")
            opened.screenshot(f"tail-side-bar-{state}")
            opened.toggle_sidebar()


def test_what_has_no_tail_is_not_explored():
    with pytest.raises(TypeError, match="a corpus .*or a trace is explored; got 'calls-small'"):
        xe.LongTailExplorer("calls-small")
