"""What a browser makes of the messages of a `ConnectivityCanvas`, in Python."""

from __future__ import annotations

import json

import numpy as np


def unpack(message: bytes) -> dict:
    """The head of a message with its arrays."""
    size = int.from_bytes(message[:4], "little")
    head = json.loads(message[4:4 + size])
    at = 4 + size
    for name, kind, length in head["arrays"]:
        at += -at % 8
        head[name] = np.frombuffer(message, kind, length, at)
        at += head[name].nbytes
    assert at == len(message)
    return head


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
        if head["base"] is None:
            self.labels, self.places, self.columns = head["labels"], head["places"], head["columns"]
            self.features, self.values = head["features"].copy(), head["values"].copy()
        elif head["base"] != self.seq:
            return self.canvas._handle_custom_msg({"ask": "everything"}, [])
        else:
            where = slice(None)
            if "slots" in head:
                where = head["slots"]
            elif "mask" in head:
                where = np.unpackbits(head["mask"], count=self.features.size, bitorder="little").astype(bool)
            self.features[where], self.values[where] = head["features"], head["values"]
        self.seq, self.head = head["seq"], {**self.head, **head}
        return None

    @property
    def births(self) -> np.ndarray:
        return self.values.reshape(self.head["rows"], -1).astype(int) * self.head["unit"]

    @property
    def indices(self) -> np.ndarray:
        return self.features.reshape(self.head["rows"], -1).astype(int)
