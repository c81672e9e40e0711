"""The laboratory in a real JupyterLab in a real browser: what a user clicks and sees."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import plotly.graph_objects as go
import pytest
from axe_playwright_python.sync_playwright import Axe
from jupyter_browser import LabView, jupyter_lab, open_notebook, with_parameters, write_notebook
from playwright.sync_api import expect

import xmc_explore as xe
from xmc_explore.widgets import charts, sharing
from xmc_explore.widgets.page import Page

pytestmark = pytest.mark.browser

TESTS = Path(__file__).resolve().parent
NOTEBOOKS = TESTS.parent / "notebooks"
CORPUS = f"""\
import sys
sys.path.insert(0, {str(TESTS)!r})
import xmc_explore as xe
from corpus_for_tests import tiny_corpus
corpus = tiny_corpus(texts=False)
recipe = xe.Recipe(encoder="bag", hidden=32, fan_in=4, aux_clusters=4, warmup=20, eval_interval=50,
                   rewire_interval=50)"""
LAB = "lab = xe.Lab(corpus, recipe, steps=100_000)\nlab"
SUBSHELLS = {"with subshells": "perCommTarget", "without": "disabled"}
THEMES = {"JupyterLab Dark": "false", "JupyterLab Light": "true"}  # and how the page says it
BUSY = "import time\ntime.sleep(600)"


def small(folder: Path) -> str:
    return write_notebook(folder / "small.ipynb", CORPUS, LAB)


def course(name: str, **parameters: object) -> Callable[[Path], str]:
    """A notebook of the course with parameters that make it fast."""
    return lambda folder: with_parameters(NOTEBOOKS / name, folder / name, **parameters)


@pytest.fixture(scope="module", params=SUBSHELLS.values(), ids=SUBSHELLS.keys())
def either_server(request, tmp_path_factory):
    """A JupyterLab that sends the messages of widgets past a busy cell, and one that does not."""
    settings = {"kernels-settings": {"commsOverSubshells": request.param}}
    with jupyter_lab(tmp_path_factory.mktemp("served"), **settings) as server:
        yield server


@pytest.fixture
def subshells(request) -> bool:
    return request.node.callspec.params["either_server"] == SUBSHELLS["with subshells"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with jupyter_lab(tmp_path_factory.mktemp("served")) as server:
        yield server


def start(opened) -> LabView:
    """Run all cells and wait for the laboratory; the sidebar would take its place."""
    opened.toggle_sidebar()
    opened.run_all()
    lab = LabView(opened.page)
    expect(lab.root).to_be_visible(timeout=120_000)
    lab.wait_for_state("paused", timeout=120_000)
    opened.wait_until_idle()
    return lab


def rewires(lab: LabView) -> int:
    return int(re.search(r"(\d+) rewire", lab.status.inner_text())[1])


def session(browser, server, write: Callable[[Path], str]) -> None:
    """What a student does first: play, pause, step, turn a knob, reset."""
    with open_notebook(browser, server, write(server.folder)) as opened:
        lab = start(opened)
        before = lab.step()
        lab.press("Play")
        lab.wait_for_step(before + 30)
        assert lab.state() == "playing"
        lab.press("Pause")
        lab.wait_for_state("paused")
        at = lab.step()
        opened.page.wait_for_timeout(500)
        assert lab.step() == at
        lab.press("Step")
        expect(lab.status).to_have_attribute("data-step", str(at + 1))
        lab.wait_for_state("paused")

        lab.root.get_by_role("combobox", name="Preset").select_option("everything")  # a lesson shows its own alone
        expect(lab.knob("rewire every")).to_be_visible()
        knob, moved = lab.knob("rewire every"), rewires(lab)
        for _ in range(10):
            if lab.knob_value("rewire every") == "5 steps":
                break
            knob.press("ArrowLeft")
        assert lab.knob_value("rewire every") == "5 steps"
        # A knob's last word may wait for the answer to those before it.
        expect(lab.root.locator(".xmc-message")).to_contain_text("rewire_interval = 5")
        lab.press("+10")
        expect(lab.status).to_have_attribute("data-step", str(at + 11))
        lab.wait_for_state("paused")
        assert rewires(lab) == moved + 2
        expect(lab.root.locator(".xmc-caption")).to_contain_text(f"Rewire at step {(at + 11) // 5 * 5}: ")
        opened.screenshot(f"session-{Path(opened.page.url.split('?')[0]).stem}")

        lab.press("Reset")
        expect(lab.status).to_have_attribute("data-step", "0")
        lab.wait_for_state("paused")
        assert lab.knob_value("rewire every") == "5 steps"
        lab.press("+10")
        expect(lab.status).to_have_attribute("data-step", "10")
        assert rewires(lab) == 2
        assert opened.cell_errors() == [] and opened.errors == []
        assert opened.foreign_requests(server) == []


def test_a_first_session(browser, either_server):
    session(browser, either_server, small)


def test_a_first_session_in_the_course(browser, server):
    """The notebook with the laboratory, on the real corpus."""
    name = "07_gradient_flow_and_the_auxiliary_objective.ipynb"
    session(browser, server, course(name, steps=40, lab_steps=10_000, live_steps=10))


@pytest.fixture(scope="module")
def opened(browser, server):
    """A notebook with a laboratory that stays open for several tests."""
    name = write_notebook(server.folder / "open.ipynb", CORPUS, LAB)
    with open_notebook(browser, server, name) as opened:
        opened.toggle_sidebar()
        for cell in (0, 1):
            opened.run_cell(cell)
        LabView(opened.page).wait_for_state("paused", timeout=120_000)
        yield opened


@pytest.fixture
def lab(opened) -> LabView:
    return LabView(opened.page)


def play_for(lab: LabView, steps: int) -> None:
    target = lab.step() + steps
    lab.press("Play")
    lab.wait_for_step(target)
    lab.press("Pause")
    lab.wait_for_state("paused")


REACHED = ["Play", "Pause", "Step", "+10", "steps", "Reset", "preset", "A|B", "Branch", "Present", "More",
           "learning rates", "rewire every", "share that is rewired", "auxiliary weight", "auxiliary ends after",
           "loss", "grow", "moments", "drop", "Rewire now", "fan-in", "intermediate", "encoder", "seed"]
FOCUSED = """() => { const at = document.activeElement;
    const row = at.closest('.widget-slider, .xmc-knobs .widget-dropdown');
    if (row) return row.querySelector('.widget-label').innerText;
    return at.matches('input') ? 'steps' : at.matches('select') ? 'preset' : at.innerText; }"""


NAMED = """() => { const at = document.activeElement, text = at.innerText.trim();
    return at.ariaLabel || at.labels?.[0]?.innerText || text || at.title; }"""
REACHED_OF_TWO = ["Order of the rows in each bin", "Farther", "Closer", "Everything", "Keys", "head", "torso", "tail",
                  "Connectivity; question mark lists the keys", "First frame", "One frame back", "frame",
                  "One frame on", "Last frame", "A", "B", "difference"]
UNSEEN = """root => { const at = document.activeElement, box = at.getBoundingClientRect(),
                            all = root.getBoundingClientRect();
    return getComputedStyle(at).outlineStyle === 'solid' && box.width > 0 && box.left >= all.left - 1 &&
        box.right <= all.right + 1 ? [] : [at.outerHTML.slice(0, 150)]; }"""


def test_everything_is_in_reach_of_the_keyboard(opened, lab):
    lab.root.get_by_role("button", name="Play").focus()
    reached = ["Play"]
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        reached.append(opened.page.evaluate(FOCUSED))
    assert list(dict.fromkeys(reached))[:len(REACHED)] == REACHED
    step = lab.step()
    lab.root.get_by_role("button", name="Step", exact=True).focus()
    opened.page.keyboard.press("Enter")
    lab.wait_for_step(step + 1)
    expect(lab.root.get_by_role("img", name="Connectivity of the output layer")).to_be_visible()
    lab.root.get_by_role("button", name="Present").focus()
    opened.page.keyboard.press("Space")
    expect(opened.page.locator(".jp-InputArea").first).to_be_hidden()
    opened.page.keyboard.press("Escape")
    expect(opened.page.locator(".jp-InputArea").first).to_be_visible()


def where(lab: LabView) -> str:
    return lab.root.locator(".xmc-where").inner_text()


def test_scrub_hover_and_come_back(opened, lab):
    play_for(lab, 120)
    handle, step = lab.root.locator(".xmc-scrubber .noUi-handle"), lab.step()
    handle.press("Home")
    expect(lab.root.locator(".xmc-where")).to_contain_text("frame 1/")
    expect(lab.root.locator(".xmc-caption")).to_contain_text("At the start")
    handle.press("ArrowRight")
    expect(lab.root.locator(".xmc-where")).to_contain_text("frame 2/")
    expect(lab.root.locator(".xmc-caption")).to_contain_text("Rewire at step")
    lab.press("+10")
    lab.wait_for_step(step + 10)
    lab.wait_for_state("paused")
    expect(lab.root.locator(".xmc-where")).to_contain_text("frame 2/")
    stage = lab.root.locator(".xmc-stage")
    box = stage.bounding_box()
    for share in (0.21, 0.37, 0.52, 0.68):
        stage.hover(position={"x": box["width"] / 2, "y": box["height"] * share})
        if re.search(r"label|used|times", lab.root.locator(".xmc-who").inner_text()):
            break
    expect(lab.root.locator(".xmc-who")).to_contain_text(re.compile(r"used \d+ times? · P@5 .* at step \d"))
    lab.root.get_by_title("Last frame, and follow the run").click()
    expect(lab.root.locator(".xmc-where")).to_contain_text("live")
    assert opened.errors == []


def test_the_keys_of_the_picture(opened, lab):
    play_for(lab, 160)
    last = lab.step() // 50
    keys = opened.page.keyboard
    lab.root.locator(".xmc-stage").focus()
    for key, frame in (("Home", 1), ("End", last + 1), ("ArrowLeft", last), ("ArrowLeft", last - 1),
                       ("ArrowRight", last), ("Home", 1), ("ArrowLeft", 1), ("End", last + 1),
                       ("ArrowRight", last + 1)):
        keys.press(key)
        expect(lab.root.locator(".xmc-where")).to_contain_text(f"frame {frame}/{last + 1} ")
        expect(lab.root.locator(".xmc-connectivity")).to_have_attribute("data-shown", str(frame - 1))
    expect(lab.root.locator(".xmc-where")).to_contain_text("live")
    expect(lab.root.locator(".xmc-caption")).to_contain_text(f"Rewire at step {50 * last:,}")
    keys.press("?")
    expect(lab.root.get_by_role("dialog", name="Keys")).to_be_visible()
    opened.screenshot("lab-keys")
    keys.press("Escape")
    expect(lab.root.get_by_role("dialog", name="Keys")).to_be_hidden()
    step = lab.step()
    keys.press(" ")
    lab.wait_for_step(step + 10)
    keys.press(" ")
    lab.wait_for_state("paused")
    assert opened.errors == []


def test_the_keys_of_the_picture_go_through_the_moments_of_two_runs(opened, two_presented):
    """And Escape, once there is nothing to let go of, ends presenting with the focus on the picture, too."""
    lab, keys = two_presented, opened.page.keyboard
    caption = lab.root.locator(".xmc-caption")
    of_a, of_b = (int(lab.status.get_attribute(name)) // 50 * 50 for name in ("data-other-step", "data-step"))
    at = of_b
    for look, said, last in (("difference", "Connections at step {}: only in A", max(of_a, of_b)),
                             ("A", "Rewire at step {}: ", of_a), ("B", "Rewire at step {}: ", of_b)):
        lab.press(look)
        expect(caption).to_contain_text(said.format(f"{min(at, last):,}"))  # the new picture is there
        at = last - 50
        lab.root.locator(".xmc-stage").focus()
        for key, step in (("Home", 0), ("ArrowRight", 50), ("End", last), ("ArrowLeft", last - 50)):
            keys.press(key)
            words = said if step or look == "difference" else "At the start"
            expect(caption).to_contain_text(words.format(f"{step:,}"))
    keys.press("End")
    step = lab.step()
    keys.press(" ")
    lab.wait_for_step(step + 5)
    keys.press(" ")
    lab.wait_for_state("paused")
    lab.press("difference")
    assert opened.errors == []


def test_what_is_in_sight_stays_while_the_picture_is_hidden(opened, lab):
    stage, names = lab.root.locator(".xmc-stage"), lab.root.locator(".xmc-row")
    output = opened.page.locator(".jp-Notebook .jp-CodeCell").nth(1).locator(".jp-OutputCollapser")
    stage.focus()
    for _ in range(6):
        opened.page.keyboard.press("+")
    expect(names.nth(1)).to_be_visible()
    for hide in ("collapsed output", "another tab"):
        before = names.all_inner_texts()
        if hide == "collapsed output":
            output.click()
            expect(lab.root).to_be_hidden()
            opened.page.locator(".jp-Notebook .jp-OutputPlaceholder").click()
        else:
            opened.page.keyboard.press("Control+Shift+L")
            expect(lab.root).to_be_hidden()
            opened.page.locator(".lm-DockPanel-tabBar .lm-TabBar-tabLabel", has_text="open.ipynb").click()
        expect(lab.root).to_be_visible()
        opened.page.wait_for_timeout(500)
        assert names.all_inner_texts() == before, hide
    opened.screenshot("hidden-and-back")
    lab.root.get_by_title("Everything").click()
    assert opened.errors == []


def test_two_runs_and_a_branch(opened, lab):
    lab.press("A|B")
    expect(lab.status).to_have_attribute("data-other-step", re.compile(r"\d+"), timeout=60_000)
    lab.wait_for_state("paused")
    assert lab.step() == 0
    lab.knob("share that is rewired").press("ArrowRight")
    play_for(lab, 110)
    expect(lab.root.locator(".xmc-caption")).to_contain_text("only in A")
    expect(lab.root.locator(".xmc-message")).to_contain_text("rewire_fraction 0.2")
    opened.screenshot("two-runs")
    lab.press("B")
    last = lab.step() // 50 * 50
    expect(lab.root.locator(".xmc-caption")).to_contain_text(f"Rewire at step {last:,}")
    lab.root.get_by_title("One frame back").click()
    expect(lab.root.locator(".xmc-caption")).to_contain_text(f"Rewire at step {last - 50:,}")
    lab.press("Branch")
    expect(lab.status).to_have_attribute("data-step", str(last - 50), timeout=60_000)
    lab.wait_for_state("paused")
    expect(lab.root.locator(".xmc-message")).to_contain_text(f"continues from step {last - 50:,}")
    play_for(lab, 20)
    assert serious(opened, "two runs") == []
    lab.press("A|B")
    expect(lab.status).not_to_have_attribute("data-other-step", re.compile(r"\d+"))
    lab.knob("share that is rewired").press("ArrowLeft")
    play_for(lab, 5)
    assert opened.errors == []


@pytest.fixture
def two_presented(opened, lab):
    """Runs A and B after some steps, in presenter mode."""
    lab.press("A|B")
    expect(lab.status).to_have_attribute("data-other-step", re.compile(r"\d+"), timeout=60_000)
    lab.wait_for_state("paused")
    lab.knob("share that is rewired").press("ArrowRight")
    play_for(lab, 110)
    lab.press("Present")
    expect(lab.root.locator(".annotation-text").first).to_have_css("font-size", "18px")
    yield lab
    opened.page.keyboard.press("Escape")
    expect(opened.page.locator(".jp-InputArea").first).to_be_visible()
    lab.press("A|B")
    expect(lab.status).not_to_have_attribute("data-other-step", re.compile(r"\d+"))
    lab.knob("share that is rewired").press("ArrowLeft")  # as the next test expects it


UNREAD = """node => [node.querySelector('.xmc-who')].filter(line => line.scrollWidth > line.clientWidth
    || line.scrollHeight > line.clientHeight + 1
    || line.getBoundingClientRect().bottom > node.getBoundingClientRect().bottom).map(line => line.innerText)"""
FADED = """([node, bins]) => node.data.every((line) =>
    (line.opacity === 0.12) === (bins.length > 0 && ["head", "torso", "tail"].includes(line.legendgroup) &&
                                 !bins.includes(line.legendgroup)))"""


def test_a_pinned_label_and_a_brushed_bin_stay_from_look_to_look_and_through_reset(opened, two_presented):
    lab, page = two_presented, opened.page
    stage, curves = lab.root.locator(".xmc-stage"), lab.root.locator(".js-plotly-plot").element_handle()
    who, reads = lab.root.locator(".xmc-who"), lab.root.locator(".xmc-reads")
    box = stage.bounding_box()
    stage.click(position={"x": box["width"] / 2, "y": 0.1 * box["height"]})
    page.mouse.move(5, 5)
    name = who.locator("b").inner_text()
    page.keyboard.press("1")
    page.wait_for_function(FADED, arg=[curves, ["head"]])
    for look, words, score in (("A", "of 4 from step 0", "used .* · P@5 .* at step"),
                               ("B", "of 4 from step 0", "used .* · P@5 .* at step"),
                               ("difference", "read|only A", "head · P@5 A .* · B .* at step .* · used")):
        stage.focus()
        lab.root.get_by_role("button", name=look, exact=True).evaluate("button => button.click()")
        expect(reads).to_contain_text(re.compile(words))
        expect(who.locator("b")).to_have_text(name)
        expect(who).to_contain_text(re.compile(score))
        assert lab.root.locator(".xmc-words").evaluate(UNREAD) == []
        expect(stage).to_be_focused()  # the next key is not lost
    page.wait_for_timeout(500)
    opened.screenshot("pinned-and-brushed-presented")
    lab.press("A")
    expect(who).to_contain_text("P@5 ")
    stage.focus()
    page.keyboard.press("Home")
    expect(reads).to_contain_text(re.compile(r"^reads( \d+){4}$"))
    page.keyboard.press("ArrowRight")
    expect(reads).to_contain_text(re.compile(r"^\d of 4 from step 0 · (none new|new \d+)"))
    play_for(lab, 60)
    page.wait_for_function(FADED, arg=[curves, ["head"]])
    lab.press("Reset")
    expect(lab.status).to_have_attribute("data-step", "0")
    lab.wait_for_state("paused")
    expect(who.locator("b")).to_have_text(name)
    stage.focus()
    page.keyboard.press("Escape")
    expect(lab.root.locator(".xmc-words")).not_to_have_class(re.compile("xmc-pointing"))
    page.keyboard.press("Escape")
    page.wait_for_function(FADED, arg=[curves, []])
    lab.press("difference")
    assert opened.errors == []


def test_two_presented_runs_by_keyboard_alone(opened, two_presented):
    lab, page = two_presented, opened.page
    lab.root.get_by_role("button", name="Play").focus()
    reached, unseen = [], []
    for _ in range(70):
        page.keyboard.press("Tab")
        if not page.evaluate("() => document.activeElement.closest('.xmc-lab')"):
            break
        reached.append(re.split(r"[,\n]", page.evaluate(NAMED))[0])
        unseen += lab.root.evaluate(UNSEEN)
    reached = list(dict.fromkeys(reached))
    assert reached[reached.index(REACHED_OF_TWO[0]):] == REACHED_OF_TWO, reached
    assert all(reached)
    assert unseen == []
    for look, words in (("A", "Rewire at step"), ("difference", "only in A")):
        button = lab.root.get_by_role("button", name=look, exact=True)
        button.focus()
        page.keyboard.press("Enter")
        expect(lab.root.locator(".xmc-caption")).to_contain_text(words)
        expect(button).to_have_attribute("aria-pressed", "true")
    expect(lab.root.get_by_role("button", name="A", exact=True)).to_have_attribute("aria-pressed", "false")
    handle, step = lab.root.locator(".xmc-scrubber .noUi-handle"), lab.step()
    handle.press("Home")
    expect(lab.root.locator(".xmc-caption")).to_contain_text("Connections at step 0")
    handle.press("ArrowRight")
    expect(lab.root.locator(".xmc-caption")).to_contain_text("Connections at step 50")
    lab.root.get_by_title("Last frame").focus()
    page.keyboard.press("Enter")
    expect(lab.root.locator(".xmc-where")).to_have_text(re.compile(r"frame (\d+)/\1 "))
    lab.root.get_by_role("button", name="Step", exact=True).focus()
    page.keyboard.press("Enter")
    lab.wait_for_step(step + 1)
    lab.wait_for_state("paused")
    page.keyboard.press("Escape")
    expect(page.locator(".jp-InputArea").first).to_be_visible()
    expect(lab.status).to_have_attribute("data-other-step", re.compile(r"\d+"))  # it ends presenting, and no run
    assert opened.errors == []


def test_two_presented_runs_have_no_serious_barrier(opened, two_presented):
    lab = two_presented
    assert serious(opened, "two runs, presented") == []
    lab.press("More")
    expect(lab.root.locator(".xmc-share input")).to_be_visible()
    assert serious(opened, "two runs, presented, with the drawer") == []
    lab.press("More")
    lab.press("B")
    expect(lab.root.locator(".xmc-caption")).to_contain_text("Rewire at step")
    assert serious(opened, "B, presented") == []
    lab.press("difference")


@pytest.mark.parametrize("sidebar", [False, True], ids=["alone", "beside the side bar"])
def test_two_presented_runs_have_one_line_of_controls_and_all_words(opened, two_presented, request, sidebar):
    if sidebar:
        opened.toggle_sidebar()
        request.addfinalizer(opened.toggle_sidebar)
    presented_well(opened, two_presented, 15 if sidebar else 18)


def serious(opened, name: str, within: str = ".xmc-lab") -> list[str]:
    """What axe-core finds on the laboratory that is serious or critical."""
    found = Axe().run(opened.page, context=within)
    return [f"{name}: {v['id']}: {node['html'][:150]}" for v in found.response["violations"]
            if v["impact"] in ("serious", "critical") for node in v["nodes"]]


@pytest.mark.parametrize("theme", THEMES)
def test_no_serious_barrier(opened, lab, theme, request):
    opened.choose("Settings", "Theme", theme)
    request.addfinalizer(lambda: opened.choose("Settings", "Theme", "JupyterLab Light"))
    expect(opened.page.locator("body")).to_have_attribute("data-jp-theme-light", THEMES[theme])
    play_for(lab, 20)
    assert serious(opened, "a run") == []
    lab.press("More")
    expect(lab.root.locator(".xmc-share input")).to_be_visible()
    lab.knob("learning rates").press("ArrowRight")
    expect(lab.root.locator(".xmc-share input")).to_have_value(re.compile('"lr_factor":1.4'))
    assert serious(opened, "with the drawer") == []
    lab.knob("learning rates").press("ArrowLeft")
    lab.press("More")
    lab.press("Present")
    assert serious(opened, "presenting") == []
    lab.press("Present")


def test_a_second_view_of_a_laboratory(opened, lab):
    """It has the same curves; when it is closed the first goes on, and nothing is said in the console."""
    play_for(lab, 120)
    lab.root.locator(".xmc-message").click(button="right")
    opened.page.locator(".lm-Menu-itemLabel", has_text="Create New View for Cell Output").click()
    second = LabView(opened.page, 1)
    curves_reach(second)
    assert named(lab) == named(second) == NAMES
    opened.screenshot("second-view")
    view = opened.page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab", has_text="Output View")
    view.locator(".lm-TabBar-tabCloseIcon").click()
    expect(opened.page.locator(".xmc-lab")).to_have_count(1)
    play_for(lab, 60)
    curves_reach(lab)
    assert opened.errors == []


def test_a_reopened_notebook_says_what_was_there(browser, server):
    name = small(server.folder)
    with open_notebook(browser, server, name) as opened:
        lab = start(opened)
        expect(opened.page.locator(".xmc-saved")).to_be_hidden()
        lab.press("+10")
        lab.wait_for_step(10)  # the first step of a fresh checkout compiles the kernels
        expect(opened.page.locator(".xmc-saved")).to_contain_text("step 10 of 100,000")
        opened.save()
    server.end_kernel(name)
    with open_notebook(browser, server, name) as opened:
        saved = opened.page.locator(".xmc-saved")
        expect(saved).to_be_visible(timeout=30_000)
        expect(saved).to_contain_text("Lab on 'tiny': SET + auxiliary, seed 0")
        expect(saved).to_contain_text("step 10 of 100,000")
        picture = saved.locator("img").first  # the curves come after it
        expect(picture).to_be_visible()
        assert picture.evaluate("node => node.naturalWidth") > 1
        for _ in range(2):  # JupyterLab's "Loading widget...", and what it comes to: "model not found"
            expect(opened.output(1).first).to_have_text(re.compile("^(Loading widget|Error displaying widget)"))
            expect(opened.output(1).first).to_be_hidden()
            opened.page.wait_for_timeout(3000)
        opened.screenshot("reopened")


def test_a_notebook_from_another_machine_that_is_not_trusted(browser, server, tmp_path):
    name = write_notebook(server.folder / "sent.ipynb", CORPUS, LAB, "xe.LongTailExplorer(corpus)",
                          'xe.scrub(xe.load_recording("planted-set"))')
    with open_notebook(browser, server, name) as opened:
        lab = start(opened)
        lab.press("+10")
        lab.wait_for_step(10)
        opened.page.wait_for_timeout(1500)  # it is kept once it rests
        opened.save()
    shutil.copy(server.folder / name, tmp_path)
    with jupyter_lab(tmp_path) as other, open_notebook(browser, other, name) as opened:
        for cell in (1, 2, 3):
            saved = opened.output(cell).last
            saved.scroll_into_view_if_needed()
            assert saved.locator("style").count() == 0  # not trusted
            image = saved.locator("img").first
            expect(image).to_be_visible()
            assert image.evaluate("node => node.naturalWidth") > 300
            words = " ".join(opened.output(cell).all_inner_texts())
            assert "run the cell" in words and "widget" not in words and "building" not in words
            opened.screenshot(f"not-trusted-{cell}")
        expect(opened.output(1).last).to_contain_text("step 10 of 100,000")


def test_after_a_restart_of_the_kernel_what_was_saved_stands_in(browser, server):
    with open_notebook(browser, server, write_notebook(server.folder / "restart.ipynb", CORPUS, LAB)) as opened:
        lab = start(opened)
        play_for(lab, 20)
        saved = opened.page.locator(".xmc-saved")
        expect(saved).to_contain_text(f"step {lab.step()} of 100,000")
        lab.press("Play")
        lab.wait_for_step(40)
        handle = lab.knob("learning rates").element_handle()
        handle.press("ArrowRight")  # what the page would say a moment later finds nobody
        opened.choose("Kernel", "Restart Kernel…")
        opened.page.locator(".jp-Dialog .jp-mod-accept").click()
        expect(saved).to_be_visible(timeout=30_000)
        expect(lab.root).to_be_hidden()
        expect(saved.locator("img").first).to_be_visible()
        expect(saved).to_contain_text("run the cell for another")
        handle.dispatch_event("click")
        opened.page.wait_for_timeout(300)
        opened.screenshot("restarted")
        opened.wait_until_idle()
        opened.run_all()
        lab.wait_for_state("paused", timeout=120_000)
        play_for(lab, 10)
        expect(saved).to_be_hidden()
        assert opened.errors == [] and opened.cell_errors() == []


TOO_BUSY = """AbortSignal.timeout = () => {
    const late = new AbortController();
    setTimeout(() => late.abort(), 0);
    return late.signal;
}"""  # no script of a widget is there when anywidget stops waiting for it
SCRUB = """from xmc_explore.widgets.scrub import scrub
trace = xe.train(corpus, recipe, steps=120, progress=False)
scrub(trace)"""
TAIL = "xe.LongTailExplorer(corpus)"


def test_a_page_that_was_too_busy_to_load_the_pictures_in_time_catches_up(browser, server):
    name = write_notebook(server.folder / "busy.ipynb", CORPUS, LAB, SCRUB, TAIL)
    with open_notebook(browser, server, name, script=TOO_BUSY) as opened:
        lab = start(opened)
        assert "Failed to initialize model" in " ".join(opened.errors)
        play_for(lab, 60)
        step = lab.step()
        expect(lab.root.locator(".xmc-caption")).to_contain_text(f"Rewire at step {step // 50 * 50}: ")
        expect(lab.root.locator(".xmc-band").first).to_have_attribute("aria-label", re.compile("head, [0-9]+ labels"))
        curves = lab.root.locator(".js-plotly-plot")
        opened.page.wait_for_function("([node, step]) => node.data.some(line => line.x.at(-1) === step)",
                                      arg=[curves.element_handle(), step])
        assert len(curves.evaluate("node => node.data")) == len(charts.Charts().figure.data)
        expect(curves.locator(".annotation-text").first).to_have_text("loss")
        lab.press("Present")
        expect(opened.page.locator("body")).to_have_class(re.compile(r"\bxmc-presenting\b"))
        presented_well(opened, lab, 18)
        opened.screenshot("caught-up")
        opened.page.keyboard.press("Escape")
        for cell, selector in ((2, ".xmc-caption"), (3, ".js-plotly-plot .annotation-text")):
            said = opened.output(cell).locator(selector).first
            said.scroll_into_view_if_needed()
            expect(said).not_to_be_empty()
        opened.come_back()
        lab = LabView(opened.page)
        expect(lab.root).to_be_visible(timeout=60_000)
        curves_reach(lab)
        play_for(lab, 20)
        curves_reach(lab)
        lines = lab.root.locator(".js-plotly-plot").evaluate("node => node.data")
        assert len(lines) == len(charts.Charts().figure.data)
        assert "'_template'" not in " ".join(opened.errors)  # plotly's, of ranges for an axis that it has not drawn


# --- with subshells and without

OTHER = LAB.replace("lab", "other")
THREADS = """import threading
print(sorted(t.name for t in threading.enumerate() if t.name.startswith("xmc")))"""
WORDS = "print(lab.recipe.rewire_interval, lab.trace.events['change'][-1])"
CLOSE = f"lab.close(); other.close()\n{THREADS}"
OF_TWO = "['xmc-engine', 'xmc-engine', 'xmc-painter', 'xmc-painter']"
NUMBERS = """node => Math.max(-1, ...node.data.flatMap(line => [...(line.x ?? [])]))"""


@pytest.fixture(scope="module")
def two_labs(browser, either_server):
    """A notebook with two laboratories, on either server, that stays open for several tests."""
    name = write_notebook(either_server.folder / "two.ipynb", CORPUS, LAB, OTHER, THREADS, BUSY, WORDS,
                          "lab.run(1_000_000)", CLOSE)
    with open_notebook(browser, either_server, name) as opened:
        opened.toggle_sidebar()
        for cell in (0, 1, 2):
            opened.run_cell(cell)
        for nth in (0, 1):
            LabView(opened.page, nth).wait_for_state("paused", timeout=120_000)
        yield opened


def curves_reach(lab: LabView) -> None:
    """The curves show the step that the counter shows."""
    figure = lab.root.locator(".js-plotly-plot")
    lab.page.wait_for_function(f"([node, step]) => ({NUMBERS})(node) === step",
                               arg=[figure.element_handle(), lab.step()])


NAMES = ["all", "head", "torso", "tail", "auxiliary"]


def named(lab: LabView) -> list[str]:
    """What the legend of the curves says."""
    return lab.root.locator(".js-plotly-plot .legendtext").all_text_contents()


def pictured(lab: LabView, caption: str) -> None:
    """The picture has a caption, and more on it than its ground."""
    expect(lab.root.locator(".xmc-caption")).to_contain_text(caption)
    lab.root.scroll_into_view_if_needed()
    shot = base64.b64encode(lab.root.locator(".xmc-stage").screenshot()).decode()
    assert lab.page.evaluate(COLORS, shot)[2] > 2


def test_two_laboratories_and_a_cell_that_runs_again(two_labs):
    """It replaces its laboratory and no other, and no thread stays."""
    opened, first, second = two_labs, LabView(two_labs.page, 0), LabView(two_labs.page, 1)
    play_for(first, 60)
    second.press("+10")
    expect(second.status).to_have_attribute("data-step", "10")
    at = first.step()
    for lab, caption in ((first, f"Rewire at step {at // 50 * 50}: "), (second, "At the start")):
        curves_reach(lab)
        pictured(lab, caption)
    opened.run_cell(1)
    expect(first.status).to_have_attribute("data-step", "0", timeout=60_000)
    first.wait_for_state("paused")
    pictured(first, "At the start")
    assert second.step() == 10
    first.press("Step")
    second.press("Step")
    for lab, step in ((first, 1), (second, 11)):
        expect(lab.status).to_have_attribute("data-step", str(step))
        curves_reach(lab)
    opened.run_cell(3)
    expect(opened.output(3)).to_have_text(OF_TWO)
    assert opened.page.locator(".xmc-lab").count() == 2
    assert opened.errors == [] and opened.cell_errors() == []


def test_a_knob_and_a_scrub_while_it_trains(two_labs):
    opened, lab = two_labs, LabView(two_labs.page)
    place, caption = lab.root.locator(".xmc-where"), lab.root.locator(".xmc-caption")
    lab.press("Play")
    step = lab.wait_for_step(lab.step() + 60)
    for _ in range(3):
        lab.knob("rewire every").press("ArrowLeft")
    expect(lab.root.locator(".xmc-message")).to_contain_text("From the next step on: rewire_interval = 5.")
    expect(caption).to_contain_text(re.compile(r"Rewire at step [\d,]*(\d5|[1-46-9]0): "))  # by the knob alone
    assert lab.state() == "playing"
    handle = lab.root.locator(".xmc-scrubber .noUi-handle")
    handle.press("Home")
    expect(place).to_contain_text("frame 1/")
    expect(caption).to_contain_text("At the start")
    frames = int(place.inner_text().split("/")[1].split()[0])
    step = lab.wait_for_step(lab.step() + 30)
    expect(place).to_contain_text(re.compile("^frame 1/"))
    expect(caption).to_contain_text("At the start")
    handle.press("ArrowRight")
    expect(caption).to_contain_text("Rewire at step 50: ")
    assert int(place.inner_text().split("/")[1].split()[0]) > frames
    lab.wait_for_step(step + 30)
    assert lab.state() == "playing"
    lab.root.get_by_title("Last frame, and follow the run").click()
    expect(place).to_contain_text("live")
    lab.press("Pause")
    lab.wait_for_state("paused")
    opened.run_cell(5)
    expect(opened.output(5)).to_contain_text(re.compile(r"^5 \{.*'rewire_interval': 5"))
    assert opened.errors == [] and opened.cell_errors() == []


def interrupt(opened, cell: int) -> None:
    opened.choose("Kernel", "Interrupt Kernel")
    expect(opened.output(cell).last).to_contain_text("KeyboardInterrupt")
    opened.wait_until_idle()


def test_a_press_while_a_cell_is_running(two_labs, subshells):
    """It is obeyed at once with subshells, after the cell without: it is not lost, though the cell be interrupted."""
    opened, lab = two_labs, LabView(two_labs.page)
    prompt = opened.page.locator(".jp-CodeCell").nth(4).locator(".jp-InputPrompt")
    opened.run_cell(4)
    expect(prompt).to_have_text("[*]:")
    step = lab.step()
    lab.press("+10")
    if subshells:
        expect(lab.status).to_have_attribute("data-step", str(step + 10))
        play_for(lab, 20)
        step = lab.step() - 10
    else:
        opened.page.wait_for_timeout(1000)
        assert lab.step() == step
    expect(prompt).to_have_text("[*]:")
    interrupt(opened, 4)
    expect(lab.status).to_have_attribute("data-step", str(step + 10))
    lab.wait_for_state("paused")
    play_for(lab, 20)
    curves_reach(lab)


def test_the_kernel_is_interrupted_while_it_trains(two_labs):
    """What plays goes on, whether a cell is running or not; a cell that trains stops after its step."""
    opened, lab = two_labs, LabView(two_labs.page)
    lab.press("Play")
    lab.wait_for_step(lab.step() + 10)
    opened.choose("Kernel", "Interrupt Kernel")
    lab.wait_for_step(lab.step() + 20)
    opened.run_cell(4)
    step = lab.wait_for_step(lab.step() + 20)
    interrupt(opened, 4)
    lab.wait_for_step(step + 20)
    assert lab.state() == "playing"
    lab.press("Pause")
    lab.wait_for_state("paused")
    step = lab.step()
    opened.run_cell(6)
    lab.wait_for_step(step + 20)
    interrupt(opened, 6)
    lab.wait_for_state("paused")
    step = lab.step()
    curves_reach(lab)
    lab.press("Step")
    expect(lab.status).to_have_attribute("data-step", str(step + 1))
    opened.run_cell(3)
    expect(opened.output(3)).to_have_text(OF_TWO)
    assert opened.errors == []


def test_the_tab_is_closed_and_opened_again(two_labs):
    """One laboratory plays on meanwhile, the other rests; both are as they were."""
    lab = LabView(two_labs.page)
    lab.press("Play")
    step = lab.wait_for_step(lab.step() + 40)
    two_labs.come_back()
    opened, lab = two_labs, LabView(two_labs.page)
    expect(lab.root).to_be_visible(timeout=60_000)
    lab.wait_for_step(step + 50)
    assert lab.state() == "playing"
    opened.toggle_sidebar()
    lab.press("Pause")
    lab.wait_for_state("paused")
    interval = int(lab.knob_value("rewire every").split()[0])
    pictured(lab, f"Rewire at step {lab.step() // interval * interval:,}")
    curves_reach(lab)
    other = LabView(opened.page, 1)
    curves_reach(other)
    assert other.state() == "paused"
    opened.screenshot("closed-and-back")
    assert named(lab) == NAMES
    assert len(set(named(other))) == len(named(other))  # before it was evaluated it has no bins to name
    play_for(lab, 10)
    curves_reach(lab)
    assert named(lab) == NAMES
    assert opened.errors == []


def test_no_thread_stays(two_labs):
    two_labs.run_cell(7)
    expect(two_labs.output(7)).to_have_text("[]")


# --- looks

RECORDED = ("import xmc_explore as xe", 'xe.Lab(trace=xe.load_recording("calls-small-auxiliary"))',
            'xe.scrub(xe.load_recording("planted-set"))', 'xe.LongTailExplorer(xe.load_recording("calls-small-set"))')


def test_pictures_of_recordings(browser, server):
    """Kept in tests/artefacts, for people to look at: nothing trains, so they are the same each time."""
    with open_notebook(browser, server, write_notebook(server.folder / "recording.ipynb", *RECORDED)) as opened:
        opened.toggle_sidebar()
        opened.run_all()
        lab, page = LabView(opened.page), opened.page
        lab.wait_for_state("recorded", timeout=120_000)
        opened.wait_until_idle()
        expect(lab.root.locator(".xmc-message")).to_contain_text("nothing trains")
        lab.press("Play")
        # it plays faster than the page is asked: any frame from the third on will do
        expect(lab.root.locator(".xmc-where")).to_have_text(re.compile(r"frame ([3-9]|\d\d)/40"), timeout=30_000)
        lab.press("Pause")
        lab.root.get_by_title("First frame").click()
        for _ in range(30):
            lab.root.get_by_title("One frame on").click()
        expect(lab.root.locator(".xmc-where")).to_have_text("frame 31/40 (rewire at 600)")
        shown = {"laboratory": lab.root, "scrub": page.locator(".xmc-scrub"),
                 "long-tail": page.locator(".xmc-lab", has=page.locator(".xmc-tail-body"))}
        found = []
        for theme in ("JupyterLab Dark", "JupyterLab Light"):
            opened.choose("Settings", "Theme", theme)
            for name, root in shown.items():
                for mode in ("plain", "presenter") if name == "laboratory" else ("plain",):
                    presented = mode == "presenter"
                    if presented:
                        lab.press("Present")
                    root.evaluate("node => node.scrollIntoView({block: 'end'})")
                    page.wait_for_timeout(700)  # plotly follows a new size a moment later
                    opened.screenshot(f"recorded-{name}-{theme.split()[1].lower()}-{mode}")
                    found += serious(opened, f"{name}, {theme}, {mode}", ".xmc-lab, .xmc-scrub")
                    if presented:
                        lab.press("Present")
        assert found == []
        assert lab.step() == 1200 and opened.errors == [] and opened.cell_errors() == []


FIGURE = """import xmc_explore as xe
xe.plots.churn(xe.load_recording("planted-set"))"""


def test_a_figure_keeps_its_height_whatever_changes_around_it(browser, server):
    with open_notebook(browser, server, write_notebook(server.folder / "figure.ipynb", FIGURE)) as opened:
        opened.run_all()
        figure = opened.page.locator(".jp-Notebook .js-plotly-plot")
        expect(figure.locator(".main-svg").first).to_be_visible(timeout=60_000)
        for change in ("as it was", "JupyterLab Dark", "side bar", "JupyterLab Light"):
            if change == "side bar":
                opened.toggle_sidebar()
            elif change != "as it was":
                opened.choose("Settings", "Theme", change)
            opened.page.wait_for_timeout(1500)  # what takes the height away comes late
            assert figure.bounding_box()["height"] == 400, change
        assert opened.errors == [] and opened.cell_errors() == []


COLORS = """async (data) => {
  const image = new Image();
  image.src = "data:image/png;base64," + data;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight), ink = canvas.getContext("2d");
  ink.drawImage(image, 0, 0);
  const pixels = new Uint32Array(ink.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return [canvas.width, canvas.height, new Set(pixels).size];
}"""


def test_a_figure_is_exported_as_a_picture(browser, tmp_path):
    figure = go.Figure(go.Scatter(x=[1, 2, 3], y=[3, 1, 2], line_color="#0072B2"))
    files = sharing.export(tmp_path, "figure", figure, xe.Recipe())
    page = browser.new_page()
    width, height, colors = page.evaluate(COLORS, base64.b64encode(files["picture"].read_bytes()).decode())
    page.close()
    assert (width, height) == (2200, 1120) and colors > 20  # a line, words and their soft edges
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.html", "figure.json", "figure.png"]


# The number of all steps may be cut: it gives way to the rest of its line, and a tooltip has the whole.
CUT = """root => [...root.querySelectorAll(
    'button, .widget-label, .widget-readout, .xmc-status, .xmc-where, .xmc-band span, .xmc-legend, ' +
    '.xmc-tools, .xmc-caption, .xmc-present .xmc-message')]
    .filter(n => n.clientWidth && (n.scrollWidth > n.clientWidth + 1 || n.scrollHeight > n.clientHeight + 1))
    .map(n => n.className + ': ' + n.innerText)"""
SQUEEZED = """root => [...root.querySelectorAll('select')].filter(box => {
    const twin = box.cloneNode(true);
    twin.style.cssText = 'position: absolute; width: max-content';
    box.after(twin);
    const wide = twin.offsetWidth;
    twin.remove();
    return box.offsetWidth && box.offsetWidth < wide - 1;
}).map(box => box.title || box.value)"""


def test_everything_fits_on_a_small_screen(opened, lab, request):
    assert opened.page.viewport_size == {"width": 1280, "height": 720}
    play_for(lab, 120)
    for sidebar in ("without", "with"):
        if sidebar == "with":
            opened.toggle_sidebar()
            request.addfinalizer(opened.toggle_sidebar)
        lab.root.evaluate("node => node.scrollIntoView({block: 'end'})")
        opened.page.wait_for_timeout(500)  # plotly follows a new size a moment later
        opened.screenshot(f"small-screen-{sidebar}-sidebar")
        panel, box = opened.page.locator(".jp-WindowedPanel-outer").bounding_box(), lab.root.bounding_box()
        assert box["height"] <= panel["height"] and box["x"] + box["width"] <= panel["x"] + panel["width"]
        assert lab.status.bounding_box()["y"] >= panel["y"]
        assert lab.root.evaluate(CUT) == lab.root.evaluate(SQUEEZED) == []
        figure = lab.root.locator(".js-plotly-plot").bounding_box()
        assert figure["x"] + figure["width"] <= box["x"] + box["width"] + 1
        drawing = lab.root.locator(".js-plotly-plot .main-svg").first.bounding_box()
        assert abs(drawing["width"] - figure["width"]) <= 1


# Words of the curves that lie on others, or beyond the figure; a box of words is a little higher than they are.
COLLIDING = """figure => {
    const all = figure.getBoundingClientRect(), found = [];
    const kinds = '.annotation-text, .legendtext, [class$="tick"] text, [class$="title"] text';
    const words = [...figure.querySelectorAll(kinds)]
        .filter(n => n.textContent && n.getBoundingClientRect().width)
        .map(n => [n.textContent, n.getBoundingClientRect()]);
    words.forEach(([a, p], i) => {
        if (p.left < all.left - 1 || p.right > all.right + 1) found.push('cut: ' + a);
        for (const [b, q] of words.slice(i + 1)) {
            const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
            const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
            if (wide > 1 && high > 0.25 * Math.min(p.height, q.height)) found.push(a + ' / ' + b);
        }
    });
    return found;
}"""


@pytest.mark.parametrize(("width", "sidebar"), [(900, False), (760, False), (640, False), (480, False), (900, True)])
def test_a_narrow_laboratory_has_its_curves_below_and_no_word_cut(opened, lab, width, sidebar, request):
    play_for(lab, 60)
    request.addfinalizer(lambda: opened.page.set_viewport_size({"width": 1280, "height": 720}))
    opened.page.set_viewport_size({"width": width, "height": 1200})
    if sidebar:
        opened.toggle_sidebar()
        request.addfinalizer(opened.toggle_sidebar)
    opened.page.wait_for_timeout(1000)  # plotly follows a new size a moment later
    lab.root.evaluate("node => node.scrollIntoView({block: 'start'})")
    opened.screenshot(f"narrow-{width}{'-sidebar' * sidebar}")
    all_of_it, picture, curves = (box.bounding_box() for box in (
        lab.root, lab.root.locator(".xmc-connectivity"), lab.root.locator(".js-plotly-plot")))
    if all_of_it["width"] <= 640:
        assert curves["y"] >= picture["y"] + picture["height"]
        assert picture["width"] == curves["width"] == all_of_it["width"]
    else:
        assert curves["x"] >= picture["x"] + picture["width"]
    assert lab.root.evaluate(CUT) == lab.root.evaluate(SQUEEZED) == []
    assert lab.root.locator(".xmc-words").evaluate("words => words.scrollHeight <= words.clientHeight + 1")
    assert lab.root.locator(".js-plotly-plot").evaluate(COLLIDING) == []


def presented_well(opened, lab: LabView, size: int) -> None:
    """One line of controls, and no word cut or on another, in type of `size`."""
    expect(lab.root.locator(".annotation-text").first).to_have_css("font-size", f"{size}px")
    opened.page.wait_for_timeout(700)  # plotly follows a new size a moment later
    lab.root.evaluate("node => node.scrollIntoView({block: 'end'})")
    panel, box = opened.page.locator(".jp-WindowedPanel-outer").bounding_box(), lab.root.bounding_box()
    assert box["height"] <= panel["height"] and box["x"] + box["width"] <= panel["x"] + panel["width"]
    for line in (".xmc-toolbar", ".xmc-scrubber"):
        assert lab.root.locator(line).bounding_box()["height"] < 40
    assert lab.root.evaluate(CUT) == lab.root.evaluate(SQUEEZED) == []
    assert lab.root.locator(".js-plotly-plot").evaluate(COLLIDING) == []
    for name in ("Play", "Pause", "Step", "+10", "Reset", "A|B", "Branch", "Present", "More"):
        button = lab.root.locator(".xmc-toolbar").get_by_role("button", name=name, exact=True)
        assert button.bounding_box()["width"] >= 28, name
    assert lab.status.evaluate("node => parseFloat(getComputedStyle(node).fontSize)") == size


@pytest.mark.parametrize(("width", "sidebar"), [(1280, False), (1280, True), (1440, False), (1920, False)])
def test_a_projector_shows_one_line_of_controls_and_all_words(opened, lab, width, sidebar):
    play_for(lab, max(60, 1700 - lab.step()))  # to where numbers are wide
    lab.press("Present")
    try:
        opened.page.set_viewport_size({"width": width, "height": 720})
        if sidebar:
            opened.toggle_sidebar()
        presented_well(opened, lab, 15 if sidebar else 18)
        opened.screenshot(f"projector-{width}{'-sidebar' * sidebar}")
    finally:
        if sidebar:
            opened.toggle_sidebar()
        opened.page.set_viewport_size({"width": 1280, "height": 720})
        opened.page.keyboard.press("Escape")


def test_names_of_rows_grow_with_the_rest_and_stand_beside_their_rows(opened, lab):
    stage, names = lab.root.locator(".xmc-stage"), lab.root.locator(".xmc-row")
    lab.root.get_by_title("Everything").click()
    stage.focus()
    for _ in range(6):
        opened.page.keyboard.press("+")
    expect(names.first).to_have_css("font-size", re.compile(r"^(10.9|11)"))
    first, number = names.first.inner_text(), names.count()
    lab.press("Present")
    try:
        expect(names.first).to_have_css("font-size", re.compile(r"^15.2"))
        assert names.first.inner_text() == first and 1 < names.count() <= number
        for name in (names.nth(0), names.nth(1), names.last):
            box, at = stage.bounding_box(), name.bounding_box()
            opened.page.mouse.move(box["x"] + box["width"] / 2, at["y"] + at["height"] / 2)
            expect(lab.root.locator(".xmc-who b")).to_have_text(name.inner_text())
    finally:
        opened.page.keyboard.press("Escape")
    expect(names.first).to_have_css("font-size", re.compile(r"^(10.9|11)"))
    expect(names).to_have_count(number)
    lab.root.get_by_title("Everything").click()


FAMILIES = """root => [...root.querySelectorAll('button, input, select, label, b, span, div')]
    .filter(n => n.getBoundingClientRect().width && !n.closest('.js-plotly-plot'))
    .filter(n => getComputedStyle(n).fontFamily !== getComputedStyle(root).fontFamily)
    .map(n => n.outerHTML.slice(0, 150))"""


def test_all_words_are_of_one_family(opened, lab):
    lab.press("More")
    expect(lab.root.locator(".xmc-share input")).to_be_visible()
    assert lab.root.evaluate(FAMILIES) == []
    lab.press("More")


CONTRAST = """([words, property]) => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const ground = rgb(getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor);
    const [r, g, b, a = 1] = rgb(getComputedStyle(words)[property]);
    const mixed = [r, g, b].map((c, i) => a * c + (1 - a) * ground[i]);
    const luminance = (c) => c.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const [low, high] = [luminance(mixed), luminance(ground)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
}"""  # the contrast of WCAG 2


@pytest.mark.parametrize("least", [4.5, 7], ids=["plain", "presented"])  # WCAG 2 asks for it, and for high contrast
@pytest.mark.parametrize("theme", THEMES)
def test_words_stand_out_in_both_themes(opened, lab, theme, least, request):
    opened.choose("Settings", "Theme", theme)
    expect(opened.page.locator("body")).to_have_attribute("data-jp-theme-light", THEMES[theme])
    play_for(lab, 100)
    if least > 4.5:
        lab.press("Present")
        request.addfinalizer(lambda: opened.page.keyboard.press("Escape"))
        opened.page.wait_for_timeout(700)  # plotly draws its words anew
    for selector, kind in ((".xmc-status", "color"), (".xmc-message", "color"), (".widget-label", "color"),
                           (".widget-readout", "color"), (".xmc-row", "color"), (".xmc-caption", "color"),
                           (".js-plotly-plot .yaxislayer-above text", "fill"), (".js-plotly-plot .legendtext", "fill")):
        words = lab.root.locator(selector).first.element_handle()
        assert opened.page.evaluate(CONTRAST, [words, kind]) >= least, selector
    handle = lab.root.locator(".xmc-knobs .noUi-handle").first.element_handle()
    assert opened.page.evaluate(CONTRAST, [handle, "borderTopColor"]) >= 3
    arrow = lab.root.locator(".xmc-knobs select").first.element_handle()  # a picture, of a colour in its address
    arrow.evaluate("""list => list.style.outlineColor =
        '#' + getComputedStyle(list).backgroundImage.match(/stroke='%23([0-9a-f]+)'/)[1]""")
    assert opened.page.evaluate(CONTRAST, [arrow, "outlineColor"]) >= 4.5


def rendered(page) -> None:
    """page.js on a page of its own: `taken` is what its curves were given, `render` makes another view of it."""
    page.set_content("<div class=xmc-lab><button></button><div class=page></div><div class=page></div></div>")
    page.evaluate("""async (source) => {
      const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      const widget = (await import(address)).default;
      window.taken = [];
      const take = (state) => { if (state === "broken") throw Error(state); taken.push(state); };
      window.curves = Object.create({ set_state: take, once() {} });
      const model = { get: (name) => (name === "curves" ? "their id" : undefined), on() {}, off() {}, send() {},
        widget_manager: { get_model: async () => curves } };
      window.render = (n) => widget.render({ model, el: document.querySelectorAll(".page")[n] });
      window.first = render(0);
    }""", Page._esm.read_text(encoding="utf-8") if isinstance(Page._esm, Path) else str(Page._esm))


def test_what_comes_for_the_curves_waits_until_a_hand_rests_but_not_for_ever(browser):
    page = browser.new_page()
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    rendered(page)
    page.clock.run_for(100)

    def move() -> None:
        page.evaluate("document.querySelector('button').dispatchEvent(new KeyboardEvent('keydown', {bubbles: true}))")

    def taken(after: int) -> list[int]:
        page.clock.run_for(after)
        return page.evaluate("taken")

    page.evaluate("void curves.set_state(1)")
    assert taken(0) == [1]
    move()
    page.evaluate("void curves.set_state(2), void curves.set_state(3)")
    assert taken(250) == [1]
    assert taken(100) == [1, 2, 3]
    page.evaluate("void curves.set_state(4)")
    for _ in range(9):
        move()
        taken(100)
    page.evaluate("void curves.set_state(5)")
    for _ in range(3):
        move()
        found = taken(100)
    assert found == [1, 2, 3, 4]
    assert taken(300) == [1, 2, 3, 4, 5]
    page.close()


@pytest.mark.parametrize("what", ["an error of plotly", "a second view"])
def test_the_curves_go_on_after(browser, what):
    page = browser.new_page()
    rendered(page)
    if what == "a second view":  # which is closed again
        page.evaluate("async () => { const second = render(1); await Promise.resolve(); second(); }")
    else:
        assert page.evaluate("curves.set_state('broken').catch((error) => error.message)") == "broken"
    held = page.evaluate("Object.hasOwn(curves, 'set_state')")
    page.evaluate("curves.set_state(6)")
    assert held and page.evaluate("taken") == [6]
    page.evaluate("first()")
    assert not page.evaluate("Object.hasOwn(curves, 'set_state')")
    page.close()
