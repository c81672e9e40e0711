"""`Trace`: the record of a run, a folder that survives a killed kernel.

    run.json            recipe, seed, versions, corpus (name, fingerprint, sizes), width D; written first
    labels.json         label names and training frequencies; the true support of each label, of a planted corpus
    events.jsonl        one JSON object a line, appended as the run goes, of a kind: "step", "eval", "rewire", "probe",
                        "change", "end"; zipped to events.jsonl.gz when the run ends
    of_labels.npz       what the last evaluation found for each label; written when the run ends
    connectivity/       00000.npz holds the first indices [L, K]; 00001.npz, ... what each rewire changed (see
                        `frames`); some hold weights too
    checkpoints/        00000400.safetensors: all that a branch needs to continue after step 400, if the recipe asks

Events are appended and flushed; every other file is written beside its place and then renamed. Nothing is unpickled.
"""

from __future__ import annotations

import gzip
import json
import math
import platform
import shutil
import tempfile
import textwrap
import time
import weakref
import zlib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import frames
from .corpora import Corpus, LabelBins, label_bins
from .files import replacing
from .frames import Frame, FrameStore
from .recipe import Recipe

if TYPE_CHECKING:
    from .checkpoints import State

FORMAT = 2  # 1 stored what a rewire changed without packing it
READS = (1, 2)
FLUSH_SECONDS = 1.0
WEIGHT_BYTES = 3_000_000  # of weights in 8 bits: as many frames hold them, evenly over the run, as fit in here
MAX_NAMES = 200_000  # more label names than this are not copied into a trace
CHECKPOINT_BYTES = 1 << 30  # of one run


# Of each label [L], by k: "assignments", and of the top k "predicted" and "hits" (see `Evaluator.of_labels`).
LabelCounts = dict[int, dict[str, np.ndarray]]


class TraceError(ValueError):
    """A folder that is no trace, or a trace that is damaged; the message names the file and line."""


class TraceWriter:
    """Appends to a trace folder. `events` holds in memory what the file holds, for whoever watches the run.

    Raises FileExistsError if the folder already holds a trace: a run never overwrites another.
    """

    def __init__(self, folder: str | Path | None, corpus: Corpus, recipe: Recipe, steps: int, width: int,
                 **about: Any):
        self._temporary = TemporaryFolder() if folder is None else None
        self.folder = self._temporary.path if folder is None else Path(folder)
        if (self.folder / "run.json").exists():
            raise FileExistsError(f"{self.folder} already holds a trace; choose another folder, or delete that one")
        try:
            (self.folder / "connectivity").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"no trace can be written to {self.folder} ({error.strerror}); choose another folder"
                          ) from None
        self.header = {
            "format": FORMAT, "recipe": json.loads(recipe.to_json()), "steps": steps, "width": width,
            "versions": versions(), "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint, "n_train": len(corpus.train),
                       "n_test": len(corpus.test), "n_labels": corpus.n_labels, "propensity": corpus.propensity,
                       "source": corpus.source},
            **about,
        }
        names = corpus.label_names if corpus.n_labels <= MAX_NAMES else None
        support = None if corpus.support is None else corpus.support.tolist()
        _write_json(self.folder / "labels.json", {"names": names, "frequency": corpus.label_frequency.tolist(),
                                                  "support": support})
        _write_json(self.folder / "run.json", self.header)
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.frames: list[dict[str, Any]] = []
        self.store = FrameStore(self.frames, width)
        self.of_labels: LabelCounts = {}
        self._file = open(self.folder / "events.jsonl", "a", encoding="utf-8")
        self._flushed = time.monotonic()
        self._weights_from = 0.0  # the step from which on a frame holds weights again

    def log(self, kind: str, **fields: Any) -> None:
        """Append one event. Numbers that are not finite become null, as JSON has no others."""
        event = {"kind": kind, **fields}
        self._file.write(json.dumps(plain(event)) + "\n")
        self.events[kind].append(event)
        now = time.monotonic()
        if kind != "step" or now - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = now

    def wants_weights(self, step: int, slots: int) -> bool:
        """Should the frame of this step hold the layer's weights too, one for each of its slots?"""
        return slots <= WEIGHT_BYTES and step >= self._weights_from

    def log_connectivity(self, step: int, *, weight: np.ndarray | None = None, **arrays: np.ndarray) -> int:
        """Store a frame, `indices` [L, K] first and then `slots` and `new` of each rewire; returns its number.

        `weight` [L, K] is stored in 8 bits (see `frames.quantise`); `wants_weights` says when it is due.
        """
        number = len(self.frames)
        frame = {"step": step, **arrays}
        if weight is not None:
            frame |= frames.quantise(weight)
        self._store(frame)
        return number

    def _store(self, frame: dict[str, Any]) -> None:
        path = self.folder / "connectivity" / f"{len(self.frames):05d}.npz"
        with replacing(path) as beside:
            np.savez_compressed(beside, **frames.pack(frame))
        if "weight" in frame:
            self._weights_from = frame["step"] + self.header["steps"] * frame["weight"].size / WEIGHT_BYTES
        self.frames.append(frame)

    def log_checkpoint(self, state: State) -> None:
        """Store a state. Where they come to more than `CHECKPOINT_BYTES`, every second of the older ones goes."""
        from . import checkpoints  # with torch, which reading a trace does without

        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        checkpoints.write(folder / f"{state.step:08d}.safetensors", state)
        found = sorted(folder.glob("*.safetensors"))
        while len(found) > 1 and sum(path.stat().st_size for path in found) > CHECKPOINT_BYTES:
            for path in found[-2::-2]:
                path.unlink()
            found = sorted(folder.glob("*.safetensors"))

    def lengthened(self, steps: int) -> None:
        """Note in run.json that the run is now of so many steps; "first_steps" is what it set out with."""
        self.header.setdefault("first_steps", self.header["steps"])
        self.header["steps"] = steps
        _write_json(self.folder / "run.json", self.header)

    def adopt(self, trace: Trace, step: int, changes: int) -> list[dict[str, Any]]:
        """Record what another trace recorded up to and including a step, and its first `changes` changes.

        The first frame is expected to be there already; returns the others.
        """
        for kind, events in trace.events.items():
            for event in events[:changes] if kind == "change" else events:
                if kind != "end" and event["step"] <= step:
                    self.log(**event)
        adopted = [frame for frame in trace.store.recorded[1:] if frame["step"] <= step]
        for frame in adopted:
            self._store(frame)
        return adopted

    def log_labels(self, counts: LabelCounts) -> None:
        """Hold what an evaluation counted for each label, in the place of the one before: `close` stores the last."""
        self.of_labels = counts

    def close(self, status: str, **fields: Any) -> None:
        """Store what was counted for each label, append the last event, how the run ended, and zip the events: a fifth
        of the size."""
        if not self._file.closed:
            with self._file:  # a disk that takes no more closes it, too
                if self.of_labels:
                    arrays = {f"{name}@{k}": v for k, found in self.of_labels.items() for name, v in found.items()}
                    with replacing(self.folder / "of_labels.npz") as beside:
                        np.savez_compressed(beside, **arrays)
                self.log("end", status=status, **fields)
            path = self.folder / "events.jsonl"
            with replacing(path.with_suffix(".jsonl.gz")) as beside:
                with open(path, "rb") as plain, gzip.open(beside, "wb", compresslevel=6) as zipped:
                    shutil.copyfileobj(plain, zipped)
            path.unlink()


class Trace:
    """A recorded run: `Trace(folder)` loads one, whole or cut short.

    `recipe`, `steps`, `status` ("finished", "interrupted", "failed", or "running or killed"), `notes` (what is missing,
    in words), `table(kind)`, `history(name)`, `metrics(split)`, `of_labels(k)`, `of_bins(edges)`, `frames`, `frame(i)`,
    `connectivity(i)`, `bins()`.
    Raises TraceError, naming the file and line, for a folder that is no trace or whose content is damaged.
    """

    def __init__(self, folder: str | Path):
        if not isinstance(folder, (str, Path)):
            raise TraceError(f"a trace is loaded from its folder; got {folder!r}")
        self.folder = Path(folder)
        self.header = _read_json(self.folder / "run.json", f"{self.folder} is not a trace: it has no run.json")
        if self.header.get("format") not in READS:
            raise TraceError(f"{self.folder / 'run.json'}: trace format {self.header.get('format')!r}, this version "
                             f"reads {' and '.join(map(str, READS))}")
        self.notes: list[str] = []
        self._counts: LabelCounts | None = None  # read when they are asked for
        try:
            self.recipe = Recipe.from_json(json.dumps(self.header["recipe"]))
            self.label_frequency = np.asarray(self._labels()["frequency"], dtype=np.int64)
        except (KeyError, ValueError) as error:
            raise TraceError(f"{self.folder}: {error}") from None
        self.events = self._read_events()
        self.store = FrameStore(self._read_frames(), self.header.get("width"))

    @classmethod
    def of(cls, writer: TraceWriter) -> Trace:
        """The trace that a writer has written so far; a temporary folder lives as long as the trace does."""
        writer._file.closed or writer._file.flush()
        trace = cls(writer.folder)
        trace._counts, trace._keep_alive = writer.of_labels or None, writer._temporary
        return trace

    # --- what is in it

    @property
    def status(self) -> str:
        return self.events["end"][-1]["status"] if self.events["end"] else "running or killed"

    @property
    def steps(self) -> int:
        """How many steps were recorded."""
        return self.events["step"][-1]["step"] if self.events["step"] else 0

    @property
    def width(self) -> int:
        """How many features the output layer could read, D."""
        return self.header["width"]

    @property
    def label_names(self) -> list[str]:
        names = self._labels()["names"]
        return [f"label {i}" for i in range(len(self.label_frequency))] if names is None else names

    @property
    def support(self) -> np.ndarray | None:
        """The features [L, S] that truly decide each label, where the corpus is a planted one."""
        support = self._labels().get("support")
        return None if support is None else np.asarray(support)

    def bins(self, edges: tuple[float, float] = (0.5, 0.8)) -> LabelBins:
        return label_bins(self.label_frequency, edges)

    def table(self, kind: str):
        """All events of a kind as a pandas DataFrame; evaluations have one column a metric."""
        import pandas as pd

        rows = [{**{k: v for k, v in e.items() if k not in ("kind", "metrics")}, **e.get("metrics", {})}
                for e in self.events[kind]]
        return pd.DataFrame(rows)

    def history(self, name: str, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of one quantity: a field of the steps ("loss", "grad/first"), of the rewires ("churn",
        "age/tail"), of the probes ("snr", "budget/share/head"), or a metric ("P@1").

        Raises KeyError listing what there is.
        """
        for kind in ("step", "rewire", "probe"):
            if any(name in e for e in self.events[kind]):
                found = [(e["step"], e[name]) for e in self.events[kind] if e.get(name) is not None]
                return np.array([s for s, _ in found]), np.array([v for _, v in found], dtype=float)
        found = [(e["step"], e["metrics"].get(name)) for e in self.events["eval"] if e["split"] == split]
        found = [(s, math.nan if v is None else v) for s, v in found if name in self.events["eval"][0]["metrics"]]
        if not found:
            known = sorted({k for kind in ("step", "rewire", "probe") for e in self.events[kind][:1] for k in e}
                           | {k for e in self.events["eval"][:1] for k in e["metrics"]})
            raise KeyError(f"{name!r} is not recorded for {split!r}; there is {', '.join(known)}")
        return np.array([s for s, _ in found]), np.array([v for _, v in found], dtype=float)

    def metrics(self, split: str = "test") -> dict[str, float]:
        """The last evaluation on a split: {"P@1": ..., "PSP@5": ..., "recall@5/tail": ...} in percent."""
        found = [e for e in self.events["eval"] if e["split"] == split]
        if not found:
            raise KeyError(f"no evaluation on {split!r} was recorded ({self.status}, {self.steps} steps)")
        return {k: math.nan if v is None else v for k, v in found[-1]["metrics"].items()}

    @property
    def label_counts(self) -> LabelCounts:
        """What the last evaluation counted for each label [L], by k; {} where that was not recorded."""
        if self._counts is None:
            path = self.folder / "of_labels.npz"
            try:
                found: LabelCounts = {}
                if path.exists():
                    with np.load(path, allow_pickle=False) as stored:
                        for name, k in (array.split("@") for array in stored):
                            found.setdefault(int(k), {})[name] = stored[f"{name}@{k}"]
            except Exception as error:
                raise TraceError(f"{path}: not counts of labels ({_reason(error)})") from None
            self._counts = found
        return self._counts

    def of_labels(self, k: int = 5):
        """The last evaluation label by label, as a pandas DataFrame with a row a label, in the order of the labels.

        "label", "bin", "training documents", "test documents" (that carry it), "predicted" (test documents with it in
        their top k), "hits", and in percent "precision" (hits / predicted) and "recall" (hits / test documents), NaN
        where there is nothing below the line. Raises KeyError if this was not recorded: before the first evaluation, or
        where a run was killed, as it is stored when a run ends.
        """
        import pandas as pd

        if not self.label_counts:
            raise KeyError(f"no evaluation label by label was recorded ({self.status}, {self.steps} steps): there is "
                           f"one from the first evaluation on (eval_interval in the recipe), and it is stored when a "
                           f"run ends, unless it is killed")
        if k not in self.label_counts:
            raise KeyError(f"k={k} was not counted; choose one of {', '.join(map(str, self.label_counts))}")
        counts, bins = self.label_counts[k], self.bins()
        table = pd.DataFrame({"label": self.label_names, "bin": [bins.names[i] for i in bins.of_label],
                              "training documents": self.label_frequency, "test documents": counts["assignments"],
                              "predicted": counts["predicted"], "hits": counts["hits"]})
        for name, below in (("precision", "predicted"), ("recall", "test documents")):
            table[name] = 100 * table.hits / table[below].where(table[below] > 0)
        return table

    def of_bins(self, edges: tuple[float, float] = (0.5, 0.8)):
        """The last evaluation bin by bin, at any edges, as a pandas DataFrame with a row a bin; nothing is run again.

        "bin", "labels", "assignments" (in training), and in percent "share" (of all assignments), "P@1" and "PSP@1"
        (the part that the bin adds to each) and "recall@5" (of its own assignments, NaN where it has none). Raises
        KeyError like `of_labels`, from which it is added up.
        """
        import pandas as pd

        from .metrics import inverse_propensity  # with torch, as above

        one, five, bins = self.of_labels(1), self.of_labels(5), self.bins(edges)
        c = self.header["corpus"]
        gains = one.hits * inverse_propensity(self.label_frequency, c["n_train"], *c["propensity"]).numpy()
        psp = self.metrics("test")["PSP@1"] / max(gains.sum(), 1e-12)  # percent a gain: what is below the line is known
        documents = max(int(one.predicted.sum()), 1)  # each has one label in its top 1

        def total(values) -> np.ndarray:
            return np.bincount(bins.of_label, values, minlength=len(bins.names))

        test = total(five["test documents"])
        return pd.DataFrame(bins.totals() | {
            "P@1": 100 * total(one.hits) / documents, "PSP@1": psp * total(gains),
            "recall@5": np.divide(100 * total(five.hits), test, out=np.full(len(test), np.nan), where=test > 0)})

    # --- connectivity

    @property
    def frames(self) -> list[int]:
        """The steps at which connectivity was recorded: the start, then every rewire."""
        return self.store.steps

    @property
    def groups(self) -> np.ndarray | None:
        """The row of connections [L] that each label shares with its group; None where each label has its own."""
        return self.store.groups

    def frame(self, frame: int = -1) -> Frame:
        """Connectivity, birth and weight of each connection at a frame (a position in `frames`).

        Raises IndexError if there is none.
        """
        return self.store.seek(frame)

    def connectivity(self, frame: int = -1) -> np.ndarray:
        """Indices [L, K] at a frame, as `frame(i).indices`, in an array of your own."""
        return self.frame(frame).indices.copy()

    def changed(self, frame: int) -> np.ndarray:
        """The flat slots [n] that the rewire at a frame replaced; empty for the first frame."""
        return self.store.changed(frame)

    @property
    def checkpoints(self) -> list[int]:
        """The steps after which everything was stored that a branch needs."""
        return [int(p.stem) for p in sorted((self.folder / "checkpoints").glob("*.safetensors")) if p.stem.isdigit()]

    def checkpoint(self, step: int) -> State:
        """What was stored after a step of `checkpoints`. Raises TraceError if it is damaged."""
        from . import checkpoints

        try:
            return checkpoints.read(self.folder / "checkpoints" / f"{step:08d}.safetensors")
        except ValueError as error:
            raise TraceError(str(error)) from None

    # --- reading

    def _labels(self) -> dict[str, Any]:
        return _read_json(self.folder / "labels.json", f"{self.folder / 'labels.json'} is missing")

    def _read_events(self) -> dict[str, list[dict[str, Any]]]:
        events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        path = self.folder / "events.jsonl.gz"
        try:
            content = gzip.decompress(path.read_bytes())
        except FileNotFoundError:
            path = self.folder / "events.jsonl"
            if not path.exists():
                self.notes.append("events.jsonl is missing: the run was stopped before its first step")
                return events
            content = path.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(f"{path}: damaged ({error}); copy the trace again") from None
        lines = content.split(b"\n")
        if lines[-1]:  # a run that ends well ends its last line
            self.notes.append(f"{path.name}: line {len(lines)} is cut short: the run was killed while writing it")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                event = json.loads(line)
                events[event["kind"]].append(event)
            except (ValueError, TypeError, KeyError) as error:
                raise TraceError(f"{path}, line {number}: not an event ({error})") from None
        return events

    def _read_frames(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path in sorted((self.folder / "connectivity").glob("*.npz")):
            if path.stem != f"{len(found):05d}":
                self.notes.append(f"connectivity/{len(found):05d}.npz is missing: later frames cannot be rebuilt")
                break
            try:
                with np.load(path, allow_pickle=False) as stored:
                    found.append(frames.unpack({k: stored[k] for k in stored.files}))
                frames.check(found)
            except Exception as error:
                raise TraceError(f"{path}: not a frame of connectivity ({_reason(error)})") from None
        return found

    def __repr__(self) -> str:
        c, r = self.header["corpus"], self.recipe
        title = (f"Trace {self.folder.name!r}: {self.status}, {self.steps:,} of {self.header['steps']:,} steps on "
                 f"{c['name']!r} ({c['n_labels']:,} labels), output {r.output}, seed {r.seed}")
        lines, origin = [], self.header.get("branched_from")
        if origin:
            lines.append(f"branched from {origin['trace']!r} at frame {origin['frame']}, step {origin['step']}")
        if self.events["eval"]:
            m = self.metrics(self.events["eval"][-1]["split"])
            shown = [k for k in ("P@1", "PSP@5", "recall@5/head", "recall@5/torso", "recall@5/tail") if k in m]
            lines.append(", ".join(f"{k} {m[k]:.1f}" for k in shown)
                         + " (propensity A={}, B={})".format(*c["propensity"]))
        if len(self.store) > 1:
            lines.append(f"{len(self.store) - 1} rewire{'s' * (len(self.store) > 2)}")
        lines += [f"note: {n}" for n in self.notes]
        rows = [textwrap.fill(row, 100, initial_indent="  ", subsequent_indent="    ") for row in lines]
        return "\n".join([textwrap.fill(title, 100, subsequent_indent="    "), *rows])


class TemporaryFolder:
    """A folder that goes when nobody holds this object any more, or with the process."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="xmc-trace-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def plain(value: Any) -> Any:
    """A value as it goes to JSON: numbers to seven digits, None for those that are not finite."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(value), encoding="utf-8")


def _reason(error: Exception) -> str:
    """An error of numpy in words; for what it cannot read it proposes to unpickle, and nothing here ever is."""
    return "damaged, or no arrays; copy the trace again" if "pickle" in str(error) else str(error)


def _read_json(path: Path, if_missing: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise TraceError(if_missing) from None
    except ValueError as error:
        raise TraceError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise TraceError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def versions() -> dict[str, str]:
    """What made a trace."""
    import torch

    from . import __version__

    return {"xmc_explore": __version__, "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
