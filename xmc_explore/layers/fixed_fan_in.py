"""`FixedFanIn`: a linear layer in which every output reads exactly K of the D inputs."""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor, nn

from .backends import pick, usable_device
from .op import DTYPES, fixed_fan_in, look

SCORE_ELEMENTS = 1 << 22  # entries of one [labels, D] block of scores


def index_dtype(in_features: int) -> torch.dtype:
    """The smallest index type that the kernels take: int16 while D fits, else int32."""
    return torch.int16 if in_features <= torch.iinfo(torch.int16).max + 1 else torch.int32


def random_indices(out_features: int, in_features: int, fan_in: int, *, generator: torch.Generator | None = None,
                   device: torch.device | str | None = None) -> Tensor:
    """[L, K] indices, each row K distinct features drawn uniformly and sorted, in memory of the order of L x K."""
    place = {"generator": generator, "device": device}
    if 4 * fan_in > in_features:  # a large share of few features: the best of a random score, chunk by chunk
        found = torch.empty((out_features, fan_in), dtype=index_dtype(in_features), device=device)
        for chunk in found.split(max(1, SCORE_ELEMENTS // in_features)):
            chunk.copy_(torch.rand((len(chunk), in_features), **place).topk(fan_in, dim=1).indices.sort(1).values)
        return found
    # A few of many: draw, then draw again what came twice. The first K distinct draws are a fair choice of K. By chunks
    # of labels, as `sort` makes positions of 8 bytes beside indices of 2.
    found = torch.empty((out_features, fan_in), dtype=index_dtype(in_features), device=device)
    for chunk in found.split(max(1, SCORE_ELEMENTS // fan_in)):
        chunk.copy_(torch.randint(in_features, chunk.shape, dtype=found.dtype, **place).sort(1).values)
        rows = torch.arange(len(chunk), device=device)
        while len(rows):
            part = chunk[rows]
            twice = torch.zeros_like(part, dtype=torch.bool)
            twice[:, 1:] = part[:, 1:] == part[:, :-1]
            part[twice] = torch.randint(in_features, (int(twice.sum()),), dtype=part.dtype, **place)
            chunk[rows] = part.sort(1).values
            rows = rows[twice.any(1)]
    return found


def checked_size(name: str, value: int) -> int:
    """A size, if it is a whole number from 1 up; raises ValueError otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be at least 1, a whole number; got {value!r}")
    return int(value)


class FanIn(nn.Module):
    """What the layers with fixed fan-in share: weight [L, K], bias [L] or None, and `n_rows` rows of indices [., K].

    A layer says with `indices_of` which row a label reads.
    """

    def __init__(self, in_features: int, out_features: int, fan_in: int, n_rows: int, bias: bool, backend: str,
                 device: torch.device | str | None, dtype: torch.dtype | None):
        super().__init__()
        in_features, out_features, fan_in = (checked_size(name, value) for name, value in (
            ("in_features", in_features), ("out_features", out_features), ("fan_in", fan_in)))
        if fan_in > in_features:
            raise ValueError(f"fan_in={fan_in} exceeds in_features={in_features}: a label cannot read more features "
                             f"than there are")
        if dtype not in (None, *DTYPES):
            raise TypeError(f"dtype must be one of {', '.join(map(str, DTYPES))}; got {dtype}")
        device = None if device is None else usable_device(device)
        self.in_features, self.out_features, self.fan_in, self.backend = in_features, out_features, fan_in, backend
        self.weight = nn.Parameter(torch.empty((out_features, fan_in), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.register_buffer("indices", torch.empty((n_rows, fan_in), dtype=index_dtype(in_features), device=device))
        pick(backend, self.weight.device)  # an impossible choice fails here, not at the first step

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new indices and weights, set the biases to zero."""
        self.indices.copy_(random_indices(len(self.indices), self.in_features, self.fan_in, generator=generator,
                                          device=self.indices.device))
        bound = 1 / math.sqrt(self.fan_in)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            if self.bias is not None:
                self.bias.zero_()

    def indices_of(self, labels: slice | Tensor) -> Tensor:
        """What some labels read, [n, K]."""
        raise NotImplementedError

    def check(self) -> None:
        """Look at the indices if somebody has written to them, as kernels trust them. Raises ValueError."""
        look(self.indices, self.in_features)

    def part_scores(self, x: Tensor, labels: slice | Tensor) -> Tensor:
        """Scores [B, n] of some labels for x [B, D], in the dtype of x, without autograd: see `logit_free`."""
        bias = None if self.bias is None else self.bias[labels].to(x.dtype)
        backend = pick(self.backend, x.device).module
        return backend.forward(x, self.weight[labels].to(x.dtype), self.indices_of(labels), bias)

    def part_gradients(self, grad: Tensor, x: Tensor, labels: slice | Tensor,
                       needs: tuple[bool, bool, bool] = (True, True, True)) -> tuple[Tensor | None, ...]:
        """From the gradient [B, n] of these labels' scores that of x [B, D], of weight [n, K] and of bias [n].

        None for those that are not needed.
        """
        backend = pick(self.backend, x.device).module
        return backend.backward(grad, x, self.weight[labels].to(x.dtype), self.indices_of(labels), needs)

    @torch.no_grad()
    def to_dense(self) -> Tensor:
        """The same weights as a dense [L, D] matrix: for tests and small pictures only."""
        dense = self.weight.new_zeros((self.out_features, self.in_features))
        return dense.scatter_(1, self.indices_of(slice(None)).long(), self.weight)

    @property
    def sparsity(self) -> float:
        """Share of the L x D connections that do not exist."""
        return 1 - self.fan_in / self.in_features


class FixedFanIn(FanIn):
    """Sparse linear layer with fixed fan-in: `y[b, l] = bias[l] + sum_k weight[l, k] * x[b, indices[l, k]]`.

    Parameters `weight` [L, K] and `bias` [L]; buffer `indices` [L, K], int16 while D fits, else int32, distinct
    in every row. Weights start uniform in +-1/sqrt(K) and biases at zero. `generator` draws the indices
    and the weights; without one torch's global generator does.
    Raises ValueError if a size is not positive or `fan_in` exceeds `in_features`.
    """

    def __init__(self, in_features: int, out_features: int, fan_in: int, bias: bool = True, *, backend: str = "auto",
                 generator: torch.Generator | None = None, device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None):
        super().__init__(in_features, out_features, fan_in, out_features, bias, backend, device, dtype)
        self.reset_parameters(generator)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., L]."""
        if torch.is_tensor(x) and x.shape[-1:] != (self.in_features,):
            raise ValueError(f"FixedFanIn reads {self.in_features} features; x has shape {list(x.shape)}")
        return fixed_fan_in(x, self.weight, self.indices, self.bias, backend=self.backend)

    def indices_of(self, labels: slice | Tensor) -> Tensor:
        """What some labels read, [n, K]."""
        return self.indices[labels]

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, fan_in={self.fan_in}, "
                f"bias={self.bias is not None}, sparsity={self.sparsity:.1%}, backend={self.backend!r}")
