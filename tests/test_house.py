"""What holds for the project as a whole: its files, its versions, its notebooks, what an import brings along."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import xmc_explore as xe

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOLDERS = [".ci", "benchmarks", "data", "notebooks", "tests", "xmc_explore"]
MADE = {"__pycache__", ".ipynb_checkpoints", "runs", "artefacts"}  # what running things leaves in them
MODULES = sorted((ROOT / "xmc_explore").rglob("*.py"))


def requirements(*lists: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, sum(lists, []))}


def own_files() -> list[Path]:
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    return [path for path in [*ROOT.iterdir(), *inside]
            if path.is_file() and path.name != ".git" and not MADE & set(path.relative_to(ROOT).parts)]


def texts() -> list[tuple[str, str]]:
    """(path, content) of every text file of ours; files that are not UTF-8 are no text."""
    found = []
    for path in own_files():
        try:
            found.append((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def matches(pattern: str) -> list[str]:
    return [f"{path}:{number}: {row.strip()[:120]}" for path, text in texts()
            for number, row in enumerate(text.splitlines(), 1) if re.search(pattern, row)]


# --- versions -----------------------------------------------------------------------------------------------------


def test_conda_and_pip_ask_for_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert pip.pop() == "-e ."
    renamed = {"pytorch": "torch", "playwright-python": "playwright"}
    asked = {}
    for entry in conda + pip:
        requirement = Requirement(entry)
        asked[renamed.get(requirement.name, requirement.name)] = requirement.specifier
    assert asked.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert asked.pop("pip") == SpecifierSet()
    # Not `gpu`: conda-forge's CUDA builds of PyTorch bring Triton.
    wanted = requirements(PROJECT["dependencies"], EXTRAS["lab"], EXTRAS["test"])
    assert asked == {name: requirement.specifier for name, requirement in wanted.items()}


def test_every_dependency_has_a_floor_and_one_tested_version():
    rows = [row for row in (ROOT / "constraints.txt").read_text().splitlines() if not row.startswith("#")]
    pins = {}
    for row in rows:
        name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", row).groups()
        assert canonicalize_name(name) not in pins, f"{name} is pinned twice"
        pins[canonicalize_name(name)] = version
    for name, requirement in requirements(PROJECT["dependencies"], *EXTRAS.values()).items():
        assert any(part.operator == ">=" for part in requirement.specifier), f"{name} has no floor"
        assert name in pins, f"{name} is not in constraints.txt: make lock"
        assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is not {requirement.specifier}"
    assert not {"pip", "setuptools", "xmc-explore"} & set(pins)


def test_the_changelog_tells_of_this_version():
    assert re.search(rf"^## \[{re.escape(xe.__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FOLDERS, "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile",
                                  "environment.yml", "notebooks/00_start_here.ipynb",
                                  *(f"xmc_explore/{part}" for part in ("corpora", "layers", "sparsity", "plots",
                                                                       "widgets"))])
def test_the_house_stands(name):
    path = ROOT / name
    assert path.exists()
    assert path.is_file() or any(entry.name not in MADE for entry in path.iterdir()), f"{name}/ is empty"


def test_no_path_of_one_machine_in_any_file():
    assert matches(r"/(home|root|Users|work)/") == []


def test_no_file_says_where_packages_come_from():
    assert matches(r"pypi[.]|pythonhosted[.]|download[.]pytorch|index[-_]url|find[-_]links") == []


def test_no_line_of_a_style_or_script_is_long():  # ruff sees to the Python
    assert [f"{path}:{number}: {len(row)}" for path, text in texts() if path.endswith((".css", ".js"))
            for number, row in enumerate(text.splitlines(), 1) if len(row) > 120] == []


def test_no_file_is_large():
    assert [str(path) for path in own_files() if path.stat().st_size > 5_000_000] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path):
    dangerous = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                dangerous += [n.name for n in names if n.name.split(".")[0] in ("pickle", "dill", "joblib", "shelve")]
            case ast.ImportFrom(module="pickle" | "dill" | "joblib" | "shelve" as module):
                dangerous.append(module)
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                dangerous.append(name)
            case ast.keyword(arg="allow_pickle" | "shell" as name, value=ast.Constant(value=True)):
                dangerous.append(name)
            case ast.keyword(arg="weights_only", value=ast.Constant(value=False)):
                dangerous.append("weights_only=False")
    assert dangerous == []


def test_ruff_has_nothing_to_say():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--output-format", "concise", "."], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the package --------------------------------------------------------------------------------------------------


def imports_of(path: Path) -> set[str]:
    """Top-level parts of xmc_explore that a module imports, on load or later."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("xmc_explore.")}
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            target = [*base, *(node.module.split(".") if node.module else [])]
            if target[:1] == ["xmc_explore"]:
                found |= {target[1]} if target[1:] else {name.name for name in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_data_goes_one_way(path):
    part = path.relative_to(ROOT / "xmc_explore").with_suffix("").parts[0]
    may = {"files": set(), "processes": set(), "corpora": {"corpora", "processes"}, "layers": {"layers"},
           "sparsity": {"layers", "sparsity"}}
    if part in may:
        assert imports_of(path) <= may[part] | {"files"}
    if part not in ("plots", "widgets", "exercises"):
        assert not imports_of(path) & {"plots", "widgets", "exercises"}
    if part == "plots":
        assert "widgets" not in imports_of(path)


def run_fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_brings_nothing_along():
    loaded = run_fresh("import sys, xmc_explore; print(*sys.modules)").split()
    assert not {"torch", "numpy", "pandas", "transformers", "plotly", "ipywidgets", "IPython"} & set(loaded)


def test_a_headless_run_needs_no_jupyter_and_no_plotly():
    loaded = run_fresh("import sys, xmc_explore as xe; xe.load_corpus, xe.Recipe, xe.train, xe.Trace, xe.FixedFanIn, "
                       "xe.Rewirer, xe.backends, xe.metrics, xe.doctor; print(*sys.modules)").split()
    assert "torch" in loaded
    assert not {"plotly", "ipywidgets", "anywidget", "jupyterlab", "IPython", "ipykernel", "papermill"} & set(loaded)


def test_a_laboratory_has_its_first_picture_before_what_takes_long_to_import_and_comes_later_or_never():
    loaded = run_fresh("import sys, xmc_explore as xe\nlab = xe.Lab(xe.load_corpus('calls-small'), steps=9)\n"
                       "lab.engine.start()\nassert lab.engine.wait(lambda s: s.n_frames).state == 'paused'\n"
                       "print(*sys.modules)\nlab.close()").split()
    assert {"torch", "plotly.basewidget"} <= set(loaded)
    assert not {"transformers", "sklearn", "scipy.stats", "rfc3987_syntax"} & set(loaded)


def test_what_is_hidden_while_plotly_loads_is_there_afterwards():
    said = run_fresh("import sys, types\nhidden = sys.modules['rfc3987_syntax'] = types.ModuleType('rfc3987_syntax')\n"
                     "hidden.is_valid_syntax = lambda *_: True\nimport xmc_explore.plots\n"
                     "print(sys.modules['rfc3987_syntax'] is hidden)\ndel sys.modules['rfc3987_syntax']\n"
                     "import xmc_explore.plots.quick\nfrom importlib.util import find_spec\n"
                     "print(find_spec('rfc3987_syntax') is not None)")
    assert said.split() == ["True", "True"]


def test_public_names_load_on_first_use_and_no_others_exist():
    assert dir(xe) == sorted(xe.__all__)
    for name in xe.__all__:
        assert getattr(xe, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = xe.nonsense
