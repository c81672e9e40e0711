"""The connectivity canvas in a real JupyterLab in a real browser: pointed at, pinned, zoomed, stepped, played."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from frames_for_tests import drawn
from jupyter_browser import jupyter_lab, open_notebook, write_notebook
from playwright.sync_api import Locator, expect

import xmc_explore as xe

pytestmark = pytest.mark.browser

ONE = """\
import xmc_explore as xe
trace = xe.load_recording("calls-small-set")
view = xe.scrub(trace)
view"""
TWO = """\
both = xe.scrub({"SET": trace, "SET + auxiliary": xe.load_recording("calls-small-auxiliary")})
both"""
HUGE = (60_000, 16, 64, 1)  # 960,000 slots: more than a browser is sent at once
MANY = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import xmc_explore as xe
from frames_for_tests import drawn
many = xe.scrub(drawn(*{HUGE}))
many"""
LINKED = """\
linked = xe.scrub(trace, xe.plots.per_bin(trace))
linked"""


class Canvas:
    """A canvas on a page, used as a person would."""

    def __init__(self, page, nth: int = 0):
        self.page = page
        self.root: Locator = page.locator(".xmc-connectivity").nth(nth)
        self.stage, self.caption = self.root.locator(".xmc-stage"), self.root.locator(".xmc-caption")
        self.detail, self.axis = self.root.locator(".xmc-detail"), self.root.locator(".xmc-axis")

    def expect_frame(self, number: int) -> None:
        expect(self.root).to_have_attribute("data-shown", str(number), timeout=120_000)

    def frame(self) -> int:
        return int(self.root.get_attribute("data-shown"))

    def key(self, *keys: str) -> None:
        self.stage.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def spot(self, across: float, down: float) -> dict[str, float]:
        box = self.stage.bounding_box()
        return {"x": across * box["width"], "y": down * box["height"]}

    def pixels(self) -> list[int]:
        """Mean red, green, blue and opacity of what is drawn, where something is drawn, and the share of it."""
        return self.root.locator(".xmc-canvas").evaluate("""canvas => {
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            const sum = [0, 0, 0, 0]; let n = 0;
            for (let i = 0; i < data.length; i += 4) {
                if (data[i + 3]) { n++; sum.forEach((_, c) => sum[c] += data[i + c]); }
            }
            return [...sum.map((s) => s / n), n / (data.length / 4)];
        }""")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with jupyter_lab(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="module")
def trace():
    return xe.load_recording("calls-small-set")


@pytest.fixture(scope="module")
def opened(browser, server):
    name = write_notebook(server.folder / "scrub.ipynb", ONE, TWO, LINKED)
    with open_notebook(browser, server, name) as opened:
        opened.toggle_sidebar()
        opened.run_cell(0)
        Canvas(opened.page).expect_frame(39)
        opened.wait_until_idle()
        yield opened


@pytest.fixture
def canvas(opened) -> Canvas:
    """The canvas of the first cell, all in sight and nothing pinned, brushed or pointed at."""
    canvas = Canvas(opened.page)
    canvas.stage.scroll_into_view_if_needed()
    opened.page.mouse.move(5, 5)
    canvas.key("Escape", "Escape", "0")
    return canvas


def test_pointing_at_a_row_says_what_it_is(opened, canvas, trace):
    canvas.stage.hover(position=canvas.spot(0.5, 0.002))
    order = trace.bins().labels("head")
    first = order[trace.label_frequency[order].argmax()]
    expect(canvas.detail.locator("b")).to_have_text(trace.label_names[first])
    table = trace.of_labels(5)
    expect(canvas.detail).to_contain_text(f"head, used {trace.label_frequency[first]:,} times")
    expect(canvas.detail).to_contain_text(f"P@5 {table.precision[first]:.1f} %")
    expect(canvas.detail.locator(".xmc-reads")).to_have_text(
        "reads " + " ".join(map(str, sorted(trace.connectivity(-1)[first]))))
    opened.screenshot("canvas-hover")
    opened.page.mouse.move(5, 5)
    expect(canvas.detail).to_contain_text("Point at a row")


def test_a_click_pins_a_label_and_escape_lets_it_go(opened, canvas):
    canvas.stage.click(position=canvas.spot(0.5, 0.5))
    opened.page.mouse.move(5, 5)
    name = canvas.detail.locator("b").inner_text()
    expect(canvas.detail.locator("figcaption")).to_contain_text("40 frames from top to bottom")
    opened.screenshot("canvas-pinned")
    reads = canvas.detail.locator(".xmc-reads").inner_text()
    canvas.key("Home")
    canvas.expect_frame(0)
    expect(canvas.detail.locator("b")).to_have_text(name)  # followed through the run
    assert canvas.detail.locator(".xmc-reads").inner_text() != reads
    canvas.key("Escape", "End")
    expect(canvas.detail).to_contain_text("Point at a row")
    canvas.expect_frame(39)


def test_every_row_is_within_reach_of_zoom(opened, canvas, trace):
    n = len(trace.label_frequency)
    canvas.stage.click(position=canvas.spot(0.3, 0.9))
    for _ in range(30):
        opened.page.mouse.wheel(0, -200)
    expect(canvas.axis).to_contain_text("labels, ")
    opened.page.wait_for_timeout(100)
    labels = int(re.match(r"(\d+) labels", canvas.axis.inner_text())[1])
    assert labels < 30 < n
    names = canvas.root.locator(".xmc-row")
    assert labels - 2 <= names.count() <= labels and set(names.all_inner_texts()) <= set(trace.label_names)
    opened.screenshot("canvas-zoomed")
    before = names.first.inner_text()
    box = canvas.stage.bounding_box()
    opened.page.mouse.move(box["x"] + 200, box["y"] + 60)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 180, box["y"] + 200, steps=4)
    opened.page.mouse.up()
    expect(names.first).not_to_have_text(before)
    canvas.key("0")
    expect(canvas.axis).to_have_text(f"{trace.width} features")
    canvas.root.get_by_role("button", name="Closer").click()
    expect(canvas.axis).to_contain_text("labels, ")
    canvas.key("-", "Escape")


def test_a_wheel_over_a_canvas_without_focus_scrolls_the_page(opened, canvas):
    opened.page.locator(".jp-Notebook .cm-content").first.click()
    canvas.stage.hover(position=canvas.spot(0.5, 0.5))
    before = canvas.axis.inner_text()
    opened.page.mouse.wheel(0, 50)
    opened.page.wait_for_timeout(200)
    assert canvas.axis.inner_text() == before
    opened.page.mouse.wheel(0, -50)


def test_the_keyboard_alone(opened, canvas, trace):
    cells = opened.page.locator(".jp-Notebook .jp-Cell").count()
    canvas.key("Home")
    canvas.expect_frame(0)
    expect(canvas.caption).to_contain_text("At the start")
    for number in (1, 2, 3):
        canvas.key("ArrowRight")
        canvas.expect_frame(number)
    canvas.key("ArrowLeft")
    canvas.expect_frame(2)
    expect(canvas.caption).to_contain_text(f"Rewire at step {trace.frames[2]}")
    expect(canvas.root.locator(".xmc-transport output")).to_have_text(f"frame 3 of 40 · step {trace.frames[2]}")
    canvas.key("ArrowDown", "ArrowDown", "Enter")
    expect(canvas.detail.locator("figcaption")).to_be_visible()
    canvas.key("b", "c", "o", "d", "d", "a", "x", "b")  # Lab's own keys for cells
    expect(canvas.root.get_by_label("Order of the rows in each bin")).to_have_value("cluster")
    expect(canvas.root.get_by_label("What the colour of a connection says")).to_have_value("weight")
    opened.screenshot("canvas-weight-by-cluster")
    canvas.key("c", "o")
    expect(canvas.root.get_by_label("Order of the rows in each bin")).to_have_value("in-degree")
    expect(canvas.root.locator(".xmc-scale")).to_contain_text("died")
    opened.page.wait_for_timeout(300)
    opened.screenshot("canvas-change-by-in-degree")
    canvas.key("c", "o", "Escape", "End")
    assert opened.page.locator(".jp-Notebook .jp-Cell").count() == cells
    canvas.expect_frame(39)


def test_the_space_bar_plays(opened, canvas):
    canvas.key("Home")
    canvas.expect_frame(0)
    canvas.key(" ")
    opened.page.wait_for_function("node => Number(node.dataset.shown) >= 4", arg=canvas.root.element_handle())
    expect(canvas.root.get_by_role("button", name="Pause")).to_have_text("❚❚")  # not ⏸: many a font has no such sign
    canvas.key(" ")
    expect(canvas.root.get_by_role("button", name="Play")).to_be_visible()
    opened.page.wait_for_timeout(500)
    at = canvas.frame()
    opened.page.wait_for_timeout(500)
    assert canvas.frame() == at < 39
    canvas.root.get_by_role("slider", name="Frame").fill("39")
    canvas.expect_frame(39)


def test_a_question_mark_lists_the_keys(opened, canvas):
    canvas.key("?")
    keys = canvas.root.get_by_role("dialog", name="Keys")
    expect(keys).to_contain_text("play or pause")
    opened.screenshot("canvas-keys")
    opened.page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    assert canvas.stage.evaluate("node => document.activeElement === node")
    outline = canvas.stage.evaluate("node => getComputedStyle(node).outlineStyle")
    assert outline == "solid"


def test_brushing_a_bin(opened, canvas):
    def opacity(share):
        return canvas.root.locator(".xmc-canvas").evaluate("""(canvas, share) => {
            const top = Math.floor(share * canvas.height);
            const data = canvas.getContext('2d').getImageData(0, top, canvas.width, 40).data;
            return Math.max(...data.filter((_, i) => i % 4 === 3));
        }""", share)

    before = opacity(0.7)
    canvas.root.get_by_role("button", name="head").click()
    expect(canvas.root.get_by_role("button", name="head")).to_have_attribute("aria-pressed", "true")
    assert opacity(0.05) > 150 and opacity(0.7) < 0.3 * before
    opened.screenshot("canvas-brushed")
    canvas.key("3")
    expect(canvas.root.get_by_role("button", name="tail")).to_have_attribute("aria-pressed", "true")
    canvas.key("Escape")
    box = canvas.stage.bounding_box()
    opened.page.keyboard.down("Shift")
    opened.page.mouse.move(box["x"] + 50, box["y"] + 0.4 * box["height"])
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 60, box["y"] + 0.6 * box["height"], steps=3)
    opened.page.mouse.up()
    opened.page.keyboard.up("Shift")
    expect(canvas.root.get_by_role("button", name="torso")).to_have_attribute("aria-pressed", "true")
    canvas.key("Escape")
    assert opacity(0.7) == before


def test_a_change_of_theme_changes_the_colours(opened, canvas):
    colours = {}
    for theme, light in (("JupyterLab Dark", "false"), ("JupyterLab Light", "true")):
        opened.choose("Settings", "Theme", theme)
        expect(opened.page.locator("body")).to_have_attribute("data-jp-theme-light", light)
        opened.page.wait_for_timeout(300)
        canvas.stage.hover(position=canvas.spot(0.5, 0.2))
        opened.screenshot("canvas-" + theme.split()[1].lower())
        colours[theme] = canvas.pixels()
        assert colours[theme][4] > 0.02
    dark, light = colours.values()
    assert sum(dark[:3]) > sum(light[:3]) + 20


def test_it_fits_on_a_small_screen(opened, canvas):
    for width in (1280, 800):
        opened.page.set_viewport_size({"width": width, "height": 720})
        opened.page.wait_for_timeout(300)
        panel, box = opened.page.locator(".jp-WindowedPanel-outer").bounding_box(), canvas.root.bounding_box()
        assert box["x"] + box["width"] <= panel["x"] + panel["width"] and box["height"] <= panel["height"]
        cut = canvas.root.evaluate("""root => [...root.querySelectorAll(
            'button, select, .xmc-band span, .xmc-legend, .xmc-caption, .xmc-tools, .xmc-transport output')]
            .filter(n => n.clientWidth && (n.scrollWidth > n.clientWidth + 1 || n.scrollHeight > n.clientHeight + 1))
            .map(n => n.className + ': ' + n.innerText)""")
        assert cut == []
        opened.screenshot(f"canvas-{width}")
    opened.page.set_viewport_size({"width": 1280, "height": 720})


def test_two_runs_under_one_slider_and_their_difference(opened):
    opened.run_cell(1)
    first, second = Canvas(opened.page, 1), Canvas(opened.page, 2)
    second.expect_frame(39)
    first.stage.scroll_into_view_if_needed()
    first.key("Home", "ArrowRight")
    first.expect_frame(1)
    second.expect_frame(1)
    first.stage.click(position=first.spot(0.4, 0.1))
    expect(second.detail.locator("b")).to_have_text(first.detail.locator("b").inner_text())
    opened.page.wait_for_timeout(300)
    opened.screenshot("canvas-two")
    opened.page.get_by_role("button", name="difference").click()
    expect(first.root.locator(".xmc-scale")).to_contain_text("SET + auxiliary both")
    expect(second.root).to_be_hidden()
    for _ in range(8):
        first.key("ArrowRight")
    first.expect_frame(9)
    expect(first.caption).to_contain_text("in both")
    expect(opened.page.get_by_text("SET and SET + auxiliary, the difference")).to_be_visible()
    expect(first.root.get_by_label("What the colour of a connection says")).to_be_hidden()
    opened.page.wait_for_timeout(300)
    opened.screenshot("canvas-difference")
    for _ in range(12):
        first.key("+")
    opened.page.wait_for_timeout(300)
    opened.screenshot("canvas-difference-zoomed")


PIXELS = """canvas => { // how many of each colour, but for transparent ones, in each of three bands of equal height
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const bands = [{}, {}, {}];
    for (let i = 0; i < data.length; i += 4) {
        const band = bands[Math.floor((3 * i) / data.length)], color = data.slice(i, i + 4).join(' ');
        if (data[i + 3]) band[color] = (band[color] ?? 0) + 1;
    }
    return bands;
}"""
INKS = """root => [...root.querySelectorAll('.xmc-scale i')].map((spot) => {
    const probe = document.createElement('i');
    probe.style.color = spot.style.getPropertyValue('--ink');
    return probe.style.color.match(/[\\d.]+/g).slice(0, 3).map(Number);
})"""
# Machado, Oliveira and Fernandes 2009: what eyes without long-, middle- or short-wave cones see, of linear RGB
BLIND = {"none": np.eye(3),
         "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
         "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
         "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color) -> np.ndarray:
    share = np.asarray(color) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(a, b) -> float:
    """The contrast of WCAG 2."""
    low, high = sorted(float(XYZ[1] @ linear(color)) for color in (a, b))
    return (high + 0.05) / (low + 0.05)


def apart(a, b, eyes) -> float:
    """The distance of two colours in CIELAB, as somebody sees them: 2 is just noticed side by side."""
    def lab(color):
        x, y, z = np.cbrt(np.maximum(XYZ @ np.clip(np.asarray(eyes) @ linear(color), 0, 1) / [0.9505, 1, 1.089], 1e-6))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
    return float(np.linalg.norm(lab(a) - lab(b)))


@pytest.mark.parametrize(("theme", "light"), [("JupyterLab Dark", "false"), ("JupyterLab Light", "true")])
def test_of_two_runs_the_whole_shows_each_class_in_its_share(opened, trace, theme, light):
    """After the test above: the difference is on the screen, and no kernel is asked for more."""
    canvas = Canvas(opened.page, 1)
    opened.choose("Settings", "Theme", theme)
    expect(opened.page.locator("body")).to_have_attribute("data-jp-theme-light", light)
    canvas.stage.scroll_into_view_if_needed()
    canvas.key("Escape", "Escape", "0", "End")
    canvas.expect_frame(39)
    opened.page.wait_for_timeout(300)
    opened.screenshot(f"canvas-difference-{theme.split()[1].lower()}")

    inks = dict(zip(("a", "b", "both"), canvas.root.evaluate(INKS), strict=True))
    ground = [255] * 3 if light == "true" else [17] * 3
    assert all(contrast(ink, ground) >= 3 for ink in inks.values())
    for one, other in itertools.combinations(inks.values(), 2):
        assert contrast(one, other) > 1.5  # in grey, too
        assert all(apart(one, other, eyes) > 40 for eyes in BLIND.values())

    other, bins = xe.load_recording("calls-small-auxiliary"), trace.bins()
    in_a, in_b = np.zeros((2, len(trace.label_frequency), trace.width), bool)
    for there, run in ((in_a, trace), (in_b, other)):
        there[np.arange(len(there))[:, None], run.connectivity(-1)] = True
    found = canvas.root.locator(".xmc-canvas").evaluate(PIXELS)
    for band, pixels in zip(("head", "torso", "tail"), found, strict=True):
        drawn = {name: pixels.pop(" ".join(f"{round(c)}" for c in [*ink, 255]), 0) for name, ink in inks.items()}
        assert sum(pixels.values()) < 0.01 * sum(drawn.values())  # whole colours, but for the line between two bands
        a, b = in_a[bins.labels(band)], in_b[bins.labels(band)]
        for name, there in (("a", a & ~b), ("b", b & ~a), ("both", a & b)):
            share = there.sum() / (a | b).sum()
            assert abs(drawn[name] / sum(drawn.values()) - share) < 0.05, (band, name)


def test_a_linked_figure_shows_the_brushed_bin(opened):
    opened.run_cell(2)
    canvas = Canvas(opened.page, 3)
    canvas.expect_frame(39)
    canvas.stage.scroll_into_view_if_needed()
    canvas.key("1")
    figure = opened.output(2).locator(".js-plotly-plot")
    opacities = "node => [...node.data].map(d => [d.name, d.opacity])"
    opened.page.wait_for_function("node => node.data.some(d => d.opacity === 0.12)", arg=figure.element_handle())
    found = dict(figure.evaluate(opacities))
    assert {name for name, opacity in found.items() if opacity == 0.12} >= {n for n in found if "tail" in n}
    assert all(opacity != 0.12 for name, opacity in found.items() if "head" in name)
    figure.scroll_into_view_if_needed()
    opened.screenshot("canvas-linked-figure")


def test_nothing_went_wrong_and_nothing_was_asked_of_the_network(opened, server):
    assert opened.cell_errors() == [] and opened.errors == []
    assert opened.foreign_requests(server) == []


def test_of_a_large_layer_the_rows_in_sight_are_fetched(browser, server):
    store = drawn(*HUGE)
    assert store.seek(0).indices.size > 1 << 19
    name = write_notebook(server.folder / "many.ipynb", MANY)
    with open_notebook(browser, server, name) as opened:
        opened.run_cell(0)
        canvas = Canvas(opened.page)
        canvas.expect_frame(1)
        opened.wait_until_idle()
        canvas.stage.focus()
        canvas.stage.hover(position=canvas.spot(0.5, 0.6))
        for _ in range(40):
            opened.page.mouse.wheel(0, -200)
        # The names beside the rows are those of labels in a row: none is left out.
        opened.page.wait_for_function("""root => {
            const labels = [...root.querySelectorAll('.xmc-row')].map((row) => Number(row.innerText.split(' ')[1]));
            return labels.length > 10 && labels.every((label, i) => !i || label === labels[i - 1] + 1);
        }""", arg=canvas.root.element_handle())
        for row in (2, 7):
            beside = canvas.root.locator(".xmc-row").nth(row)
            words, box, stage = beside.inner_text(), beside.bounding_box(), canvas.stage.bounding_box()
            opened.page.mouse.move(stage["x"] + 300, box["y"] + box["height"] / 2)
            expect(canvas.detail.locator("b")).to_have_text(words)
            label = int(words.split()[1])
            reads = re.sub(r"new at step \d+:", "", canvas.detail.locator(".xmc-reads").inner_text())
            assert sorted(map(int, re.findall(r"\d+", reads))) == sorted(store.seek(1).indices[label])
        canvas.key("Home")
        canvas.expect_frame(0)
        expect(canvas.detail.locator("b")).to_have_text(words)
        expect(canvas.detail.locator(".xmc-reads")).to_have_text(
            "reads " + " ".join(map(str, np.sort(store.seek(0).indices[label]))))
        opened.screenshot("canvas-many-labels")
        assert opened.cell_errors() == [] and opened.errors == []


def test_less_motion_where_less_is_wanted(browser, server):
    name = write_notebook(server.folder / "still.ipynb", ONE)
    with open_notebook(browser, server, name, reduced_motion="reduce") as opened:
        opened.run_cell(0)
        canvas = Canvas(opened.page)
        canvas.expect_frame(39)
        canvas.key("Home", "ArrowRight")
        canvas.expect_frame(1)
        glowing = "node => node.getContext('2d').getImageData(0, 0, node.width, node.height).data.some(Boolean)"
        assert not canvas.root.locator(".xmc-marks").evaluate(glowing)


def test_a_reopened_notebook_shows_a_picture(browser, server):
    name = write_notebook(server.folder / "reopened.ipynb", ONE)
    with open_notebook(browser, server, name) as opened:
        opened.run_cell(0)
        Canvas(opened.page).expect_frame(39)
        expect(opened.page.locator(".xmc-saved")).to_be_hidden()
        opened.choose("File", "Save Notebook")
        expect(opened.page.locator(".jp-mod-current.jp-mod-dirty")).to_have_count(0)
    server.end_kernel(name)
    with open_notebook(browser, server, name) as opened:
        expect(opened.page.locator(".xmc-saved img")).to_be_visible(timeout=30_000)
        still = opened.page.locator(".xmc-saved img")
        still.scroll_into_view_if_needed()
        colours, share = still.evaluate("""node => {
            const sheet = document.createElement('canvas');
            [sheet.width, sheet.height] = [node.naturalWidth, node.naturalHeight];
            const pen = sheet.getContext('2d');
            pen.drawImage(node, 0, 0);
            const pixels = [...new Uint32Array(pen.getImageData(0, 0, sheet.width, sheet.height).data.buffer)];
            return [new Set(pixels).size, pixels.filter(Boolean).length / pixels.length];
        }""")
        assert colours > 10 and 0.02 < share < 0.9  # connections of several ages, and what is not connected
        assert re.match(r"Rewire at step [\d,]+: .* connections moved; .*Rows are labels", still.get_attribute("alt"))
        expect(opened.page.get_by_text("run the cell to scrub")).to_be_visible()
        expect(opened.output(0).first).to_be_hidden()  # JupyterLab's "Loading widget...", which would never end
        opened.screenshot("canvas-reopened")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_figures_beside_it_have_words_and_are_there_when_reopened(browser, tmp_path, theme):
    with jupyter_lab(tmp_path, themes={"theme": f"JupyterLab {theme}"}) as server:
        name = write_notebook(tmp_path / "linked.ipynb", ONE, LINKED)
        with open_notebook(browser, server, name) as opened:
            opened.run_all()
            Canvas(opened.page, 1).expect_frame(39)
            words = opened.output(1).locator(".xmc-picture").first
            expect(words.get_by_text("After 1,200 steps recall@5 is")).to_be_visible()
            words.get_by_text("Show as table").click()
            expect(words.get_by_role("columnheader", name="torso")).to_be_visible()
            ink = "getComputedStyle(document.body).getPropertyValue('--jp-ui-font-color1')"
            assert opened.output(1).locator(".main-svg .gtitle").evaluate(f"""node => {{
                const probe = document.body.appendChild(document.createElement('i'));
                probe.style.color = {ink};
                return getComputedStyle(node).fill === getComputedStyle(probe).color;
            }}""")
            words.scroll_into_view_if_needed()
            opened.screenshot(f"canvas-figure-words-{theme.lower()}")
            opened.choose("File", "Save Notebook")
            expect(opened.page.locator(".jp-mod-current.jp-mod-dirty")).to_have_count(0)
        server.end_kernel(name)
        with open_notebook(browser, server, name) as opened:
            saved = opened.output(1).locator(".xmc-saved")
            figure = saved.get_by_role("img", name="recall@5 of head, torso and tail labels")
            figure.scroll_into_view_if_needed(timeout=30_000)
            assert figure.evaluate("node => node.naturalWidth") == 900
            expect(saved.get_by_text("After 1,200 steps recall@5 is")).to_be_visible()
            expect(saved.get_by_text("Show as table")).to_be_visible()
            opened.screenshot(f"canvas-figure-reopened-{theme.lower()}")
