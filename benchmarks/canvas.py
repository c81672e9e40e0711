"""Scrubbing the connectivity of 5,000 labels, 768 features, fan-in 32, in JupyterLab in Chromium on one machine.

    python -m benchmarks.canvas

Writes results/canvas.csv and results/canvas.md. Needs the extra `test` and a browser.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.lab import median_and_p95
from benchmarks.machine import write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

L, K, D, REWIRES = 5000, 32, 768, 200
TRIES = 60  # of each kind of scrub
CELL = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parent.parent / "tests")!r})
import xmc_explore as xe
from frames_for_tests import drawn
view = xe.scrub(drawn({L}, {K}, {D}, {REWIRES}))
view"""
# Milliseconds from a move of the slider until the picture is drawn, and until the animation frame after that one: by
# then it is on the screen. The page itself takes the times; nobody polls it.
SCRUB = """([root, slider, to]) => new Promise((done) => {
  const start = performance.now();
  const watcher = new MutationObserver(() => {
    if (root.dataset.shown !== String(to)) return;
    watcher.disconnect();
    const drawn = performance.now() - start;
    requestAnimationFrame(() => requestAnimationFrame(() => done([drawn, performance.now() - start])));
  });
  watcher.observe(root, { attributes: true });
  slider.value = to;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
})"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    from jupyter_browser import jupyter_lab, open_notebook, write_notebook
    from playwright.sync_api import expect, sync_playwright

    from xmc_explore.doctor import find_browser

    draw = random.Random(0)
    ways = {"to the next frame": [n % REWIRES + 1 for n in range(TRIES)],
            "to any frame": [draw.randrange(REWIRES + 1) for _ in range(TRIES)]}
    rows = []
    with tempfile.TemporaryDirectory() as folder, jupyter_lab(Path(folder)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        name = write_notebook(server.folder / "scrub.ipynb", CELL)
        with open_notebook(browser, server, name) as opened:
            opened.toggle_sidebar()
            received = []
            opened.page.on("websocket", lambda socket: socket.on("framereceived", lambda m: received.append(len(m))))
            opened.page.reload()
            expect(opened.page.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible(timeout=60_000)
            opened.wait_until_idle()
            opened.run_cell(0)
            root = opened.page.locator(".xmc-connectivity")
            expect(root).to_have_attribute("data-shown", str(REWIRES), timeout=120_000)
            opened.wait_until_idle()
            slider = root.get_by_role("slider", name="Frame")
            parts = [root.element_handle(), slider.element_handle()]
            opened.page.evaluate(SCRUB, [*parts, 0])
            for way, frames in ways.items():
                times, sizes = [], []
                for to in frames:
                    if root.get_attribute("data-shown") == str(to):
                        continue
                    opened.page.wait_for_timeout(60)  # what the last scrub has set going is over
                    received.clear()
                    times.append(opened.page.evaluate(SCRUB, [*parts, to]))
                    opened.page.wait_for_timeout(20)
                    sizes.append(sum(received) / 1000)
                found = {"scrub": way, "scrubs": len(times)}
                for what, of in zip(("drawn", "on the screen"), zip(*times, strict=True), strict=True):
                    for name, value in zip(("median", "p95"), median_and_p95(of), strict=True):
                        found[f"{what}, ms ({name})"] = round(value, 1)
                rows.append(found | {"received, kB (median)": round(median_and_p95(sizes)[0], 1),
                                     "load": round(os.getloadavg()[0], 1)})
        browser.close()
    title = f"Scrubbing {L:,} labels x {D} features, fan-in {K}, {REWIRES} rewires of 15 %"
    write("canvas", title, pd.DataFrame(rows), [
        "command: python -m benchmarks.canvas",
        "drawn: from a move of the slider in the page, through the kernel, until the picture is drawn; on the screen: "
        "to the animation frame after the one that follows; asked for: under 100 ms (median)",
        "received: all that came over the websockets for one scrub, the kernel's status messages included",
        "headless Chromium draws without a GPU",
        "a load above the number of cores means that these times include waiting for a core"])


if __name__ == "__main__":
    main()
