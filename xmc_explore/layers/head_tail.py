"""`HeadTail`: a dense layer for the most frequent labels, a sparse one for the rest (HASTE, ICML 2026)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fixed_fan_in import FixedFanIn
from .grouped import GroupedFixedFanIn


class HeadTail(nn.Module):
    """Scores [B, L] of which some labels come from the dense layer `head`, all others from the sparse layer `tail`.

    `head_labels` [H] are the labels of the head, in the order of its outputs; the tail has the others, in ascending
    order. Buffer `position` [L] int32: where a label stands among the outputs of head and tail, one after the other.
    """

    def __init__(self, head: nn.Linear, tail: FixedFanIn | GroupedFixedFanIn, head_labels: Tensor):
        super().__init__()
        self.head, self.tail = head, tail
        self.in_features, self.out_features = head.in_features, head.out_features + tail.out_features
        is_head = torch.zeros(self.out_features, dtype=torch.bool)
        is_head[head_labels] = True
        position = torch.empty(self.out_features, dtype=torch.int32)
        position[head_labels] = torch.arange(head.out_features, dtype=torch.int32)
        position[~is_head] = torch.arange(head.out_features, self.out_features, dtype=torch.int32)
        self.register_buffer("position", position)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, L]."""
        head = self.head(x)
        scores = torch.cat([head.t(), self.tail(x).to(head.dtype).t()])
        return scores.index_select(0, self.position).t()

    @property
    def weight(self) -> Tensor:
        """The weights of the tail; those of the head have the same dtype."""
        return self.tail.weight

    @property
    def bias(self) -> Tensor:
        """All biases [L], a copy."""
        return torch.cat([self.head.bias, self.tail.bias])[self.position.long()]

    def labels(self) -> tuple[Tensor, Tensor]:
        """The labels of the head and of the tail, in the order of their outputs."""
        return self.position.argsort().split([self.head.out_features, self.tail.out_features])

    def rows_of_labels(self) -> Tensor:
        """The row [L] of the tail's indices that each label reads, -1 for the labels of the head."""
        rows = self.position.long() - self.head.out_features
        inside = rows >= 0
        if isinstance(self.tail, GroupedFixedFanIn):
            rows[inside] = self.tail.group_of_label[rows[inside]].long()
        return rows.clamp_(min=-1)

    def split(self, rows: Tensor, columns: Tensor) -> tuple[tuple[nn.Module, Tensor, Tensor], ...]:
        """Positive pairs (rows, columns) as (part, rows, columns) for head and tail, each in the part's own columns."""
        at = self.position[columns].long()
        head, size = at < self.head.out_features, self.head.out_features
        return (self.head, rows[head], at[head]), (self.tail, rows[~head], at[~head] - size)

    def part_scores(self, x: Tensor, labels: slice | Tensor) -> Tensor:
        """Scores [B, n] of some labels for x [B, D], in the dtype of x, without autograd: see `logit_free`."""
        at = self.position[labels].long()
        head, scores = at < self.head.out_features, x.new_empty((len(at), len(x)))
        weight, bias = self.head.weight[at[head]].to(x.dtype), self.head.bias[at[head]].to(x.dtype)
        scores[head] = F.linear(x, weight, bias).t()
        scores[~head] = self.tail.part_scores(x, at[~head] - self.head.out_features).t()
        return scores.t()

    def part_gradients(self, grad: Tensor, x: Tensor, labels: slice | Tensor,
                       needs: tuple[bool, bool, bool] = (True, False, False)) -> tuple[Tensor, None, None]:
        """From the gradient [B, n] of these labels' scores that of x [B, D]; those of the weights are in two places."""
        at = self.position[labels].long()
        head = at < self.head.out_features
        dx, *_ = self.tail.part_gradients(grad[:, ~head], x, at[~head] - self.head.out_features, needs)
        return grad[:, head] @ self.head.weight[at[head]].to(x.dtype) + dx, None, None

    @torch.no_grad()
    def to_dense(self) -> Tensor:
        """The same weights as a dense [L, D] matrix: for tests and small pictures only."""
        return torch.cat([self.head.weight, self.tail.to_dense()])[self.position.long()]
