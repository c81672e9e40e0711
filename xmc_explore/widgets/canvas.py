"""The connectivity of a sparse output layer as a picture: one row a label, one column a feature, colour by age.

The browser keeps what it was sent and draws, zooms and points by itself; the kernel sends what has changed since, and
everything only where the browser asks for it. A message (see `message.py`) is the trait `picture`: its number `seq`,
the number `base` that it builds on (null: on nothing), and connections by slot, K a row [R, K]. In all slots: the
features of a row in rising order, each as its distance from the one before. In some: `slots`, as distances, and their
`features`. `codes` say which of `values` each slot has: its step of birth, the latest first, or in a difference 1 (A
only), 2 (B only), 3 (both), 0 (neither).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds

from ..corpora import BIN_NAMES, LabelBins
from ..frames import Frame, FrameStore
from ..plots.style import BINS
from ..trace import LabelCounts
from .guarded import Guarded
from .message import pack

MOST_SLOTS = 1 << 19  # that a browser is sent at once: 2 MB; of larger layers, rows are left out until zoomed to
ORDERS = ("frequency", "cluster", "in-degree")
COLORS = ("age", "weight", "change")
HERE = Path(__file__).parent


class ConnectivityCanvas(Guarded, anywidget.AnyWidget):
    """Draws a `Frame` of the connectivity of L labels: `begin(...)` says of what, then `show(frame)` each time.

    `hovered` and `pinned` are labels or -1, `brushed` is the name of a bin or "": observe them to follow the user.
    `color` is "age", "weight" or "change", `order` "frequency", "cluster" or "in-degree" (of the rows in each bin).
    With a store behind it, the arrow keys move `frame` and the space bar turns `playing`; `transport` shows a slider
    for both. `tick` and `seen` pace whoever paints: the browser answers each tick when it has drawn what came before.
    """

    _esm, _css = ("\n".join((HERE / name).read_text(encoding="utf-8") for name in names) for names in (
        ("canvas_message.js", "canvas_draw.js", "canvas.js"), ("lab.css", "canvas.css")))
    picture = traitlets.Bytes(b"").tag(sync=True)
    history = traitlets.Bytes(b"").tag(sync=True)  # of the pinned label
    bands = traitlets.List().tag(sync=True)  # {"name", "color", "rows", "symbol"} from top to bottom
    names = traitlets.List().tag(sync=True)  # of the rows that were sent
    scores = traitlets.Dict().tag(sync=True)  # {"P@1": a value for each of these rows}
    scored = traitlets.Unicode().tag(sync=True)  # when they were measured, in words
    caption = traitlets.Unicode().tag(sync=True)
    flash = traitlets.Bool(False).tag(sync=True)
    color = traitlets.Enum(COLORS, "age").tag(sync=True)
    order = traitlets.Enum(ORDERS, "frequency").tag(sync=True)
    hovered = traitlets.Int(-1).tag(sync=True)
    pinned = traitlets.Int(-1).tag(sync=True)
    brushed = traitlets.Unicode("").tag(sync=True)
    frame = traitlets.Int(0).tag(sync=True)
    frames = traitlets.Int(0).tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)
    transport = traitlets.Bool(False).tag(sync=True)
    panel = traitlets.Enum(("line", "side"), "line").tag(sync=True)  # where the words about a label go
    view = traitlets.List([0.0, 1.0, 0.0, 1.0]).tag(sync=True)  # top, bottom, left, right of what is in sight
    window = traitlets.List([0, 0]).tag(sync=True)  # rows in sight, where rows are left out
    tick = traitlets.Int(0).tag(sync=True)
    seen = traitlets.Int(0).tag(sync=True, echo_update=False)  # nobody else wants to hear it

    def __init__(self, **options: Any):
        self._store: FrameStore | None = None
        self._shown: Frame | tuple[Frame, Frame] | None = None
        self._order = self._labels = self._columns = np.empty(0, np.int32)
        self._held: tuple[np.ndarray, np.ndarray] | None = None  # features and values [R * K] that the browser holds
        self._taken = np.empty(0, np.int64)  # [R * K]: in which order, of the flat slots of the rows that are sent
        self._held_weight: np.ndarray | None = None
        self._scores: Mapping[str, np.ndarray] = {}
        self._label_names: list[str] = []
        self._seq = 0
        super().__init__(**options)
        self.on_msg(self._heard)
        self.observe(lambda _: self._sort(), "order")
        self.observe(lambda _: self._paint(everything=True), "color")
        self.observe(lambda _: self._choose_rows(), "window")
        self.observe(lambda _: self._tell_history(), ("pinned", "frames"))
        self.observe(self._seek, "frame")

    # --- what to draw

    def begin(self, store: FrameStore | tuple[int, int], bins: LabelBins, label_names: list[str], features: int, *,
              order: str | None = None, clusters: np.ndarray | None = None,
              scores: Mapping[str, np.ndarray] | None = None) -> None:
        """Say what will be shown: the frames of a store, or single frames of a layer [L, K].

        `label_names` [L]; `features` is D; `clusters` [L], where known, are what the order "cluster" goes by; `scores`
        [L] in percent are told of whoever is pointed at, P@1 say. A label that is pinned stays so where the labels are
        the same as before. Raises ValueError if the parts do not fit together.
        """
        store, shape = (None, store) if isinstance(store, tuple) else (store, store.seek(0).indices.shape)
        for what, n in (("bins", len(bins.of_label)), ("label_names", len(label_names)),
                        *((f"scores of {name!r}", len(values)) for name, values in (scores or {}).items()),
                        *([] if clusters is None else [("clusters", len(clusters))])):
            if n != shape[0]:
                raise ValueError(f"{what}: {n:,} for {shape[0]:,} labels")
        with self.drawing, self.hold_sync():
            self._forget()
            if label_names != self._label_names:
                self.pinned = self.hovered = -1
            self._store, self._bins, self._label_names, self._features = store, bins, label_names, features
            self._shape, self._clusters, self._scores, self.scored = shape, clusters, scores or {}, ""
            self.frames = 0 if store is None else len(store)
            self.order = order or self.order
            self.bands = [{"name": name, "color": BINS[name].color, "rows": len(bins.labels(name))}
                          for name in BIN_NAMES if len(bins.labels(name))]
            self._sort()
            self._tell_history()

    def show(self, frame: Frame | int, caption: str | None = None, flash: bool = False) -> None:
        """Show a frame, or the one at a position of the store; `flash` lights up what was just born for a moment.

        Without a caption, one that says what moved at this frame.
        """
        frame = self._store.seek(frame) if isinstance(frame, int) else frame
        with self.drawing, self.hold_sync():
            first, self._shown = self._shown is None, frame
            self.caption = caption_of(frame, self._bins) if caption is None else caption
            self.flash = flash
            self.frames = 0 if self._store is None else len(self._store)
            self.frame = frame.number
            self._sort() if first and self.order != "frequency" else self._paint()

    def show_difference(self, a: Frame, b: Frame, names: tuple[str, str] = ("A", "B")) -> None:
        """Show the connections that only `a` has, only `b` has, and both have, for two frames of one shape."""
        with self.drawing, self.hold_sync():
            first, self._shown, self._pair, self.flash = self._shown is None, (a, b), names, False
            features, values = _difference(a.indices, b.indices, self._features)
            shares = ", ".join(f"{name} {100 * n / max((values > 0).sum(), 1):.1f} %" for name, n in (
                (f"only in {names[0]}", (values == 1).sum()), (f"only in {names[1]}", (values == 2).sum()),
                ("in both", (values == 3).sum())))
            self.caption = f"Connections at step {max(a.step, b.step):,}: {shares}."
            self.frame = a.number
            self._sort() if first and self.order != "frequency" else self._paint()

    @property
    def in_difference(self) -> bool:
        return isinstance(self._shown, tuple)

    def clear(self, caption: str) -> None:
        """Show words and no picture; a label that is pinned is so again once there is a picture of it."""
        with self.drawing, self.hold_sync():
            self._forget()
            self.bands, self.names, self.scores, self.frames, self.hovered, self.caption = [], [], {}, 0, -1, caption

    def score(self, scores: Mapping[str, np.ndarray], scored: str = "") -> None:
        """Replace what is told of whoever is pointed at: values [L] in percent, NaN where there is none, and when."""
        with self.drawing, self.hold_sync():
            self._scores, self.scored = scores, scored
            self._tell_scores()

    def _forget(self) -> None:
        self._shown = self._held = self._store = None
        self._order = self._labels = np.empty(0, np.int32)
        self.picture = self.history = b""

    # --- which rows, and in which order

    def _sort(self) -> None:
        """Find the order of the rows and columns; it stays for other frames, so that a row can be followed."""
        if not self.bands:
            return
        frame = self._shown[0] if isinstance(self._shown, tuple) else self._shown
        indices = None if frame is None else frame.indices
        with self.drawing, self.hold_sync():
            rows, self._columns = _order(self.order, self._bins, self._features, indices, self._clusters)
            self._order = np.concatenate([rows[self._bins.of_label[rows] == b] for b in range(len(BIN_NAMES))])
            self._choose_rows()

    def _choose_rows(self) -> None:
        """All rows, if they are not too many; else an even choice, a closer one of those in sight, and the pinned."""
        if not len(self._order):
            return
        places, most = np.arange(len(self._order)), max(MOST_SLOTS // self._shape[1], 2)
        if len(places) > most:
            ends = np.cumsum([0] + [band["rows"] for band in self.bands])
            first, last = self.window if self.window[1] > self.window[0] else (0, len(places))
            chosen = [*(_thinned(a, b, most // 2 // len(self.bands)) for a, b in zip(ends, ends[1:], strict=False)),
                      _thinned(max(first, 0), min(last, len(places)), most // 2)]
            if self.pinned >= 0:
                chosen.append(np.flatnonzero(self._order == self.pinned))
            places = np.unique(np.concatenate(chosen))
        with self.drawing, self.hold_sync():
            self._places, self._labels = places, self._order[places]
            self.names = [self._label_names[i] for i in self._labels]
            self._tell_scores()
            self._paint(everything=True)

    def _tell_scores(self) -> None:
        self.scores = {name: [None if v != v else v for v in np.round(values[self._labels], 1).tolist()]
                       for name, values in self._scores.items()}

    # --- what is sent

    def _paint(self, everything: bool = False) -> None:
        """Send what the browser does not hold yet."""
        shown = self._shown
        if shown is None:
            return
        with self.drawing:
            frame = shown[0] if isinstance(shown, tuple) else shown
            if isinstance(shown, tuple):
                features, values = _difference(*(f.indices[self._labels] for f in shown), self._features)
            else:
                features, values = frame.indices[self._labels].astype(np.int32), frame.born[self._labels]
                features[features < 0] = self._features  # a label of a dense head reads beyond all features
            base = None if everything or self._held is None or self._held[0].size != features.size else self._held
            head = {"base": None if base is None else self._seq, "seq": self._seq + 1, "number": frame.number,
                    "step": frame.step, "rows": len(features), "fan_in": features.shape[1], "width": self._features,
                    "pair": list(self._pair) if isinstance(shown, tuple) else None}
            arrays = {} if base is not None else {
                "labels": self._labels, "places": self._places, "columns": self._columns,
                "frequency": self._bins.frequency[self._labels]}
            small = self._changes(features, values, base)
            arrays["values"], small["codes"] = _coded(small["codes"])
            if not isinstance(shown, tuple):
                self._add_color(head, small, frame)
            self._seq += 1
            self.picture = pack(head, arrays, small)

    def _changes(self, features: np.ndarray, values: np.ndarray,
                 base: tuple[np.ndarray, np.ndarray] | None) -> dict[str, np.ndarray]:
        """The slots that differ from a base, or all, sorted, where these are less to send."""
        flat = features.reshape(-1), values.reshape(-1)
        if base is not None:
            held = flat[0][self._taken], flat[1][self._taken]
            changed = np.flatnonzero((held[0] != base[0]) | (held[1] != base[1]))
            if len(changed) < 0.6 * len(held[0]):
                self._held = held
                return {"slots": np.diff(changed, prepend=0), "features": held[0][changed], "codes": held[1][changed]}
        rows, fan_in = features.shape
        keys = np.sort(features.astype(np.int64) * fan_in + np.arange(fan_in), axis=1)  # one number sorts fastest
        features = keys // fan_in
        self._taken = (keys + (np.arange(rows)[:, None] - features) * fan_in).reshape(-1)
        self._held, self._held_weight = (flat[0][self._taken], flat[1][self._taken]), None
        return {"features": np.diff(features, axis=1, prepend=0), "codes": self._held[1]}

    def _add_color(self, head: dict[str, Any], small: dict[str, np.ndarray], frame: Frame) -> None:
        if self.color == "weight" and frame.weight is not None:
            largest = float(np.abs(frame.weight).max()) or 1.0
            weight = np.rint(127 * frame.weight[self._labels] / largest).astype(np.int16).reshape(-1)[self._taken]
            head |= {"weight_step": frame.weight_step, "largest": largest}
            if self._held_weight is None or not np.array_equal(weight, self._held_weight):
                small["weight"] = 2 * np.abs(weight) + (weight < 0)
                self._held_weight = weight
        if self.color == "change" and self._store is not None and frame.number > 0:
            slots, fan_in = np.sort(self._store.changed(frame.number)), self._shape[1]
            died = self._store.seek(frame.number - 1).indices.reshape(-1)[slots]
            row = np.full(self._shape[0], -1, np.int32)
            row[self._labels] = np.arange(len(self._labels))
            row = row[slots // fan_in]
            order = np.argsort(row, kind="stable")[np.count_nonzero(row < 0):]
            small["dead_rows"], small["dead_features"] = np.diff(row[order], prepend=0), died[order]

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and content.get("ask") == "everything":  # a view that came late
            self._paint(everything=True)

    def _seek(self, change: Any) -> None:
        shown = self._shown  # of a difference, whoever asked for it knows the other side
        if self._store is not None and isinstance(shown, Frame) and shown.number != change.new:
            self.show(max(0, min(change.new, len(self._store) - 1)))

    def _tell_history(self) -> None:
        """Of the pinned label, where there is room to draw it; it grows with a run that is still recorded."""
        with self.drawing:
            if self._store is None or not 0 <= self.pinned < self._shape[0]:
                self.history = b""
                return
            if self.pinned not in self._labels:
                self._choose_rows()
            if self.panel == "side":
                rows = history(self._store, self.pinned)
                head = {"label": self.pinned, "frames": len(rows)}
                self.history = pack(head, {"features": rows.astype(np.uint32)}, {})


def caption_of(frame: Frame, bins: LabelBins) -> str:
    """One sentence on a frame: how many connections its rewire moved, of how many, and in which bins."""
    sparse, fan_in = frame.indices[:, 0] >= 0, frame.indices.shape[1]  # labels of a dense head have no connections
    if frame.step == 0:
        head = f"; {(~sparse).sum():,} of the dense head read every one" if not sparse.all() else ""
        return f"At the start: each of {sparse.sum():,} labels reads {fan_in} features drawn at random{head}."
    moved, of_label = (frame.born[sparse] == frame.step).sum(1), bins.of_label[sparse]
    per_bin = np.bincount(of_label, moved, minlength=len(BIN_NAMES))
    total = np.bincount(of_label, minlength=len(BIN_NAMES)) * fan_in
    shares = ", ".join(f"{name} {100 * n / t:.1f} %" for name, n, t in zip(BIN_NAMES, per_bin, total, strict=True) if t)
    return f"Rewire at step {frame.step:,}: {moved.sum():,} of {total.sum():,} connections moved; {shares}."


def scores_of(counts: LabelCounts) -> dict[str, np.ndarray]:
    """P@5 and recall@5 of each label [L] in percent, of what an evaluation has counted (`Trace.label_counts`).

    NaN where there is nothing below the line: a label that was in no top 5, one that no test document carries.
    """
    if not counts:
        return {}
    k = max(counts)
    return {f"{name}@{k}": np.divide(100 * counts[k]["hits"], counts[k][below], where=counts[k][below] > 0,
                                     out=np.full(len(counts[k]["hits"]), np.nan))
            for name, below in (("P", "predicted"), ("recall", "assignments"))}


def history(store: FrameStore, label: int) -> np.ndarray:
    """The features [F, K] that a label read at each frame."""
    rows = np.repeat(store.seek(0).indices[label][None], len(store), axis=0)
    fan_in = rows.shape[1]
    for number in range(1, len(rows)):
        slots = store.changed(number)
        mine = slots[slots // fan_in == label] % fan_in
        if len(mine):
            rows[number:, mine] = store.seek(number).indices[label, mine]
    return rows


def _coded(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ones among values from 0 on, the largest first, and which of them each is."""
    values = values.astype(np.intp)
    there = np.zeros(int(values.max(initial=0)) + 1, bool)
    there[values] = True
    found = np.flatnonzero(there)[::-1]
    place = np.empty(len(there), np.uint32)
    place[found] = np.arange(len(found))
    return found, place[values]


def _difference(a: np.ndarray, b: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and values [R, 2K] of two layers [R, K]: 1 only in `a`, 2 only in `b`, 3 in both, else 0."""
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"{a.shape[0]:,} labels beside {b.shape[0]:,}: runs of different corpora")
    row = np.arange(len(a))[:, None]
    in_a, in_b = np.zeros((2, len(a), features + 1), bool)  # one more column, for the -1 of a dense head
    in_a[row, a] = in_b[row, b] = True
    second = np.where(in_a[row, b], -1, b)
    values = np.hstack([np.where(a < 0, 0, 1 + 2 * in_b[row, a]), np.where(second < 0, 0, 2)])
    found = np.hstack([a, second]).astype(np.int32)
    found[values == 0] = features
    return found, values


def _thinned(first: int, last: int, most: int) -> np.ndarray:
    """At most `most` whole numbers from `first` to before `last`, evenly."""
    keep = min(last - first, most)
    return first + np.arange(keep) * (last - first) // max(keep, 1)


def _order(order: str, bins: LabelBins, features: int, indices: np.ndarray | None,
           clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels [L] in the order of the rows, and for each feature [D] its column.

    "frequency": most frequent first. "in-degree": features that most labels read to the left, labels that read such
    ones on top. "cluster": by cluster where these are known; else labels that read the same features stand together,
    and so do the features: the first axis of a correspondence analysis (Benzecri 1973), found as a singular vector.
    """
    by_frequency, as_they_are = np.argsort(-bins.frequency, kind="stable"), np.arange(features)
    if order == "cluster" and clusters is not None:
        return np.lexsort((-bins.frequency, clusters)), as_they_are
    if order == "frequency" or indices is None:
        return by_frequency, as_they_are
    sparse = indices[:, 0] >= 0
    kept = np.flatnonzero(sparse)
    flat = indices[kept].reshape(-1)
    in_degree = np.bincount(flat, minlength=features)
    key = np.zeros(len(indices))
    if order == "in-degree":
        key[kept] = -in_degree[indices[kept]].mean(1)
        of_feature = -in_degree
    else:
        matrix = csr_array((np.ones(len(flat)), flat, np.arange(len(kept) + 1) * indices.shape[1]),
                           shape=(len(kept), features))
        scale = diags_array(1 / np.sqrt(np.maximum(in_degree, 1)))
        if min(matrix.shape) < 4:
            return by_frequency, as_they_are
        left, sizes, right = svds(matrix @ scale, k=2, v0=np.random.default_rng(0).random(min(matrix.shape)))
        axis = int(np.argmin(sizes))  # the largest is the same for every random layer: it says how often, not which
        key[kept] = left[:, axis]
        of_feature = right[axis] * np.where(in_degree > 0, 1 / np.sqrt(np.maximum(in_degree, 1)), 0)
    column = np.empty(features, np.int64)
    column[np.argsort(of_feature, kind="stable")] = as_they_are
    return np.lexsort((-bins.frequency, key)), column
