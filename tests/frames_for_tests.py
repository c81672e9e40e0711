"""Recorded connectivity that no training was needed for."""

from __future__ import annotations

import numpy as np

from xmc_explore.corpora import label_bins
from xmc_explore.frames import FrameStore


def drawn(n_labels: int, fan_in: int, features: int, rewires: int, share: float = 0.15, seed: int = 0) -> FrameStore:
    """A run that rewires a share of its slots at random every 100 steps; indices in a row stay distinct."""
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n_labels, features)), axis=1)[:, :fan_in].astype(np.int16)
    frames, now = [{"step": 0, "indices": indices.copy()}], indices
    for rewire in range(1, rewires + 1):
        slots = np.sort(rng.choice(now.size, int(share * now.size), replace=False)).astype(np.int32)
        new = rng.integers(0, features, len(slots)).astype(np.int16)
        rows = slots // fan_in
        fine = ~(now[rows] == new[:, None]).any(1)
        _, first = np.unique(rows.astype(np.int64) * features + new, return_index=True)
        fine &= np.isin(np.arange(len(slots)), first)
        slots, new = slots[fine], new[fine]
        now.reshape(-1)[slots] = new
        frames.append({"step": 100 * rewire, "slots": slots, "new": new})
    return FrameStore(frames)


def zipf_bins(n_labels: int):
    return label_bins(np.maximum(20_000 // np.arange(1, n_labels + 1), 1))
