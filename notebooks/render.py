"""Run notebooks from top to bottom and leave each, with its outputs, in rendered/ as a notebook and as a page.

    python notebooks/render.py                    # all of them
    python notebooks/render.py 00 01 -p steps 200  # those whose names start so, with a parameter set
    python notebooks/render.py --theme dark --out slides

A page is one file that asks for nothing: figures stay interactive, formulas are MathML, no kernel and no network.
"""

from __future__ import annotations

import argparse
import base64
import json
import mimetypes
import os
import re
import sys
from pathlib import Path

import nbformat
import papermill
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from papermill.exceptions import PapermillExecutionError

NOTEBOOKS = Path(__file__).resolve().parent
RENDERED = NOTEBOOKS.parent / "rendered"


def value_of(text: str) -> object:
    """`50`, `0.1`, `true` and `[1, 2]` as JSON has them; anything else is a string."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


# Everything that nbconvert would fetch from somewhere when the page is opened: figures bring their own script, formulas
# are MathML, and a widget without a kernel shows the static picture that stands beside it.
OFFLINE = dict.fromkeys(("mathjax_url", "require_js_url", "jquery_url", "jupyter_widgets_base_url",
                         "widget_renderer_url"), "")
SCRIPT_FROM_ELSEWHERE = re.compile(r'<script[^>]*\bsrc="[^"]*"[^>]*>\s*</script>')  # plotly asks for MathJax
CODE_OR_FORMULA = re.compile(r"(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)", re.S)


def with_mathml(text: str) -> str:
    """Markdown whose formulas are MathML, which every browser sets without a script; code is left alone."""
    def one(match: re.Match[str]) -> str:
        code, display, inline = match.groups()
        if code:
            return code
        return convert(display or inline, display="block" if display else "inline").replace("\n", " ")
    return CODE_OR_FORMULA.sub(one, text)


# nbconvert can embed images too, but then takes each inline tag for a document and closes it: no formula survives that.
IMAGE = re.compile(r'(<img[^>]*\bsrc=")(?!data:)([^"]+)')


def embedded(image: re.Match[str]) -> str:
    path = NOTEBOOKS / image[2]
    data = base64.b64encode(path.read_bytes()).decode()
    return f"{image[1]}data:{mimetypes.guess_type(path.name)[0]};base64,{data}"


FOLDED = re.compile(r"<details><summary>(.*?)</summary>\n\n(.*?)\n\n</details>", re.S)


def folded(text: str) -> str:
    """Markdown whose hints and solutions stay folded: nbconvert would close a <details> at its first blank line."""
    def one(match: re.Match[str]) -> str:
        inside = markdown2html(match[2]).strip().replace("\n", "&#10;")
        return f"<details><summary>{match[1]}</summary>{inside}</details>"
    return FOLDED.sub(one, text)


# Code in a statement or in a fold is no cell, so nbconvert has no type for it; what sets formulas is smaller than the
# text around them, and on a machine without a font for them the limits of a sum would lie on its sign.
STYLE = """<style>
.jp-RenderedMarkdown pre { font-family: var(--jp-code-font-family, monospace); }
math { font-size: 1.15em; } math[display=block] { font-size: 1.3em; }
:is(munder, munderover) > :nth-child(2) { padding-top: 0.3em; } munderover > :nth-child(3) { padding-bottom: 0.3em; }
math[display=block] :is(munder, munderover) > mo:first-child { font-size: 1.3em; }
</style>"""
WIDGET = "application/vnd.jupyter.widget-view+json"


def drop_widgets(notebook: nbformat.NotebookNode) -> None:
    """Leave of a widget only the page that stands in for it: its own type needs the kernel that is gone.

    What a progress bar leaves behind in words would be its first state, "0 %".
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell["outputs"] = [o for o in cell.get("outputs", [])
                               if WIDGET not in o.get("data", {}) or "text/html" in o.data]


def page_of(notebook: nbformat.NotebookNode, theme: str) -> str:
    """An executed notebook as one self-contained HTML page."""
    drop_widgets(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = folded(with_mathml(cell.source))
            continue
        for output in cell.outputs:
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = folded(with_mathml(output.data["text/markdown"]))
            output.get("data", {}).pop(WIDGET, None)
    notebook.metadata.pop("widgets", None)
    page, _ = HTMLExporter(theme=theme, **OFFLINE).from_notebook_node(notebook)
    page = SCRIPT_FROM_ELSEWHERE.sub("", page).replace("</head>", f"{STYLE}</head>", 1)
    return IMAGE.sub(embedded, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="starts of notebook names; none means all")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--out", type=Path, default=RENDERED, help="folder to write to (default: rendered)")
    options = parser.parse_args()
    parameters = {name: value_of(text) for name, text in options.p}
    chosen = [path for path in sorted(NOTEBOOKS.glob("*.ipynb"))
              if not options.names or path.name.startswith(tuple(options.names))]
    if not chosen:
        parser.error(f"no notebook starts with {' or '.join(options.names)}")
    # Plotly's own type is dropped from a page; "notebook" puts the figure and its script into the output.
    os.environ.setdefault("PLOTLY_RENDERER", "notebook")
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for path in chosen:
        result = options.out / path.name
        try:
            papermill.execute_notebook(path, result, parameters, kernel_name="python3", cwd=NOTEBOOKS,
                                       progress_bar=False, extra_arguments=["--log-level=ERROR"])
        except PapermillExecutionError as error:  # the notebook up to the error is written, and becomes a page too
            failed.append(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}")
        executed = nbformat.read(result, as_version=4)
        drop_widgets(executed)
        nbformat.write(executed, result)
        page = page_of(executed, options.theme)
        result.with_suffix(".html").write_text(page, encoding="utf-8")
        print(f"{result} and .html", flush=True)
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
