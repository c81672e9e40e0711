"""`FrameStore`: the connectivity of a recorded run at any of its frames, in milliseconds.

A run records its first indices and then, for each rewire, only what changed. To seek is to start from the nearest state
at hand and to apply the changes since: the state that was sought last, or one of those kept every `KEY_EVERY` frames.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

KEY_EVERY = 16  # frames from one kept state to the next
KEY_BYTES = 1 << 28  # of kept states, so that a large layer does not fill the memory


@dataclass(frozen=True, eq=False)
class Frame:
    """The connectivity of a run at one recorded moment; the arrays are read-only.

    `indices` [L, K]; `born` [L, K] int32, the step at which each connection was grown (0: there from the start);
    `weight` [L, K] float32 or None, as last recorded at or before this frame, at step `weight_step`. Weights are
    recorded at some frames only, and in 8 bits: off by at most max |weight| of the label / 254. A connection grown
    since `weight_step` counts as 0, which is what it starts from.
    """

    number: int
    step: int
    indices: np.ndarray
    born: np.ndarray
    weight: np.ndarray | None = None
    weight_step: int | None = None


class FrameStore:
    """Frames of a trace, or of a run that is still writing: `seek(i)` gives any of them.

    `frames` is an append-only list of dicts: {"step", "indices" [L, K]} first, then {"step", "slots", "new"} for each
    rewire, `slots` being distinct positions in the flat [L, K]; any of them may hold "weight" and "scale" (see
    `quantise`). The first may hold "groups" [L], the row of `indices` that a label reads, for a layer in which labels
    share rows (-1: a label of a dense head, whose slots are given as -1); what is returned is always one row a label.
    A list may grow while it is read. `width` is how many features there are, D. Raises IndexError for a frame that is
    not there.
    """

    def __init__(self, frames: list[dict[str, Any]], width: int | None = None):
        self._frames, self._width = frames, width
        self._keys: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # frame -> (indices, born)
        self._last: tuple[int, np.ndarray, np.ndarray] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def steps(self) -> list[int]:
        """The steps at which frames were recorded: the start, then every rewire."""
        return [int(f["step"]) for f in self.recorded]

    @property
    def recorded(self) -> list[dict[str, Any]]:
        """The frames so far, as they were recorded."""
        return self._frames[:]

    @property
    def width(self) -> int:
        """How many features there are, D; where the store was not told, those up to the highest in any frame so far."""
        if self._width is not None:
            return self._width
        read = (f["indices"] if "indices" in f else f["new"] for f in self.recorded)
        return 1 + max((int(features.max()) for features in read if features.size), default=-1)

    @property
    def groups(self) -> np.ndarray | None:
        """The row [L] that each label reads in a layer whose labels share rows, else None."""
        return self._frames[0].get("groups") if self._frames else None

    def seek(self, number: int, by_label: bool = True) -> Frame:
        """The frame at a position; -1 is the last one recorded so far.

        `by_label=False` gives the rows that the layer itself has, one a group where labels share them, without weights.
        """
        number = self._position(number)
        with self._lock:
            indices, born = self._state(number)
        step = int(self._frames[number]["step"])
        if not by_label:
            return Frame(number, step, indices, born)
        return Frame(number, step, self._by_label(indices, -1), self._by_label(born, 0), *self._weight(number, born))

    def changed(self, number: int) -> np.ndarray:
        """The flat slots [n] of [L, K] that the rewire at a frame replaced; none for the first frame."""
        number = self._position(number)
        slots = self._frames[number].get("slots", np.empty(0, np.int32))
        if self.groups is None:
            return slots
        replaced = np.zeros(self._frames[0]["indices"].shape, bool)
        replaced.reshape(-1)[slots] = True
        return np.flatnonzero(self._by_label(replaced, False))

    def _position(self, number: int) -> int:
        n = len(self._frames)
        if not isinstance(number, Integral):
            raise TypeError(f"a frame is asked for by its number, 0 to {n - 1}, or -1 for the last; got {number!r}")
        if not -n <= number < n:
            raise IndexError(f"frame {number} of {n}: this run recorded connectivity {n} times"
                             + ("" if n else " (its output layer is not sparse, or its first file is gone)"))
        return number % n

    def _state(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        start = max((k for k in self._keys if k <= number), default=0)
        if self._last is not None and start <= self._last[0] <= number:
            start, indices, born = self._last
        elif start in self._keys:
            indices, born = self._keys[start]
        else:
            indices = self._frames[0]["indices"].copy()  # the list's own stays as it is
            born = np.zeros(indices.shape, np.int32)
        if start < number:
            indices, born = indices.copy(), born.copy()
        for i in range(start + 1, number + 1):
            frame = self._frames[i]
            slots = frame["slots"].astype(np.intp)  # at once for both: numpy takes three times as long for int32
            indices.reshape(-1)[slots] = frame["new"]
            born.reshape(-1)[slots] = frame["step"]
            if i % KEY_EVERY == 0:
                self._keep(i, indices.copy(), born.copy())
        indices.flags.writeable = born.flags.writeable = False
        self._last = number, indices, born
        return indices, born

    def _keep(self, number: int, indices: np.ndarray, born: np.ndarray) -> None:
        while self._keys and (len(self._keys) + 1) * (indices.nbytes + born.nbytes) > KEY_BYTES:
            del self._keys[next(iter(self._keys))]
        self._keys[number] = indices, born

    def _weight(self, number: int, born: np.ndarray) -> tuple[np.ndarray | None, int | None]:
        for frame in reversed(self._frames[:number + 1]):
            if "weight" in frame:
                weight, step = frame["weight"] * frame["scale"][:, None], int(frame["step"])
                weight[self._by_label(born, 0) > step] = 0
                weight.flags.writeable = False
                return weight, step
        return None, None

    def _by_label(self, rows: np.ndarray, dense: Any) -> np.ndarray:
        """One row a label, where labels share rows; `dense` fills those of a dense head."""
        groups = self.groups
        if groups is None:
            return rows
        found = rows[groups]
        found[groups < 0] = dense
        found.flags.writeable = False
        return found


def quantise(weight: np.ndarray) -> dict[str, np.ndarray]:
    """Weights [L, K] in 8 bits: "weight" int8 [L, K] and "scale" float32 [L], weight ~ scale * int8.

    The largest of a label is 127 scales, so no weight is off by more than max |weight| of its label / 254.
    """
    scale = np.abs(weight).max(axis=1).astype(np.float32) / 127
    of_one = weight / np.where(scale > 0, scale, 1)[:, None]
    return {"weight": np.rint(of_one).astype(np.int8), "scale": scale}


def pack(frame: dict[str, Any]) -> dict[str, np.ndarray]:
    """A frame as it goes to disk: sorted slots as distances from one to the next in bytes, new indices byte by byte.

    A byte of 255 says that the distance goes on in the next one. Half of the slots within 10 of each other, and the
    high bytes of indices nearly all alike: zip makes of each what it is worth.
    """
    packed = {k: np.asarray(v) for k, v in frame.items() if k not in ("slots", "new")}
    if "slots" in frame:
        order = np.argsort(frame["slots"], kind="stable")
        gaps = np.diff(np.asarray(frame["slots"], np.int64)[order], prepend=-1) - 1
        if (gaps < 0).any():
            raise ValueError("a rewire cannot replace a slot twice")
        ends = np.cumsum(gaps // 255 + 1) - 1  # each distance is 255, 255, ..., and the rest
        packed["gaps"] = np.full(ends[-1] + 1 if len(ends) else 0, 255, np.uint8)
        packed["gaps"][ends] = gaps % 255
        new = np.ascontiguousarray(frame["new"])[order]
        packed["new"] = np.ascontiguousarray(new.view(np.uint8).reshape(len(new), new.itemsize).T)
    return packed


def unpack(stored: dict[str, np.ndarray]) -> dict[str, Any]:
    """The frame that `pack` packed; frames of format 1, which were stored as they are, pass."""
    frame = dict(stored)
    if "gaps" in frame:
        gaps = frame.pop("gaps")
        frame["slots"] = (np.cumsum(gaps, dtype=np.int64) + np.cumsum(gaps < 255) - 1)[gaps < 255].astype(np.int32)
        frame["new"] = np.ascontiguousarray(frame["new"].T).view(f"<i{len(frame['new'])}").reshape(-1)
    frame["step"] = int(frame["step"])
    return frame


def check(frames: Sequence[dict[str, Any]]) -> None:
    """Is the last of these frames one that can follow the others? Raises ValueError in words."""
    frame, first = frames[-1], frames[0]
    needs = {"step", "indices"} if frame is first else {"step", "slots", "new"}
    if not needs <= frame.keys():
        raise ValueError(f"it has no {', '.join(sorted(needs - frame.keys()))}")
    if first["indices"].ndim != 2:
        raise ValueError(f"indices of shape {list(first['indices'].shape)} are no [L, K]")
    n_labels = len(first.get("groups", first["indices"]))
    if frame is not first:
        slots, new = frame["slots"], frame["new"]
        if slots.shape != new.shape or slots.ndim != 1:
            raise ValueError(f"{slots.shape} slots and {new.shape} new indices")
        if len(slots) and not 0 <= slots.min() <= slots.max() < first["indices"].size:
            raise ValueError(f"slots beyond the {first['indices'].size} of the layer")
    if "weight" in frame and (frame["weight"].shape != (n_labels, first["indices"].shape[1])
                              or frame.get("scale", np.empty(0)).shape != (n_labels,)):
        raise ValueError(f"weights of shape {list(frame['weight'].shape)} for {n_labels} labels")
