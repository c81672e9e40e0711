"""The memory ledger of an output layer: bytes predicted from the sizes, and bytes measured from the tensors.

With Adam every trained number costs four: itself, its gradient and two moments. A fixed fan-in layer adds one index
for each weight. Logits are a matter of batch and labels, the same for every kind of output layer.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

BYTES = 4  # float32


def index_bytes(width: int) -> int:
    """Bytes of one index into `width` features: 2 while int16 holds it, else 4."""
    return 2 if width <= 32768 else 4


def predicted(kind: str, width: int, n_labels: int, size: int = 0, *, moments: int = 2) -> int:
    """Bytes of an output layer with gradient and optimizer moments: `kind` "dense", "sparse" or "bottleneck".

    `size` is the fan-in of a sparse layer or the width of a bottleneck; `moments` is 2 for Adam, 1 for SGD with
    momentum, 0 for plain SGD. Biases are counted.
    """
    copies = (2 + moments) * BYTES
    if kind == "dense":
        return n_labels * (width + 1) * copies
    if kind == "sparse":
        return n_labels * ((size + 1) * copies + size * index_bytes(width))
    if kind == "bottleneck":
        return (size * (width + 1) + n_labels * (size + 1)) * copies
    raise ValueError(f"kind={kind!r}; choose one of 'dense', 'sparse', 'bottleneck'")


def bottleneck_width(width: int, n_labels: int, fan_in: int) -> int:
    """The bottleneck whose memory comes closest to that of a sparse layer with this fan-in (both with Adam)."""
    budget = predicted("sparse", width, n_labels, fan_in)
    return max(1, round((budget / (4 * BYTES) - n_labels) / (n_labels + width + 1)))


def measured(module: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Bytes that the tensors of `module` take now: parameters, gradients, buffers, and their optimizer moments."""
    tensors = [*module.parameters(), *module.buffers()]
    for p in module.parameters():
        if p.grad is not None:
            tensors.append(p.grad)
        for optimizer in optimizers:
            state = optimizer.state.get(p, {}).values()
            tensors += [t for t in state if torch.is_tensor(t) and t.shape == p.shape]
    return sum(t.numel() * t.element_size() for t in tensors)
