"""Exercises of notebook 07: the schedule of the auxiliary weight, who pushes the encoder, doing without."""

from __future__ import annotations

import numpy as np

from .exercise import Knob, Mistake, WriteFunction
from .pictures import curves, dots

# --- the weight of the auxiliary objective ------------------------------------------------------------------------


def auxiliary_weight(step, start, cutoff):
    falling = start * 0.5 * (1 + np.cos(np.pi * step / cutoff))
    return np.where(step < cutoff, falling, 0.0)


def _comes_back(step, start, cutoff):
    return start * 0.5 * (1 + np.cos(np.pi * step / cutoff))


def _twice(step, start, cutoff):
    return 2 * auxiliary_weight(step, start, cutoff)


def _straight(step, start, cutoff):
    return start * np.maximum(0.0, 1 - step / cutoff)


def _quarter(step, start, cutoff):
    return np.where(step < cutoff, start * np.cos(0.5 * np.pi * step / cutoff), 0.0)


def _schedule(rng):
    cutoff = int(rng.integers(50, 300))
    return np.arange(0, 3 * cutoff, 7), float(rng.uniform(0.2, 0.9)), cutoff


# --- who pushes the encoder ---------------------------------------------------------------------------------------


def gradient_budget(parts):
    total = parts.sum(axis=0)
    return parts @ total / (total @ total)


def _by_norm(parts):
    norms = np.linalg.norm(parts, axis=1)
    return norms / norms.sum()


def _by_square(parts):
    squares = (parts**2).sum(axis=1)
    return squares / squares.sum()


def _norm_over_total(parts):
    return np.linalg.norm(parts, axis=1) / np.linalg.norm(parts.sum(axis=0))


def _magnitudes(parts):
    shares = np.abs(gradient_budget(parts))
    return shares / shares.sum()


def _parts(rng):
    """Four gradients of one encoder; the third points against the others, as a bin can."""
    common = rng.standard_normal(12)
    parts = rng.standard_normal((4, 12)) * rng.uniform(0.3, 1.5, (4, 1)) + common
    parts[2] -= 1.6 * common
    return (parts,)


# --- without the auxiliary objective ------------------------------------------------------------------------------

ENOUGH = 28.0  # P@1 on calls-small; SET from zero gave 21.9 +- 1.5 after 885 steps (results/claims_series.md)


def _without(trace):
    recipe, (_, weights) = trace.recipe, trace.history("aux_weight")
    if recipe.output != "sparse" or recipe.fan_in > 8:
        return False, "The output layer must stay sparse, with a fan-in of at most 8."
    if (weights > 0).any():
        return False, "This run had an auxiliary objective: set `aux_weight=0.0`."
    reached = trace.metrics("test")["P@1"]
    words = f"P@1 is {reached:.1f} % after {trace.steps} steps; asked for are {ENOUGH:.0f} %."
    return reached >= ENOUGH, words


EXERCISES = [
    WriteFunction(
        name="aux_schedule", title="a second window that closes", notebook="07", difficulty=2, importance=4, minutes=6,
        reference=auxiliary_weight, inputs=_schedule,
        picture=curves("The weight of the auxiliary objective", "weight", "step", lambda step, *_: step),
        statement=r"""Write `auxiliary_weight(step, start, cutoff)`: the weight $w$ at each of the steps in the array
`step` (from 0), which falls along half a cosine from `start` to 0 at `cutoff` and stays there.""",
        hints=("`np.cos` takes arrays. It falls from 1 to −1 while its argument goes from 0 to $\\pi$.",
               "What does the cosine do after the cut-off? `np.where(step < cutoff, ..., 0.0)`."),
        mistakes=(
            Mistake("It comes back", "A cosine rises again after half a turn: from the cut-off on the weight has to "
                    "stay 0.", _comes_back),
            Mistake("It starts at twice the weight", "1 + cos goes from 2 to 0: halve it.", _twice),
            Mistake("That is a straight line", "It should leave `start` slowly and arrive at 0 slowly: half a cosine.",
                    _straight),
            Mistake("That is a quarter of a turn", "The argument goes to $\\pi$, not to $\\pi/2$: your weight meets "
                    "the cut-off with a corner.", _quarter)),
        because="Both losses together always weigh 1, so while $w$ is large the labels themselves are heard less. That "
                "is why too late a cut-off can hurt."),
    WriteFunction(
        name="gradient_budget", title="who pushes the encoder", notebook="07", difficulty=3, importance=5, minutes=10,
        reference=gradient_budget, inputs=_parts,
        picture=dots("Who pushes the encoder?", "share", ("head", "torso", "tail", "auxiliary")),
        statement=r"""The gradient of the encoder is a sum, $g = \sum_i g_i$: one part from head labels, one from
torso, one from tail, one from the auxiliary head. Write `gradient_budget(parts)`: `parts` is `[4, P]`, a row a part;
return four shares that add up to 1, the length of each part's projection on the whole,

$$s_i = \frac{g_i \cdot g}{g \cdot g} .$$

A part that pulls against the others has a negative share.""",
        hints=("`g = parts.sum(axis=0)` is the gradient that the encoder really gets.",
               "`parts @ g` gives all four inner products at once."),
        mistakes=(
            Mistake("You shared out the norms", "Norms do not add up: two long parts that point against each other "
                    "move nothing. Project each on the sum.", _by_norm),
            Mistake("You shared out the squared norms", "Squares add up only where the parts are at right angles; "
                    "project each part on the sum.", _by_square),
            Mistake("You divided each norm by the norm of the sum", "That forgets the angle: take the inner product "
                    "with the sum, over its square.", _norm_over_total),
            Mistake("You dropped the signs", "A part that works against the whole has a negative share; with signs "
                    "the four add up to 1 by themselves.", _magnitudes)),
        because="Gradients add up exactly, so this account is exact; norms alone cannot say who moves the encoder."),
    Knob(
        name="without_auxiliary", title="do without the window", notebook="07", difficulty=3, importance=4, minutes=15,
        condition=_without,
        statement=f"""Find a recipe **without** the auxiliary objective, `aux_weight=0.0`, with a fan-in of at most 8,
that reaches a P@1 of {ENOUGH:.0f} % on `calls-small` in the notebook's 885 steps. Everything else is yours: rewiring,
learning rates, and where things start.""",
        hints=("What is it that the encoder hears in the first hundred steps? The gradient norm and the loss say.",
               "Which parameters have the longest way to go, and could start where they have to end up?",
               "`xe.Recipe` has an option `bias_init`."),
        because="What was missing was not a second objective but a start that leaves the labels something to say. "
                "The next section looks at it closely.",
        worked='`xe.Recipe.method("SET", bias_init="prior")`: each bias starts at the log-odds of its label\'s '
               "frequency. With five seeds it gave 32.9 ± 1.0 % after 885 steps, SET from zero 21.9 ± 1.5 %."),
]
