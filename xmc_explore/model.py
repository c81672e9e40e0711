"""The classifier: encoder -> dropout -> (intermediate layer) -> output layer, and beside it the auxiliary head.

    documents -> encoder -> h [B, E] --+--> intermediate -> x [B, D] -> output layer -> logits [B, L]
                                       +--> auxiliary head (dense)  -> cluster logits [B, C]   (training only)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .corpora import Corpus
from .encoders import Encoder, build_encoder, linear
from .grouping import group_order, head_labels
from .layers import FixedFanIn, GroupedFixedFanIn, HeadTail
from .memory import bottleneck_width
from .recipe import Recipe
from .rounding import DTYPES, round_to


class Dropout(nn.Module):
    """nn.Dropout with a generator of its own, so that two runs in one process do not disturb each other."""

    def __init__(self, p: float, seed: int):
        super().__init__()
        self.p, self.seed, self.generator = p, seed, None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.generator is None:
            self.generator = torch.Generator(device=x.device).manual_seed(self.seed)
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep / (1 - self.p)


class Classifier(nn.Module):
    """The model that a recipe describes, for a corpus.

    Parts, each a module or None: `encoder`, `intermediate`, `output`, `auxiliary`. Every part draws its initial values
    from its own seed: two recipes with one seed start from the same encoder whatever their output layers are.
    """

    def __init__(self, corpus: Corpus, recipe: Recipe):
        super().__init__()
        seeds = np.random.SeedSequence(recipe.seed).generate_state(5)
        generator = [torch.Generator().manual_seed(int(s)) for s in seeds]
        self.encoder: Encoder = build_encoder(corpus, recipe, generator[0])
        self.dropout = Dropout(recipe.dropout, int(generator[1].initial_seed()))
        width = self.encoder.width
        self.auxiliary: nn.Linear | None = None
        self._auxiliary_generator = generator[2]
        self.intermediate = None
        if recipe.intermediate:
            self.intermediate = nn.Sequential(linear(width, recipe.intermediate, generator[3]))
            if recipe.intermediate_activation == "relu":
                self.intermediate.append(nn.ReLU())
            width = recipe.intermediate
        self.width = width  # of what the output layer reads
        self.output = build_output(width, corpus, recipe, generator[4])
        bias, layer = first_bias(corpus, recipe), self.label_layer
        head, tail = layer.labels() if isinstance(layer, HeadTail) else (None, None)
        for part, labels in ((layer, slice(None)),) if head is None else ((layer.head, head), (layer.tail, tail)):
            part.bias.data.copy_(bias[labels])
            weight = part.weight  # drawn in float32, whatever it is held in
            weight.data = round_to(weight.data, DTYPES[recipe.output_dtype])

    def add_auxiliary(self, n_clusters: int) -> nn.Linear:
        """Give the model its auxiliary head, when a run first needs one."""
        self.auxiliary = linear(self.encoder.width, n_clusters, self._auxiliary_generator)
        return self.auxiliary

    def forward(self, batch: Any) -> Tensor:
        """Logits [B, L]."""
        return self.label_layer(self.features(batch)[0])

    def features(self, batch: Any, with_clusters: bool = False) -> tuple[Tensor, Tensor | None]:
        """What the labels' own layer reads, [B, D], and cluster logits where they were asked for: all but logits."""
        h = self.dropout(self.encoder(batch))
        x = h if self.intermediate is None else self.intermediate(h)
        if self.label_layer is not self.output:
            x = self.output[:-1](x)
        return x, self.auxiliary(h) if with_clusters else None

    @property
    def label_layer(self) -> nn.Module:
        """The layer that has a row of weights for each label: the output layer, or the last part of a bottleneck."""
        return self.output[-1] if isinstance(self.output, nn.Sequential) else self.output

    @property
    def sparse_layer(self) -> FixedFanIn | GroupedFixedFanIn | None:
        """The layer that can be rewired: the output layer, or its tail beside a dense head; None if there is none."""
        layer = self.output.tail if isinstance(self.output, HeadTail) else self.output
        return layer if isinstance(layer, (FixedFanIn, GroupedFixedFanIn)) else None

    def rows_of_labels(self) -> Tensor | None:
        """The row [L] of the sparse layer's indices that each label reads, -1 for none; None if each has its own."""
        if isinstance(self.output, HeadTail):
            return self.output.rows_of_labels()
        return self.output.group_of_label if isinstance(self.output, GroupedFixedFanIn) else None


def build_output(width: int, corpus: Corpus, recipe: Recipe, generator: torch.Generator) -> nn.Module:
    """The output layer [B, width] -> [B, L] of a recipe. Raises ValueError if `fan_in` exceeds the width."""
    n_labels = corpus.n_labels
    if recipe.output == "sparse":
        head = head_labels(corpus, recipe.head_share)
        tail = np.setdiff1d(np.arange(n_labels), head)
        order = group_order(corpus, recipe, tail) if recipe.group_size > 1 else None
        sparse = build_sparse(width, len(tail), recipe, order, generator)
        return HeadTail(linear(width, len(head), generator), sparse, torch.from_numpy(head)) if len(head) else sparse
    if recipe.output == "dense":
        return linear(width, n_labels, generator)
    rank = recipe.bottleneck_width or bottleneck_width(width, n_labels, recipe.fan_in)
    return nn.Sequential(linear(width, rank, generator), linear(rank, n_labels, generator))


def build_sparse(width: int, n_labels: int, recipe: Recipe, order: np.ndarray | None, generator: torch.Generator
                 ) -> FixedFanIn | GroupedFixedFanIn:
    """The sparse layer of a recipe, in groups if `order` [L] says which labels make them."""
    if order is None:
        return FixedFanIn(width, n_labels, recipe.fan_in, generator=generator)
    return GroupedFixedFanIn(width, n_labels, recipe.fan_in, recipe.group_size, order=torch.from_numpy(order),
                             generator=generator)


def first_bias(corpus: Corpus, recipe: Recipe) -> Tensor:
    """The output layer's bias [L] at the start.

    From zero, a step of Adam moves it by one learning rate, and hundreds of steps go by before the model has learned no
    more than that most labels are rare. "prior" starts there: at the log-odds of each label's frequency, or for the
    squared hinge at -1, where a label that a document does not carry costs nothing.
    """
    if recipe.bias_init == "zero":
        return torch.zeros(corpus.n_labels)
    if recipe.loss == "squared_hinge":
        return torch.full((corpus.n_labels,), -1.0)
    share = (torch.from_numpy(corpus.label_frequency) + 0.5) / (len(corpus.train) + 1)
    return share.logit().float()
