"""The laboratory in JupyterLab in Chromium on one machine: how fast it answers, what it sends, what it costs.

    python -m benchmarks.lab [--only controls]

Writes results/lab.csv and results/lab.md; `--only` measures one part anew and keeps the others. Needs the
extra `test` and a browser.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.machine import RESULTS, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

CELLS = ("import xmc_explore as xe\ncorpus = xe.load_corpus('calls-small')",
         "lab = xe.Lab(corpus, steps=100_000)\nlab")
DRAWN = (CELLS[0] + "\nxe.plots.gradient_norm(xe.load_recording('calls-small-set'))", CELLS[1])  # as in each notebook
WIDE = """\
import numpy as np, xmc_explore as xe
corpus = xe.load_corpus("planted", n_labels=5000, n_features=768, n_train=4000, n_test=200)
lab = xe.Lab(corpus, xe.Recipe(encoder="features", fan_in=32, rewire_interval=2, warmup=5, eval_interval=100_000),
             steps=100_000)
lab"""
OPENINGS = 20  # of either kind, each in a kernel and a browser profile of its own
TRIES, SLOW_TRIES = 24, 20  # of each control; of those that build a model
SECONDS = 10.0  # of training, to count steps and bytes
PAIRS, TURN = 160, 60  # pairs of turns, with the painter and without; steps of a turn

# Armed before a gesture: milliseconds from its own time stamp until what `selector` says has changed to something that
# matches `first` and, later or at once, `last`, each with the animation frame that shows it.
ANSWER = """([root, selector, first, last]) => { window.answer = new Promise((done, fail) => {
  const says = () => {
    const node = root.querySelector(selector);
    return (node.dataset.state ?? "") + "|" + node.textContent;
  };
  const before = says(), shown = {}, wanted = { first: new RegExp(first), last: new RegExp(last) };
  let start = null;
  const begin = (event) => { start ??= event.timeStamp; };
  for (const kind of ["pointerup", "keydown", "input"])
    root.addEventListener(kind, begin, { capture: true, once: true });
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
  setTimeout(() => fail(Error(`${selector} was to say ${last}; it says ${says()}, and ${before} before`)), 60000);
}); }"""
STATUS, MESSAGE, CAPTION = ".xmc-status", ".xmc-message", ".xmc-connectivity .xmc-caption"
# What goes through the page's sockets, in bytes, counted where it costs least; it runs before any other script.
TRAFFIC = """window.traffic = { received: 0, sent: 0 };
const size = (data) => data.byteLength ?? data.size ?? new TextEncoder().encode(data).length;
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", (event) => { traffic.received += size(event.data); });
  }
  send(data) {
    traffic.sent += size(data);
    super.send(data);
  }
};"""


def median_and_p95(values: list[float]) -> tuple[float, float]:
    """The median, and the value that 95 % of all do not exceed: of fewer than 20, the worst."""
    return statistics.median(values), sorted(values)[math.ceil(0.95 * len(values)) - 1]


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
    painter = {"quantity": "what the painter takes of a step, %: the mean, and the upper end of its 95 % interval (the "
                           f"lower: {low:.1f})", "tries": len(cost), "median": round(cost.mean(), 2),
               "p95": round(high, 2), "worst": math.nan, **met("at most 3", cost.mean() <= 3, high <= 3)}
    return [at_least(20, "steps/s of the default recipe on calls-small, painted, no browser", list(rate)), painter]


def met(wanted: str, by_median: bool, by_p95: bool) -> dict[str, str]:
    return {"asked for": wanted, "median meets it": "yes" if by_median else "no",
            "p95 meets it": "yes" if by_p95 else "no"}


def row(what: str, values: list[float], under: float | None = None) -> dict:
    """A row of the table, of what should be small; without a limit nothing was asked for."""
    median, p95 = median_and_p95(values)
    asked = dict.fromkeys(met("", True, True), "") if under is None else met(f"under {under:g}", median < under,
                                                                             p95 < under)
    return {"quantity": what, "tries": len(values), "median": round(median, 2), "p95": round(p95, 2),
            "worst": round(max(values), 2), **asked}


def at_least(wanted: float, what: str, values: list[float]) -> dict:
    """The same of what should be large: its p95 is what 95 % of all reach."""
    median, p95 = (-value for value in median_and_p95([-value for value in values]))
    return {"quantity": what, "tries": len(values), "median": round(median, 2), "p95": round(p95, 2),
            "worst": round(min(values), 2), **met(f"at least {wanted:g}", median >= wanted, p95 >= wanted)}


def timed(lab, gesture: Callable[[], None], selector: str, first: str, last: str) -> list[float]:
    """Milliseconds from a real gesture until the page says the first and the last of its answers."""
    lab.page.evaluate(ANSWER, [lab.root.element_handle(), selector, first, last])
    gesture()
    return lab.page.evaluate("window.answer")


def scrub(lab, each_way: int) -> list[float]:
    """From a key on the scrubber to the caption of another picture, which comes in one message with the picture.

    Among frames of the past alone: at the live end a new frame would change the caption too.
    """
    from playwright.sync_api import expect

    handle, place, found = lab.root.locator(".xmc-scrubber .noUi-handle"), lab.root.locator(".xmc-where"), []
    handle.press("ArrowLeft")
    expect(place).not_to_contain_text("live")
    lab.page.wait_for_timeout(1000)
    for i in range(TRIES):
        key = "ArrowLeft" if i % (2 * each_way) < each_way else "ArrowRight"
        found.append(timed(lab, lambda key=key: lab.page.keyboard.press(key), CAPTION, "", "")[1])
        lab.page.wait_for_timeout(150)
    lab.root.get_by_title("Last frame, and follow the run").click()
    expect(place).to_contain_text("live")
    return found


class Controls:
    """Uses what a laboratory that trains has on the screen; `times` has the milliseconds that each took."""

    def __init__(self, lab):
        self.lab, self.times = lab, {}
        self.rng = np.random.default_rng(0)

    def rest(self) -> None:
        """Until the curves are drawn again, which wait for a hand to rest; to no fixed point of their rhythm."""
        self.lab.page.wait_for_timeout(float(self.rng.uniform(600, 1100)))

    def time(self, gesture: Callable[[], None], selector: str, **answers: str) -> None:
        """Time a gesture until what is said there matches each of one or two answers, {what it is: expression}."""
        wanted = list(answers.values())
        took = timed(self.lab, gesture, selector, wanted[0], wanted[-1])
        for what, ms in zip(answers, took[-len(answers):], strict=True):
            self.times.setdefault(what, []).append(ms)
        self.rest()

    def press(self, name: str, selector: str, **answers: str) -> None:
        button = self.lab.root.get_by_role("button", name=name, exact=True)
        self.time(button.click, selector, **{f"{name} to {what.replace('_', ' ')}": words
                                             for what, words in answers.items()})

    def train(self, steps: int) -> None:
        """Have it train, with so many steps behind it; not timed."""
        if self.lab.state() != "playing":
            self.lab.press("Play")
        self.lab.wait_for_state("playing")
        self.lab.wait_for_step(steps)

    def alone(self) -> None:
        """End a comparison; not timed."""
        from playwright.sync_api import expect

        self.lab.press("A|B")
        expect(self.lab.status).not_to_have_attribute("data-other-step", re.compile(r"\d"))


def of_swift_controls(lab) -> list[dict]:
    """How fast a laboratory that trains answers to the controls that are obeyed before its next step."""
    controls = Controls(lab)
    rate = lab.knob("learning rates")
    loss = lab.root.locator(".xmc-knobs .widget-dropdown", has=lab.page.get_by_text("loss", exact=True)).get_by_role(
        "combobox")
    for i in range(TRIES):
        controls.press("Pause", STATUS, its_first_answer="^(pausing|paused)", the_state_it_asks_for="^paused")
        controls.press("Play", STATUS, its_first_answer="^(starting|playing)", the_state_it_asks_for="^playing")
        rate.focus()
        key = "ArrowLeft" if i % 2 else "ArrowRight"
        controls.time(lambda key=key: lab.page.keyboard.press(key), MESSAGE,
                      **{"a slider to the words of what it does": "From the next step on: lr_factor"})
        entry = 0 if i % 2 else 1
        controls.time(lambda entry=entry: loss.select_option(index=entry), MESSAGE,
                      **{"a list (loss) to the words of what it does": "From the next step on: loss"})
        controls.press("Rewire now", MESSAGE, its_words="The next step will rewire")
        controls.press("Step", STATUS, its_first_answer="^(stepping|paused)", the_pause_after_it="^paused")
        controls.press("Step", STATUS, its_first_answer_from_a_pause="^(stepping|playing)",
                       the_step_from_a_pause="^paused")
        controls.train(0)
    rows = [row(f"ms from {what}, training", ms, 100) for what, ms in controls.times.items()]
    return [*rows, row("ms from the scrubber to another frame on the screen, training", scrub(lab, 3), 100)]


def of_slow_controls(lab) -> list[dict]:
    """The same of those that build a model: how fast they answer, and how long they take."""
    controls = Controls(lab)
    for _ in range(SLOW_TRIES):
        controls.train(150)  # beyond a rewire, so that a branch has steps to replay
        controls.press("Branch", STATUS, its_first_answer="^branching", its_end="^paused")
        controls.alone()
        controls.train(150)
        controls.press("A|B", STATUS, its_first_answer="^starting B", its_end="^paused")
        controls.alone()
        controls.train(30)
        controls.press("Reset", STATUS, its_first_answer="^resetting", its_end="^paused")
    return [row(f"ms from {what}, training", ms, None if what.endswith("end") else 100)
            for what, ms in sorted(controls.times.items(), key=lambda item: item[0].endswith("end"))]


def flow(lab, which: str) -> list[dict]:
    """Steps a second and bytes both ways of a laboratory that trains and is left alone."""
    read = "() => [performance.now(), traffic.received, traffic.sent]"
    before, step = lab.page.evaluate(read), lab.step()
    lab.page.wait_for_timeout(1000 * SECONDS)
    after, steps = lab.page.evaluate(read), lab.step() - step
    ms, received, sent = (late - early for late, early in zip(after, before, strict=True))
    return [at_least(20, f"steps/s of the default recipe on calls-small, in the browser, {which}", [1000 * steps / ms])
            if which == "one run" else row(f"steps/s of the same, {which}", [1000 * steps / ms]),
            row(f"MB/s to the browser while training, {which}", [received / ms / 1000], 1),
            row(f"MB/s from the browser while training, {which}", [sent / ms / 1000], 1)]


def shown(opened) -> tuple[float, float]:
    """Seconds from Run until the laboratory is on the screen, and until it can train."""
    from jupyter_browser import LabView
    from playwright.sync_api import expect

    opened.toggle_sidebar()
    opened.run_cell(0)
    opened.wait_until_idle()
    started = time.perf_counter()
    opened.run_cell(1)
    lab = LabView(opened.page)
    expect(lab.status).to_be_visible(timeout=60_000)
    expect(lab.root.locator("canvas[role=img]")).to_be_visible(timeout=60_000)
    there = time.perf_counter() - started
    lab.wait_for_state("paused")
    return there, time.perf_counter() - started


def openings(browser, server, cells: tuple[str, ...]) -> list[tuple[float, float]]:
    """What `shown` says, each time of another kernel."""
    from jupyter_browser import open_notebook, write_notebook

    took = []
    for i in range(OPENINGS):
        name = write_notebook(Path(server.folder) / f"opening-{i}.ipynb", *cells)
        with open_notebook(browser, server, name) as opened:
            took.append(shown(opened))
        server.end_kernel(name)
    return took


def of_openings(browser, server) -> list[dict]:
    """How soon a laboratory is there, and can train."""
    took = {kernel: openings(browser, server, cells)
            for kernel, cells in (("a figure drawn before", DRAWN), ("fresh kernel", CELLS))}
    return [row(f"seconds from Run until {until}, {kernel}", list(seconds), most)
            for kernel, pairs in took.items()
            for until, most, seconds in zip(("the laboratory is on the screen", "it can train"), (5, None),
                                            zip(*pairs, strict=True), strict=True)]


def of_controls(browser, server) -> list[dict]:
    """What a laboratory answers, how fast it trains and what it sends."""
    from jupyter_browser import LabView, open_notebook, write_notebook
    from playwright.sync_api import expect

    folder = Path(server.folder)
    name = write_notebook(folder / "bench.ipynb", *CELLS)
    with open_notebook(browser, server, name, script=TRAFFIC) as opened:
        shown(opened)
        lab = LabView(opened.page)
        lab.press("Play")
        lab.wait_for_step(60)
        rows = flow(lab, "one run")
        lab.wait_for_step(600)  # some frames to scrub through
        rows += of_swift_controls(lab) + of_slow_controls(lab)
        lab.press("A|B")
        expect(lab.status).to_have_attribute("data-other-step", re.compile(r"\d"))
        lab.wait_for_state("paused")
        lab.press("Play")
        lab.wait_for_step(60)
        rows += flow(lab, "two runs")
        lab.press("Pause")
        rows += [row("errors in the browser's console", [len(opened.errors)]) | met("0", *2 * [not opened.errors])]
    server.end_kernel(name)
    name = write_notebook(folder / "wide.ipynb", WIDE)
    with open_notebook(browser, server, name) as opened:
        opened.toggle_sidebar()
        opened.run_all()
        lab = LabView(opened.page)
        lab.wait_for_state("paused", timeout=120_000)
        lab.press("Play")
        lab.wait_for_step(60)
        lab.press("Pause")
        lab.wait_for_state("paused")
        rows += [row("ms from the scrubber to another picture of 5,000 x 768, paused", scrub(lab, 10), 100)]
    server.end_kernel(name)
    return rows


def in_browser(measure: Callable[..., list[dict]]) -> list[dict]:
    """What is measured with a browser and a JupyterLab."""
    from jupyter_browser import jupyter_lab
    from playwright.sync_api import sync_playwright

    from xmc_explore.doctor import find_browser

    with tempfile.TemporaryDirectory() as folder, jupyter_lab(Path(folder)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        rows = measure(browser, server)
        browser.close()
    return rows


PARTS: dict[str, Callable[[], list[dict]]] = {
    "painter": in_kernel, "openings": partial(in_browser, of_openings), "controls": partial(in_browser, of_controls)}


def measured(parts: Sequence[str]) -> pd.DataFrame:
    """The table, with these parts measured anew and the others as results/lab.csv has them."""
    path = RESULTS / "lab.csv"
    kept = pd.read_csv(path, keep_default_na=False) if set(parts) < set(PARTS) else pd.DataFrame(columns=["part"])
    tables = []
    for part, measure in PARTS.items():
        if part in parts:
            since = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
            tables.append(pd.DataFrame(measure()).assign(part=part, measured=since))
        else:
            tables.append(kept[kept["part"] == part])
    return pd.concat(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART",
                        help=f"measure one part anew and keep the others: {', '.join(PARTS)}")
    table = measured(parser.parse_args().only or list(PARTS))
    write("lab", "The laboratory: control to picture, speed, what it sends", table, [
        "command: python -m benchmarks.lab, --only for a part by itself; each part is measured in one go, from the "
        "time (UTC) in the last column on, and the load above is that after the part that was measured last",
        "p95: what 95 % of the tries do not exceed (of fewer than 20, the worst), for steps/s: what 95 % reach",
        "each control with a real mouse or key, a list from the choice of its entry; milliseconds are the page's own: "
        "from the time stamp of the press (of a mouse: of its release, on which a button acts) to the animation frame "
        "that shows the answer; browser, server and training share the cores",
        "training: the press finds it training, except Play and Step \"from a pause\"; what builds a model "
        "(Branch, A|B, Reset) answers in words first, and is at its end when the new run stands at its first step",
        "fresh kernel: of a notebook that is open, its corpus loaded, its browser profile without anything in its "
        "cache; the laboratory's modules and plotly are imported within the time. A figure drawn before: the same, but "
        "the cell before has shown one of a recording, as in every notebook; plotly and PyTorch are there by then",
        f"bytes: {SECONDS:g} s of messages",
        f"the painter: one laboratory in a kernel of its own, in {PAIRS} pairs of turns of {TURN} steps, with the "
        "painter at work as often as it may be and held up, order drawn; interval by bootstrap over pairs"])


if __name__ == "__main__":
    main()
