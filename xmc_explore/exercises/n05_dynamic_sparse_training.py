"""Exercises of notebook 05: what to prune, what to grow, how much is tried, the support of the tail."""

from __future__ import annotations

import numpy as np

from .exercise import Knob, Mistake, Prediction, WriteFunction
from .pictures import cells

# --- prune --------------------------------------------------------------------------------------------------------


def prune(weight, fraction):
    count = int(fraction * weight.size)
    order = np.argsort(np.abs(weight), axis=None)
    dropped = np.zeros(weight.size, dtype=bool)
    dropped[order[:count]] = True
    return dropped.reshape(weight.shape)


def _signed(weight, fraction):
    order = np.argsort(weight, axis=None)
    dropped = np.zeros(weight.size, dtype=bool)
    dropped[order[:int(fraction * weight.size)]] = True
    return dropped.reshape(weight.shape)


def _largest(weight, fraction):
    order = np.argsort(-np.abs(weight), axis=None)
    dropped = np.zeros(weight.size, dtype=bool)
    dropped[order[:int(fraction * weight.size)]] = True
    return dropped.reshape(weight.shape)


def _each_label(weight, fraction):
    rank = np.abs(weight).argsort(1).argsort(1)
    return rank < round(fraction * weight.shape[1])


def _below(weight, fraction):
    return np.abs(weight) < fraction


def _weights(rng):
    n_labels, fan_in = int(rng.integers(5, 9)), 8
    weight = rng.standard_normal((n_labels, fan_in)) * rng.uniform(0.2, 2, (n_labels, 1))
    return weight, float(rng.choice([0.25, 0.375, 0.5]))


# --- grow ---------------------------------------------------------------------------------------------------------


def gradient_score(grad, x):
    return np.abs(grad.T @ x)


def _signed_score(grad, x):
    return grad.T @ x


def _sizes(grad, x):
    return np.abs(grad).T @ np.abs(x)


def _other_way(grad, x):
    return np.abs(x.T @ grad)


def _squared(grad, x):
    return (grad.T @ x)**2


def _batch(rng):
    n, n_labels, width = int(rng.integers(6, 12)), int(rng.integers(3, 6)), int(rng.integers(7, 11))
    return rng.standard_normal((n, n_labels)), rng.standard_normal((n, width))


# --- how much is tried --------------------------------------------------------------------------------------------


def _tried(trace) -> float:
    return 100 * float(trace.history("explored")[1][-1])


def _grown(trace) -> float:
    """In per cent of L x D, as if no connection came twice."""
    grown = sum(len(trace.changed(frame)) for frame in range(1, len(trace.frames)))
    return 100 * (trace.connectivity(0).size + grown) / (len(trace.label_frequency) * trace.width)


def _without_annealing(trace) -> float:
    kept = trace.recipe.fan_in / trace.width
    return 100 * kept * (1 + (len(trace.frames) - 1) * trace.recipe.rewire_fraction)


# --- the support of the tail --------------------------------------------------------------------------------------

ENOUGH, STEPS, FAN_IN = 30.0, 1200, 16


def _tail_found(trace):
    recipe = trace.recipe
    if recipe.output != "sparse" or recipe.fan_in > FAN_IN or trace.header["steps"] > STEPS:
        return False, f"The layer must stay sparse, with a fan-in of at most {FAN_IN}, for at most {STEPS} steps."
    if not trace.events["rewire"] or "found/tail" not in trace.events["rewire"][-1]:
        return False, 'Nothing was found: rewire, on the planted corpus, with `encoder="features"`.'
    found = 100 * trace.history("found/tail")[1][-1]
    words = f"Tail labels read {found:.0f} % of the features that decide them; asked for are {ENOUGH:.0f} %."
    return found >= ENOUGH, words


EXERCISES = [
    WriteFunction(
        name="prune", title="what to drop", notebook="05", difficulty=2, importance=5, minutes=8,
        reference=prune, inputs=_weights,
        picture=cells("Which slots are dropped?", "label", "slot",
                      lambda weight, _: tuple(map(np.arange, weight.shape)), lambda weight, _: weight, "weight"),
        statement="Write `prune(weight, fraction)`: `weight` is `[L, K]`; return a boolean array `[L, K]` that is "
                  "`True` for the `int(fraction * L * K)` weights that are smallest in size **over the whole layer**. "
                  "A label may lose all of its connections, another none.",
        hints=("`np.argsort(..., axis=None)` sorts the flattened array.",
               "Set the first so many places of a flat array of `False` to `True`, then `reshape`."),
        mistakes=(
            Mistake("You looked at the sign", "A weight of −3 says as much as one of +3: sort by `np.abs(weight)`.",
                    _signed),
            Mistake("You dropped the largest", "The small ones matter least; the large ones stay.", _largest),
            Mistake("You dropped the same share of each label", "The layer is ranked as a whole, so that labels whose "
                    "weights are all small lose more. (Per label is another method; what does it do to the tail?)",
                    _each_label),
            Mistake("You took the fraction for a threshold", "A fraction says how many, a threshold how small. The "
                    "paper's code knows both; this is the first.", _below)),
        because="This is the drop score of SET and of RigL. Who loses by it depends on whose weights are small: "
                "notebook 06 looks at that."),
    WriteFunction(
        name="gradient_score", title="what to grow", notebook="05", difficulty=2, importance=5, minutes=6,
        reference=gradient_score, inputs=_batch,
        statement=r"""RigL grows where the loss would fall fastest. Write `gradient_score(grad, x)`: `grad` `[B, L]`
is the gradient of the loss with respect to the scores, `x` `[B, D]` what the layer reads; return `[L, D]`, the *size*
of the gradient that each connection would get if it existed,

$$\Big| \frac{\partial \mathcal{L}}{\partial W_{lj}} \Big| = \Big| \sum_b g_{bl}\, x_{bj} \Big| .$$""",
        hints=("Sum over the batch first, then take the size.", "A sum over a shared index is a matrix product."),
        mistakes=(
            Mistake("The sign is still there", "A connection that wants to become negative is as useful as one that "
                    "wants to become positive: take the absolute value.", _signed_score),
            Mistake("You took sizes before you summed", "Documents that pull in opposite directions must cancel: first "
                    "the sum over the batch, then the absolute value.", _sizes),
            Mistake("That is `[D, L]`", "A row a label, a column a feature: `[L, D]`.", _other_way),
            Mistake("You squared it", "The ranking would be the same, but the size itself is asked for.", _squared)),
        because="It needs the gradient of the *dense* matrix, the very thing that does not fit for millions of labels. "
                "Ours goes by chunks of labels; the paper uses random growth instead."),
    Prediction(
        name="tried", title="how much of the matrix was tried?", notebook="05", difficulty=3, importance=3, minutes=5,
        unit="%", tolerance=0.12, answer=_tried,
        statement="The recorded run keeps 16 of 256 connections a label. It was rewired 47 times: 30 % of all "
                  "connections the first time, then less and less, along half a cosine to nothing. Predict the "
                  "*exploration rate* at its end: of all label-feature connections, the share that existed at any "
                  "time, in per cent.",
        hints=("It begins with 16 / 256. Each rewire adds at most its fraction of that.",
               "Half a cosine from 1 to 0 is one half on average, and SET draws without looking at what it has tried "
               "before."),
        traps=((_without_annealing, "That would be so if every rewire replaced 30 %; the share falls along a cosine."),
               (_grown, "That would be so if nothing came twice; SET does not remember what it has tried.")),
        because="In-time over-parametrisation (Liu et al., 2021): what a sparse layer can find is bounded by what it "
                "has tried, and rewiring is a way to try much without holding much.",
        worked="16/256 is 6 %. 47 rewires of on average 15 % of that add 44 %: about 50 % if nothing came twice, and "
               "about 41 % because a fifth did."),
    Knob(
        name="tail_support", title="find what decides the tail", notebook="05", difficulty=4, importance=4, minutes=20,
        condition=_tail_found,
        statement=f"""Find a recipe with which **tail** labels of the planted corpus read, at the end, at least
{ENOUGH:.0f} % of the features that decide them: with a fan-in of at most {FAN_IN} and at most {STEPS:,} steps. Chance
is 6 %.""",
        hints=("What does a tail label see of a batch of 64? In most of them it does not occur at all.",
               "A score that looks at the batch is as good as the batch is large (`batch_size`).",
               "And biases that start at zero drown what little a rare label has to say (`bias_init`)."),
        because="The gradient of a rare label is mostly noise. Whatever averages over more documents, or silences what "
                "is the same in all of them, helps its rewiring; more rewiring alone does not.",
        worked='`xe.Recipe.method("RigL", **planted, bias_init="prior", batch_size=512)` gave 40.6 ± 0.6 % (head '
               "100 %), in ten seconds or so; with batches of 64 it was 18.8 ± 0.6 % (mean and standard deviation over "
               "five seeds)."),
]
