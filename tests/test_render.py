"""Pages that ask for nothing: no script, style or font from elsewhere; formulas without MathJax."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import nbformat
import pytest
from jupyter_browser import ARTEFACTS
from test_notebooks import FAST, FIGURES

from xmc_explore import exercises as ex
from xmc_explore.exercises.checking import statement

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "notebooks"))
import render  # noqa: E402


def notebook(*outputs: dict) -> nbformat.NotebookNode:
    v4 = nbformat.v4
    code = v4.new_code_cell("1", outputs=[v4.new_output("display_data", data) for data in outputs])
    words = v4.new_markdown_cell("Costs $L \\times D$ bytes, `a $5 note`:\n\n$$\\sum_l y_l$$")
    return v4.new_notebook(cells=[words, code])


@pytest.mark.parametrize(("text", "formulas"), [
    ("$K$ of $D$", 2), ("$$a$$ and $b$", 2), ("`$x$` and ```\n$y$\n```", 0), ("it costs $5", 0), ("5 $ to 6 $", 0),
    (r"\$x\$", 0)])
def test_formulas_become_mathml_and_code_does_not(text, formulas):
    assert render.with_mathml(text).count("<math") == formulas


def test_a_page_asks_for_nothing():
    figure = ('<div>figure</div><script src="https://cdn.example.org/mathjax.js"></script>'
              "<script>var own = 1</script>")
    page = render.page_of(notebook({"text/html": figure}, {"text/markdown": "so $x^2$ it is"}), "light")
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', page)
    assert "@import" not in page and "var own = 1" in page
    assert page.count("<math") == 3 and "a $5 note" in page
    inside = re.findall(r"<math.*?</math>", page, re.S)
    assert [re.sub("<[^>]+>", "", formula) for formula in inside] == ["L×D", "∑lyl", "x2"]
    assert all("<mi>" in formula for formula in inside)  # tags with something in them, as a browser needs them


def test_the_example_of_the_help_is_one_that_runs():
    makefile = Path(render.__file__).resolve().parent.parent / "Makefile"
    for words in (render.__doc__, makefile.read_text(encoding="utf-8")):
        examples = re.findall(r"(?:RENDER_ARGS=\"|render\.py )((?:\d\d )+)-p steps (\d+)", words)
        assert len(examples) == 1
        for names, steps in examples:
            asked = [FAST[name] for name in FAST if name[:2] in names.split()]
            assert len(asked) == len(names.split()) and all(int(steps) >= fast["steps"] for fast in asked)


def test_the_dark_pages_of_a_lecturer_do_not_replace_the_light_ones(monkeypatch, tmp_path):
    text = (render.NOTEBOOKS / "TEACHING.md").read_text(encoding="utf-8")
    arguments, = re.findall(r'RENDER_ARGS="([^"]*)"', text)
    begun = []

    def execute(path, result, *_, **__):
        begun.append(result)
        raise KeyboardInterrupt

    monkeypatch.setattr(render.papermill, "execute_notebook", execute)
    monkeypatch.setattr(sys, "argv", ["render.py", *arguments.split()])
    monkeypatch.setenv("PLOTLY_RENDERER", "notebook")
    monkeypatch.chdir(tmp_path)  # `make` runs where rendered/ is to be
    with pytest.raises(KeyboardInterrupt):
        render.main()
    assert begun == [Path("rendered/dark/00_start_here.ipynb")] and (tmp_path / begun[0]).parent.is_dir()


def test_words_keep_their_line_and_images_are_in_the_page():
    words = nbformat.v4.new_markdown_cell('an <abbr title="what it means">word</abbr> ![all](images/laboratory.png)')
    page = render.page_of(nbformat.v4.new_notebook(cells=[words]), "light")
    assert '<abbr title="what it means">word</abbr>' in page
    assert re.search(r'<img[^>]*src="data:image/png;base64,[^"]{1000,}"', page)


def test_hints_and_solutions_stay_folded():
    text = statement(ex.find("precision_at_k"))
    page = render.page_of(notebook({"text/markdown": text}), "light")
    inside = re.findall(r"<details>.*?</details>", page, re.S)
    assert len(inside) == text.count("<details>") >= 3
    assert all("<p>" in fold or "<pre>" in fold for fold in inside)
    assert "take_along_axis" in re.sub("<[^>]+>", "", inside[-1])  # the solution, whole
    assert "return" in re.sub("<[^>]+>", "", inside[-1])


def test_answers_to_the_questions_stay_folded_with_their_formulas():
    answers = "<details><summary>Answers</summary>\n\n1. As $K$ is 8, `so`.\n2. Yes.\n\n</details>"
    words = nbformat.v4.new_markdown_cell(f"1. Why?\n\n{answers}\n\n**Next:** more")
    page = render.page_of(nbformat.v4.new_notebook(cells=[words]), "light")
    inside, = re.findall(r"<details>.*?</details>", page, re.S)
    assert inside.count("<li>") == 2 and "<math" in inside and "<code>so</code>" in inside
    assert "<summary>Answers</summary>" in inside and "<strong>Next:</strong>" in page.split(inside)[1]


def test_a_progress_bar_leaves_nothing():
    page = render.page_of(notebook({"application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                                    "text/plain": "training: 0%"}, {"text/plain": "kept"}), "light")
    assert "training: 0%" not in page and "kept" in page


def test_a_widget_leaves_what_stands_in_for_it():
    page = render.page_of(notebook({"application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                                    "text/html": "<p>static</p>"}), "dark")
    assert "<p>static</p>" in page and "widget-view" not in page.split("<body")[1]


SHOWN = "() => [...document.querySelectorAll('.js-plotly-plot')].filter(f => f.querySelector('.main-svg')).length"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("name", FAST)
def test_a_page_lives_without_kernel_and_network(browser, tmp_path, name):
    """`make render`: every figure is drawn by its own script and answers to the mouse, in both themes."""
    said = [word for key, value in FAST[name].items() for word in ("-p", key, json.dumps(value))]
    subprocess.run([sys.executable, render.__file__, name, *said, "--out", str(tmp_path)], check=True,
                   env=os.environ | {"XMC_EXPLORE_PROGRESS": "off"}, capture_output=True, text=True)
    executed = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    assert "training:   0%" not in json.dumps(executed.cells)
    (tmp_path / f"{name}-dark.html").write_text(render.page_of(executed, "dark"), encoding="utf-8")
    for file, theme in ((name, "light"), (f"{name}-dark", "dark")):
        context = browser.new_context(viewport={"width": 1280, "height": 720}, offline=True)
        try:
            page, asked, errors = context.new_page(), [], []
            page.on("request", lambda request: asked.append(request.url))  # noqa: B023
            page.on("console", lambda said: said.type == "error" and errors.append(said.text))  # noqa: B023
            page.on("pageerror", lambda error: errors.append(str(error)))  # noqa: B023
            page.goto((tmp_path / f"{file}.html").as_uri())
            assert page.evaluate(SHOWN) >= FIGURES[name[:2]]
            figure = page.locator(".js-plotly-plot .nsewdrag").first
            figure.scroll_into_view_if_needed()
            box = figure.bounding_box()
            for across, down in product((0.2, 0.35, 0.5, 0.65, 0.8), (0.5, 0.25)):  # two bars have nothing between them
                page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=3)
                if page.locator(".js-plotly-plot .hoverlayer text").count():
                    break
            assert page.locator(".js-plotly-plot .hoverlayer text").count() > 0
            assert errors == []
            assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
            folder = ARTEFACTS / "pages"
            folder.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=folder / f"{name[:2]}-{theme}.png", full_page=True)
        finally:
            context.close()
