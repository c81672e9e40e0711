"""The two scores of a rewire: what to drop, what to grow.

SET (Mocanu et al., 2018) drops by `magnitude` and grows by `uniform`; RigL (Evci et al., 2020) drops by `magnitude`
and grows by `gradient`. A score of your own is a function with the same signature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import FixedFanIn, GroupedFixedFanIn

DRAWN_AT_ONCE = 1 << 20  # indices that new ones are compared with


@dataclass(frozen=True)
class Candidates:
    """What a grow score may look at: the layer, the labels `rows` [n] in question, and the last training batch.

    Of a layer whose labels share indices they are the labels of some groups; the rewirer adds up their scores.

    `x` [B, D] is the layer's input and `grad` [B, n] the gradient of the loss with respect to the output of these
    labels; both are there only for a score with the attribute `needs_batch = True`, and None for others.
    """

    layer: FixedFanIn | GroupedFixedFanIn
    rows: Tensor
    generator: torch.Generator
    x: Tensor | None = None
    grad: Tensor | None = None


DropScore = Callable[[FixedFanIn | GroupedFixedFanIn], Tensor]
GrowScore = Callable[[Candidates], Tensor]


def magnitude(layer: FixedFanIn | GroupedFixedFanIn) -> Tensor:
    """|weight| [L, K]: the connections that matter least go first."""
    weight = layer.weight
    return (weight.float() if weight.element_size() < 2 else weight).abs()  # float8 has no `abs`


def uniform(candidates: Candidates) -> Tensor:
    """A random number for each connection, [n, D]: the highest of them are a fair draw (SET)."""
    layer, rows = candidates.layer, candidates.rows
    return torch.rand((len(rows), layer.in_features), generator=candidates.generator, device=rows.device)


def draw(present: Tensor, dropped: Tensor, in_features: int, generator: torch.Generator) -> Tensor:
    """What `uniform` grows, for rows that read a small share of D: [n, K] with `dropped` slots of `present` replaced.

    A random feature for each dropped slot, and another one until no row reads it twice or read it before. No feature is
    treated unlike another, so it is as fair as the best of D random numbers, at a cost that does not know D.
    """
    found, fan_in = present.clone(), present.shape[1]
    for slots in dropped.flatten().nonzero().squeeze(1).split(max(1, DRAWN_AT_ONCE // fan_in)):
        while len(slots):
            rows = slots // fan_in
            new = torch.randint(in_features, slots.shape, dtype=found.dtype, generator=generator, device=found.device)
            found.view(-1)[slots] = new
            new = new.unsqueeze(1)
            same = (found[rows] == new).scatter_(1, (slots % fan_in).unsqueeze(1), False)
            slots = slots[(same | (present[rows] == new)).any(1)]
    return found


uniform.draw = draw


def gradient(candidates: Candidates) -> Tensor:
    """|dLoss/dW| [n, D] of the dense matrix that these rows belong to, on the last batch (RigL)."""
    return (candidates.grad.t() @ candidates.x).abs()


gradient.needs_batch = True

DROP_SCORES: dict[str, DropScore] = {"magnitude": magnitude}
GROW_SCORES: dict[str, GrowScore] = {"random": uniform, "gradient": gradient}
