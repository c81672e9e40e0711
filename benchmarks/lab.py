"""The laboratory in JupyterLab in Chromium on one machine: how fast it answers, what it sends, what it costs.

    python -m benchmarks.lab

Writes results/lab.csv and results/lab.md. Needs the extra `test` and a browser.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
PAIRS, TURN = 160, 60  # pairs of turns, with the painter and without; steps of a turn

# Armed before a gesture: milliseconds from its own time stamp until what `selector` says has changed to something that
# matches `first` and, later or at once, `last`, each with the animation frame that shows it.
ANSWER = """([root, selector, first, last]) => { window.answer = new Promise((done) => {
  const says = () => {
    const node = root.querySelector(selector);
    return (node.dataset.state ?? "") + "|" + node.textContent;
  };
  const before = says(), shown = {}, wanted = { first: new RegExp(first), last: new RegExp(last) };
  let start = null;
  const begin = (event) => { start ??= event.timeStamp; };
  for (const kind of ["pointerdown", "keydown"]) root.addEventListener(kind, begin, { capture: true, once: true });
  const watcher = new MutationObserver(() => {
    const now = says();
    if (start === null || now === before) return;
    for (const name of ["first", "last"]) {
      if (name in shown || !wanted[name].test(now)) continue;
      shown[name] = null;
      requestAnimationFrame(() => setTimeout(() => {
        shown[name] = performance.now() - start;
        if (shown.last) done([shown.first ?? shown.last, shown.last]);
      }));
    }
    if ("last" in shown) watcher.disconnect();
  });
  watcher.observe(root, { childList: true, subtree: true, characterData: true, attributes: true });
}); }"""
STATUS, MESSAGE, CAPTION = ".xmc-status", ".xmc-message", ".xmc-connectivity .xmc-caption"


def median_and_p95(values: list[float]) -> tuple[float, float]:
    return statistics.median(values), sorted(values)[int(0.95 * (len(values) - 1))]


def painting(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds a step of each pair of turns [pairs], with the painter at work and held up; called in a kernel.

    One laboratory takes all the turns, so that both sides have the same model in the same memory.
    """
    import xmc_explore as xe
    from xmc_explore.widgets import lab as lab_module

    lab_module.BLIND_SECONDS = 1 / lab_module.FRAMES_PER_SECOND  # paints as often as a browser lets it
    lab = xe.Lab(xe.load_corpus("calls-small"), xe.Recipe(eval_interval=100_000), steps=100_000)
    lab.engine.run_for(2 * TURN)
    taken, rng = np.empty((2, pairs)), np.random.default_rng(0)
    for pair in range(pairs):
        for which in rng.permutation(2):
            time.sleep(0.15)  # what the turn before has left to paint
            with lab._painting if which else contextlib.nullcontext():
                started = time.perf_counter()
                lab.engine.run_for(TURN)
                taken[which, pair] = (time.perf_counter() - started) / TURN
    lab.close()
    return taken[0], taken[1]


def in_kernel() -> list[dict]:
    """Steps a second of a laboratory in a kernel, and what its painter takes of them."""
    from jupyter_client.manager import run_kernel

    root = str(Path(__file__).resolve().parent.parent)
    code = (f"import sys; sys.path.insert(0, {root!r}); from benchmarks.lab import painting\n"
            f"import json; print(json.dumps([side.tolist() for side in painting({PAIRS})]))")
    said: list[str] = []
    with run_kernel(kernel_name="python3") as client:
        reply = client.execute_interactive(code, timeout=900, output_hook=lambda message: said.append(
            message["content"].get("text", "")))
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"]["traceback"]))
    painted, bare = np.array(json.loads("".join(said)))
    cost, rate = 100 * (painted - bare) / bare.mean(), 1 / painted
    draws = np.random.default_rng(0).choice(cost, (10_000, len(cost))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return [row("steps/s of the default recipe on calls-small, painted, no browser", np.median(rate), rate.min(),
                "at least 20", np.median(rate) >= 20),
            row(f"what the painter takes of a step, %: mean of {len(cost)} pairs, upper end of its 95 % interval "
                f"(the lower {low:.1f})", cost.mean(), high, "at most 3", high <= 3)]


def row(what: str, median: float, worst: float, wanted: str, met: bool) -> dict:
    return {"quantity": what, "median": round(median, 2), "p95 or worst": round(worst, 2), "asked for": wanted,
            "met": "yes" if met else "no"}


def timed(lab, gesture: Callable[[], None], selector: str, first: str, last: str) -> list[float]:
    """Milliseconds from a real gesture until the page says the first and the last of its answers."""
    lab.page.evaluate(ANSWER, [lab.root.element_handle(), selector, first, last])
    gesture()
    return lab.page.evaluate("window.answer")


def scrub(lab, each_way: int) -> list[float]:
    """From a key on the scrubber to the caption of another picture, which comes in one message with the picture."""
    handle, found = lab.root.locator(".xmc-scrubber .noUi-handle"), []
    handle.focus()
    for i in range(TRIES):
        key = "ArrowLeft" if i % (2 * each_way) < each_way else "ArrowRight"
        found.append(timed(lab, lambda key=key: lab.page.keyboard.press(key), CAPTION, "", "")[1])
        lab.page.wait_for_timeout(150)
    return found


def of_controls(lab) -> list[dict]:
    """How fast a laboratory that trains answers to each control."""
    found: dict[str, list[float]] = {}
    rng = np.random.default_rng(0)

    def rest() -> None:
        """Until the curves are drawn again, which wait for a hand to rest; to no fixed point of their rhythm."""
        lab.page.wait_for_timeout(float(rng.uniform(600, 1400)))

    def press(name: str, selector: str, first: str, last: str) -> None:
        button = lab.root.get_by_role("button", name=name, exact=True)
        times = timed(lab, button.click, selector, first, last)
        for what, ms in zip(("its first answer", "the state it asks for"), times, strict=True):
            found.setdefault(f"{name} to {what}", []).append(ms)
        rest()

    rate = lab.knob("learning rates")
    for i in range(TRIES):
        press("Pause", STATUS, "^(pausing|paused)", "^paused")
        press("Play", STATUS, "^(starting|playing)", "^playing")
        rate.focus()
        key = "ArrowLeft" if i % 2 else "ArrowRight"
        turned = timed(lab, lambda key=key: lab.page.keyboard.press(key), MESSAGE, *2 * ["From the next step"])
        found.setdefault("a knob to the words of what it does", []).append(turned[1])
        rest()
    rows = [answered(f"{what}, training", times) for what, times in found.items()]
    return [*rows, answered("the scrubber to another frame on the screen, training", scrub(lab, 3))]


def answered(what: str, times: list[float]) -> dict:
    return row(f"ms from {what}", *median_and_p95(times), "under 100", statistics.median(times) < 100)


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
            lab.wait_for_step(600)  # some frames to scrub through
            rows += of_controls(lab)
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
            found = scrub(lab, 10)
            rows.append(answered("the scrubber to another picture of 5,000 x 768, paused", found))
        browser.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = in_kernel() + in_browser()
    write("lab", "The laboratory: control to picture, speed, what it sends", pd.DataFrame(rows), [
        "command: python -m benchmarks.lab",
        f"{TRIES} tries of each control, with a real mouse or key; milliseconds are the page's own: from the time "
        "stamp of the press to the animation frame that shows the answer; browser, server and training share the cores",
        f"the painter: one laboratory in a kernel of its own, in {PAIRS} pairs of turns of {TURN} steps, with the "
        "painter at work as often as it may be and held up, order drawn; interval by bootstrap over pairs"])


if __name__ == "__main__":
    main()
