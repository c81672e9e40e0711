"""What a result has to say about where it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from xmc_explore.files import replacing

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "triton", "numba", "numpy", "scipy")  # that are measured, or measured against


def no_gpu(command: str = "") -> str:
    """What stands in place of a GPU's name; `command` measures the same on one."""
    return "none: not measured on a GPU" + (f"; `{command}` does it there" if command else "")


def conditions(on_a_gpu: str = "") -> dict[str, str]:
    """Processor, cores, threads, versions, load and date, as words for a table; `on_a_gpu` as in `no_gpu`."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines()
                      if line.startswith("model name")), model)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else no_gpu(on_a_gpu),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(_versions()),
        "load at the end": load,
        "date": time.strftime("%Y-%m-%d"),
    }


def _versions() -> Iterator[str]:
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def commit() -> str:
    """The commit that is checked out, in seven hex digits, with + behind if files differ from it; else "unknown"."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD")[:7] + "+" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(name: str, title: str, table, notes: list[str], *, on_a_gpu: str = "") -> None:
    """Leave a table as results/NAME.csv and results/NAME.md; print it."""
    write_text(RESULTS / f"{name}.csv", table.to_csv(index=False))
    write_parts(name, title, notes, [("", table)], on_a_gpu=on_a_gpu)


def write_parts(name: str, title: str, notes: list[str], parts: list[tuple[str, object]], *,
                head: list[str] | None = None, on_a_gpu: str = "", pictures: Mapping[str, Any] | None = None) -> None:
    """Leave several tables, each under its heading, as results/NAME.md; print them.

    `head` says where and how it was measured, by default here and now (`on_a_gpu` as in `no_gpu`);
    `pictures` are files beside it, with captions.
    """
    head = [f"{k}: {v}" for k, v in conditions(on_a_gpu).items()] if head is None else head
    lines = [f"# {title}", "", *(f"- {line}" for line in (*head, *notes))]
    for file, picture in (pictures or {}).items():
        lines += ["", f"![{picture.title}]({file})", "", picture.caption]
    for heading, table in parts:
        lines += ["", *([f"## {heading}", ""] if heading else []),
                  "| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns),
                  *("| " + " | ".join("" if v != v else str(v) for v in row) + " |"
                    for row in table.itertuples(index=False))]
    text = "\n".join([*lines, ""])
    write_text(RESULTS / f"{name}.md", text)
    print(text)


def head_of(name: str) -> list[str]:
    """What results/NAME.md says on top, line by line; nothing if there is no such file."""
    path = RESULTS / f"{name}.md"
    if not path.exists():
        return []
    top = path.read_text(encoding="utf-8").partition("\n## ")[0]
    return [line.removeprefix("- ") for line in top.splitlines() if line.startswith("- ")]


def write_text(path: Path, text: str) -> None:
    """Leave a text as a file, in a folder that is made if need be."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
