"""What is measured during a run, beside the metrics: the encoder's gradient, the output layer's connections.

A probe looks and changes nothing: a recipe gives the same run, bit for bit, with probes and without. It draws its own
random numbers and leaves the global ones alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from .corpora import BIN_NAMES
from .encoders import Encoder, linear
from .frames import FrameStore
from .gradients import EncoderGradients
from .logit_free import Pairs, Part, chunk_size, compute_dtype, part_of
from .losses import LOGIT_GRADIENTS
from .model import Classifier
from .recipe import Recipe

MICRO_BATCHES = 4
TRIED = 1 << 26  # bytes to remember every connection ever tried, one each; a larger layer is not asked

Positives = tuple[Tensor, Tensor]  # (row in the batch, column) of every positive pair


@torch.no_grad()
def gradient_norms(encoder: Encoder) -> dict[str, float]:
    """Euclidean norm of the gradient of each encoder block: sqrt(sum of g_i^2 over its parameters), and of all of them
    together under "all"."""
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

    All of them are inner products between the parts (see `gradients`): the output layer gives each part's gradient of h
    in closed form, in float32, and together they go once through the encoder, backwards, on the graph of the training
    step's own forward pass. Under autocast that way back has the precision of the way there. The twin also takes the
    time of a dense layer at every step ("Probes" in benchmarks/NOTES.md).
    """

    def __init__(self, model: Classifier, recipe: Recipe, bin_of_label: np.ndarray,
                 optimizer: Callable[..., torch.optim.Optimizer]):
        self.model, self.recipe = model, recipe
        self.names = {name.strip() for name in recipe.probes.split(",")}
        self.encoder = EncoderGradients(model.encoder)
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
        fields = dense = None
        with torch.autocast(x.device.type, enabled=False):
            if twin:
                dense = self._twin.learn(x, positives, recipe.loss, 1 - weight, lr_factor, want_gradient=due)
            if due:
                fields = self._measure(step, h, x, positives, clusters, weight, dense)
        self.encoder.forget()
        return fields and fields | {"seconds": time.perf_counter() - started}

    def _measure(self, step: int, h: Tensor, x: Tensor, positives: Positives, clusters: Positives | None,
                 weight: float, dense: Tensor | None) -> dict[str, float]:
        loss, budget = self.recipe.loss, "budget" in self.names
        dx = input_gradient(self._layer, x, *positives, loss, self._bin if budget else None)  # [bins, B, D], or [1, ..]
        n_labels = len(dx)
        if dense is not None:
            dx = torch.cat([dx, dense.unsqueeze(0)])
        dx = (dx * (1 - weight)).to(x.dtype)
        parts = dx if x is h else torch.autograd.grad(x, h, dx, retain_graph=True, is_grads_batched=True)[0]
        own = [parts[:n_labels]]  # what makes the gradient of this step; the twin's part only stands beside it
        if weight > 0:
            own.append(input_gradient(self.model.auxiliary, h, *clusters, loss) * weight)
        own = torch.cat(own)
        masks = self._micro_batches(step, h) if "snr" in self.names and len(h) > 1 else None
        inner = self.encoder.inner_products(h, torch.cat([own, parts[n_labels:]]), masks, len(own)).cpu().numpy()
        whole, square = inner[:len(own)].sum(0), inner[:len(own), :len(own)].sum()
        found = {}
        if budget:
            for i, name in enumerate((*BIN_NAMES, "auxiliary")):
                part = i < len(own)  # there is no auxiliary part at weight 0
                found[f"budget/share/{name}"] = float(whole[i] / (square or math.nan)) if part else 0.0
                found[f"budget/norm/{name}"] = math.sqrt(max(inner[i, i], 0)) if part else 0.0
        if dense is not None:
            t, labels = len(own), inner[:n_labels, :n_labels].sum()
            found["twin/cosine"] = _cosine(inner[:n_labels, t].sum(), labels, inner[t, t])
            found["twin/cosine_total"] = _cosine(whole[t], square, inner[t, t])
            found["twin/norm_ratio"] = math.sqrt(max(labels, 0) / (inner[t, t] or math.nan))
        if masks is not None:
            share = masks.mean(1).double().cpu().numpy()  # of the documents
            mean_square = (np.diag(inner)[-len(masks):] / share).sum()  # of |g_i|^2, weighted
            # mean |g_i - g|^2 = mean |g_i|^2 - |g|^2
            found["snr"] = float(square / max(mean_square - square, 1e-300))
        return found

    def _micro_batches(self, step: int, h: Tensor) -> Tensor:
        """The documents of each, as masks [4, B] of zeros and ones."""
        order = np.random.default_rng([self.recipe.seed, 13, step]).permutation(len(h))
        masks = np.zeros((min(MICRO_BATCHES, len(h)), len(h)), np.float32)
        for mask, rows in zip(masks, np.array_split(order, len(masks)), strict=True):
            mask[rows] = 1
        return torch.from_numpy(masks).to(h.device)


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
            for p in self.layer.parameters():
                p.grad = torch.zeros_like(p)  # written anew at each step
        self.base_lr = recipe.output_lr
        self.optimizer = optimizer(self.layer.parameters(), lr=self.base_lr, weight_decay=recipe.output_weight_decay)

    @torch.no_grad()
    def learn(self, x: Tensor, positives: Positives, loss: str, scale: float, lr_factor: float,
              want_gradient: bool = False) -> Tensor | None:
        """One step of its own optimizer on x [B, D] at `scale` times the loss.

        Returns, if wanted, the gradient of the loss with respect to x, [B, D], as it was before that step.
        """
        layer, part = self.layer, part_of(self.layer)
        x = x.detach().to(layer.weight.dtype)
        dx = torch.zeros_like(x) if want_gradient else None
        for labels, *pairs in Pairs(*positives, len(x), layer.out_features).by_chunks(chunk_size(len(x))):
            grad = _logit_gradient(part, x, labels, pairs, loss)
            if want_gradient:
                dx.addmm_(grad, layer.weight[labels])
            grad *= scale
            torch.mm(grad.t(), x, out=layer.weight.grad[labels])
            torch.sum(grad, 0, out=layer.bias.grad[labels])
        for group in self.optimizer.param_groups:
            group["lr"] = self.base_lr * lr_factor
        self.optimizer.step()
        return dx


@torch.no_grad()
def input_gradient(layer: nn.Module, x: Tensor, rows: Tensor, columns: Tensor, loss: str,
                   bin_of_label: Tensor | None = None) -> Tensor:
    """Gradient of the loss (mean over documents) with respect to x [B, D], the part of each bin: [bins, B, D].

    dx[bin] = sum over the labels l of the bin of G[:, l] w_l^T, with G [B, L] the gradient of the logits, known in
    closed form (see `logit_free`); chunk of labels by chunk. (rows, columns) are the positive pairs, `bin_of_label` [L]
    holds 0, 1 or 2; without it all labels are one bin. Raises TypeError for a layer that cannot be gone through label
    by label.
    """
    x, n_bins = x.detach().to(compute_dtype(layer)), 1 if bin_of_label is None else len(BIN_NAMES)
    part = part_of(layer)
    found = x.new_zeros((n_bins, *x.shape))
    for i in range(n_bins):
        n_labels, mine, pairs = layer.out_features, None, (rows, columns)
        if bin_of_label is not None:
            mine = (bin_of_label == i).nonzero()[:, 0]
            n_labels, there = len(mine), bin_of_label[columns] == i
            pairs = rows[there], torch.searchsorted(mine, columns[there])
        for labels, *here in Pairs(*pairs, len(x), n_labels).by_chunks(chunk_size(len(x))):
            some = labels if mine is None else mine[labels]
            grad = _logit_gradient(part, x, some, here, loss)
            found[i] += part.part_gradients(grad, x, some, (True, False, False))[0]
    return found


def _logit_gradient(part: Part, x: Tensor, labels: slice | Tensor, pairs: Iterable[Tensor], loss: str) -> Tensor:
    """[B, n] of some labels, for the mean over documents."""
    return LOGIT_GRADIENTS[loss](part.part_scores(x, labels), *pairs).div_(max(len(x), 1))


def _cosine(inner: float, square: float, other_square: float) -> float:
    return float(inner / (math.sqrt(max(square * other_square, 0)) or math.nan))


# --- connections, during a run ------------------------------------------------------------------------------------


class ConnectionProbe:
    """Keeps account of the connections of a sparse layer from rewire to rewire; `rewired` gives the fields of an event.

    churn/BIN  slots that this rewire replaced / (K x labels of the bin)
    age/BIN    mean of step - (step at which it was grown) over the bin's connections, which is 0 for the first ones;
               those grown by this rewire have age 0
    explored   exploration rate: |connections that ever existed| / (L D) (ITOP, Liu et al., 2021); not there for layers
               with more than 67 million of them
    found/BIN  |support of a label, [S], among what it reads, [K]| / S, mean over the bin's labels, with `support`
               [L, S] the features that truly decide it. By chance K / D

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


# --- connections, from what was recorded --------------------------------------------------------------------------
# Pure functions of frames: of a `FrameStore` (`trace.store`), or of the indices [L, K] of one frame. `of_label` [L]
# holds the bin of each label (`trace.bins().of_label`). A label of a dense head (indices -1) has no connections here.


class Lives(NamedTuple):
    """Every connection that ever existed in a run, [n] each: its label, the step it was born (0: there from the start),
    and the step it died, -1 for those alive at the last frame."""

    label: np.ndarray
    born: np.ndarray
    died: np.ndarray


def lives(store: FrameStore) -> Lives:
    """The births and deaths of a run's connections; n is L K and what all rewires replaced."""
    label, born, died = [], [], []
    for number in range(1, len(store)):
        slots = store.changed(number)
        before = store.seek(number - 1)
        label.append(slots // before.indices.shape[1])
        born.append(before.born.reshape(-1)[slots])
        died.append(np.full(len(slots), store.steps[number]))
    last = store.seek(-1)
    alive = np.flatnonzero(last.indices.reshape(-1) >= 0)
    label.append(alive // last.indices.shape[1])
    born.append(last.born.reshape(-1)[alive])
    died.append(np.full(len(alive), -1))
    return Lives(*(np.concatenate(part).astype(np.int64) for part in (label, born, died)))


def survival(lives: Lives, end: int, of_label: np.ndarray, grown: bool = True
             ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The share of connections that outlives each age, by bin: {bin: (ages [a], share [a])}, from age 0 and share 1.

    Kaplan and Meier (1958): S(a) is the product over the ages t <= a at which connections died of 1 - d(t) / n(t), with
    d(t) those that died at age t and n(t) those seen to reach it. A connection alive at step `end`, the last frame's,
    is known to have lived that long, and no longer. `grown` leaves out the first connections: they are not grown but
    drawn, and start with weights. Bins without connections are left out; the curve ends with the oldest age reached.
    """
    chosen = lives.born > 0 if grown else np.ones(len(lives.born), bool)
    age = np.where(lives.died >= 0, lives.died, end) - lives.born
    found = {}
    for i, name in enumerate(BIN_NAMES):
        mine = chosen & (of_label[lives.label] == i)
        if not mine.any():
            continue
        ages, at = np.unique(age[mine], return_inverse=True)
        died = np.bincount(at, weights=lives.died[mine] >= 0)
        reached = len(at) - np.concatenate([[0], np.cumsum(np.bincount(at))[:-1]])
        share = np.cumprod(1 - died / reached)
        later = ages > 0  # at age 0, that of a connection grown by the last rewire, nothing has died
        found[name] = np.concatenate([[0], ages[later]]), np.concatenate([[1.0], share[later]])
    return found


def replaced(store: FrameStore) -> np.ndarray:
    """How often the slots of each label were replaced in the whole run: a sum over its K slots and all rewires, [L]."""
    indices = store.seek(0).indices
    found = np.zeros(len(indices), np.int64)
    for number in range(1, len(store)):
        found += np.bincount(store.changed(number) // indices.shape[1], minlength=len(indices))
    return found


def moves(store: FrameStore, of_label: np.ndarray) -> dict[str, float]:
    """How often a slot was replaced in the whole run: `replaced` / K, mean over each bin; NaN for one without slots."""
    first = store.seek(0).indices
    each, has = replaced(store) / first.shape[1], first[:, 0] >= 0
    members = {name: has & (of_label == i) for i, name in enumerate(BIN_NAMES)}
    return {name: float(each[mine].mean()) if mine.any() else math.nan for name, mine in members.items()}


def ages(store: FrameStore, of_label: np.ndarray) -> dict[str, np.ndarray]:
    """Mean of step - born over each bin's connections right after each frame, {bin: [frames]}; NaN for an empty bin."""
    found = np.full((len(BIN_NAMES), len(store)), np.nan)
    for number in range(len(store)):
        frame = store.seek(number)
        age = frame.step - frame.born.mean(1)
        for i in range(len(BIN_NAMES)):
            mine = (of_label == i) & (frame.indices[:, 0] >= 0)
            if mine.any():
                found[i, number] = age[mine].mean()
    return dict(zip(BIN_NAMES, found, strict=True))


def explored(store: FrameStore, width: int, of_label: np.ndarray) -> dict[str, np.ndarray]:
    """Exploration rate by bin, {bin: [frames]}: share of its labels x D connections that existed at any frame so far.

    ITOP (Liu et al., 2021) asks it of a whole layer; NaN for a bin without connections. Raises ValueError for a layer
    of more than 67 million connections.
    """
    first = store.seek(0).indices
    n_labels, fan_in = first.shape
    if n_labels * width > TRIED:
        raise ValueError(f"{n_labels:,} labels x {width:,} features are more connections than the {TRIED:,} that can "
                         f"be remembered; the rewire events hold what the run itself counted")
    has = first[:, 0] >= 0
    tried = np.zeros((n_labels, width), bool)
    tried[np.repeat(np.flatnonzero(has), fan_in), first[has].reshape(-1)] = True
    members = [has & (of_label == i) for i in range(len(BIN_NAMES))]
    found = np.full((len(BIN_NAMES), len(store)), np.nan)
    for number in range(len(store)):
        slots = store.changed(number)
        tried[slots // fan_in, store.seek(number).indices.reshape(-1)[slots]] = True
        share = tried.mean(1)
        for i, mine in enumerate(members):
            if mine.any():
                found[i, number] = share[mine].mean()
    return dict(zip(BIN_NAMES, found, strict=True))


def in_degree(indices: np.ndarray, width: int, of_label: np.ndarray | None = None) -> np.ndarray:
    """How many labels read each feature, d[j] = |{(l, k): indices[l, k] = j}|, [D].

    With `of_label` one row a bin, [3, D], which add up to it. Fair draws: L K / D.
    """
    if of_label is None:
        return np.bincount(indices[indices >= 0].astype(np.int64), minlength=width)
    return np.stack([in_degree(indices[of_label == i], width) for i in range(len(BIN_NAMES))])


def magnitude_spectrum(weight: np.ndarray, of_label: np.ndarray, points: int = 200) -> dict[str, np.ndarray]:
    """|weight| of each bin's connections from the largest to the smallest, read off at `points` even shares of them.

    `weight` [L, K] as `trace.frame(i).weight` has it. Bins without labels are left out.
    """
    share = np.linspace(1, 0, points)
    return {name: np.quantile(np.abs(weight[of_label == i]), share)
            for i, name in enumerate(BIN_NAMES) if (of_label == i).any()}


def overlap(indices: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Jaccard index of what two labels read, |A & B| / |A | B|, for each of `pairs` [n, 2].

    What fair draws have in common says `fair_overlap`.
    """
    a, b = indices[pairs[:, 0]], indices[pairs[:, 1]]
    common = (a[:, :, None] == b[:, None, :]).any(2).sum(1)
    return common / (a.shape[1] + b.shape[1] - common)


def fair_overlap(width: int, fan_in: int) -> float:
    """Mean Jaccard index of two fair draws of K out of D features: sum over c of P(c) c / (2 K - c), hypergeometric."""
    from scipy.stats import hypergeom  # half a second that not every run need wait for

    common = np.arange(fan_in + 1)
    return float((hypergeom.pmf(common, width, fan_in, fan_in) * common / (2 * fan_in - common)).sum())


def related_pairs(labels: csr_array, n: int = 2000) -> np.ndarray:
    """Pairs [n, 2] of labels that go together, from a label matrix [N, L].

    Those with the highest cosine n_ab / sqrt(n_a n_b) among the pairs on at least three documents together, fewer than
    `n` where there are no more.
    """
    together = (labels.T @ labels).tocoo()
    count = np.asarray(labels.sum(0)).ravel()
    a, b = together.coords
    keep = (a < b) & (together.data >= 3)
    a, b = a[keep], b[keep]
    cosine = together.data[keep] / np.sqrt(count[a] * count[b])
    return np.stack([a, b], axis=1)[np.argsort(-cosine, kind="stable")[:n]]


def shuffled_pairs(pairs: np.ndarray, seed: int = 0) -> np.ndarray:
    """The labels of pairs [n, 2] put together by chance: partners are shuffled, a label beside itself is left out."""
    shuffled = np.stack([pairs[:, 0], np.random.default_rng(seed).permutation(pairs[:, 1])], axis=1)
    return shuffled[shuffled[:, 0] != shuffled[:, 1]]
