"""The connectivity of a sparse output layer as a picture: one row a label, one column a feature, colour by age."""

from __future__ import annotations

from pathlib import Path

import anywidget
import numpy as np
import traitlets

from ..corpora import BIN_NAMES, LabelBins
from ..plots.style import BINS
from .guarded import Guarded

MOST_ROWS, MOST_COLUMNS = 168, 256  # as many as a small screen has room for
NEWBORN = 255  # the value of a connection that the last rewire made


class Connectivity:
    """The connections of some labels, kept up to date rewire by rewire.

    `labels` [R] are the labels shown: as many of head, torso and tail as there are, up to `MOST_ROWS` together, each
    bin thinned evenly and sorted by frequency. Neighbouring features share a column where there are more than
    `MOST_COLUMNS`.
    """

    def __init__(self, indices: np.ndarray, bins: LabelBins, features: int):
        self.bins, self.fan_in, self.features = bins, indices.shape[1], features
        parts = _thinned(bins, MOST_ROWS)
        self.labels = np.concatenate(parts)
        self.rows_of_bin = [len(part) for part in parts]
        self._row = np.full(len(indices), -1, np.int64)
        self._row[self.labels] = np.arange(len(self.labels))
        self.indices = indices[self.labels].astype(np.int64)  # [R, K]
        self.born = np.zeros(self.indices.shape, np.int64)  # [R, K], the step of birth
        self.features_per_column = -(-features // MOST_COLUMNS)
        self.columns = -(-features // self.features_per_column)
        self.step = 0

    def rewire(self, step: int, slots: np.ndarray, new: np.ndarray) -> None:
        """Move the flat slots [n] of [L, K] to the features `new` [n]."""
        row = self._row[slots // self.fan_in]
        shown = row >= 0
        place = row[shown], slots[shown] % self.fan_in
        self.indices[place], self.born[place], self.step = new[shown], step, step

    def pixels(self) -> np.ndarray:
        """uint8 [R, columns]: 0 nothing, 1 there from the start, ..., 254, and 255 born at the last rewire."""
        value = 1 + (253 * self.born) // max(self.step, 1)
        value[(self.born == self.step) & (self.step > 0)] = NEWBORN
        picture = np.zeros((len(self.labels), self.columns), np.uint8)
        row = np.broadcast_to(np.arange(len(self.labels))[:, None], value.shape)
        np.maximum.at(picture, (row, self.indices // self.features_per_column), value.astype(np.uint8))
        return picture

    def moved(self, slots: np.ndarray) -> str:
        """One sentence on a rewire: how many connections moved, of how many, and in which bins."""
        per_bin = np.bincount(self.bins.of_label[slots // self.fan_in], minlength=3)
        total = np.bincount(self.bins.of_label, minlength=3) * self.fan_in
        shares = ", ".join(f"{name} {100 * n / t:.1f} %" for name, n, t in zip(BIN_NAMES, per_bin, total, strict=True)
                           if t)
        return f"{len(slots):,} of {total.sum():,} connections moved; {shares}"


def _thinned(bins: LabelBins, most: int) -> list[np.ndarray]:
    """For each bin, its labels by falling frequency, evenly thinned so that all bins together keep at most `most`."""
    labels = [bins.labels(name) for name in bins.names]
    chosen: list[np.ndarray] = [np.empty(0, np.int64)] * len(labels)
    left = most
    for still, b in enumerate(sorted(range(len(labels)), key=lambda b: len(labels[b]))):
        keep = min(len(labels[b]), left // (len(labels) - still))
        ordered = labels[b][np.argsort(-bins.frequency[labels[b]], kind="stable")]
        chosen[b] = ordered[np.arange(keep) * len(ordered) // max(keep, 1)]
        left -= keep
    return chosen


class Canvas(Guarded, anywidget.AnyWidget):
    """Shows a `Connectivity`; `pixels` travels as bytes, and only when it has changed.

    `tick` and `seen` pace whoever paints: the browser answers each tick when it has drawn everything before it.
    """

    _esm = Path(__file__).parent / "canvas.js"
    _css = Path(__file__).parent / "lab.css"
    pixels = traitlets.Bytes(b"").tag(sync=True)
    shape = traitlets.List([0, 0]).tag(sync=True)
    flash = traitlets.Bool(False).tag(sync=True)
    bands = traitlets.List().tag(sync=True)  # {"name", "color", "rows", "labels"} from top to bottom
    rows = traitlets.List().tag(sync=True)  # what a row is, in words
    axis = traitlets.List(["", ""]).tag(sync=True)  # words, and more words for whoever points at them
    caption = traitlets.Unicode().tag(sync=True)
    tick = traitlets.Int(0).tag(sync=True)
    seen = traitlets.Int(0).tag(sync=True)

    def clear(self, caption: str) -> None:
        """Show words and no picture."""
        with self.hold_sync():
            self.pixels, self.shape, self.flash, self.bands, self.rows = b"", [0, 0], False, [], []
            self.caption = caption

    def begin(self, picture: Connectivity, label_names: list[str]) -> None:
        """Show the first picture of a run."""
        bins = picture.bins
        with self.hold_sync():
            self.bands = [{"name": name, "color": BINS[name].color, "rows": rows, "labels": len(bins.labels(name))}
                          for name, rows in zip(BIN_NAMES, picture.rows_of_bin, strict=True) if rows]
            self.rows = [f"{label_names[i]}: {BIN_NAMES[bins.of_label[i]]}, used {bins.frequency[i]:,} times"
                         for i in picture.labels]
            self.axis = [f"{picture.features:,} features",
                         f"A column holds {picture.features_per_column} of the features that the output layer reads"]
            self.show(picture, f"At the start: each of {len(bins.of_label):,} labels reads {picture.fan_in} features "
                               f"drawn at random.", flash=False)

    def show(self, picture: Connectivity, caption: str, *, flash: bool) -> None:
        """Show a later picture; `flash` marks what has just been born for a moment."""
        pixels = picture.pixels()
        with self.hold_sync():
            self.shape, self.flash, self.caption = list(pixels.shape), flash, caption
            self.pixels = pixels.tobytes()
