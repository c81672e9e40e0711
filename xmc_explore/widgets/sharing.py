"""What leaves the laboratory: its state as a short text, and files of a run in a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ..doctor import find_browser
from ..files import replacing
from ..plots.style import CONFIG
from ..recipe import Recipe
from ..trace import Trace
from .presets import PRESETS

VERSION = 1
KEYS = {"xmc": int, "corpus": str, "fingerprint": str, "steps": int, "preset": str, "recipe": dict, "against": dict}
PNG_SECONDS = 60


class ShareError(ValueError):
    """A text that is not the state of a laboratory; the message says what is wrong with it."""


def to_text(corpus: str, fingerprint: str, steps: int, preset: str, recipe: Recipe, against: Recipe | None) -> str:
    """The state of a laboratory in one line of JSON: the corpus, the steps, and what differs from `Recipe()`."""
    state: dict[str, Any] = {"xmc": VERSION, "corpus": corpus, "fingerprint": fingerprint[:8], "steps": steps,
                             "preset": preset, "recipe": _changed(recipe)}
    if against is not None:
        state["against"] = _changed(against)
    return json.dumps(state, separators=(",", ":"))


def from_text(text: str) -> dict[str, Any]:
    """What `to_text` wrote, with whole recipes again. Raises ShareError."""
    try:
        state = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ShareError(f"not a shared laboratory: {getattr(error, 'msg', error)}; copy the whole line, from {{ to }}"
                         ) from None
    if not isinstance(state, dict) or "xmc" not in state:
        raise ShareError('not a shared laboratory: it has to begin with {"xmc": ...}')
    if state["xmc"] != VERSION:
        raise ShareError(f"a shared laboratory of form {state['xmc']!r}; this version reads {VERSION}")
    for key, value in state.items():
        if key not in KEYS:
            raise ShareError(f"a shared laboratory has no {key!r}; it has {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]) or isinstance(value, bool):
            raise ShareError(f"{key} must be of type {KEYS[key].__name__}; got {value!r}")
    for key in ("corpus", "steps"):
        if key not in state:
            raise ShareError(f"a shared laboratory needs {key!r}, and this one has none")
    if state["steps"] < 1:
        raise ShareError(f"steps must be at least 1; got {state['steps']}")
    if state.setdefault("preset", "everything") not in PRESETS:
        raise ShareError(f"no preset is called {state['preset']!r}; there is {', '.join(PRESETS)}")
    for key in ("recipe", "against"):
        if key in state:
            try:
                state[key] = Recipe().replace(**state[key])
            except (TypeError, ValueError) as error:
                raise ShareError(f"{key}: {error}") from None
    return state


def _changed(recipe: Recipe) -> dict[str, Any]:
    plain = asdict(Recipe())
    return {name: value for name, value in asdict(recipe).items() if value != plain[name]}


def export(folder: Path, name: str, figure: go.Figure, recipe: Recipe) -> dict[str, Path]:
    """Write a figure (HTML, and PNG where there is a browser) and a recipe (JSON) into a folder; returns their paths.

    Files are written beside their place and renamed. Raises OSError, naming the path, where that cannot be.
    """
    files = {"figure": folder / f"{name}.html", "recipe": folder / f"{name}.json"}
    page = figure.to_html(include_plotlyjs=True, config=CONFIG)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(files["figure"], page.encode())
        _write(files["recipe"], (recipe.to_json() + "\n").encode())
    except OSError as error:
        raise OSError(f"no files can be written to {folder} ({error.strerror}); choose another folder") from None
    if (browser := find_browser()) is not None:
        picture = folder / f"{name}.png"
        if _photograph(browser, files["figure"], picture):
            files["picture"] = picture
    return files


def pack(path: Path, trace: Trace) -> Path:
    """Write a trace's folder into a zip file."""
    with replacing(path) as beside:
        shutil.make_archive(str(beside.with_suffix("")), "zip", trace.folder)  # which adds the ".zip" itself
    return path


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(content)


def _photograph(browser: str, page: Path, picture: Path) -> bool:
    """Let a browser without a window draw a page. False if it does not."""
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    try:
        with replacing(picture) as shot:
            subprocess.run([browser, "--headless", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,560",
                            "--force-device-scale-factor=2", f"--user-data-dir={shot.with_name('profile')}", *as_root,
                            f"--screenshot={shot}", page.resolve().as_uri()],
                           timeout=PNG_SECONDS, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
