"""What leaves the laboratory: its state as a short text, and files of a run in a folder."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
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
TALL, TALLER = 560, 1080  # pixels of the picture: of a figure, and of one with something below it
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>
body {{ margin: 8px; font: 15px/1.4 system-ui, sans-serif; color: #333; background: #fff; }}
.words {{ white-space: pre-line; }}
.stills {{ display: flex; flex-wrap: wrap; gap: 0 32px; }}
.stills > div {{ flex: 0 1 640px; min-width: 0; }}
</style></head><body>
<div role="img" aria-label="{alt}">{drawing}</div>
{below}
</body></html>
"""


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


def export(folder: Path, name: str, figure: go.Figure, *recipes: Recipe, alt: str = "", below: str = ""
           ) -> dict[str, Path]:
    """Write a figure (HTML, and PNG where there is a browser) and recipes (JSON) into a folder; returns their paths.

    `alt` says what the figure shows, `below` is HTML that stands below it. Of two recipes the first is that of run A.
    Files are written beside their place and renamed. Raises OSError, naming the path, where that cannot be.
    """
    files = {"figure": folder / f"{name}.html"}
    drawing = figure.to_html(full_html=False, include_plotlyjs=True, config=CONFIG)
    page = PAGE.format(name=html.escape(name), alt=html.escape(alt), drawing=drawing, below=below)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(files["figure"], page.encode())
        for run, recipe in zip(_runs(recipes), recipes, strict=True):
            files[f"recipe{run}"] = folder / f"{name}{run}.json"
            _write(files[f"recipe{run}"], (recipe.to_json() + "\n").encode())
    except OSError as error:
        raise OSError(f"no files can be written to {folder} ({error.strerror}); choose another folder") from None
    if (browser := find_browser()) is not None:
        picture = folder / f"{name}.png"
        if _photograph(browser, files["figure"], picture, TALLER if below else TALL):
            files["picture"] = picture
    return files


def pack(folder: Path, name: str, *traces: Trace) -> dict[str, Path]:
    """Write the folder of each trace into a zip file; returns their paths. Of two the first is that of run A.

    Raises OSError, naming the path, where that cannot be; nothing is left of that file then.
    """
    files = {}
    for run, trace in zip(_runs(traces), traces, strict=True):
        path = folder / f"{name}{run}.zip"
        try:
            with replacing(path) as beside:
                shutil.make_archive(str(beside.with_suffix("")), "zip", trace.folder)  # which adds the ".zip" itself
        except OSError as error:
            raise OSError(f"{path} cannot be written ({error.strerror or error}); make room there, or choose another "
                          "folder") from None
        files[f"trace{run}"] = path
    return files


def _runs(of_each: Sequence[Any]) -> tuple[str, ...]:
    """What tells the files of two runs apart."""
    return ("-A", "-B") if len(of_each) > 1 else ("",)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(content)


def _photograph(browser: str, page: Path, picture: Path, tall: int) -> bool:
    """Let a browser without a window draw a page. False if it does not."""
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    try:
        with replacing(picture) as shot:
            subprocess.run([browser, "--headless", "--disable-gpu", "--hide-scrollbars", f"--window-size=1100,{tall}",
                            "--force-device-scale-factor=2", f"--user-data-dir={shot.with_name('profile')}", *as_root,
                            f"--screenshot={shot}", page.resolve().as_uri()],
                           timeout=PNG_SECONDS, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
