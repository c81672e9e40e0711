"""Exercises of notebook 08: a group gathers once; rounding that is right on average."""

from __future__ import annotations

import torch

from .exercise import Mistake, WriteFunction

# --- groups -------------------------------------------------------------------------------------------------------


def grouped_scores(x, weight, indices, order):
    n_groups, fan_in = indices.shape
    labels = order.view(n_groups, -1)  # [n_groups, G]
    gathered = x[:, indices]  # [B, n_groups, K]: once for all labels of a group
    of_groups = torch.einsum("bnk,ngk->bng", gathered, weight[labels])
    y = torch.empty(len(x), len(order))
    y[:, labels.flatten()] = of_groups.flatten(1)
    return y


def _by_number(x, weight, indices, order):
    return grouped_scores(x, weight, indices, torch.arange(len(order)))


def _left_in_groups(x, weight, indices, order):
    return grouped_scores(x, weight, indices, order)[:, order]


def _weights_by_group(x, weight, indices, order):
    unordered = torch.empty_like(weight)
    unordered[order] = weight
    return grouped_scores(x, unordered, indices, order)


def _shared_weights(x, weight, indices, order):
    first = order.view(len(indices), -1)[:, :1].expand(-1, len(order) // len(indices))
    shared = torch.empty_like(weight)
    shared[order] = weight[first.flatten()]
    return grouped_scores(x, shared, indices, order)


def _grouped(rng):
    batch, width, groups, size, fan_in = (int(n) for n in rng.integers((2, 8, 2, 2, 2), (6, 14, 5, 5, 6)))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    indices = torch.rand(groups, width, generator=generator).argsort(1)[:, :fan_in]
    order = torch.randperm(groups * size, generator=generator)
    order = order.roll(1) if (order == order.sort().values).all() else order
    return (torch.randn(batch, width, generator=generator),
            torch.randn(groups * size, fan_in, generator=generator), indices, order)


# --- rounding -----------------------------------------------------------------------------------------------------


def round_by_chance(x, spacing, chance):
    steps = x / spacing
    below = steps.floor()
    return (below + (chance < steps - below)) * spacing


def _to_the_nearest(x, spacing, chance):
    return (x / spacing).round() * spacing


def _wrong_way(x, spacing, chance):
    steps = x / spacing
    below = steps.floor()
    return (below + (chance > steps - below)) * spacing


def _fair_coin(x, spacing, chance):
    return ((x / spacing).floor() + (chance < 0.5)) * spacing


def _towards_zero(x, spacing, chance):
    steps = x / spacing
    below = steps.trunc()
    return (below + (chance < (steps - below).abs())) * spacing


def _rounding(rng):
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return (torch.randn(40, generator=generator), float(2.0 ** -rng.integers(1, 5)),
            torch.rand(40, generator=generator))


EXERCISES = [
    WriteFunction(
        name="grouped_scores", title="gather once for a group", notebook="08", difficulty=3, importance=4, minutes=12,
        reference=grouped_scores, inputs=_grouped,
        statement=r"""Write `grouped_scores(x, weight, indices, order)`, the scores `[B, L]` without biases. `indices`
is `[n_groups, K]`, a row a group; `order` `[L]` says which labels make the groups: the first $G = L / n$ of it are
group 0, the next $G$ group 1, and so on. `weight` is `[L, K]`, by label. With $g(l)$ the group of label $l$,

$$y_{b,l} = \sum_k w_{l,k}\; x_{b,\,\mathrm{idx}(g(l),k)} .$$""",
        hints=("`order.view(n_groups, -1)` is `[n_groups, G]`: the labels of each group.",
               "`x[:, indices]` is `[B, n_groups, K]`; `weight[labels]` is `[n_groups, G, K]`. Multiply, and sum over "
               "K: `torch.einsum(\"bnk,ngk->bng\", ...)`.",
               "What you have then is in the order of the groups: `y[:, labels.flatten()] = ...` puts it back."),
        mistakes=(
            Mistake("You took the labels as they are numbered", "`order` says who is in which group: label "
                    "`order[0]` is in group 0, not label 0.", _by_number),
            Mistake("The scores are still in the order of the groups", "Column l of the result has to be label l: "
                    "write to `y[:, labels.flatten()]`.", _left_in_groups),
            Mistake("You took weights by their place in a group", "`weight` is by label: the group's are "
                    "`weight[labels]`.", _weights_by_group),
            Mistake("All labels of a group have the same weights", "They share what they read, not how they weigh "
                    "it: each label has a row of `weight`.", _shared_weights)),
        because="After one gather of K numbers a document, G labels are a dense product of [G, K] and [K, B]: what "
                "matrix units are made for. The layer of single labels gathers anew for each of them."),
    WriteFunction(
        name="round_by_chance", title="right on average", notebook="08", difficulty=2, importance=5, minutes=8,
        reference=round_by_chance, inputs=_rounding,
        statement=r"""Write `round_by_chance(x, spacing, chance)`: each number of the tensor `x` becomes one of its two
neighbours among the multiples of `spacing` $s$. With $r = \lfloor x / s \rfloor s$ the lower one, it goes *up* with the
chance that is its distance from there, $(x - r) / s$, so that the mean is $x$. `chance` holds a number drawn evenly
from $[0, 1)$ for each: go up where it is below that distance.""",
        hints=("`steps = x / spacing; below = steps.floor()`.",
               "`chance < steps - below` is true as often as it should; a boolean adds up like 0 and 1."),
        mistakes=(
            Mistake("That is the nearest", "It does not use `chance`: a step smaller than half a spacing is always "
                    "lost.", _to_the_nearest),
            Mistake("Up and down are the wrong way round", "A number just above the lower neighbour should seldom go "
                    "up: `chance < distance`.", _wrong_way),
            Mistake("You tossed a fair coin", "The chance to go up is the distance from below, not one half: else the "
                    "mean is always the middle.", _fair_coin),
            Mistake("Negative numbers go the wrong way", "The lower neighbour of −0.3 is −1, not 0: `floor`, not "
                    "`trunc`.", _towards_zero)),
        because="A weight whose steps are a tenth of the spacing moves at every tenth try, by ten times as much. To "
                "the nearest, it never moves."),
]
