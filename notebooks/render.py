"""Run notebooks from top to bottom and leave each, with its outputs, in rendered/ as a notebook and as a page.

    python notebooks/render.py                    # all of them
    python notebooks/render.py 00 03 -p steps 50  # those whose names start so, with a parameter set
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

NOTEBOOKS = Path(__file__).resolve().parent
RENDERED = NOTEBOOKS.parent / "rendered"


def value_of(text: str) -> object:
    """`50`, `0.1`, `true` and `[1, 2]` as JSON has them; anything else is a string."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="starts of notebook names; none means all")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    options = parser.parse_args()
    parameters = {name: value_of(text) for name, text in options.p}
    chosen = [path for path in sorted(NOTEBOOKS.glob("*.ipynb"))
              if not options.names or path.name.startswith(tuple(options.names))]
    if not chosen:
        parser.error(f"no notebook starts with {' or '.join(options.names)}")
    # Plotly's own type is dropped from a page; "notebook" puts the figure and its script into the output.
    os.environ.setdefault("PLOTLY_RENDERER", "notebook")
    RENDERED.mkdir(exist_ok=True)
    failed = []
    for path in chosen:
        result = RENDERED / path.name
        try:
            papermill.execute_notebook(path, result, parameters, kernel_name="python3", cwd=NOTEBOOKS,
                                       progress_bar=False)
        except PapermillExecutionError as error:  # the notebook up to the error is written, and becomes a page too
            failed.append(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}")
        page, _ = HTMLExporter().from_filename(result)
        result.with_suffix(".html").write_text(page, encoding="utf-8")
        print(f"{result.relative_to(RENDERED.parent)} and .html", flush=True)
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
