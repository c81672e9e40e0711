"""What is measured during a run, beside the metrics."""

from __future__ import annotations

import math

import torch

from .encoders import Encoder


@torch.no_grad()
def gradient_norms(encoder: Encoder) -> dict[str, float]:
    """Euclidean norm of the gradient of each encoder block, and of all of them together under "all"."""
    squares = {}
    for name, parameters in encoder.blocks().items():
        squares[name] = 0.0
        for p in parameters:
            if p.grad is None:
                continue
            if p.grad.is_sparse:
                p.grad = p.grad.coalesce()  # a token that stands in several documents is one row from here on
                squares[name] += float(p.grad.values().square().sum())
            else:
                squares[name] += float(p.grad.square().sum())
    norms = {name: math.sqrt(s) for name, s in squares.items()}
    return {"all": math.sqrt(sum(squares.values())), **norms}
