"""Commands that the texts name, to measure anew or on a GPU, are there and take their options."""

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = [path for names in ("*.md", "*/*.md", "benchmarks/results/*.md", "notebooks/*.ipynb", "Makefile")
         for path in ROOT.glob(names)]
COMMANDS = sorted({match for text in TEXTS for match in re.findall(
    r"python -m (benchmarks\.[a-z_]+(?: --[a-z]+(?: (?!-)(?:\"[^\"]*\"|[^\s`;)(\"\\]+))?)*)",
    text.read_text(encoding="utf-8"))})
ON_A_GPU = ["benchmarks.triton_floor", "benchmarks.layer --device cuda", "benchmarks.grouped --device cuda",
            "benchmarks.three_million --device cuda"]


class Parsed(Exception):
    pass


def test_what_will_measure_on_a_gpu_is_named():
    assert set(ON_A_GPU) <= set(COMMANDS) and len(COMMANDS) > 12


def test_make_bench_measures_on_a_gpu_where_there_is_one():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert sorted(re.findall(r"! \$\(ON_A_GPU\) \|\| \$\(BIN\)/python -m (.*)", text)) == sorted(ON_A_GPU)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_a_text_names_takes_its_options(command, monkeypatch):
    name, *arguments = shlex.split(command)
    module = import_module(name)
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser, given=None, namespace=None):
        parse(parser, given, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    with pytest.raises(Parsed):
        module.main()
