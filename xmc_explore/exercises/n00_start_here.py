"""Exercise of notebook 00: the bytes of a dense layer."""

from __future__ import annotations

from .exercise import Prediction

_WEIGHTS = 670_091 * 768
_GIB = 2**30

EXERCISES = [
    Prediction(
        name="dense_gibibytes", title="the bill of a dense layer", notebook="00", difficulty=1, importance=5, minutes=3,
        unit="GiB", tolerance=0.09, answer=16 * (_WEIGHTS + 670_091) / _GIB,
        statement="The corpus Amazon-670K has 670,091 labels; an encoder of the usual size gives 768 numbers. Predict "
                  "how many GiB (1 GiB is $2^{30}$ bytes) the dense layer between the two takes while Adam trains it "
                  "in float32, then run the cell below.",
        hints=("How many weights has a layer of 670,091 outputs and 768 inputs?",
               "Each is there four times: the weight, its gradient, and the two moments that Adam keeps.",
               "A float32 number takes 4 bytes: 16 bytes a weight."),
        traps=((4 * _WEIGHTS / _GIB, "Those are the weights alone. In training each has a gradient and two moments of "
                                     "Adam beside it: four numbers in all."),
               (8 * _WEIGHTS / _GIB, "Weights and gradients, but Adam keeps two moments of each weight as well."),
               (12 * _WEIGHTS / _GIB, "Three numbers a weight; it is four: weight, gradient, and *two* moments."),
               (4 * _WEIGHTS, "That is in bytes, and of the weights alone."),
               (16 * _WEIGHTS, "Right, in bytes; divide by $2^{30}$.")),
        because="A whole BERT encoder takes 1.6 GiB in the same way. The last layer is nearly the whole model.",
        worked="670,091 x 768 weights x 16 bytes = 8.2 x 10^9 bytes, divided by 2^30: 7.7 GiB."),
]
