"""Exercises of notebook 06: who moves, how long connections live, and turning that around."""

from __future__ import annotations

import numpy as np

from ..probes import moves
from .exercise import Knob, Mistake, Prediction, WriteFunction
from .pictures import curves

# --- who moves ----------------------------------------------------------------------------------------------------


def _tail_over_head(trace) -> float:
    moved = moves(trace.store, trace.bins().of_label)
    return moved["tail"] / moved["head"]


# --- how long connections live ------------------------------------------------------------------------------------


def survival(age, dead):
    ages = np.unique(age[dead])
    share, left = [], 1.0
    for a in ages:
        left *= 1 - (dead & (age == a)).sum() / (age >= a).sum()
        share.append(left)
    return np.array(share)


def _forgets_the_living(age, dead):
    return survival(age[dead], dead[dead])


def _buries_the_living(age, dead):
    return np.array([(age > a).mean() for a in np.unique(age[dead])])


def _never_leave(age, dead):
    return np.array([1 - (dead & (age <= a)).sum() / len(age) for a in np.unique(age[dead])])


def _not_a_product(age, dead):
    return np.array([1 - (dead & (age == a)).sum() / (age >= a).sum() for a in np.unique(age[dead])])


def _lives(rng):
    n = int(rng.integers(30, 50))
    age = 20 * rng.integers(1, 7, n)
    dead = rng.random(n) < 0.6
    dead[:2], age[:4] = True, (20, 40, 20, 60)
    dead[2:4] = False
    return age, dead


# --- turned around ------------------------------------------------------------------------------------------------

TIMES, P1 = 1.5, 28.0


def _turned(trace):
    if trace.recipe.output != "sparse" or len(trace.frames) < 10:
        return False, "The run must be sparse and rewired ten times at least."
    moved = moves(trace.store, trace.bins().of_label)
    head, tail = moved["head"], moved["tail"]
    p1 = trace.metrics()["P@1"]
    words = (f"A slot of a tail label was replaced {tail:.2f} times, one of a head label {head:.2f} times: "
             f"{tail / max(head, 1e-9):.2f} times as often (asked: {TIMES:g}), at a P@1 of {p1:.1f} % (asked: {P1:g}).")
    return bool(tail >= TIMES * head and p1 >= P1), words


EXERCISES = [
    Prediction(
        name="tail_moves", title="who moves more?", notebook="06", difficulty=2, importance=4, minutes=3,
        unit="times as often", tolerance=0.25, answer=_tail_over_head,
        statement="In the recorded run every rewire drops the smallest weights of the whole layer. Over the run, how "
                  "many times as often was a connection of a *tail* label replaced as one of a *head* label? Above 1: "
                  "the tail moves more. Below 1: the head does.",
        hints=("A label's weights start at the same sizes whatever its frequency. Whose stay small?",
               "The optimizer is Adam: a step is about one learning rate long, however small the gradient is."),
        traps=((1.0, "It is not the same for both: the drop score looks at sizes, and these come to differ."),),
        because="So the tail does *not* search on for ever while the head settles, as one might think: with Adam the "
                "connections of rare labels grow as fast as any, nearly always in one direction, and are soon too "
                "large to be dropped.",
        worked="Weights that are pushed to and fro stay small, and are dropped; a head label is pushed both ways. A "
               "tail label is nearly always absent, hence pushed one way, and Adam makes its steps as long as any."),
    WriteFunction(
        name="survival", title="how long does a connection live?", notebook="06", difficulty=3, importance=4,
        minutes=15, reference=survival, inputs=_lives,
        picture=curves("What share lives on?", "share", "age", lambda age, dead: np.unique(age[dead])),
        statement=r"""Write `survival(age, dead)`. Two arrays `[n]`: the age of each connection when it was last seen,
and whether it died at that age (else the run ended, and it was still alive). Return the share that lives on beyond each
age at which any died, in rising order of age (Kaplan and Meier, 1958):

$$S(a) = \prod_{t \le a} \Big( 1 - \frac{\text{died at age } t}{\text{seen to reach age } t} \Big) .$$""",
        hints=("`np.unique(age[dead])` are the ages at which something died.",
               "Those seen to reach age t are all with `age >= t`, dead later or not.",
               "The factors are multiplied up as you go from age to age."),
        mistakes=(
            Mistake("You left out those still alive", "They have been seen to live that long: below the line they "
                    "count, above it never. Without them everything dies.", _forgets_the_living),
            Mistake("You took the end of the run for death", "A connection alive at the end did not die at that age; "
                    "after it, it is only not seen any more.", _buries_the_living),
            Mistake("You divide by all, always", "A connection that was only seen for 20 steps cannot die at 100 "
                    "before your eyes: divide by those seen to reach that age.", _never_leave),
            Mistake("You forgot the product", "Each factor is the share that gets over one age; to be alive at 100 one "
                    "has to get over all ages before.", _not_a_product)),
        because="Young connections are at risk, old ones hardly: a connection that outlives its first rewire has found "
                "something, or has at least grown."),
    Knob(
        name="tail_searches_on", title="turn it around", notebook="06", difficulty=4, importance=4, minutes=15,
        condition=_turned,
        statement=f"""Find a recipe in which connections of **tail** labels are replaced at least {TIMES:g} times as
often as those of head labels, with at least ten rewires and without losing the model: P@1 of at least {P1:g} % on
`calls-small` in the notebook's steps.""",
        hints=("Which labels get the small gradients, and what does the optimizer make of them?",
               "`output_optimizer` need not be Adam. Another one wants another learning rate, `output_lr`.",
               "Start biases at the prior, or plain SGD takes long to bring them down (`bias_init`)."),
        because="Who moves is decided by whose weights are small, and that is the optimizer's doing as much as the "
                "corpus's. \"Tail connections keep searching\" is a sentence about SGD.",
        worked='`xe.Recipe.method("SET", rewire_interval=25, bias_init="prior", output_optimizer="sgd", '
               "output_lr=0.5)`: a slot is replaced 0.85 times in the head and 1.85 times in the tail, at a P@1 of "
               "31.6 % (seed 0)."),
]
