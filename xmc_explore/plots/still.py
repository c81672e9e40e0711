"""A frame of a run as a picture, with no browser: what a saved notebook keeps of a live canvas."""

from __future__ import annotations

import html

import numpy as np

from ..corpora import BIN_NAMES, LabelBins
from ..frames import Frame
from .static import png

STILL = (330, 640)  # pixels


def still(name: str, frame: Frame, bins: LabelBins, features: int, caption: str) -> str:
    """A frame as a picture for wherever no script runs: bands of equal height, colour by age, the newest on top."""
    tall, wide = STILL
    order = np.argsort(-bins.frequency, kind="stable")
    parts = [order[bins.of_label[order] == b] for b in range(len(BIN_NAMES))]
    parts = [part for part in parts if len(part)]
    each, wide = tall // len(parts), min(wide, features)
    age = np.zeros((each * len(parts), wide), np.uint8)
    for top, labels in enumerate(parts):
        indices, born = frame.indices[labels].astype(np.int64), frame.born[labels]  # times a width: beyond 16 bits
        row = np.broadcast_to(top * each + np.arange(len(labels))[:, None] * each // len(labels), indices.shape)
        there = indices >= 0
        value = (1 + 254 * (born / max(frame.step, 1))).astype(np.uint8)
        np.maximum.at(age, (row[there], indices[there] * wide // features), value[there])
        for line in range(top * each, (top + 1) * each):  # where rows are taller than a pixel
            if line not in row[:, 0]:
                age[line] = age[line - 1] if line > top * each else 0
    share = age[..., None] / 255
    pixels = np.concatenate([(1 - share) * [128, 128, 128] + share * [204, 60, 150], 190 * (age[..., None] > 0)], -1)
    pixels = pixels.astype(np.uint8).repeat(STILL[1] // wide, axis=1)  # or a page that keeps no style blurs them
    bands = ", ".join(f"{b} {int((bins.of_label == i).sum()):,}" for i, b in enumerate(BIN_NAMES))
    words = html.escape(f"{name + ': ' if name else ''}{caption} Rows are labels, from head to tail ({bands}); columns "
                        f"are {features:,} features; the pinker, the newer.")
    return (f'<p><img alt="{words}" src="{png(pixels)}" style="width:{STILL[1]}px;max-width:100%;'
            f'height:{tall}px;image-rendering:pixelated"></p><p>{words}</p>')
