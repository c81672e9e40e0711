"""The canvas's messages: what is said in JSON, then arrays, most of them of small whole numbers in a few bits each.

    uint32 n | n bytes of JSON | arrays, each on a multiple of 8 bytes

The JSON names its arrays in order: [name, dtype, length] or, of those in few bits, [name, bits, length, bytes].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

KINDS = {np.dtype(kind): kind for kind in ("uint8", "uint16", "int32", "uint32")}


def pack(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray], small: Mapping[str, np.ndarray]) -> bytes:
    """A message of a head, of arrays as they are (as int32, if of a type that the page does not know) and of `small`
    whole numbers from 0 on."""
    listed, parts = [], []
    for name, array in arrays.items():
        array = array if array.dtype in KINDS else array.astype(np.int32)
        listed.append([name, KINDS[array.dtype], array.size])
        parts.append(array.tobytes())
    for name, array in small.items():
        bits, data = in_few_bits(array.reshape(-1))
        listed.append([name, bits, array.size, len(data)])
        parts.append(data)
    text = json.dumps({**head, "arrays": listed}).encode()
    found = bytearray(np.uint32(len(text)).astype("<u4").tobytes() + text)
    for part in parts:
        found += bytes(-len(found) % 8) + part
    return bytes(found)


def in_few_bits(values: np.ndarray) -> tuple[int, bytes]:
    """Whole numbers [n] from 0 on as codes of so many bits, the first in the lowest bits; returns bits and bytes.

    A code of ones alone counts 2^bits - 1 and says that the number goes on with the next code. For numbers that thin
    out evenly, such as distances in a random set, this takes some 8 % more than the best code could (Golomb 1966).
    """
    if not len(values):
        return 1, b""
    values = values.astype(np.uint32)
    least = max(1, int(values.mean()).bit_length())
    bits = min((bits for bits in range(least, least + 4) if _together(bits) * bits % 8 == 0),
               key=lambda bits: bits * (len(values) + int((values // (2**bits - 1)).sum())))
    ones = 2**bits - 1
    more = values // ones
    ends = np.arange(len(values)) + np.cumsum(more.astype(np.int64))
    together = _together(bits)
    codes = np.full((int(ends[-1]) // together + 1, together), ones, np.uint32)
    codes.reshape(-1)[ends] = values - more * ones
    words = np.zeros(len(codes), "<u8")
    for i in range(together):
        words |= codes[:, i].astype("<u8") << np.uint64(i * bits)
    return bits, words.view(np.uint8).reshape(-1, 8)[:, :together * bits // 8].tobytes()


def _together(bits: int) -> int:
    """How many codes go into a word of 64 bits, so that they make whole bytes."""
    return 8 if bits <= 8 else 4 if bits <= 16 else 2
