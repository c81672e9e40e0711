"""Papermill runs every notebook in a fast mode; what it recorded is looked at, and nothing may be said on stderr.

Each runs twice: untouched, where references stand in for unsolved exercises, and with the package's solutions put in,
right predictions and worked recipes among them.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import pytest

from xmc_explore import exercises
from xmc_explore.wording import MINUS

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
FAST = {  # a line a notebook, at most 30 seconds each
    "00_start_here": dict(steps=200),
    "01_the_long_tail": dict(steps=60),
    "02_the_memory_bill": dict(n_labels=2000, demo_labels=20_000, demo_steps=3, steps=40),
    "03_fixed_fan_in": dict(n_labels=2000, repeats=1, demo_labels=20_000),
    "04_a_triton_kernel": dict(),
    "05_dynamic_sparse_training": dict(steps=60, calls_steps=30, live_steps=30, lab_steps=100),
    "06_connectivity_head_and_tail": dict(steps=40),
    "07_gradient_flow_and_the_auxiliary_objective": dict(steps=40, live_steps=12, lab_steps=100),
    "08_after_the_paper": dict(steps=30, race_labels=2000),
    "09_your_own_data": dict(steps=30, transformer_steps=4, seeds=[0]),
}
FIGURES = {  # at least so many
    "00": 7,
    "01": 7,
    "02": 7,
    "03": 5,
    "04": 7,
    "05": 10,
    "06": 12,
    "07": 10,
    "08": 6,
    "09": 10,
}
pytestmark = pytest.mark.notebook


@pytest.fixture(autouse=True, scope="module")
def no_progress_is_kept():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XMC_EXPLORE_PROGRESS", "off")
        yield


def test_every_notebook_has_a_fast_mode():
    assert sorted(FAST) == sorted(p.stem for p in FOLDER.glob("*.ipynb"))
    assert [name[:2] for name in FAST] == list(FIGURES) == list(RANGES)


# --- running ------------------------------------------------------------------------------------------------------


PREDICTED = re.compile(r'^ex\.predict\("(\w+)", guess(?:, given=(.+))?\)$', re.M)
TURNED = re.compile(r'^(\w+) = xe\.Recipe\.method\(.*\).*$(?=[^@]*^ex\.reach\("(\w+)")', re.M)


def solve(notebook: nbformat.NotebookNode) -> int:
    """Put solutions in place of stubs, the right number for each prediction, worked recipes; how many there were."""
    solved = 0

    def predicted(call: re.Match) -> str:
        name, given = call.groups()
        answer = f'answer = ex.find("{name}").answer\n'
        return f'{answer}ex.predict("{name}", answer({given}) if callable(answer) else answer, given={given})'

    def turned(line: re.Match) -> str:
        return f"{line[1]} = {exercises.find(line[2]).recipe()}"

    for cell in notebook.cells:
        if "exercise" in cell.metadata.get("tags", []):
            exercise = re.search(r'ex\.check\("(\w+)"\)', cell.source)[1]
            cell.source = f'@ex.check("{exercise}")\n{exercises.solution(exercise)}'
            solved += 1
        elif cell.cell_type == "code":
            for pattern, put in ((PREDICTED, predicted), (TURNED, turned)):
                cell.source, n = pattern.subn(put, cell.source)
                solved += n
    return solved


def asked(name: str) -> dict[str, int]:
    """How many exercises of each kind a notebook asks, by how they are answered."""
    code = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    return {how: code.count(f"ex.{how}(") for how in ("check", "predict", "reach")}


def has_exercises(name: str) -> bool:
    return any(e.notebook == name[:2] for e in exercises.all_exercises().values())


RUNS = [(name, solved) for name in FAST for solved in (False, True) if not solved or has_exercises(name)]


def execute(name: str, folder: Path, parameters: dict, solved: bool = False) -> nbformat.NotebookNode:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    n_solved = solve(notebook) if solved else 0
    nbformat.write(notebook, folder / "in.ipynb")
    papermill.execute_notebook(folder / "in.ipynb", folder / "out.ipynb", parameters, kernel_name="python3", cwd=FOLDER,
                               progress_bar=False)
    result = nbformat.read(folder / "out.ipynb", as_version=4)
    result.metadata["solved"] = n_solved
    return result


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: run[0][:2] + " solved" * run[1])
def executed(request, tmp_path_factory):
    name, solved = request.param
    return name, execute(name, tmp_path_factory.mktemp("notebooks"), FAST[name], solved)


def outputs(notebook: nbformat.NotebookNode, mime: str | None = None) -> Iterator:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if mime is None or mime in output.get("data", {}):
                yield output if mime is None else output["data"][mime]


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """Errors, and whatever was said on stderr."""
    return [str(output) for output in outputs(notebook) if output.output_type == "error"
            or (output.output_type == "stream" and output.name == "stderr")]


# --- what every one keeps to --------------------------------------------------------------------------------------


def test_no_error_and_no_word_on_stderr(executed):
    assert complaints(executed[1]) == []


def test_solutions_are_right_and_stubs_are_no_obstacle(executed):
    name, notebook = executed
    said, there = list(outputs(notebook, "text/markdown")), asked(name)
    right = sum(text.startswith("\N{CHECK MARK} Right, on") for text in said)
    told = sum(text.startswith("\N{CHECK MARK} You said") for text in said)
    unsolved, not_said = (sum(words in text for text in said) for words in ("Not solved yet", "No prediction yet"))
    stubs, predictions = there["check"], there["predict"]
    if notebook.metadata["solved"]:
        assert notebook.metadata["solved"] == sum(there.values())
        assert (right, unsolved, told, not_said) == (stubs, 0, predictions, 0)
    else:
        assert (right, unsolved, told, not_said) == (0, stubs, 0, predictions)


def test_every_figure_is_there_with_caption_and_static_picture(executed):
    name, notebook = executed
    figures = list(outputs(notebook, "application/vnd.plotly.v1+json"))
    assert len(figures) >= FIGURES[name[:2]]
    assert all(figure["data"] for figure in figures)
    html = list(outputs(notebook, "text/html"))
    pages = [h for h in html if h.startswith('<div class="xmc-picture">')]  # a laboratory has pictures within its own
    assert len(pages) == len(figures)
    assert sum("<img" in h and "svg" in h for h in html) >= len(figures)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_it_runs_as_a_student_runs_it(name, tmp_path):
    assert complaints(execute(name, tmp_path, {})) == []


NO_TRITON = """
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "triton" else find_spec(name, *rest)
"""


@pytest.mark.slow
def test_04_runs_where_there_is_no_triton(tmp_path, monkeypatch):
    """As on macOS and Windows: recorded walks stand in, and it is said."""
    (tmp_path / "sitecustomize.py").write_text(NO_TRITON)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    notebook = execute("04_a_triton_kernel", tmp_path, {}, solved=True)
    assert complaints(notebook) == []
    text = "\n".join(o.text for o in outputs(notebook) if o.output_type == "stream")
    assert text.count("Triton is not installed here: this is a recorded walk") == 4
    assert len(list(outputs(notebook, "application/vnd.plotly.v1+json"))) == FIGURES["04"] + 1  # and that of tile_mask
    ranges_04(notebook, "Triton is not installed here")


# --- numbers of the fast mode, in ranges wide enough for any machine ----------------------------------------------


def value(notebook: nbformat.NotebookNode, start: str) -> dict:
    """The dictionary that some cell gave, by how its text starts."""
    return next(ast.literal_eval(text) for text in outputs(notebook, "text/plain") if text.startswith(start))


def verdicts_of(notebook: nbformat.NotebookNode) -> str:
    """The table of verdicts, its minus signs as Python reads them."""
    return next(h for h in outputs(notebook, "text/html") if "xmc-verdicts" in h).replace(MINUS, "-")


def reached(notebook: nbformat.NotebookNode, metric: str = "P@1") -> dict[str, float]:
    """What each run that `xe.plots.compare` drew had in the end, in per cent."""
    found = {}
    for figure in outputs(notebook, "application/vnd.plotly.v1+json"):
        axes = {name.replace("axis", ""): axis["title"]["text"] for name, axis in figure["layout"].items()
                if name.startswith("xaxis") and "text" in axis.get("title", {})}
        found |= {dot["name"]: dot["x"][0] for dot in figure["data"]
                  if axes.get(dot.get("xaxis")) == f"{metric.replace('/', '<br>')} (%)"}
    return found


def ranges_00(notebook: nbformat.NotebookNode, text: str) -> None:
    metrics = value(notebook, "{'documents'")
    assert metrics["documents"] > 1500
    assert 12 < metrics["P@1"] < 60 and 5 < metrics["recall@5/head"] < 70
    assert metrics["P@1/head"] + metrics["P@1/torso"] + metrics["P@1/tail"] == pytest.approx(metrics["P@1"])
    assert metrics["recall@5/tail"] < metrics["recall@5/head"]
    assert "finished, 200 of 200 steps" in text
    memory, head = re.findall(r">([+-][\d.]+) (?:doublings|points)<", verdicts_of(notebook))
    assert memory == "+5.68" and float(head) > 0  # 8,208 bytes a label and 160


def ranges_01(notebook: nbformat.NotebookNode, text: str) -> None:
    assert 10 < reached(notebook)["dense"] < 50 and reached(notebook, "recall@5/head")["dense"] > 10  # 18.7, 26.2
    shares = value(notebook, "{'P@1'")
    assert 10 < shares["P@5"] < shares["P@1"] < 40  # of a constant answer
    assert "Over all seeds" in "\n".join(outputs(notebook, "text/html"))


def ranges_02(notebook: nbformat.NotebookNode, text: str) -> None:
    p1 = reached(notebook)
    assert 10 < p1["dense"] < 50 and 10 < p1["dense, low precision"] < 50  # 17.6, 20.6; SET's biases are on their way
    bill = value(notebook, "{'yours'")
    assert bill["yours"] == pytest.approx(bill["ledger"]) == 33 * 16 + 32 * 2
    rounded = value(notebook, "{'exact'")
    assert rounded["to the nearest"] == 1 and 1.08 < rounded["by chance"] < 1.12
    even = value(notebook, "{'bfloat16, sparse with Adam'")
    assert even["bfloat16, sparse with Adam"] == 85.3 and even["bfloat16, sparse with plain SGD in place"] == 256
    assert "20,000 labels, every one scored and updated" in text and "bytes a label (at most 40)" in "\n".join(
        outputs(notebook, "text/markdown"))


def ranges_03(notebook: nbformat.NotebookNode, text: str) -> None:
    off = value(notebook, "{'y'")
    assert set(off) == {"y", "gradient of weight", "gradient of x"} and max(off.values()) < 1e-4
    assert "20,000 labels, every one scored and updated" in text
    assert verdicts_of(notebook).count("Over all races") == 6


def ranges_04(notebook: nbformat.NotebookNode, text: str) -> None:
    assert value(notebook, "{'cells of the tile'") == {"cells of the tile": 1024, "cells that exist": 48,
                                                       "numbers that program (2, 1) stored": 48}
    assert value(notebook, "{'lines, x as [D, B]'") == {"lines, x as [D, B]": 1, "lines, x as [B, D]": 32}
    meet = value(notebook, "{'atomic additions a number'")
    assert list(meet.values()) == [11.7, 1.0]  # 70 labels of 4 connections over 24 features
    assert "it is **44.8 kB**" in "\n".join(outputs(notebook, "text/markdown")) or "No prediction yet" in "\n".join(
        outputs(notebook, "text/markdown"))
    assert re.findall(r">([+-][\d.]+) (?:times|doublings)<", verdicts_of(notebook)) == ["+10.67", "+10.67", "+3.54"]
    assert verdicts_of(notebook).count("(the same in 5 walks)") == 3
    assert ("right for 40 documents, 44,800 bytes of x asked for" in text) or "Triton is not installed here" in text


def ranges_05(notebook: nbformat.NotebookNode, text: str) -> None:
    p1 = reached(notebook)
    assert p1["dense"] > 35 and min(p1[name] for name in ("SET", "RigL", "static")) > 8  # 57.8; 14.6, 19.2, 14.1
    dropped = value(notebook, "{'head'")
    assert list(dropped) == ["head", "torso", "tail"] and all(0 <= share <= 100 for share in dropped.values())
    captions = "\n".join(outputs(notebook, "text/html")).replace("\N{NO-BREAK SPACE}", " ")
    found = [tuple(map(float, row)) for row in re.findall(
        r"decide them: head ([\d.]+) %, torso ([\d.]+) % and tail ([\d.]+) %; by chance", captions)]
    assert len(found) == 4 and found[0][0] > 2 * found[0][2]  # the recording: more of the head's than of the tail's
    assert verdicts_of(notebook).count("Over all seeds") == 6


def ranges_06(notebook: nbformat.NotebookNode, text: str) -> None:
    assert min(reached(notebook, "recall@5/head").values()) > 3  # 7.1: one label, found by its bias; none at the start
    alive = value(notebook, "{'head': [")
    assert alive["head"][0] < alive["tail"][0] < 0.6  # most of what is grown in the recording dies at once
    captions = "\n".join(outputs(notebook, "text/html"))
    at_work, = set(re.findall(r"biases prior: others \((\d+)\)", captions))
    assert 256 < int(at_work) <= 512  # features of a run whose biases start at the prior
    head, tail = map(float, re.search(r"^Adam on planted +([\d.]+) +[\d.]+ +([\d.]+)", text, re.M).groups())
    assert tail > head
    assert "\n".join(outputs(notebook, "text/html")).count("Over all seeds") == 7


def ranges_07(notebook: nbformat.NotebookNode, text: str) -> None:
    p1 = reached(notebook)
    assert all(10 < p1[name] < 50 for name in ("dense", "SET, prior bias", "SET + auxiliary, prior bias"))  # 17 to 22
    assert "12 of 100 steps" in text  # the laboratory's trace
    verdicts = verdicts_of(notebook)
    assert verdicts.count("Over all seeds") == 15
    louder, prior_louder, _ = re.findall(r">([+-][\d.]+) doublings<", verdicts)
    assert float(louder) < 0 and float(prior_louder) > 1  # Fig 2, biases from zero and from the prior


def ranges_08(notebook: nbformat.NotebookNode, text: str) -> None:
    p1 = reached(notebook)
    assert all(10 < p1[name] < 50 for name in ("dense, bfloat16", "dense, float8", "SET, bfloat16"))  # 19 to 21
    tables = "\n".join(outputs(notebook, "text/plain"))
    arrived = {dtype: float(mean) for dtype, mean in re.findall(r"(\w+) +nearest +([\d.]+)", tables)}
    assert arrived["float32"] == pytest.approx(1.5, abs=0.01) and arrived["float8_e4m3fn"] == 1
    assert [float(m) for m in re.findall(r"stochastic +([\d.]+)", tables)] == pytest.approx([1.5] * 3, abs=0.02)
    bytes_a_label = dict(re.findall(r"^(dense|SET|dense, float8) +(\d+\.\d) ", tables, re.M))
    assert bytes_a_label == {"dense": "8208.0", "SET": "160.0", "dense, float8": "516.0"}
    verdicts = verdicts_of(notebook)
    assert verdicts.count("Over all seeds") == 7


def ranges_09(notebook: nbformat.NotebookNode, text: str) -> None:
    captions = "\n".join(outputs(notebook, "text/html"))
    assert float(re.search(r"After 30 steps recall@5 is ([\d.]+).*for head labels", captions)[1]) > 20  # 59.2
    p1 = [float(each) for each in re.findall(r"SET(?: \+ auxiliary)?: seed 0 \(([\d.]+)\)", captions)]
    assert len(p1) >= 2 and min(p1) > 40  # 85: the most frequent tag
    fingerprints = value(notebook, "{'from the table'")
    assert fingerprints["from the table"] == fingerprints["from the folder"]
    assert re.search("row 5: tags is (None|nan), neither a list nor a string; drop such rows first", text)
    assert int(re.search(r"(\d+) tags on two packages or more", text)[1]) > 20
    assert text.count("finished, 30 of 30 steps") == 1  # the trace that came home
    losses = value(notebook, "{'as it was'")
    assert losses["as it was"] == losses["branched, unchanged"]
    assert verdicts_of(notebook).count("Over all seeds") == 1


RANGES = {
    "00": ranges_00,
    "01": ranges_01,
    "02": ranges_02,
    "03": ranges_03,
    "04": ranges_04,
    "05": ranges_05,
    "06": ranges_06,
    "07": ranges_07,
    "08": ranges_08,
    "09": ranges_09,
}


def test_what_was_recorded_is_in_range(executed):
    name, notebook = executed
    text = "\n".join([*outputs(notebook, "text/plain"),
                      *(o.text for o in outputs(notebook) if o.output_type == "stream")])
    RANGES[name[:2]](notebook, text)
