"""`Recipe`: every choice of a run, as one frozen value that goes to JSON and back.

Option names follow the paper's code where it has them. Shares (`rewire_end`, `aux_cutoff`) are of the whole run, so a
recipe means the same thing for 200 steps and for 200,000.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .wording import did_you_mean

_CHOICES = {
    "encoder": ("bag", "transformer", "features"),
    "pooling": ("mean", "cls"),
    "intermediate_activation": ("relu", "none"),
    "bias_init": ("prior", "zero"),
    "output": ("sparse", "dense", "bottleneck"),
    "grouping": ("clusters", "frequency", "random"),
    "growth_mode": ("random", "gradient"),
    "prune_mode": ("fraction", "threshold"),
    "rewire_schedule": ("cosine", "constant"),
    "init_mode": ("zero", "uniform"),
    "aux_clustering": ("kmeans", "random"),
    "loss": ("bce", "squared_hinge"),
    "encoder_optimizer": ("adamw", "adam", "sgd"),
    "output_optimizer": ("adamw", "adam", "sgd"),
    "lr_schedule": ("cosine", "constant"),
    "autocast": ("none", "bfloat16"),
    "logits": ("plain", "chunked"),
    "output_update": ("optimizer", "in_place"),
    "output_dtype": ("float32", "bfloat16", "float8_e4m3fn"),
    "rounding": ("nearest", "stochastic"),
}
_SHARES = ("dropout", "rewire_fraction", "rewire_end", "aux_weight", "aux_cutoff", "momentum", "head_share")
_POSITIVE = ("hidden", "max_tokens", "fan_in", "group_size", "aux_clusters", "batch_size", "epochs", "loss_interval")
_NOT_NEGATIVE = ("intermediate", "bottleneck_width", "rewire_threshold", "rewire_interval", "encoder_lr", "output_lr",
                 "intermediate_lr", "aux_lr", "lr_factor", "encoder_weight_decay", "output_weight_decay", "warmup",
                 "eval_interval", "eval_documents", "checkpoint_interval", "probe_interval", "seed")
PROBES = ("budget", "twin", "snr")  # see `probes.GradientProbes`


@dataclass(frozen=True)
class Recipe:
    """Every choice of a run. `Recipe()` is SET with the auxiliary objective and prior biases, at laptop scale.

    Raises ValueError naming the option, its value and what is allowed.
    """

    # Encoder: "bag" = mean of pretrained token embeddings + MLP, "transformer" = a whole one end to end,
    # "features" = none, the output layer reads the corpus's features.
    encoder: str = "bag"
    encoder_model: str = "minilm"  # "minilm" is the installed package; else a folder or a name transformers can load
    pooling: str = "mean"
    hidden: int = 512  # width of the bag encoder
    max_tokens: int = 64
    dropout: float = 0.0

    # Intermediate layer between encoder and output layer; width 0 means none.
    intermediate: int = 0
    intermediate_activation: str = "relu"  # the paper's released forward pass has none

    # Output layer. A bottleneck of width 0 takes the width whose memory equals that of the sparse layer.
    output: str = "sparse"
    fan_in: int = 8
    bias_init: str = "prior"  # each label starts out as likely as it is frequent; "zero": as likely as not
    bottleneck_width: int = 0

    # After the paper (HASTE): labels that share their indices in groups, and the most frequent ones, which hold this
    # share of the assignments, in a dense layer of their own.
    group_size: int = 1
    grouping: str = "clusters"  # "frequency", "random": see `grouping.group_order`
    head_share: float = 0.0

    # Rewiring; an interval of 0 means never (static sparse).
    growth_mode: str = "random"  # "random" is SET, "gradient" is RigL
    prune_mode: str = "fraction"
    rewire_interval: int = 100
    rewire_fraction: float = 0.15
    rewire_threshold: float = 0.01
    rewire_schedule: str = "cosine"
    rewire_end: float = 0.66
    init_mode: str = "zero"
    reset_moments: bool = True  # the paper's code keeps them

    # Auxiliary objective; a weight of 0 means none. total = (1 - w) main + w aux, w falls to 0 at the cut-off.
    aux_weight: float = 0.8  # both losses are sums, and there are fewer clusters than labels; the paper has 0.4-0.5
    aux_cutoff: float = 0.4
    aux_clusters: int = 128
    aux_clustering: str = "kmeans"  # "random" is the paper's control

    # Optimisation.
    loss: str = "bce"
    batch_size: int = 64
    epochs: int = 5
    encoder_optimizer: str = "adamw"
    output_optimizer: str = "adamw"
    encoder_lr: float = 1e-3
    intermediate_lr: float = 1e-3
    output_lr: float = 5e-3
    aux_lr: float = 1e-3
    lr_factor: float = 1.0  # multiplies every learning rate: the live knob
    momentum: float = 0.9  # of SGD
    encoder_weight_decay: float = 0.01
    output_weight_decay: float = 1e-4
    warmup: int = 100  # steps
    lr_schedule: str = "cosine"
    autocast: str = "none"

    # Memory of the output layer, see `logit_free`: "chunked" never holds logits [B, L]; an update "in_place" holds no
    # gradient of the weights either (and is chunked, whatever `logits` says); fewer bits need SGD in place.
    logits: str = "plain"
    output_update: str = "optimizer"
    output_dtype: str = "float32"  # of the weights of labels; biases stay in float32
    rounding: str = "nearest"  # of weights of fewer bits after each step
    loss_interval: int = 1  # without logits, the loss of the output layer is computed every so many steps

    # Measuring: every how many steps (0: ten times a run), on how many test documents (0: all). The end sees them all.
    eval_interval: int = 0
    eval_documents: int = 2000

    # Looking at the encoder's gradient: every how many steps (0: never), at what. "twin" costs a dense layer.
    probe_interval: int = 0
    probes: str = "budget,twin,snr"

    # Every how many steps all that a branch needs goes to disk (0: never; a branch then begins at the start).
    checkpoint_interval: int = 0

    seed: int = 0

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            kind = {"str": str, "int": int, "float": (int, float), "bool": bool}[f.type]
            if not isinstance(value, kind) or (f.type != "bool" and isinstance(value, bool)):
                raise ValueError(f"Recipe: {f.name} must be of type {f.type}, such as {f.default!r}; got {value!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"Recipe: {name}={getattr(self, name)!r}; choose one of {allowed}")
        for names, low, high in ((_SHARES, 0, 1), (_POSITIVE, 1, float("inf")), (_NOT_NEGATIVE, 0, float("inf"))):
            for name in names:
                if not low <= getattr(self, name) <= high:
                    span = f"between {low} and {high}" if high == 1 else f"at least {low}"
                    raise ValueError(f"Recipe: {name} must be {span}; got {getattr(self, name)}")
        if self.seed >= 2**63:
            raise ValueError(f"Recipe: seed must be below 2**63; got {self.seed}")
        unknown = {name.strip() for name in self.probes.split(",")} - {*PROBES, ""}
        if unknown:
            raise ValueError(f"Recipe: probes={self.probes!r} names {', '.join(map(repr, sorted(unknown)))}; give some "
                             f"of {', '.join(PROBES)}, with commas between them")
        if self.output != "sparse" and (self.group_size > 1 or self.head_share > 0):
            raise ValueError(f"Recipe: group_size={self.group_size} and head_share={self.head_share} are about a "
                             f"sparse output layer; output is {self.output!r}")
        self._check_memory_options()

    def _check_memory_options(self) -> None:
        if self.loss_interval > 1 and not self.chunked:
            raise ValueError(f"Recipe: loss_interval={self.loss_interval} needs logits='chunked': with all logits in "
                             f"hand the loss is there at every step")
        if self.output_dtype == "float32":
            if self.rounding != "nearest":
                raise ValueError(f"Recipe: rounding={self.rounding!r} needs output_dtype='bfloat16' or "
                                 f"'float8_e4m3fn': float32 weights are not rounded")
        elif (self.output_update, self.output_optimizer, self.momentum) != ("in_place", "sgd", 0):
            raise ValueError(f"Recipe: output_dtype={self.output_dtype!r} needs output_update='in_place', "
                             f"output_optimizer='sgd' and momentum=0.0, as moments would take more memory than the "
                             f"weights; got {self.output_update!r}, {self.output_optimizer!r}, {self.momentum}")

    @property
    def rewires(self) -> bool:
        return self.output == "sparse" and self.rewire_interval > 0

    @property
    def chunked(self) -> bool:
        """Does the output layer go by in chunks of labels, so that no logits [B, L] are held?"""
        return self.logits == "chunked" or self.output_update == "in_place"

    def replace(self, **changes: Any) -> Recipe:
        """The same recipe with some options changed."""
        _check_names(changes)
        return replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe that `to_json` wrote. Raises ValueError for text that is not one."""
        if not isinstance(text, str):
            raise ValueError(f"not a recipe: expected text, got {type(text).__name__}")
        try:
            options = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a recipe: line {error.lineno}: {error.msg}") from None
        if not isinstance(options, dict):
            raise ValueError(f"not a recipe: expected an object of options, found {type(options).__name__}")
        _check_names(options)
        return cls(**options)

    @classmethod
    def method(cls, name: str, **changes: Any) -> Recipe:
        """A laptop recipe by the name of the method: one of `METHODS`, with options changed if you like.

        Biases start at zero, as far as is known of the paper's; `bias_init="prior"` is better and another story.
        """
        if name not in METHODS:
            raise ValueError(f"no method is called {name!r}; choose one of {', '.join(map(repr, METHODS))}")
        return cls().replace(**{"bias_init": "zero", **METHODS[name], **changes})

    @classmethod
    def paper(cls, dataset: str, **changes: Any) -> Recipe:
        """The published settings of SPARTEX for a data set: one of `PAPER`.

        From the authors' configuration files (what they ship, not always what the paper's text says; the text has the
        squared hinge for all but LF-AmazonTitles-131K). Cut-offs, given there in epochs, are shares of the run here.
        """
        if dataset not in PAPER:
            raise ValueError(f"no published settings for {dataset!r}; there are some for {', '.join(PAPER)}")
        return cls().replace(**{**_PAPER_COMMON, **PAPER[dataset], **changes})


def _check_names(options: dict[str, Any]) -> None:
    known = [f.name for f in fields(Recipe)]
    for name in options:
        if name not in known:
            raise ValueError(f"Recipe has no option {name!r}{did_you_mean(name, known)}")


# The options that a running run can change; every other needs a new model or a new order of the data.
LIVE = ("rewire_interval", "rewire_fraction", "rewire_threshold", "rewire_end", "growth_mode", "prune_mode",
        "reset_moments", "aux_weight", "aux_cutoff", "lr_factor", "loss", "loss_interval", "eval_interval",
        "eval_documents", "checkpoint_interval")

METHODS: dict[str, dict[str, Any]] = {
    "dense": dict(output="dense", aux_weight=0.0, output_lr=2e-3),
    "bottleneck": dict(output="bottleneck", aux_weight=0.0),
    "static": dict(rewire_interval=0, aux_weight=0.0),
    "SET": dict(aux_weight=0.0),
    "RigL": dict(growth_mode="gradient", aux_weight=0.0),
    "SET + intermediate": dict(intermediate=2048, aux_weight=0.0),
    "SET + auxiliary": dict(),
    # After HASTE.
    "grouped SET": dict(group_size=16, aux_weight=0.0),
    "grouped SET + head": dict(group_size=16, head_share=0.3, aux_weight=0.0),
    # After ELMO: weights in bfloat16 and nothing beside them, plain SGD in place with stochastic rounding.
    "dense, low precision": dict(output="dense", aux_weight=0.0, output_dtype="bfloat16", rounding="stochastic",
                                 output_update="in_place", output_optimizer="sgd", momentum=0.0, output_lr=8.0),
}

_PAPER_COMMON = dict(
    encoder="transformer", max_tokens=128, output="sparse", fan_in=128, growth_mode="random", init_mode="zero",
    reset_moments=False, rewire_end=0.66, loss="squared_hinge", encoder_optimizer="adamw", output_optimizer="adamw",
    encoder_weight_decay=0.01, output_weight_decay=1e-4, aux_lr=5e-4, intermediate_lr=2e-4, lr_schedule="cosine",
    autocast="bfloat16", intermediate_activation="none", eval_documents=0,
)
PAPER: dict[str, dict[str, Any]] = {
    "Wiki10-31K": dict(
        encoder_model="bert-base-uncased", dropout=0.6, intermediate=4096, fan_in=64, prune_mode="threshold",
        rewire_threshold=0.01, rewire_interval=300, batch_size=32, epochs=100, encoder_lr=1e-5, output_lr=0.01,
        warmup=1000, intermediate_lr=1e-2, aux_weight=0.0),
    "Wikipedia-500K": dict(
        encoder_model="bert-base-uncased", dropout=0.5, prune_mode="threshold", rewire_threshold=0.05,
        rewire_interval=600, batch_size=128, epochs=50, encoder_lr=5e-5, output_lr=0.05, warmup=1000,
        aux_weight=0.4, aux_cutoff=8 / 50, aux_clusters=8192),
    "Amazon-670K": dict(
        encoder_model="bert-base-uncased", pooling="cls", dropout=0.6, prune_mode="threshold", rewire_threshold=0.01,
        rewire_interval=800, batch_size=64, epochs=110, encoder_lr=1e-5, output_lr=0.01, warmup=1000,
        aux_weight=0.4, aux_cutoff=15 / 110, aux_clusters=8192),
    # Two batches of 128 are accumulated for one step there; the schedule of the fraction is constant in this mode.
    "Amazon-3M": dict(
        encoder_model="bert-base-uncased", pooling="cls", dropout=0.35, prune_mode="fraction", rewire_fraction=0.25,
        rewire_schedule="constant", rewire_interval=1500, batch_size=256, epochs=51, encoder_lr=5e-5, output_lr=0.05,
        warmup=10_000, aux_weight=0.0),
    "LF-AmazonTitles-131K": dict(
        encoder_model="sentence-transformers/msmarco-distilbert-base-v4", dropout=0.7, max_tokens=32,
        prune_mode="fraction", rewire_fraction=0.15, rewire_schedule="constant", rewire_interval=1000, loss="bce",
        encoder_optimizer="adam", output_optimizer="sgd", momentum=0.9, batch_size=512, epochs=100, encoder_lr=1e-5,
        output_lr=0.08, warmup=5000, aux_weight=0.4, aux_cutoff=12 / 100, aux_clusters=2048),
    "LF-WikiSeeAlso-320K": dict(
        encoder_model="sentence-transformers/paraphrase-distilroberta-base-v2", dropout=0.55, max_tokens=32,
        prune_mode="threshold", rewire_threshold=0.02, rewire_interval=800, batch_size=128, epochs=101,
        encoder_lr=2e-4, output_lr=0.01, warmup=5000, aux_weight=0.0),
}
