"""Inner products between gradients of an encoder: what their norms, shares and cosines are made of.

A *part* is a gradient of the encoder's output h, [B, E]: that of the loss of some labels, say. Pushed through the
encoder it gives g, a gradient of all its parameters. `EncoderGradients` says <g_p, g_q> of any two parts, exactly, on
the graph of a forward pass that has been; that graph stays whole.

Where every document goes through the encoder by itself (the bag of tokens), no g is made. In a linear layer of inputs
a [B, m], part p gives the outputs a gradient d_p [B, n] and the weights g_p = d_p^T a, and so

    <g_p, g_q> = sum over documents b, c of (a a^T)[b, c] (d_p d_q^T)[b, c]

which takes kernels [B, B] and no gradients [n, m] (for p = q: Goodfellow, 2015, "Efficient per-example gradient
computations"). A bias has a kernel of ones, an embedding bag that of the weights of its tokens. Through any other
encoder each part goes back by itself, and as many copies of the encoder's parameters are held as there are parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .encoders import BagEncoder, Encoder

ELEMENTS = 1 << 16  # of a gradient, added up in its own precision before double takes over


class EncoderGradients:
    """Inner products of gradients of an encoder's trainable `parameters`, at its latest forward pass in training."""

    def __init__(self, encoder: Encoder):
        self.parameters = [p for p in encoder.parameters() if p.requires_grad]
        self._seen: dict[nn.Module, tuple[tuple[Any, ...], Tensor]] = {}  # inputs and output of what has parameters
        if isinstance(encoder, BagEncoder) and all(p.requires_grad for p in encoder.parameters()):
            for module in (encoder.embedding, encoder.norm, encoder.first, encoder.second):
                module.register_forward_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        if module.training:
            self._seen[module] = (*args, *kwargs.values()), output

    def forget(self) -> None:
        """Let go of the latest forward pass."""
        self._seen.clear()

    def inner_products(self, h: Tensor, parts: Tensor, masks: Tensor | None = None, total: int | None = None) -> Tensor:
        """Of the gradients of `parts` [P, B, E], the matrix [P, P] in float64.

        `masks` [M, B] add M more, [P + M, P + M] in all: the sum of the first `total` parts (default: of all), for the
        documents of one mask alone. Each document belongs to one mask, so that these M add up to that sum.
        """
        total = len(parts) if total is None else total
        parts, masks = parts.to(h.dtype), parts.new_zeros((0, len(h))) if masks is None else masks
        by = self._by_documents if self._seen else self._one_by_one
        return by(h, parts, masks.to(h.dtype), total)

    def _by_documents(self, h: Tensor, parts: Tensor, masks: Tensor, total: int) -> Tensor:
        outputs = [output for _, output in self._seen.values()]
        deltas = torch.autograd.grad(h, outputs, parts, retain_graph=True, is_grads_batched=True)  # [P, B, n] each
        found = 0
        with torch.no_grad():
            for (module, (inputs, output)), delta in zip(self._seen.items(), deltas, strict=True):
                # A mask on h is one on what each document alone has brought about.
                delta = delta.to(torch.promote_types(delta.dtype, torch.float32))
                delta = torch.cat([delta, masks.unsqueeze(2) * delta[:total].sum(0)])
                found = found + _PRODUCTS[type(module)](module, inputs, output, delta)
        return found.double()

    def _one_by_one(self, h: Tensor, parts: Tensor, masks: Tensor, total: int) -> Tensor:
        n_parts = len(parts)
        whole = parts[:total].sum(0)
        # The last mask has what the others leave of the sum: no backward pass of its own.
        passes = [*parts, *(mask.unsqueeze(1) * whole for mask in masks[:-1])]
        every = [torch.autograd.grad(h, self.parameters, part, retain_graph=True, allow_unused=True) for part in passes]
        found = 0
        for gradients in zip(*every, strict=True):
            if gradients[0] is None:
                continue
            # Of a table of embeddings the rows of this batch alone: all list the same tokens.
            flat = [(g.coalesce().values() if g.is_sparse else g).flatten() for g in gradients]
            for columns in zip(*(f.split(ELEMENTS) for f in flat), strict=True):
                block = torch.stack(columns)
                found = found + (block @ block.t()).double()
        if not len(masks):
            return found
        mix = torch.eye(n_parts + len(masks), len(passes), dtype=torch.float64, device=found.device)
        mix[-1, :total], mix[-1, n_parts:] = 1, -1
        return mix @ found @ mix.t()


# --- what a module adds, [S, S], from the gradients [S, B, n] of its output -----------------------------------------


def _of_kernel(kernel: Tensor, delta: Tensor) -> Tensor:
    """sum over b, c of kernel[b, c] <delta_p[b], delta_q[c]>, for all p and q."""
    return delta.flatten(1) @ (kernel @ delta).flatten(1).t()


def _linear(module: nn.Linear, inputs: Sequence[Tensor], output: Tensor, delta: Tensor) -> Tensor:
    x = inputs[0].to(output.dtype).to(delta.dtype)  # under autocast rounded, as the layer reads it
    return _of_kernel(x @ x.t() + 1, delta)


def _layer_norm(module: nn.LayerNorm, inputs: Sequence[Tensor], output: Tensor, delta: Tensor) -> Tensor:
    x = F.layer_norm(inputs[0], module.normalized_shape, eps=module.eps)
    found = torch.cat([(delta * x).sum(1), delta.sum(1)], 1)  # few numbers: the gradients themselves
    return found @ found.t()


def _embedding_bag(module: nn.EmbeddingBag, inputs: Sequence[Tensor], output: Tensor, delta: Tensor) -> Tensor:
    ids, offsets, weights = inputs
    tokens, column = ids.unique(return_inverse=True)
    row = torch.searchsorted(offsets, torch.arange(len(ids), device=ids.device), right=True) - 1
    used = weights.new_zeros((len(offsets), len(tokens))).index_put_((row, column), weights, accumulate=True)
    return _of_kernel(used @ used.t(), delta)


_PRODUCTS = {nn.Linear: _linear, nn.LayerNorm: _layer_norm, nn.EmbeddingBag: _embedding_bag}
