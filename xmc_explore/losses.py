"""The losses of logits z [B, L], and the gradient of each with respect to z, which is known in closed form.

(rows, columns) [P] are the positive pairs, where y = 1; elsewhere y = 0. A loss is a sum over labels and a mean over
documents; a gradient is that of the sum over documents, and is written over z.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bce(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Binary cross-entropy: per document sum_l log(1 + exp(z_l)) - sum over its labels of z_l (SPARTEX, appendix C)."""
    return (F.softplus(logits).sum() - logits[rows, columns].sum()) / max(len(logits), 1)


def bce_gradient(z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """sigmoid(z) - y."""
    grad = z.sigmoid_()
    return grad.index_put_((rows, columns), grad.new_full((), -1.0), accumulate=True)


def squared_hinge(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Squared hinge max(0, 1 - (2y - 1) z)^2 (the paper takes the mean over labels, too)."""
    positive = logits[rows, columns]
    as_negative = torch.relu(1 + logits).square().sum()
    correction = (torch.relu(1 - positive).square() - torch.relu(1 + positive).square()).sum()
    return (as_negative + correction) / max(len(logits), 1)


def squared_hinge_gradient(z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """2 max(0, 1 + z) where y = 0, and -2 max(0, 1 - z) where y = 1."""
    positive = z[rows, columns]
    return z.add_(1).relu_().mul_(2).index_put_((rows, columns), -2 * (1 - positive).relu())


LOSSES = {"bce": bce, "squared_hinge": squared_hinge}
LOGIT_GRADIENTS = {"bce": bce_gradient, "squared_hinge": squared_hinge_gradient}
