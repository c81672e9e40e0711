"""What a result has to say about where it was measured."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import numba
import numpy
import torch

RESULTS = Path(__file__).parent / "results"


def conditions() -> dict[str, str]:
    """Processor, cores, threads, versions, load and date, as words for the head of a table."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines()
                      if line.startswith("model name")), model)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none: not measured on a GPU",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": f"torch {torch.__version__}, numba {numba.__version__}, numpy {numpy.__version__}",
        "load at the end": load,
        "date": time.strftime("%Y-%m-%d"),
    }


def write(name: str, title: str, table, notes: list[str]) -> None:
    """Leave results/NAME.csv and results/NAME.md, each written beside its place and renamed; print the table."""
    RESULTS.mkdir(exist_ok=True)
    lines = [f"# {title}", "", *(f"- {k}: {v}" for k, v in conditions().items()), *(f"- {n}" for n in notes), "",
             "| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns),
             *("| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)), ""]
    for suffix, text in ((".csv", table.to_csv(index=False)), (".md", "\n".join(lines))):
        beside = RESULTS / f"{name}{suffix}.tmp"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, RESULTS / f"{name}{suffix}")
    print("\n".join(lines))
