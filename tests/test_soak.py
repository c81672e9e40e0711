"""Play, scrub and reset for a long time, five actions a second: nothing grows, nothing is left, nothing complains.

One hour, with a line a minute, its result in benchmarks/results/soak.md:

    XMC_EXPLORE_SOAK_SECONDS=3600 python -m pytest -s -m slow tests/test_soak.py
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest
from jupyter_browser import LabView, jupyter_lab, open_notebook, write_notebook
from playwright.sync_api import expect
from test_browser import CORPUS, LAB  # noqa: I001

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.machine import write_parts  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ASKED = "XMC_EXPLORE_SOAK_SECONDS" in os.environ  # by whoever wants a result to keep
SECONDS = float(os.environ.get("XMC_EXPLORE_SOAK_SECONDS", 120))
WARM_UP = 60.0  # in which caches fill and allocators find their size
RATE, SAMPLE = 5, 10  # actions a second; seconds from one look at the memory to the next
GROWTH = 1.05
THREADS = ("lab.close()\nimport threading, gc\n"
           "print('left:', sorted(t.name for t in threading.enumerate() if t.name.startswith('xmc')))")


def kernel_of(server) -> psutil.Process:
    """The one process that runs cells below this one."""
    (kernel,) = [p for p in psutil.Process().children(recursive=True) if "ipykernel_launcher" in " ".join(p.cmdline())]
    return kernel


ACTIONS = {"Play": 6, "Pause": 4, "Step": 2, "+10": 2, "scrub": 12, "knob": 3, "Rewire now": 2, "Reset": 1}  # how often


def act(lab: LabView, name: str, rng: random.Random) -> None:
    handle = lab.root.locator(".xmc-scrubber .noUi-handle")
    if name == "scrub":
        if handle.get_attribute("aria-disabled") != "true":
            handle.press(rng.choice(("Home", "End", "ArrowLeft", "ArrowRight")))
    elif name == "knob":
        lab.knob("learning rates").press(rng.choice(("ArrowLeft", "ArrowRight")))
    else:
        lab.press(name)


def ends(samples: list[float]) -> tuple[float, float]:
    """The medians of the first and of the last tenth, of three samples at least."""
    tenth = max(len(samples) // 10, 3)
    return tuple(sorted(some)[len(some) // 2] for some in (samples[:tenth], samples[-tenth:]))


def test_nothing_grows_and_nothing_is_left(browser, tmp_path):
    rng, done = random.Random(0), Counter()
    with jupyter_lab(tmp_path) as server:
        name = write_notebook(tmp_path / "soak.ipynb", CORPUS, LAB, THREADS)
        with open_notebook(browser, server, name) as opened:
            opened.toggle_sidebar()
            for cell in (0, 1):
                opened.run_cell(cell)
            lab = LabView(opened.page)
            lab.wait_for_state("paused", timeout=120_000)
            kernel, heap = kernel_of(server), opened.page.context.new_cdp_session(opened.page)

            def sizes() -> dict[str, float]:
                heap.send("HeapProfiler.collectGarbage")
                used = heap.send("Runtime.getHeapUsage")["usedSize"]
                return {"kernel": kernel.memory_info().rss / 2**20, "page": used / 2**20}

            def run_for(seconds: float, words: str) -> list[dict[str, float]]:
                """Act; the sizes every ten seconds."""
                found, started, actions = [], time.monotonic(), 0
                while time.monotonic() < started + seconds:
                    (action,) = rng.choices(list(ACTIONS), ACTIONS.values())
                    act(lab, action, rng)
                    done[action] += 1
                    actions += 1
                    time.sleep(max(0.0, started + actions / RATE - time.monotonic()))
                    if actions % (RATE * SAMPLE) == 0:
                        found.append(sizes())
                        if len(found) % (60 // SAMPLE) == 0:
                            minutes = (time.monotonic() - started) / 60
                            print(f"{words} {minutes:.1f} min: step {lab.step():,}, {actions:,} actions, kernel "
                                  f"{found[-1]['kernel']:.0f} MiB, page {found[-1]['page']:.1f} MiB", flush=True)
                return found

            run_for(WARM_UP, "warming up")
            done.clear()
            started = time.monotonic()
            found = run_for(SECONDS, "soaking")
            seconds = time.monotonic() - started
            lab.press("Pause")
            lab.wait_for_state("paused")
            opened.run_cell(2)
            expect(opened.output(2)).to_contain_text("left:", timeout=60_000)
            left = opened.output(2).inner_text().strip()
            opened.page.wait_for_timeout(1000)  # what is said of something closed is said a moment later
            complaints, raised = list(opened.errors), opened.cell_errors()
            memory = {part: ends([sample[part] for sample in found]) for part in ("kernel", "page")}
            if ASKED:
                keep(done, seconds, memory, left, complaints + raised)
            for part, (early, late) in memory.items():
                assert late <= GROWTH * early, f"{part}: {[round(sample[part], 1) for sample in found]}"
            assert complaints == [] and raised == [] and left == "left: []"


def keep(done: Counter, seconds: float, memory: dict[str, tuple[float, float]], left: str, errors: list[str]) -> None:
    """Leave the result in benchmarks/results/soak.md."""
    rows = [("minutes", f"{seconds / 60:.1f}", ""), ("actions", f"{done.total():,}", ""),
            ("actions a second", f"{done.total() / seconds:.2f}", f"{RATE}"),
            *((f"memory of the {part}, first and last tenth, MiB",
               f"{early:.1f}, {late:.1f} ({100 * (late / early - 1):+.1f} %)", f"at most +{100 * (GROWTH - 1):.0f} %")
              for part, (early, late) in memory.items()),
            ("threads left after close", left.removeprefix("left: "), "[]"),
            ("errors in the browser's console and in cells", "; ".join(errors) or "none", "none")]
    mix = ", ".join(f"{n:,} x {name}" for name, n in done.items())
    notes = [f"command: XMC_EXPLORE_SOAK_SECONDS={SECONDS:g} python -m pytest -s -m slow tests/test_soak.py",
             f"after {WARM_UP:.0f} s of the same to warm up; {mix}"]
    write_parts("soak", "An hour of clicking" if SECONDS == 3600 else "A while of clicking", notes,
                [("", pd.DataFrame(rows, columns=["quantity", "found", "asked for"]))])
