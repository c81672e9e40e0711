"""Exercises of notebook 03: the layer forwards and backwards, by hand; what masking costs."""

from __future__ import annotations

import torch

from .exercise import Mistake, Prediction, WriteFunction

# --- forward ------------------------------------------------------------------------------------------------------


def forward(x, weight, indices, bias):
    gathered = x[:, indices]  # [B, L, K]
    return (gathered * weight).sum(-1) + bias


def _without_bias(x, weight, indices, bias):
    return (x[:, indices] * weight).sum(-1)


def _bias_in_the_sum(x, weight, indices, bias):
    return forward(x, weight, indices, weight.shape[1] * bias)


def _first_features(x, weight, indices, bias):
    return x[:, :weight.shape[1]] @ weight.t() + bias


def _transposed(x, weight, indices, bias):
    return forward(x, weight, indices, bias).t()


def _layer(rng):
    batch, width, labels, fan_in = (int(n) for n in rng.integers((2, 8, 4, 2), (6, 14, 9, 6)))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    indices = torch.rand(labels, width, generator=generator).argsort(1)[:, :fan_in]
    return (torch.randn(batch, width, generator=generator), torch.randn(labels, fan_in, generator=generator), indices,
            torch.randn(labels, generator=generator))


# --- the gradient of the weights ----------------------------------------------------------------------------------


def gradient_of_weight(grad, x, indices):
    gathered = x[:, indices]  # [B, L, K]
    return (grad.unsqueeze(2) * gathered).sum(0)


def _mean_over_batch(grad, x, indices):
    return (grad.unsqueeze(2) * x[:, indices]).mean(0)


def _first_columns(grad, x, indices):
    return (grad.t() @ x)[:, :indices.shape[1]]


def _summed_inputs(grad, x, indices):
    return grad.sum(0).unsqueeze(1) * x.sum(0)[indices]


def _backward_of_weight(rng):
    x, weight, indices, _ = _layer(rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return torch.randn(len(x), len(weight), generator=generator), x, indices


# --- the gradient of x --------------------------------------------------------------------------------------------


def gradient_of_x(grad, weight, indices, width):
    dx = grad.new_zeros(len(grad), width)
    contribution = grad.unsqueeze(2) * weight  # [B, L, K]
    return dx.index_add_(1, indices.flatten(), contribution.flatten(1))


def _last_one_wins(grad, weight, indices, width):
    dx = grad.new_zeros(len(grad), width)
    for label, row in enumerate(indices):
        dx[:, row] = grad[:, label, None] * weight[label]
    return dx


def _without_weight(grad, weight, indices, width):
    dx = grad.new_zeros(len(grad), width)
    return dx.index_add_(1, indices.flatten(), grad.unsqueeze(2).expand(-1, -1, weight.shape[1]).flatten(1))


def _averaged(grad, weight, indices, width):
    readers = torch.bincount(indices.flatten(), minlength=width).clamp_min(1)
    return gradient_of_x(grad, weight, indices, width) / readers


def _backward_of_x(rng):
    x, weight, indices, _ = _layer(rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return torch.randn(len(x), len(weight), generator=generator), weight, indices, x.shape[1]


EXERCISES = [
    WriteFunction(
        name="sparse_forward", title="the layer, forwards", notebook="03", difficulty=2, importance=5, minutes=8,
        reference=forward, inputs=_layer,
        statement=r"""Write `forward(x, weight, indices, bias)` in plain PyTorch:

$$y_{b,l} = \mathrm{bias}_l + \sum_{k=1}^{K} w_{l,k}\; x_{b,\,\mathrm{idx}(l,k)} .$$

`x` is `[B, D]`, `weight` and `indices` are `[L, K]`, `bias` is `[L]`; return `[B, L]`. No loop is needed.""",
        hints=("Indexing with a matrix of indices works: what shape has `x[:, indices]`?",
               "It is `[B, L, K]`. Multiply by `weight`, which broadcasts over B, and sum over the last axis."),
        mistakes=(
            Mistake("The bias is missing", "Add `bias`: it broadcasts over the batch.", _without_bias),
            Mistake("The bias counts K times", "Sum over the K connections first, then add `bias` once.",
                    _bias_in_the_sum),
            Mistake("Every label reads the first K features", "`indices` says which features a label reads; you "
                    "took the first ones for all.", _first_features),
            Mistake("The result is transposed", "Return `[B, L]`: documents in rows, labels in columns.", _transposed)),
        because="This is the *naive gather* of the race below: right, and it makes a block of B x L x K numbers."),
    WriteFunction(
        name="sparse_gradient_of_weight", title="what each weight is told", notebook="03", difficulty=3, importance=5,
        minutes=10, reference=gradient_of_weight, inputs=_backward_of_weight,
        statement=r"""With $g = \partial \mathcal{L} / \partial y$ of shape `[B, L]`, write
`gradient_of_weight(grad, x, indices)`: the gradient of the $L \times K$ weights that exist, and of no others,

$$\frac{\partial \mathcal{L}}{\partial w_{l,k}} = \sum_b g_{b,l}\; x_{b,\,\mathrm{idx}(l,k)} .$$""",
        hints=("The same gathered block `x[:, indices]` as in the forward pass is what each weight was multiplied by.",
               "`grad.unsqueeze(2)` is `[B, L, 1]`: multiply, then sum over the batch."),
        mistakes=(
            Mistake("You averaged over the batch", "A gradient is a sum over documents; the mean over the batch is a "
                    "matter of the loss, which `grad` already holds.", _mean_over_batch),
            Mistake("You took the first K columns of the dense gradient", "Read the columns that `indices` names, row "
                    "by row; better, never make the dense gradient.", _first_columns),
            Mistake("You summed inputs and gradients apart", "The product has to be taken in each document, before "
                    "the sum over the batch.", _summed_inputs)),
        because="The dense gradient `[L, D]` is never formed: that is where the memory is saved, and why RigL "
                "(notebook 05), which grows by that gradient, has to look at it in chunks."),
    WriteFunction(
        name="sparse_gradient_of_x", title="what the encoder is told", notebook="03", difficulty=4, importance=5,
        minutes=15, reference=gradient_of_x, inputs=_backward_of_x,
        statement=r"""Write `gradient_of_x(grad, weight, indices, width)`, of shape `[B, D]`; `width` is $D$.
Feature $j$ hears every slot, place $k$ of label $l$, that reads it:

$$\frac{\partial \mathcal{L}}{\partial x_{b,j}} = \sum_{(l,k)\,:\;\mathrm{idx}(l,k) = j} g_{b,l}\; w_{l,k} .$$""",
        hints=("Start with zeros of shape `[B, width]` and add each slot's contribution at its feature.",
               "`dx.index_add_(1, where, what)` adds columns; several may go to one place.",
               "`what` is `(grad.unsqueeze(2) * weight).flatten(1)`, `where` is `indices.flatten()`."),
        mistakes=(
            Mistake("The last label that reads a feature wins", "`dx[:, row] = ...` overwrites what other labels "
                    "had put there. So does `dx[:, indices] += ...`: of an index that comes twice it keeps one. "
                    "`index_add_` adds them all.", _last_one_wins),
            Mistake("The weights are missing", "A slot passes on its gradient times its weight.", _without_weight),
            Mistake("You averaged over the readers of a feature", "It is a sum: a feature with many readers does hear "
                    "more.", _averaged)),
        because="This *scatter* is the hard one: many slots write to one place. A GPU needs atomics or a transposed "
                "index for it, and it is the only way that the encoder hears of the labels at all."),
    Prediction(
        name="masked_time", title="what a mask saves", notebook="03", difficulty=2, importance=4, minutes=3,
        unit="times", tolerance=0.35, answer=lambda result: result,
        statement="A *masked* dense layer multiplies its weights by a mask of zeros and ones before each use; 95.8 % "
                  "of them are zero. Predict how many times as fast as the plain dense layer one of its training steps "
                  "is (2 would be twice as fast, 0.5 half as fast). Then run the race.",
        hints=("Does a matrix product get any cheaper when some of its numbers are zero?",
               "The mask has to be read, and a masked copy of the weights written, at every step."),
        traps=((24.0, "That would hold if zeros were skipped. A dense product multiplies them like any other number."),
               (1.0, "The product costs the same, but the mask itself is more work on top.")),
        because="Zeros in a dense matrix are multiplied like any other number, and making the masked copy comes on "
                "top: a mask saves neither memory nor time.",
        worked="Less than 1: the same product as before, and on top of it a pass over all L x D weights to mask them."),
]
