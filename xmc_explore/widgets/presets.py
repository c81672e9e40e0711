"""What the laboratory shows in a lesson: the knobs that it needs, and the recipe that it starts from."""

from __future__ import annotations

from typing import Any, NamedTuple

from .knobs import REWIRING

PROBE_INTERVAL = 40  # steps; a probe of the gradient's budget takes three quarters of a step (benchmarks/NOTES.md)
BUDGET = {"probe_interval": PROBE_INTERVAL, "probes": "budget"}  # who pushes the encoder is measured


class Preset(NamedTuple):
    """`knobs` are the options whose knobs are shown (None: all); `options` are what the recipe is changed by."""

    about: str
    knobs: tuple[str, ...] | None
    options: dict[str, Any]


PRESETS = {
    "everything": Preset("every knob", None, {}),
    "first steps": Preset("press Play, and change the learning rates", ("lr_factor",), {}),
    "rewiring": Preset("what rewiring does, without the auxiliary objective",
                       (*REWIRING, "rewire_now", "fan_in", "seed"), {"aux_weight": 0.0}),
    "head and tail": Preset("how connections of head and tail labels live and die",
                            ("rewire_interval", "rewire_fraction", "rewire_threshold", "rewire_now", "fan_in"), {}),
    "gradient flow": Preset("what a sparse layer lets through to the encoder, and two cures",
                            ("lr_factor", "aux_weight", "aux_cutoff", "fan_in", "intermediate"), BUDGET),
    "loss": Preset("binary cross-entropy or squared hinge", ("lr_factor", "loss", "fan_in", "seed"), {}),
}


def preset_of(name: str) -> Preset:
    """A preset by name. Raises ValueError listing what there is."""
    if name not in PRESETS:
        raise ValueError(f"no preset is called {name!r}; choose one of {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]
