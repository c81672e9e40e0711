"""The course's exercises: statement, checker, hints and solution of each, from one source.

    from xmc_explore import exercises as ex
    ex.show("precision_at_k")           # statement, hints to unfold, the solution last

    @ex.check("precision_at_k")         # checks on fresh random inputs; unsolved, the reference stands in
    def precision_at_k(scores, labels, k):
        ...

    ex.predict("adam_bytes", 12.3)      # a number before you look
    ex.reach("tail_above_dense", lab)   # turn knobs until a condition on the trace holds
    ex.progress()

To add one: a module of this folder, a `WriteFunction`, `Prediction` or `Knob` in its `EXERCISES`.
"""

from .checking import check, predict, reach, show, solution
from .exercise import Exercise, Knob, Mistake, Prediction, WriteFunction
from .progress import forget, progress
from .registry import all_exercises, find

__all__ = ["Exercise", "Knob", "Mistake", "Prediction", "WriteFunction", "all_exercises", "check", "find", "forget",
           "predict", "progress", "reach", "show", "solution"]
