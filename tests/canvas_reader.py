"""What a browser makes of the messages of a `ConnectivityCanvas`, in Python."""

from __future__ import annotations

import json

import numpy as np


def unpack(message: bytes) -> dict:
    """The head of a message with its arrays."""
    size = int.from_bytes(message[:4], "little")
    head = json.loads(message[4:4 + size])
    at = 4 + size
    for name, kind, length, *size in head["arrays"]:
        at += -at % 8
        if size:
            head[name] = from_few_bits(message[at:at + size[0]], kind, length)
            at += size[0]
        else:
            head[name] = np.frombuffer(message, kind, length, at)
            at += head[name].nbytes
    assert at == len(message)
    return head


def from_few_bits(data: bytes, bits: int, length: int) -> np.ndarray:
    """The numbers that `in_few_bits` made codes of."""
    each = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    codes = each[:len(each) // bits * bits].reshape(-1, bits) @ (1 << np.arange(bits))
    ends = np.flatnonzero(codes < 2**bits - 1)[:length]
    return np.diff(np.cumsum(codes)[ends], prepend=0)


class Reader:
    """Follows a canvas from message to message: `features` and `births` [R, K], and `labels` [R], top to bottom."""

    def __init__(self, canvas):
        self.canvas, self.head, self.seq, self.sizes = canvas, {}, None, []
        canvas.observe(lambda change: self.take(change.new), "picture")
        self.take(canvas.picture)

    def take(self, message: bytes) -> None:
        if not message:
            return
        self.sizes.append(len(message))
        head = unpack(message)
        values = head["values"][head["codes"]]
        if head["base"] is None:
            self.labels, self.places, self.columns = head["labels"], head["places"], head["columns"]
        elif head["base"] != self.seq:
            return self.canvas._handle_custom_msg({"ask": "everything"}, [])
        if "slots" in head:
            where = np.cumsum(head["slots"])
            self.features[where], self.values[where] = head["features"], values
        else:
            self.features, self.values = np.cumsum(head["features"].reshape(head["rows"], -1), 1).reshape(-1), values
        self.seq, self.head = head["seq"], {**self.head, **head}
        return None

    @property
    def births(self) -> np.ndarray:
        return by_feature(self._by_row(self.features), self._by_row(self.values))[1]

    @property
    def indices(self) -> np.ndarray:
        return by_feature(self._by_row(self.features))[0]

    @property
    def weight(self) -> np.ndarray:
        """In shares of the largest."""
        sent = self.head["weight"].astype(int)
        return by_feature(self._by_row(self.features), self._by_row(np.where(sent % 2, -1, 1) * (sent // 2)))[1] / 127

    def _by_row(self, slots: np.ndarray) -> np.ndarray:
        return slots.reshape(self.head["rows"], -1)


def by_feature(indices: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Rows [R, K] with their features in rising order, and whatever goes with each: the order says nothing."""
    order = np.argsort(indices, axis=1)
    return [np.take_along_axis(rows, order, 1) for rows in (indices, *others)]
