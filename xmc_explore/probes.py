"""What is measured during a run, beside the metrics: the encoder's gradient, the output layer's connections.

A probe looks and changes nothing: a recipe gives the same run, bit for bit, with probes and without. It draws its own
random numbers and leaves the global ones alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .corpora import BIN_NAMES
from .encoders import Encoder, linear
from .logit_free import LOGIT_GRADIENTS, compute_dtype, loss_by_chunks, part_of
from .model import Classifier
from .recipe import Recipe

MICRO_BATCHES = 4
LOGITS = 1 << 20  # of a chunk of labels in hand at once
TRIED = 1 << 26  # bytes to remember every connection ever tried, one each; a larger layer is not asked

Positives = tuple[Tensor, Tensor]  # (row in the batch, column) of every positive pair


@torch.no_grad()
def gradient_norms(encoder: Encoder) -> dict[str, float]:
    """Euclidean norm of the gradient of each encoder block, and of all of them together under "all"."""
    squares = {}
    for name, parameters in encoder.blocks().items():
        squares[name] = 0.0
        for p in parameters:
            if p.grad is None:
                continue
            if p.grad.is_sparse:
                p.grad = p.grad.coalesce()  # a token that stands in several documents is one row from here on
                squares[name] += float(p.grad.values().square().sum())
            else:
                squares[name] += float(p.grad.square().sum())
    norms = {name: math.sqrt(s) for name, s in squares.items()}
    return {"all": math.sqrt(sum(squares.values())), **norms}


# --- the encoder's gradient ---------------------------------------------------------------------------------------


class GradientProbes:
    """Who pushes the encoder, and is the push worth anything? Measured every `recipe.probe_interval` steps.

    Let g be the gradient of the total loss (1 - w) main + w auxiliary with respect to the encoder's parameters, at one
    step. The labels' share of it is the encoder's response to W^T G, with G [L, B] the gradient of the logits, and so a
    sum over labels: g = g_head + g_torso + g_tail + g_auxiliary, exactly. The bins are those of `bins`. `recipe.probes`
    names what is measured of it, each the keys of an event:

    budget  "budget/norm/PART" = |g_PART|, and "budget/share/PART" = <g_PART, g> / |g|^2, what the part contributes
            along g. The four shares sum to 1; one below 0 pulls against the others. The norms do not sum to |g|.
    twin    "twin/cosine" = <g_labels, t> / (|g_labels| |t|) and "twin/norm_ratio" = |g_labels| / |t|, where g_labels is
            the part of all labels and t what the encoder would receive in its place from the `DenseTwin`.
            "twin/cosine_total" has the whole g for g_labels: what the auxiliary objective makes of it.
    snr     |g|^2 / mean_i |g_i - g|^2 with g_i the gradient on one of 4 micro-batches that the batch is split into at
            random (means weighted by their documents). Where documents have nothing in common it is about 1 / 3.

    In float32 whatever autocast says of the rest. Costs a backward pass of the encoder for each gradient named, and
    for the twin that of a dense layer at every step.
    """

    def __init__(self, model: Classifier, recipe: Recipe, bin_of_label: np.ndarray,
                 optimizer: Callable[..., torch.optim.Optimizer]):
        self.model, self.recipe = model, recipe
        self.names = {name.strip() for name in recipe.probes.split(",")}
        self.parameters = [p for p in model.encoder.parameters() if p.requires_grad]
        self._bin = torch.from_numpy(np.asarray(bin_of_label)).to(next(model.parameters()).device)
        self._optimizer = optimizer
        self._twin: DenseTwin | None = None
        self._layer = model.label_layer
        self._h: Tensor | None = None
        model.dropout.register_forward_hook(self._keep)

    def _keep(self, dropout: nn.Module, inputs: Any, output: Tensor) -> None:
        self._h = output if dropout.training else None

    def __call__(self, step: int, recipe: Recipe, x: Tensor, positives: Positives, clusters: Positives | None,
                 weight: float, lr_factor: float) -> dict[str, float] | None:
        """Look at a step between its forward and its backward pass: the fields of an event if one is due.

        `recipe` is that of the step (live knobs may have turned), x [B, D] what the labels' layer reads, `positives`
        and `clusters` are the pairs of the labels and of the auxiliary head, `weight` is w of the total loss. The dense
        twin learns from every step, so call it on every one.
        """
        started = time.perf_counter()
        h, self._h = self._h, None
        self.recipe = recipe
        due = step % recipe.probe_interval == 0
        twin = "twin" in self.names and hasattr(self._layer, "to_dense")
        if twin and self._twin is None:
            self._twin = DenseTwin(self._layer, self._optimizer, recipe)
        fields = None
        with torch.autocast(x.device.type, enabled=False):
            if due:
                fields = self._measure(step, h, x, positives, clusters, weight)
            if twin:
                self._twin.learn(x, positives, recipe.loss, 1 - weight, lr_factor)
        return fields and fields | {"seconds": time.perf_counter() - started}

    def _measure(self, step: int, h: Tensor, x: Tensor, positives: Positives, clusters: Positives | None,
                 weight: float) -> dict[str, float]:
        loss, n_bins = self.recipe.loss, len(BIN_NAMES)
        dx = input_gradient(self._layer, x, *positives, loss, self._bin, n_bins) * (1 - weight)  # [bins, B, D]
        dh = torch.zeros_like(h)
        if weight > 0:
            everything = torch.zeros(self.model.auxiliary.out_features, dtype=torch.int8, device=h.device)
            dh = input_gradient(self.model.auxiliary, h, *clusters, loss, everything, 1)[0] * weight
        roots = [(x, part) for part in dx] + [(h, dh)]
        labels = self._gradient((x, dx.sum(0)))
        whole = self._gradient((x, dx.sum(0)), (h, dh)) if weight > 0 else labels
        square = _dot(whole, whole) or math.nan
        found = {}
        if "budget" in self.names:
            for name, root in zip((*BIN_NAMES, "auxiliary"), roots, strict=True):
                part = self._gradient(root)
                found[f"budget/share/{name}"] = _dot(part, whole) / square
                found[f"budget/norm/{name}"] = math.sqrt(_dot(part, part))
        if self._twin is not None:
            dense = self._gradient((x, self._twin.gradient(x, positives, loss) * (1 - weight)))
            found["twin/cosine"] = _cosine(labels, dense)
            found["twin/cosine_total"] = _cosine(whole, dense)
            found["twin/norm_ratio"] = math.sqrt(_dot(labels, labels) / (_dot(dense, dense) or math.nan))
        if "snr" in self.names and len(x) > 1:
            size, mean_square = len(x), 0.0
            order = np.random.default_rng([self.recipe.seed, 13, step]).permutation(size)
            for rows in np.array_split(order, min(MICRO_BATCHES, size)):
                mask = torch.zeros(size, 1, dtype=torch.bool, device=x.device)
                mask[torch.from_numpy(rows)] = True
                part = self._gradient((x, dx.sum(0) * mask), (h, dh * mask))
                mean_square += _dot(part, part) * size / len(rows)  # weighted |g_i|^2
            found["snr"] = square / max(mean_square - square, 1e-300)  # mean |g_i - g|^2 = mean |g_i|^2 - |g|^2
        return found

    def _gradient(self, *roots: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Of the encoder's parameters, from the gradients of tensors of the forward pass: (tensor, its gradient)."""
        outputs, gradients = zip(*((y, g.to(y.dtype)) for y, g in roots), strict=True)
        found = torch.autograd.grad(outputs, self.parameters, gradients, retain_graph=True, allow_unused=True)
        # Of an embedding table the rows of this batch alone: every gradient has the same ones, as it lists all tokens.
        return [g.coalesce().values() if g.is_sparse else g for g in found if g is not None]


class DenseTwin:
    """A dense layer that lives beside a sparse one: what would the encoder hear if its last layer were dense?

    It begins as the sparse layer does: with its weights where that has connections, its biases, and fresh ones of a
    dense layer, U(-1, 1) / sqrt(D), everywhere else. Then it learns from the same x, on the same batches, by the same
    optimizer at the same learning rate, but what it would tell the encoder is only measured. (A twin whose other
    weights did not learn would say nothing: zero, they leave the gradient as it is; random, they are noise.)
    In a run that is continued from a frame the twin begins at that frame. Takes a dense layer's memory and time.
    """

    def __init__(self, layer: nn.Module, optimizer: Callable[..., torch.optim.Optimizer], recipe: Recipe):
        with torch.no_grad():
            sparse = layer.to_dense()
            seed = np.random.SeedSequence([recipe.seed, 17]).generate_state(1)[0]
            generator = torch.Generator().manual_seed(int(seed))
            self.layer = linear(sparse.shape[1], sparse.shape[0], generator).to(sparse.device, compute_dtype(layer))
            sparse = sparse.to(self.layer.weight.dtype)
            self.layer.weight.copy_(torch.where(sparse != 0, sparse, self.layer.weight))
            self.layer.bias.copy_(layer.bias)
        self.base_lr = recipe.output_lr
        self.optimizer = optimizer(self.layer.parameters(), lr=self.base_lr, weight_decay=recipe.output_weight_decay)

    def gradient(self, x: Tensor, positives: Positives, loss: str) -> Tensor:
        """Gradient of the loss with respect to x [B, D], if this were the output layer."""
        one_bin = torch.zeros(self.layer.out_features, dtype=torch.int8, device=x.device)
        return input_gradient(self.layer, x, *positives, loss, one_bin, 1)[0]

    def learn(self, x: Tensor, positives: Positives, loss: str, scale: float, lr_factor: float) -> None:
        """One step of its own optimizer; x [B, D] receives no gradient."""
        with torch.enable_grad():
            value = loss_by_chunks(self.layer, x.detach(), *positives, loss=loss, want_loss=False)
            (scale * value).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.base_lr * lr_factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def input_gradient(layer: nn.Module, x: Tensor, rows: Tensor, columns: Tensor, loss: str, bin_of_label: Tensor,
                   n_bins: int) -> Tensor:
    """Gradient of the loss (mean over documents) with respect to x [B, D], the part of each bin: [bins, B, D].

    dx[bin] = sum over the labels l of the bin of G[:, l] w_l^T, with G [B, L] the gradient of the logits, known in
    closed form (see `logit_free`); chunk of labels by chunk. (rows, columns) are the positive pairs, `bin_of_label` [L]
    holds 0, 1, ... Raises TypeError for a layer that cannot be gone through label by label.
    """
    part, n_labels = part_of(layer), len(bin_of_label)
    x = x.detach().to(compute_dtype(layer))
    found = x.new_zeros((n_bins, *x.shape))
    size = max(1, LOGITS // max(len(x), 1))
    for start in range(0, n_labels, size):
        labels = slice(start, min(start + size, n_labels))
        here = (columns >= labels.start) & (columns < labels.stop)
        grad = LOGIT_GRADIENTS[loss](part.part_scores(x, labels), rows[here], columns[here] - start) / len(x)
        bins = bin_of_label[labels]
        for i in bins.unique().tolist():
            found[i] += part.part_gradients(grad * (bins == i), x, labels)[0]
    return found


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float(torch.dot(p.flatten().double(), q.flatten().double())) for p, q in zip(a, b, strict=True))


def _cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return _dot(a, b) / (math.sqrt(_dot(a, a) * _dot(b, b)) or math.nan)


# --- connections, during a run ------------------------------------------------------------------------------------


class ConnectionProbe:
    """Keeps account of the connections of a sparse layer from rewire to rewire; `rewired` gives the fields of an event.

    churn/BIN  share of the bin's slots that this rewire replaced
    age/BIN    mean over the bin's connections of the steps since they were grown (from step 0 for the first ones);
               those grown by this rewire count as 0
    explored   exploration rate: share of all L x D connections that ever existed (ITOP, Liu et al., 2021); not there
               for layers with more than 67 million of them
    found/BIN  of the features that truly decide a label (`support` [L, S]), the share that it is connected to; mean
               over the bin's labels. By chance K / D

    `indices` [L, K] are the first ones, `bin_of_label` [L] holds 0, 1 or 2. In a layer whose labels share rows,
    `row_of` [L] is the row of each, -1 for a label that has none; such labels do not count. A bin without labels is
    left out.
    """

    def __init__(self, indices: np.ndarray, width: int, bin_of_label: np.ndarray, support: np.ndarray | None = None,
                 row_of: np.ndarray | None = None):
        self.indices, self.width, self.support = np.array(indices, dtype=np.int64), width, support
        self.born = np.zeros(self.indices.shape, np.int64)
        self.row_of = np.arange(len(self.indices)) if row_of is None else np.asarray(row_of)
        self.counted = self.row_of >= 0
        self._bin = np.asarray(bin_of_label)
        self._tried: np.ndarray | None = None
        if len(self.indices) * width <= TRIED:
            self._tried = np.zeros((len(self.indices), width), bool)
            np.put_along_axis(self._tried, self.indices, True, axis=1)

    def rewired(self, step: int, slots: np.ndarray, new: np.ndarray) -> dict[str, float]:
        """Take note that the flat `slots` [n] read the features `new` [n] from this step on."""
        self.indices.reshape(-1)[slots] = new
        self.born.reshape(-1)[slots] = step
        fan_in = self.indices.shape[1]
        rows = np.asarray(slots, dtype=np.int64) // fan_in
        found = self._by_bin("churn", np.bincount(rows, minlength=len(self.indices))[self.row_of] / fan_in)
        found |= self._by_bin("age", step - self.born.mean(1)[self.row_of])
        if self._tried is not None:
            self._tried[rows, new] = True
            found["explored"] = float(self._tried.mean(1)[self.row_of[self.counted]].mean())
        if self.support is not None:
            found |= self._by_bin("found", support_found(self.indices[self.row_of], self.support))
        return found

    def _by_bin(self, name: str, of_label: np.ndarray) -> dict[str, float]:
        chosen = {b: self.counted & (self._bin == i) for i, b in enumerate(BIN_NAMES)}
        return {f"{name}/{b}": float(of_label[mask].mean()) for b, mask in chosen.items() if mask.any()}


def support_found(indices: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Share of the features that truly decide each label, `support` [L, S], among those it reads, `indices` [L, K]."""
    return (np.asarray(support)[:, :, None] == indices[:, None, :]).any(2).mean(1)
