"""The laboratory in JupyterLab in Chromium on one machine: how fast it answers, what it sends, what it costs.

    python -m benchmarks.lab

Writes results/lab.csv and results/lab.md. Needs the extra `test` and a browser.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.machine import write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

CELLS = ("import xmc_explore as xe\ncorpus = xe.load_corpus('calls-small')\nimport xmc_explore.widgets",
         "lab = xe.Lab(corpus, steps=100_000)\nlab")
WIDE = """\
import numpy as np, xmc_explore as xe
corpus = xe.load_corpus("planted", n_labels=5000, n_features=768, n_train=4000, n_test=200)
lab = xe.Lab(corpus, xe.Recipe(encoder="features", fan_in=32, rewire_interval=2, warmup=5, eval_interval=100_000),
             steps=100_000)
lab"""
STEPS = 200  # of each training that is timed
TRIES = 30  # of each control

# Milliseconds from a click on a button to the change of an attribute of the status line, seen by the page itself.
CLICK = """([root, button, name, wanted]) => new Promise((done) => {
  const status = () => root.querySelector(".xmc-status").getAttribute(name);
  const start = performance.now();
  const watcher = new MutationObserver(() => {
    if (wanted === null ? status() !== before : status() === wanted) {
      watcher.disconnect();
      requestAnimationFrame(() => done(performance.now() - start));
    }
  });
  const before = status();
  watcher.observe(root, { childList: true, subtree: true, characterData: true, attributes: true });
  button.click();
})"""
# From a key on the scrubber to the caption of another picture, which comes in one message with the picture.
SCRUB = """([root, handle, key]) => new Promise((done) => {
  const where = () => root.querySelector(".xmc-connectivity .xmc-caption").textContent;
  const before = where(), start = performance.now();
  const watcher = new MutationObserver(() => {
    if (where() !== before) {
      watcher.disconnect();
      requestAnimationFrame(() => done(performance.now() - start));
    }
  });
  watcher.observe(root, { childList: true, subtree: true, characterData: true, attributes: true });
  handle.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
})"""


def median_and_p95(values: list[float]) -> tuple[float, float]:
    return statistics.median(values), sorted(values)[int(0.95 * (len(values) - 1))]


def in_kernel() -> list[dict]:
    """Steps a second with and without a painter, taking turns."""
    import xmc_explore as xe
    from xmc_explore.widgets import lab as lab_module
    from xmc_explore.widgets.engine import Engine

    corpus = xe.load_corpus("calls-small")
    recipe = xe.Recipe(eval_interval=100_000)
    found: dict[str, list[float]] = {"alone": [], "painted": []}
    lab_module.BLIND_SECONDS = 1 / lab_module.FRAMES_PER_SECOND  # paints as often as a browser lets it
    alone = Engine(corpus, recipe, steps=100_000)
    alone.start()
    lab = xe.Lab(corpus, recipe, steps=100_000)
    for engine in (alone, lab.engine):
        engine.run_for(50)
    for _ in range(5):
        for name, engine in (("alone", alone), ("painted", lab.engine)):
            started = time.perf_counter()
            engine.run_for(STEPS // 2)
            found[name].append(STEPS / 2 / (time.perf_counter() - started))
    alone.close()
    lab.close()
    # Rounds stand side by side, so that a machine that slows down slows both.
    cost = [100 * (1 - painted / bare) for bare, painted in zip(found["alone"], found["painted"], strict=True)]
    rate = statistics.median(found["painted"])
    return [row("steps/s of the default recipe on calls-small, painted, no browser", rate, min(found["painted"]),
                "at least 20", rate >= 20),
            row("what the painter takes of the steps/s, %", statistics.median(cost), max(cost), "at most 3",
                statistics.median(cost) <= 3)]


def row(what: str, median: float, worst: float, wanted: str, met: bool) -> dict:
    return {"quantity": what, "median": round(median, 2), "p95 or worst": round(worst, 2), "asked for": wanted,
            "met": "yes" if met else "no"}


def in_browser() -> list[dict]:
    from jupyter_browser import LabView, jupyter_lab, open_notebook, write_notebook
    from playwright.sync_api import expect, sync_playwright

    from xmc_explore.doctor import find_browser

    rows = []
    with tempfile.TemporaryDirectory() as folder, jupyter_lab(Path(folder)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        name = write_notebook(Path(folder) / "bench.ipynb", *CELLS)
        with open_notebook(browser, server, name) as opened:
            received = [0]
            opened.page.on("websocket", lambda socket: socket.on(
                "framereceived", lambda data: received.__setitem__(0, received[0] + len(data))))
            opened.page.reload()
            opened.wait_until_idle()
            opened.toggle_sidebar()
            opened.run_cell(0)
            opened.wait_until_idle()
            started = time.perf_counter()
            opened.run_cell(1)
            lab = LabView(opened.page)
            expect(lab.root).to_be_visible(timeout=60_000)
            shown = time.perf_counter() - started
            lab.wait_for_state("paused")
            ready = time.perf_counter() - started
            rows.append(row("seconds from Run until the laboratory is on the screen", shown, shown, "under 5",
                            shown < 5))
            rows.append(row("seconds from Run until it can train (the model is built)", ready, ready, "", True))
            root = lab.root.element_handle()

            def click(button: str, attribute: str, wanted: str | None) -> float:
                handle = lab.root.get_by_role("button", name=button, exact=True).element_handle()
                return opened.page.evaluate(CLICK, [root, handle, attribute, wanted])

            lab.press("Play")
            lab.wait_for_step(60)
            bytes_before, step_before, started = received[0], lab.step(), time.perf_counter()
            lab.wait_for_step(step_before + STEPS)
            seconds = time.perf_counter() - started
            rate = (lab.step() - step_before) / seconds
            rows.append(row("steps/s of the default recipe on calls-small, in the browser", rate, rate, "at least 20",
                            rate >= 20))
            sent = (received[0] - bytes_before) / seconds / 1e6
            rows.append(row("MB/s to the browser while training", sent, sent, "under 1", sent < 1))
            pauses, plays, knobs = [], [], []
            for _ in range(TRIES):
                pauses.append(click("Pause", "data-state", "paused"))
                plays.append(click("Play", "data-state", "playing"))
                opened.page.wait_for_timeout(250)
            for what, values in (("Pause", pauses), ("Play", plays)):
                rows.append(row(f"ms from {what} to its answer on the screen, training", *median_and_p95(values),
                                "under 100", statistics.median(values) < 100))
            lab.wait_for_step(600)
            handle = lab.root.locator(".xmc-scrubber .noUi-handle").element_handle()
            for _ in range(TRIES):
                key = "ArrowLeft" if len(knobs) % 6 < 3 else "ArrowRight"
                knobs.append(opened.page.evaluate(SCRUB, [root, handle, key]))
                opened.page.wait_for_timeout(150)
            rows.append(row("ms from the scrubber to another frame on the screen, training", *median_and_p95(knobs),
                            "under 100", statistics.median(knobs) < 100))
            lab.press("Pause")
            rows += [row("errors in the browser's console", len(opened.errors), len(opened.errors), "0",
                         not opened.errors)]
        name = write_notebook(Path(folder) / "wide.ipynb", WIDE)
        with open_notebook(browser, server, name) as opened:
            opened.toggle_sidebar()
            opened.run_all()
            lab = LabView(opened.page)
            lab.wait_for_state("paused", timeout=120_000)
            lab.press("Play")
            lab.wait_for_step(60)
            lab.press("Pause")
            lab.wait_for_state("paused")
            root, handle = lab.root.element_handle(), lab.root.locator(".xmc-scrubber .noUi-handle").element_handle()
            scrubs = []
            for _ in range(TRIES):
                key = "ArrowLeft" if len(scrubs) % 20 < 10 else "ArrowRight"
                scrubs.append(opened.page.evaluate(SCRUB, [root, handle, key]))
                opened.page.wait_for_timeout(100)
            rows.append(row("ms from the scrubber to another picture of 5,000 x 768, paused", *median_and_p95(scrubs),
                            "under 100", statistics.median(scrubs) < 100))
        browser.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = in_kernel() + in_browser()
    write("lab", "The laboratory: control to picture, speed, what it sends", pd.DataFrame(rows), [
        "command: python -m benchmarks.lab",
        f"{TRIES} tries of each control; milliseconds are seen by the page: from the event to the animation frame "
        "after the change; browser, server and training share the cores",
        "the painter: rounds of training with and without one, taking turns; the median of the differences"])


if __name__ == "__main__":
    main()
