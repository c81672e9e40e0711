"""Every notebook in a real JupyterLab: all cells run, and then everything that can be operated is operated once."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from jupyter_browser import ARTEFACTS, Opened, jupyter_lab, open_notebook, with_parameters
from playwright.sync_api import ElementHandle, Error, Locator, expect
from test_notebooks import FAST, FOLDER

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What a reader can operate in an output, each once. Presenting hides the code: it comes after all of them, by itself.
CONTROLS = {
    "button": ".jp-OutputArea-output button:not(.modebar-btn):not(:text-is('Present'))",
    "slider": ".jp-OutputArea-output .noUi-handle, .jp-OutputArea-output input[type=range]",
    "steps": ".jp-OutputArea-output .slider-rail-touch-rect",
    "choice": ".jp-OutputArea-output select",
    "tick": ".jp-OutputArea-output input[type=checkbox]",
    "words": ".jp-OutputArea-output input[type=text], .jp-OutputArea-output textarea",
    "fold": ".jp-OutputArea-output summary, .jp-MarkdownCell summary",
    "canvas": ".jp-OutputArea-output canvas[role=img]",
    "figure": ".jp-OutputArea-output .svg-container",
}
# What must have been there at the least: a driver that finds nothing would find no fault either. About nine tenths of
# what there was, so that a changed sentence does not fail, and a control that can no longer be used does.
LEAST = {
    "00": dict(button=26, slider=6, choice=10, tick=1, words=2, fold=11, canvas=2, figure=7, tool=38, legend=13,
               present=1),
    "01": dict(slider=6, fold=18, figure=8, tool=38, legend=20),
    "02": dict(fold=14, figure=4, tool=24, legend=19),
    "03": dict(fold=17, figure=5, tool=30, legend=8),
    "04": dict(steps=3, fold=23, figure=6, tool=38, legend=2),
    "05": dict(button=20, slider=3, choice=6, tick=1, words=2, fold=21, canvas=1, figure=10, tool=54, legend=22,
               present=1),
    "06": dict(fold=20, figure=10, tool=60, legend=27),
    "07": dict(button=19, slider=4, choice=3, tick=1, words=2, fold=18, canvas=1, figure=10, tool=54, legend=19,
               present=1),
    "08": dict(fold=12, figure=5, tool=32, legend=13),
    "09": dict(fold=14, figure=7, tool=42, legend=18),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    for path in FOLDER.iterdir():
        if path.suffix != ".ipynb" and path.is_file():
            shutil.copy(path, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XMC_EXPLORE_PROGRESS", "off")
        with jupyter_lab(folder) as server:
            yield server


def operate(opened: Opened, kind: str, control: ElementHandle) -> bool:
    """Use a control once, as a person would; False if it has gone, or cannot be used now."""
    if kind == "figure":  # far off the screen JupyterLab does not lay it out, so it comes first and is looked at then
        control.evaluate("node => node.scrollIntoView({block: 'center'})")
        opened.page.wait_for_timeout(200)
        box = control.bounding_box()
        if box:
            opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=2)
        return bool(box)
    try:
        if not control.is_visible() or not control.is_enabled():
            return False
        control.scroll_into_view_if_needed(timeout=5000)
        match kind:
            case "button" | "tick" | "fold" | "canvas":
                control.click(timeout=5000)
            case "steps":  # plotly's slider: its rail is no element that Playwright takes for the one on top
                opened.page.wait_for_timeout(500)
                box = control.bounding_box()
                opened.page.mouse.click(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
            case "slider":  # its handle is too small for a mouse
                control.focus()
                opened.page.keyboard.press("ArrowRight")
            case "choice":
                values = control.evaluate("node => [...node.options].map(o => o.value)")
                control.select_option(values[-1], timeout=5000)
            case "words":
                control.focus()
                opened.page.keyboard.press("End")
    except Error as error:
        if "not attached" in str(error):  # an answer to an earlier control has replaced it
            return False
        error.add_note(f"{kind}: {control.evaluate('node => node.outerHTML')[:300]}")
        raise
    opened.page.wait_for_timeout(150)
    return True


SHOWN = "figure => JSON.stringify(figure.data.map(line => line.visible ?? true))"


def operate_figure(opened: Opened, figure: Locator) -> Counter:
    """Every tool of a plotly figure, and each entry of its legend, whose lines must go; how many there were."""
    tools, entries = figure.locator(".modebar-btn"), figure.locator(".legendtoggle")
    figure.evaluate("node => node.scrollIntoView({block: 'center'})")  # far off the screen it has no place yet
    opened.page.wait_for_timeout(300)
    figure.hover(force=True)  # the tools show when the mouse is on the figure
    for number in range(tools.count()):
        tools.nth(number).click(timeout=5000)
    for number in range(entries.count()):  # plotly draws the legend anew at each click, so they are found anew
        before = figure.evaluate(SHOWN)
        entries.nth(number).click(timeout=5000)
        opened.page.wait_for_function(f"([figure, before]) => ({SHOWN})(figure) !== before",
                                      arg=[figure.element_handle(), before])
    return Counter(tool=tools.count(), legend=entries.count())


def present(opened: Opened, name: str) -> int:
    """Each laboratory as a lecturer shows it, and back with Escape; how many there are."""
    buttons = opened.page.locator(".jp-OutputArea-output").get_by_role("button", name="Present", exact=True)
    presenting = re.compile(r"\bxmc-presenting\b")
    for number in range(buttons.count()):
        buttons.nth(number).click()
        expect(opened.page.locator("body")).to_have_class(presenting)
        buttons.nth(number).scroll_into_view_if_needed()
        opened.page.wait_for_timeout(1000)
        opened.screenshot(f"presented-{name[:2]}" + f"-{number}" * bool(number))
        opened.page.keyboard.press("Escape")
        expect(opened.page.locator("body")).not_to_have_class(presenting)
    return buttons.count()


def operate_everything(opened: Opened, name: str) -> Counter:
    """How many controls of each kind were used."""
    used = Counter()
    for kind, selector in CONTROLS.items():
        controls = opened.page.query_selector_all(selector)
        for control in reversed(controls) if kind == "choice" else controls:  # a preset comes first and hides others
            used[kind] += operate(opened, kind, control)
    for figure in opened.page.locator(".jp-Notebook .js-plotly-plot").all():
        used += operate_figure(opened, figure)
    used["present"] += present(opened, name)
    return used


FIGURES_ON_SCREEN = """() => [...document.querySelectorAll('.jp-Notebook .js-plotly-plot')].every(figure => {
        const box = figure.getBoundingClientRect();
        const away = !box.width || box.bottom < 0 || box.top > innerHeight;
        return away || box.height > 100 && figure.querySelector('.main-svg');
    })"""
LAST_CELL = "() => [...document.querySelectorAll('.jp-Notebook .jp-Cell')].at(-1).getBoundingClientRect().bottom"


def pictures(opened: Opened, name: str) -> None:
    """The notebook from top to bottom, a screen at a time, in both themes; no figure that is looked at stays blank."""
    panel = opened.page.locator(".jp-WindowedPanel-outer").first
    height = panel.evaluate("node => node.clientHeight")
    for theme in ("Light", "Dark"):
        opened.choose("Settings", "Theme", f"JupyterLab {theme}")
        expect(opened.page.locator("#jupyterlab-splash")).to_have_count(0)
        folder = ARTEFACTS / "notebooks" / f"{name[:2]}-{theme.lower()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number in range(80):
            panel.evaluate("(node, top) => node.scrollTo(0, top)", number * (height - 40))
            opened.page.wait_for_timeout(300)
            opened.page.wait_for_function(FIGURES_ON_SCREEN, timeout=30_000)
            if number and opened.page.evaluate(LAST_CELL) < 120:
                break
            opened.page.screenshot(path=folder / f"{number:02d}.png")


@pytest.mark.parametrize("name", FAST)
def test_everything_in_it_can_be_operated(browser, server, name):
    notebook = with_parameters(FOLDER / f"{name}.ipynb", Path(server.folder) / f"{name}.ipynb", **FAST[name])
    with open_notebook(browser, server, notebook) as opened:
        opened.toggle_sidebar()
        opened.run_all()
        opened.page.wait_for_timeout(1000)
        opened.wait_until_idle(timeout=400_000)
        assert opened.cell_errors() == []
        pictures(opened, name)
        used = operate_everything(opened, name)
        opened.wait_until_idle(timeout=120_000)
        opened.page.wait_for_timeout(1500)
        opened.screenshot(f"operated-{name[:2]}")
        assert opened.cell_errors() == [] and opened.errors == []
        assert opened.page.locator(".xmc-status[data-state='failed']").count() == 0
        assert opened.foreign_requests(server) == []
        print(f"{name[:2]}: {dict(+used)}")  # for LEAST, with pytest -s
        assert used >= Counter(LEAST[name[:2]]), used
