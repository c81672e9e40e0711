"""Exercises of notebook 02: bytes a label, where a dense layer is the lighter one, and what fits into forty bytes."""

from __future__ import annotations

from .exercise import Knob, Mistake, Prediction, WriteFunction

BYTES_ALLOWED, PRECISION_ASKED = 40, 25.0

# --- bytes a label ------------------------------------------------------------------------------------------------


def bytes_a_label(fan_in, width, moments, gradients):
    numbers = fan_in + 1  # the weights and the bias
    copies = 1 + moments + gradients
    index = 2 if width <= 32_768 else 4
    return 4 * numbers * copies + index * fan_in


def _without_bias(fan_in, width, moments, gradients):
    return 4 * fan_in * (1 + moments + gradients) + (2 if width <= 32_768 else 4) * fan_in


def _bias_once(fan_in, width, moments, gradients):
    return _without_bias(fan_in, width, moments, gradients) + 4


def _indices_in_training(fan_in, width, moments, gradients):
    copies = 1 + moments + gradients
    return (4 * (fan_in + 1) + (2 if width <= 32_768 else 4) * fan_in) * copies


def _long_indices(fan_in, width, moments, gradients):
    return 4 * (fan_in + 1) * (1 + moments + gradients) + 8 * fan_in


def _always_a_gradient(fan_in, width, moments, gradients):
    return 4 * (fan_in + 1) * (2 + moments) + (2 if width <= 32_768 else 4) * fan_in


def _weights_alone(fan_in, width, moments, gradients):
    return 4 * (fan_in + 1) + (2 if width <= 32_768 else 4) * fan_in


def _always_int16(fan_in, width, moments, gradients):
    return bytes_a_label(fan_in, 1, moments, gradients)


def _one_feature_off(fan_in, width, moments, gradients):
    return bytes_a_label(fan_in, width + 1, moments, gradients)


def _layer(rng):
    widths = (768, 32_768, 32_768, 100_000, 100_000)  # how many features there are decides how wide an index is
    return (int(rng.integers(4, 129)), widths[rng.integers(len(widths))], int(rng.integers(0, 3)),
            bool(rng.integers(2)))


# --- forty bytes --------------------------------------------------------------------------------------------------


def _light_and_right(trace):
    each = trace.events["step"][0]["output_bytes"] / len(trace.label_frequency)
    precision = trace.metrics("test")["P@1"]
    words = (f"{each:.0f} bytes a label (at most {BYTES_ALLOWED}), P@1 {precision:.1f} % "
             f"(at least {PRECISION_ASKED:.0f} %).")
    return each <= BYTES_ALLOWED and precision >= PRECISION_ASKED, words


EXERCISES = [
    WriteFunction(
        name="bytes_a_label", title="the bill of one label", notebook="02", difficulty=2, importance=5, minutes=10,
        reference=bytes_a_label, inputs=_layer, tolerance=0.0,
        statement=r"""Write `bytes_a_label(fan_in, width, moments, gradients)`: what one label of a sparse output layer
costs while it trains, in bytes. It has `fan_in` weights and one bias, float32, 4 bytes each. Of each of these numbers
the optimizer keeps `moments` copies (Adam 2, SGD with momentum 1, plain SGD 0), and there is a gradient if `gradients`
is true; an update in place keeps none. Beside each weight stands its index: 2 bytes while int16 can name all `width`
features (0 to 32,767), else 4.""",
        hints=("How many numbers are *trained*? Each of them stands there 1 + moments + gradients times.",
               "Indices are not trained: each stands there once, whatever the optimizer is.",
               "`True` counts as 1 in a sum. `width <= 32_768` still fits int16, as indices start at 0."),
        mistakes=(
            Mistake("The bias is missing", "Each label has a bias, and it is trained like the weights: "
                    "`fan_in + 1` numbers.", _without_bias),
            Mistake("The bias stands there once", "It is trained like the weights, so it has a gradient and moments as "
                    "they have.", _bias_once),
            Mistake("The optimizer got moments of the indices", "An index is no parameter: it has neither gradient nor "
                    "moments, and stands there once.", _indices_in_training),
            Mistake("Indices of 8 bytes", "PyTorch's usual int64 would be the largest part of the bill; 2 bytes name "
                    "32,768 features.", _long_indices),
            Mistake("A gradient even in place", "With `gradients` false the weights change as soon as their gradient "
                    "is known, and none is kept.", _always_a_gradient),
            Mistake("The weights alone", "That is what a *trained* layer takes on disk. In training come gradients and "
                    "moments.", _weights_alone),
            Mistake("Indices of 2 bytes for any width", "int16 ends at 32,767: more features need 4 bytes.",
                    _always_int16),
            Mistake("int16 names one feature more", "Indices start at 0, so 32,768 features fit: `width <= 32_768`.",
                    _one_feature_off)),
        because="This is `xe.memory.predicted` for a sparse layer, divided by the labels: the next cell compares."),
    Prediction(
        name="lighter_than_dense", title="when sparse is the heavier one", notebook="02", difficulty=3, importance=5,
        minutes=6, unit="connections", tolerance=0.06, answer=768 * 2 / 18,
        statement="A dense layer keeps `768` weights a label in bfloat16, updated in place by plain SGD: no gradient, "
                  "no moment, 2 bytes a weight. A sparse layer is trained with Adam in float32, int16 indices. Biases "
                  "and logits aside: **below which fan-in is the sparse layer the lighter one?**",
        hints=("What does one *connection* cost: a weight, its gradient, two moments, its index?",
               "The dense layer's weights take 1,536 bytes a label. How many connections is that?"),
        traps=((768, "That compares numbers of weights. One sparse connection takes far more than one dense weight "
                     "here."),
               (384, "That forgets all but the float32 weight itself: gradient, two moments, index."),
               (96, "Nearly: the index counts, too."),
               (256, "That would be a sparse layer which is updated in place as well: weight and index, 6 bytes.")),
        because="The paper's fan-in is 128: with Adam such a layer is *heavier* than the dense one in bfloat16. "
                "Sparsity and low precision are not rivals, though: the sparse layer can shed its copies as well.",
        worked="A connection takes 4 bytes x (weight + gradient + 2 moments) + 2 bytes of index = 18; the dense layer "
               "768 x 2 = 1,536 bytes a label; 1,536 / 18 = 85.3."),
    Knob(
        name="forty_bytes", title="forty bytes a label", notebook="02", difficulty=3, importance=3, minutes=15,
        condition=_light_and_right,
        statement=f"""Find a recipe whose output layer takes **at most {BYTES_ALLOWED} bytes a label** in training, and
whose P@1 on `calls-small` is still **{PRECISION_ASKED:.0f} % or more** after the notebook's 885 steps. The recipe below
takes 160 bytes: 8 weights and a bias, each four times over, and 8 indices.""",
        hints=("Fewer connections, or fewer bytes for each? `xe.Recipe` has `fan_in`, `output_update`, "
               "`output_optimizer` and `output_dtype`.",
               "Without moments: `output_optimizer=\"sgd\", momentum=0.0`. Without a kept gradient: "
               "`output_update=\"in_place\"`. Plain SGD wants a far larger learning rate than Adam: try "
               "`output_lr=8.0`.",
               "`output_dtype=\"bfloat16\", rounding=\"stochastic\"` makes 4 bytes of weights to 2."),
        because="Moments, gradients and half of each weight went, and no precision with them: at this length plain SGD "
                "with a large rate does better than Adam, as it brings the biases down from zero sooner.",
        worked='`xe.Recipe.method("SET", output_update="in_place", output_optimizer="sgd", momentum=0.0, '
               'output_lr=8.0, output_dtype="bfloat16", rounding="stochastic")`: 8 x (2 + 2) + 4 = 36 bytes a '
               'label, and a P@1 of 31.8 ± 0.4 % (mean and standard deviation over three seeds).'),
]
