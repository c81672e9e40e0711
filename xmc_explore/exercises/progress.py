"""What was solved, kept in one small JSON file of the user's own; nothing leaves the machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import platformdirs

from ..files import replacing

VARIABLE = "XMC_EXPLORE_PROGRESS"  # another file, or "off"


def path() -> Path | None:
    """Where progress is kept; None if it is switched off."""
    said = os.environ.get(VARIABLE)
    if said == "off":
        return None
    return Path(said) if said else Path(platformdirs.user_data_dir("xmc_explore", appauthor=False)) / "progress.json"


def read() -> dict[str, dict[str, Any]]:
    """Exercise -> {"tries": n, "solved": date or None}. A file that cannot be read is set aside, not lost."""
    file = path()
    if file is None:
        return {}
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(known, dict) or not all(isinstance(v, dict) and isinstance(v.get("tries", 0), int)
                                                  for v in known.values()):
            raise ValueError("not an object of objects")
    except FileNotFoundError:
        return {}
    except OSError as error:
        print(f"progress cannot be read: {error}")
        return {}
    except ValueError:
        aside = file.with_suffix(".unreadable.json")
        os.replace(file, aside)
        print(f"{file} was no record of progress; it is now {aside.name}, and a new one is begun")
        return {}
    return known


def record(name: str, solved: bool) -> None:
    """Count a try. A disk that cannot be read or written is no reason to stop anybody from learning."""
    file = path()
    if file is None:
        return
    try:
        known = read()
        entry = known.setdefault(name, {})
        entry["tries"] = entry.get("tries", 0) + 1
        if solved and not entry.get("solved"):
            entry["solved"] = time.strftime("%Y-%m-%d")
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            beside.write_text(json.dumps(known, indent=1), encoding="utf-8")
    except OSError as error:
        print(f"progress is not kept: {error}")


def forget() -> None:
    """Delete the record of progress."""
    file = path()
    if file is not None:
        file.unlink(missing_ok=True)


def progress():
    """A table (pandas) of every exercise: notebook, minutes, tries, and when it was solved."""
    import pandas as pd

    from .registry import all_exercises

    known = read()
    return pd.DataFrame([
        {"notebook": e.notebook, "exercise": e.title, "difficulty": e.difficulty, "minutes": e.minutes,
         "tries": known.get(name, {}).get("tries", 0), "solved": known.get(name, {}).get("solved") or ""}
        for name, e in all_exercises().items()])
