"""What every notebook keeps to: how it opens and ends, thin cells, live links, captions, words that are explained."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from xmc_explore import exercises as ex
from xmc_explore.exercises.exercise import Knob, Prediction, WriteFunction, WriteKernel

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
sys.path.insert(0, str(FOLDER))
import glossary  # noqa: E402

MOST_CELLS, MOST_LINES = 25, 12
FIGURE = re.compile(r"xe\.(plots\.|widgets\.|Lab\b|scrub\b|LongTailExplorer\b|StepPicture\b)")
WITHOUT = {  # sections that need no claim, or no figure for it, and why
    ("00", "Is this machine ready?"): "a check of the machine, line by line",
    ("00", "A real corpus that nobody has to download"): "documents to read; what they show is claimed in the next",
    ("04", "What it costs to be sorted"): "a cost in words, of what the section before has drawn",
    ("04", "Write one"): "an exercise: the student's kernel is the claim, and its walk counts what it asks for",
    ("04", "On a GPU"): "nothing is claimed where there is no GPU",
    ("07", "Could you do without?"): "an exercise: the student's recipe is the claim",
    ("07", "The laboratory"): "questions that the student answers with its knobs",
    ("09", "A folder in a benchmark's format"): "two fingerprints are equal or not: there is nothing to draw",
}
ANSWERED_BY = {WriteFunction: "check", WriteKernel: "check", Prediction: "predict", Knob: "reach"}
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


@every_notebook
def test_it_is_stored_bare_and_thin(path):
    assert re.fullmatch(r"\d\d(_[a-z0-9]+)+\.ipynb", path.name)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"  # the one kernel that every environment has
    code = cells(path, "code")
    assert [cell.source for cell in code if cell.outputs or cell.execution_count] == [], "stored with outputs"
    assert sum("parameters" in tags(cell) for cell in code) == 1
    assert len(code) <= MOST_CELLS
    assert [cell.source for cell in code if len(cell.source.splitlines()) > MOST_LINES] == []
    for cell in code:
        if "exercise" not in tags(cell) and not cell.source.startswith("%"):
            functions = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.FunctionDef)]
            assert [f.name for f in functions if f.end_lineno - f.lineno >= MOST_LINES] == [], "one for the package"


@every_notebook
def test_it_opens_and_ends_as_all_do(path):
    first, *_, last = [cell.source for cell in cells(path, "markdown")]
    assert first.startswith("# ")
    for words in ("**You will be able to say**", "**Before you start**", "**Minutes**", "**Machine**"):
        assert words in first
    minutes = r"\*\*Minutes\*\* \| (\d+).*; with all exercises at most (\d+) more \|"
    alone, exercises = re.search(minutes, first).groups()
    assert 15 <= int(alone) <= 40
    assert int(exercises) == sum(e.minutes for e in ex.all_exercises().values() if e.notebook == path.name[:2])
    assert "Summary" in last and "**Three questions**" in last
    questions, answers, more = re.split("<details><summary>Answers</summary>\n\n|\n\n</details>",
                                        last.split("**Three questions**")[1])
    for three in (questions, answers):
        assert re.findall(r"^(\d)\. ", three, re.M) == ["1", "2", "3"]
    assert "[glossary](GLOSSARY.md)" in more or "**Next:**" in more
    words = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert re.search(r"^## .*The paper says, you measured", words, re.M)
    assert any("xe.claims.paper_says({" in c.source for c in cells(path, "code")), "no expected range, no verdict"


def sections(path: Path) -> list[tuple[str, str]]:
    """(heading, all that stands in it, code included) of each numbered section; what precedes them has no heading."""
    found = [("", "")]
    for cell in nbformat.read(path, as_version=4).cells:
        first, *more = re.split(r"^## ", cell.source, flags=re.M) if cell.cell_type == "markdown" else [cell.source]
        found[-1] = found[-1][0], found[-1][1] + "\n" + first
        found += [(part.split("\n")[0], part) for part in more]
    return [(re.sub(r"^\d+\. ", "", heading), text) for heading, text in found]


@every_notebook
def test_the_first_picture_is_of_a_recording_and_each_section_has_its_claim_with_a_figure(path):
    (_, opening), *rest = sections(path)
    drawn = FIGURE.search(opening)
    assert drawn and re.search(r"xe\.load_(recording|walk)\(", opening)
    assert not re.search(r"xe\.train|Run\(|xe\.race|xe\.Lab\(", opening)
    assert [int(n) for n in re.findall(r"^## (\d+)\. ", "\n".join(c.source for c in cells(path, "markdown")), re.M)
            ] == list(range(1, len(rest) + 1))
    lacking = {heading for heading, text in rest if not ("**Claim" in text and FIGURE.search(text))}
    lacking -= {heading for heading in lacking if re.search("The paper says, you measured|Summary", heading)}
    assert lacking == {heading for number, heading in WITHOUT if number == path.name[:2]}


@every_notebook
def test_figures_come_with_a_caption_and_nothing_is_drawn_by_hand(path):
    """`xe.plots` and the widgets give a caption, a table and a static picture; a figure made here would have none."""
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert not re.search(r"\b(plotly|matplotlib|seaborn|bokeh|altair)\b", code)
    assert code.count("xe.plots.") + code.count("xe.widgets.") + code.count("xe.Lab") >= 2


@every_notebook
def test_no_path_of_one_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(home|root|Users|work|tmp|mnt|opt)/|[A-Z]:\\\\", text)


# --- links --------------------------------------------------------------------------------------------------------


def words_of(path: Path) -> str:
    """The Markdown of a notebook or of a file, without blocks of code."""
    text = ("\n\n".join(cell.source for cell in cells(path, "markdown")) if path.suffix == ".ipynb"
            else path.read_text(encoding="utf-8"))
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """What may follow `#` in a link: headings of a file, as JupyterLab names those of a notebook, else as GitHub."""
    headings = [re.sub(r"<[^>]+>|[`*]|\]\([^)]*\)", "", h).strip() for h in
                re.findall(r"^#+ (.+)$", words_of(path), re.M)]
    if path.suffix == ".ipynb":
        return {h.replace(" ", "-") for h in headings}
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def dead_links(path: Path) -> list[str]:
    """Links of a file to files of the repository, or to their headings, that are not there."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", words_of(path)):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or heading and unquote(heading) not in anchors(target):
            dead.append(link)
    return dead


@pytest.mark.parametrize("path", [*NOTEBOOKS, *FOLDER.glob("*.md"), *ROOT.glob("*.md"), ROOT / "data" / "README.md"],
                         ids=lambda path: path.name)
def test_links_inside_the_repository_are_alive(path):
    assert dead_links(path) == []


def test_a_dead_link_is_found_and_so_is_a_dead_heading(tmp_path):
    (tmp_path / "there.md").write_text("# A heading, with `code`\n\n```\n# no heading\n```\n", encoding="utf-8")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("## 1. One claim")])
    nbformat.write(notebook, tmp_path / "there.ipynb")
    page = tmp_path / "page.md"
    page.write_text("# Top\n[a](there.md#a-heading-with-code) [b](there.md#no-heading) [c](gone.md) [d](#top) "
                    "[e](#down) [f](there.ipynb#1.-One-claim) [g](there.ipynb#1-one-claim) [h](https://example.org/#x)")
    assert dead_links(page) == ["there.md#no-heading", "gone.md", "#down", "there.ipynb#1-one-claim"]


@every_notebook
def test_a_file_of_results_is_named_by_a_link(path):
    assert re.findall(r"(?<!\[)`[\w./]*results/[\w./]+`", words_of(path)) == []


@every_notebook
def test_words_are_explained_where_they_stand(path):
    known = glossary.terms()
    marked = 0
    for cell in cells(path, "markdown"):
        assert glossary.defined(cell.source, known) == cell.source, "run: python notebooks/glossary.py"
        marked += len(glossary.MARKED.findall(cell.source))
    assert marked >= 3


def test_each_word_of_the_glossary_is_explained_in_some_notebook():
    known, text = glossary.terms(), "\n".join(c.source for path in NOTEBOOKS for c in cells(path, "markdown"))
    assert set(known) - {glossary.term_of(word, known) for word in glossary.MARKED.findall(text)} == set()
    assert glossary.term_of("PSP@5", known) == "PSP@k" and glossary.term_of("Labels", known) == "label"


def test_the_glossary_is_in_order_and_has_each_term_once():
    known = list(glossary.terms())
    assert known == sorted(known, key=str.casefold) and len({k.casefold() for k in known}) == len(known)


@every_notebook
def test_exercises_are_shown_and_then_asked(path):
    code = cells(path, "code")
    shown = [name for cell in code for name in re.findall(r'ex\.show\("(\w+)"\)', cell.source)]
    asked = [name for cell in code for name in re.findall(r'ex\.(?:check|predict|reach)\("(\w+)"', cell.source)]
    assert shown == asked
    for name in shown:
        exercise = ex.find(name)
        assert exercise.notebook == path.name[:2]
        assert any(f'ex.{ANSWERED_BY[type(exercise)]}("{name}"' in cell.source for cell in code)
    for cell in code:
        assert ("ex.check(" in cell.source) == ("exercise" in tags(cell))
        for name, function in re.findall(r'@ex\.check\("(\w+)"\)\ndef (\w+)', cell.source):
            assert re.search(rf"`{function}\b", ex.find(name).statement)  # it asks for what the cell begins


def test_every_exercise_stands_in_a_notebook():
    code = "\n".join(cell.source for path in NOTEBOOKS for cell in cells(path, "code"))
    assert [name for name in ex.all_exercises() if f'ex.show("{name}")' not in code] == []


def test_the_lecturer_is_told_the_memory_that_notebooks_ask_for():
    asked = {path.name[:2]: int(found[1]) for path in NOTEBOOKS
             if (found := re.search(r"(\d+) GB of free memory", cells(path, "markdown")[0].source))}
    assert asked == {"02": 3, "03": 3}
    assert "3 GB for 02 and 03" in (FOLDER / "TEACHING.md").read_text("utf-8")


def minutes_of(when: str) -> tuple[int, int]:
    """The beginning and the end of "0-10" or "9:00-9:30", in minutes."""
    begin, end = ([int(n) for n in part.split(":")] for part in when.split("-"))
    return tuple(60 * part[0] + part[1] if len(part) == 2 else part[0] for part in (begin, end))


@pytest.mark.parametrize("title", ["90 minutes", "One day"])
def test_the_lecturers_plans_add_up(title):
    """Nothing overlaps, exercises fit beside a whole notebook's own minutes, and each is solved, shown or left."""
    plan = re.search(rf"^## {title}\n(.*?)^## ", (FOLDER / "TEACHING.md").read_text("utf-8"), re.M | re.S)[1]
    rows = [[cell.strip() for cell in row[1:-1].split("|")] for row in re.findall(r"^\| \d.*\|$", plan, re.M)]
    times, named, taught = [], [], set()
    for when, *what, solved, shown, home in rows:
        begin, end = minutes_of(when)
        assert not times or begin in (times[-1][1], times[-1][0]) and begin < end, when
        times.append((begin, end))
        listed = {name: int(n) for name, n in re.findall(r"`(\w+)` (\d+)", " ".join((solved, shown, home)))}
        assert listed == {name: ex.find(name).minutes for name in listed}, when
        named += listed
        needed = sum(listed[name] for name in re.findall(r"`(\w+)`", solved))
        found = re.search(r"\((\d\d)_\w+\.ipynb\)", " ".join(what))
        taught |= {found[1]} if found else set()
        if found and "section" not in " ".join(what):
            opening, = (cells(path, "markdown")[0].source for path in NOTEBOOKS if path.name.startswith(found[1]))
            needed += int(re.search(r"\*\*Minutes\*\* \| (\d+)", opening)[1])
        assert needed <= end - begin, when
    assert sorted(named) == sorted(name for name, e in ex.all_exercises().items() if e.notebook in taught)
