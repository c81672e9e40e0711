"""Papermill runs every notebook in a fast mode; what it recorded is looked at, and nothing may be said on stderr."""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
FAST = {
    "00_start_here": dict(steps=200),
    "07_gradient_flow_and_the_auxiliary_objective": dict(steps=60, live_steps=12, lab_steps=100),
}
pytestmark = pytest.mark.notebook


def test_every_notebook_has_a_fast_mode():
    assert sorted(FAST) == sorted(p.stem for p in FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module", params=FAST)
def executed(request, tmp_path_factory):
    result = tmp_path_factory.mktemp("notebooks") / f"{request.param}.ipynb"
    papermill.execute_notebook(FOLDER / f"{request.param}.ipynb", result, FAST[request.param], kernel_name="python3",
                               cwd=FOLDER, progress_bar=False)
    return request.param, nbformat.read(result, as_version=4)


def outputs(notebook, mime=None):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if mime is None or mime in output.get("data", {}):
                yield output if mime is None else output["data"][mime]


def test_no_error_and_no_word_on_stderr(executed):
    _, notebook = executed
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert not (output.output_type == "stream" and output.name == "stderr"), output.text


def test_every_figure_is_there_with_caption_and_static_picture(executed):
    name, notebook = executed
    figures = list(outputs(notebook, "application/vnd.plotly.v1+json"))
    assert len(figures) >= (6 if name.startswith("00") else 8)
    assert all(figure["data"] for figure in figures)
    html = [h for h in outputs(notebook, "text/html")]
    assert sum("xmc-picture" in h for h in html) == len(figures)
    assert sum("<img" in h and "svg" in h for h in html) >= len(figures)


def test_what_was_recorded_is_in_range(executed):
    """Numbers of the fast mode, wide enough for any machine: the run learned something, and shares are shares."""
    name, notebook = executed
    text = "\n".join(outputs(notebook, "text/plain"))
    if name.startswith("00"):
        metrics = next(ast.literal_eval(t) for t in outputs(notebook, "text/plain") if t.startswith("{'documents'"))
        assert metrics["documents"] > 1500
        assert 12 < metrics["P@1"] < 60 and 5 < metrics["recall@5/head"] < 70
        assert metrics["P@1/head"] + metrics["P@1/torso"] + metrics["P@1/tail"] == pytest.approx(metrics["P@1"])
        assert metrics["recall@5/tail"] < metrics["recall@5/head"]
        assert "finished, 200 of 200 steps" in text
    else:
        assert "12 of 100 steps" in text  # the laboratory's trace
        assert "not in the paper: the tail stays behind" in text
        louder = float(re.search(r"with prior biases ([\d.]+) times", text)[1])
        assert louder > 2  # the claim of the paper's second figure; a full run gives about 10
