"""A real JupyterLab for browser tests: its server, a notebook in it, and the few things a user does there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

ARTEFACTS = Path(__file__).resolve().parent / "artefacts"
START_SECONDS = 60
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


@dataclass(frozen=True)
class Server:
    """A running JupyterLab: `url` with its token, and the folder that it serves."""

    url: str
    token: str
    folder: Path

    def address(self, notebook: str) -> str:
        return f"{self.url}lab/tree/{notebook}?reset&token={self.token}"  # no tabs from before

    def end_kernel(self, notebook: str) -> None:
        """End the kernel of a notebook, as a restart of the machine would."""
        (session,) = [s["id"] for s in json.loads(self._ask("api/sessions")) if s["path"] == notebook]
        self._ask(f"api/sessions/{session}", method="DELETE")

    def _ask(self, path: str, method: str = "GET") -> bytes:
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()


@contextmanager
def jupyter_lab(folder: Path, **settings: dict[str, object]) -> Iterator[Server]:
    """Serve `folder` on the loopback with settings of its own; whatever was started is ended with the block.

    `settings` are those of JupyterLab's extension for applications: themes={"theme": "JupyterLab Dark"}, say.
    Raises RuntimeError with the server's last words if it does not come up.
    """
    own = folder / ".jupyter"
    for name, values in (SETTINGS | {f"apputils-extension/{name}": v for name, v in settings.items()}).items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(own / "config"), "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"), "IPYTHONDIR": str(own / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "JUPYTER_PLATFORM_DIRS": "1", "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
               "--IdentityProvider.token=xmc", f"--ServerApp.root_dir={folder}", "--LabApp.news_url="]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    log = own / "server.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
                                   start_new_session=True)
    try:
        yield Server(_wait_for(process, own / "runtime", log), "xmc", folder)
    finally:
        _end(process)


def _wait_for(process: subprocess.Popen, runtime: Path, log: Path) -> str:
    """The address of the server, once it answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            try:
                url = json.loads(path.read_text())["url"]
                urllib.request.urlopen(f"{url}api", timeout=5).close()
                return url
            except (OSError, ValueError, KeyError):
                continue  # half-written, or not listening yet
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen) -> None:
    """End the server: politely, so that it ends its kernels, then its whole process group."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    except ProcessLookupError:
        pass
    process.wait(20)


def write_notebook(path: Path, *cells: str) -> str:
    """Write a notebook of code cells; returns its file name."""
    nbformat.write(nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}), path)
    return path.name


def with_parameters(source: Path, target: Path, **parameters: object) -> str:
    """Copy a notebook with values put in after its cell tagged `parameters`, as papermill does."""
    notebook = nbformat.read(source, as_version=4)
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    if parameters:
        source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, target)
    return target.name


@dataclass
class Opened:
    """An opened notebook: `page`, everything the page asked for over the network, and what its console said."""

    context: BrowserContext
    address: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    page: Page = field(init=False)

    def open_tab(self) -> None:
        self.page = page = self.context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        page.on("pageerror", lambda error: self.errors.append(error.stack or str(error)))
        page.goto(self.address)
        expect(page.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible(timeout=60_000)
        expect(page.locator(".jp-Toolbar-kernelName")).not_to_have_text("No Kernel", timeout=60_000)

    def save(self) -> None:
        self.choose("File", "Save Notebook")
        expect(self.page.locator(".jp-mod-current.jp-mod-dirty")).to_have_count(0)

    def come_back(self) -> None:
        """Save, close the tab, and open the notebook in another one; its kernel stays."""
        self.save()
        self.page.close()
        self.open_tab()

    def run_all(self) -> None:
        self.choose("Run", "Run All Cells")

    def run_cell(self, number: int) -> None:
        """Run one code cell with Ctrl-Enter, and see that it has been sent."""
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)
        before = cell.locator(".jp-InputPrompt").inner_text()
        cell.locator(".cm-content").click()
        expect(cell).to_have_class(re.compile("jp-mod-active"))
        self.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-InputPrompt")).not_to_have_text(before)

    def wait_until_idle(self, timeout: float = 120_000) -> None:
        """Wait until the kernel is there and has nothing more to run.

        The kernel calls itself idle until it has taken up what was sent: the cells say first that nothing waits.
        """
        expect(self.page.locator(".jp-InputPrompt").get_by_text("[*]:")).to_have_count(0, timeout=timeout)
        expect(self.page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first).to_be_visible(
            timeout=timeout)

    def toggle_sidebar(self) -> None:
        was_visible = self.page.locator(".jp-FileBrowser").is_visible()
        self.page.keyboard.press("Control+b")
        expect(self.page.locator(".jp-FileBrowser")).to_be_visible(visible=not was_visible)

    def choose(self, *path: str) -> None:
        """Choose an entry of the menus: choose("Run", "Run All Cells")."""
        menu, *entries = path
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text(menu, exact=True).click()
        for name in entries:
            self.page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).last.click()

    def output(self, number: int) -> Locator:
        """What code cell `number` has put out."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-OutputArea-output")

    def cell_errors(self) -> list[str]:
        """What any cell has put on stderr or raised."""
        mime = "application/vnd.jupyter."
        return self.page.locator(f"[data-mime-type='{mime}stderr'], [data-mime-type='{mime}error']").all_inner_texts()

    def foreign_requests(self, server: Server) -> list[str]:
        """Requests to any place but the server."""
        local = (server.url, server.url.replace("http", "ws", 1), "data:", "blob:")
        return [url for url in self.requests if not url.startswith(local)]

    def screenshot(self, name: str) -> Path:
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path


@contextmanager
def open_notebook(browser: Browser, server: Server, notebook: str, *, width: int = 1280, height: int = 720,
                  script: str = "", **context_options: object) -> Iterator[Opened]:
    """Open a notebook in a fresh browser profile of a given size; `script` runs before any other on the page."""
    context = browser.new_context(viewport={"width": width, "height": height}, **context_options)
    context.add_init_script(script)
    try:
        opened = Opened(context, server.address(notebook))
        opened.open_tab()
        opened.wait_until_idle()
        yield opened
    finally:
        context.close()


# --- the laboratory


class LabView:
    """A laboratory on a page, used as a person would."""

    def __init__(self, page: Page, nth: int = 0):
        self.page = page
        self.root: Locator = page.locator(".xmc-lab").nth(nth)
        self.status = self.root.locator(".xmc-status")

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def step(self) -> int:
        return int(self.status.get_attribute("data-step"))

    def state(self) -> str:
        return self.status.get_attribute("data-state")

    def wait_for_state(self, state: str, timeout: float = 60_000) -> None:
        expect(self.status).to_have_attribute("data-state", state, timeout=timeout)

    def wait_for_step(self, step: int, timeout: float = 60_000) -> int:
        """Wait until the counter shows a step or a later one; returns what it shows."""
        self.page.wait_for_function("([node, step]) => Number(node.querySelector('.xmc-status').dataset.step) >= step",
                                    arg=[self.root.element_handle(), step], timeout=timeout)
        return self.step()

    def knob(self, label: str) -> Locator:
        """The handle of a slider, which takes the keyboard."""
        row = self.root.locator(".widget-slider", has=self.page.get_by_text(re.compile(f"^{re.escape(label)}$")))
        return row.locator(".noUi-handle")

    def knob_value(self, label: str) -> str:
        row = self.root.locator(".widget-slider", has=self.page.get_by_text(re.compile(f"^{re.escape(label)}$")))
        return row.locator(".widget-readout").inner_text()
