"""Pages that ask for nothing: no script, style or font from elsewhere; formulas without MathJax."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest

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


def test_a_widget_leaves_what_stands_in_for_it():
    page = render.page_of(notebook({"application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                                    "text/html": "<p>static</p>"}), "dark")
    assert "<p>static</p>" in page and "widget-view" not in page.split("<body")[1]
