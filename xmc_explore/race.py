"""The race: ways to compute one sparse output layer, in one process, taking turns.

Every peer computes y [B, L] from x [B, D] with K connections a label, or is what people use instead (dense, a
bottleneck of as many multiply-adds). `race` times forward, the gradient of x, the gradient of the weights, and a whole
training step with loss and Adam; `benchmarks/layer.py` makes the tables of it, notebook 03 runs it small. Two peers
know a whole step alone, in place and without logits: `FixedFanIn`, and a dense layer of few bits, as ELMO has it.
"""

from __future__ import annotations

import gc
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from . import memory
from .layers import FixedFanIn, GroupedFixedFanIn
from .layers.fixed_fan_in import random_indices
from .logit_free import step_in_place

STEP = "step with Adam"
KINDS = ("forward", "gradient of x", "gradient of weight", "forward and both gradients", STEP)
GROUP_SIZE = 16  # labels that share their connections in the grouped layer
YARDSTICKS = ("nn.Linear", "FixedFanIn")  # a row says how many times as fast it is as these
POSITIVES = 5  # labels a document in the step's loss
RESERVE = 2 << 30  # bytes of memory that a race leaves free
SAMPLE_SECONDS = 0.001


class Shape(NamedTuple):
    """Sizes of one race: documents in the batch, input width, labels, connections a label."""

    batch: int
    width: int
    n_labels: int
    fan_in: int

    @property
    def multiply_adds(self) -> int:
        return self.batch * self.n_labels * self.fan_in


# --- the peers ----------------------------------------------------------------------------------------------------


class MaskedDense(nn.Module):
    """A dense layer whose unwanted weights are multiplied by 0: what "sparse" often means."""

    def __init__(self, shape: Shape, device: torch.device):
        super().__init__()
        self.linear = nn.Linear(shape.width, shape.n_labels, device=device)
        indices = random_indices(shape.n_labels, shape.width, shape.fan_in, device=device).long()
        self.register_buffer("mask", torch.zeros_like(self.linear.weight, dtype=torch.bool).scatter_(1, indices, True))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight * self.mask, self.linear.bias)


class _Rows(nn.Module):
    """Weights [L, K], indices [L, K] and biases [L] as plain tensors."""

    def __init__(self, shape: Shape, device: torch.device):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape.n_labels, shape.fan_in, device=device) / shape.fan_in**0.5)
        self.bias = nn.Parameter(torch.zeros(shape.n_labels, device=device))
        indices = random_indices(shape.n_labels, shape.width, shape.fan_in, device=device)
        self.register_buffer("indices", indices.int())


class Gather(_Rows):
    """x[:, indices] times the weights, summed: one line, and a block of B x L x K numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, self.indices.long()] * self.weight).sum(-1) + self.bias


class EmbeddingBag(_Rows):
    """A label is a weighted bag of rows of x transposed; the gradients are autograd's."""

    def forward(self, x: Tensor) -> Tensor:
        rows = F.embedding_bag(self.indices, x.t().contiguous(), mode="sum", per_sample_weights=self.weight)
        return rows.t() + self.bias


class _CSRProduct(torch.autograd.Function):
    """y^T = W x^T with torch's CSR kernels, and the gradients that these kernels offer."""

    @staticmethod
    def forward(ctx, x, values, layer):
        ctx.layer = layer
        ctx.save_for_backward(x, values)
        return torch.mm(layer.matrix(values), x.t()).t()

    @staticmethod
    def backward(ctx, grad):
        (x, values), layer = ctx.saved_tensors, ctx.layer
        need_x, need_values, _ = ctx.needs_input_grad
        dx = torch.mm(layer.transposed(values), grad.t()).t() if need_x else None
        pattern = layer.matrix(torch.zeros_like(values))
        dvalues = torch.sparse.sampled_addmm(pattern, grad.t(), x).values().view_as(values) if need_values else None
        return dx, dvalues, None


class TorchCSR(_Rows):
    """torch's compressed sparse rows (MKL on the CPU, cuSPARSE on CUDA); the transposed pattern is made once."""

    def __init__(self, shape: Shape, device: torch.device):
        super().__init__(shape, device)
        self.size = (shape.n_labels, shape.width)
        self.indices.copy_(self.indices.sort(1).values)
        starts = torch.arange(0, shape.n_labels * shape.fan_in + 1, shape.fan_in, dtype=torch.int32, device=device)
        self.register_buffer("starts", starts)
        self.register_buffer("order", torch.argsort(self.indices.flatten(), stable=True))
        counts = torch.bincount(self.indices.flatten().long(), minlength=shape.width)
        self.register_buffer("t_starts", F.pad(counts.cumsum(0), (1, 0)).int())
        self.register_buffer("t_indices", (self.order // shape.fan_in).int())
        with warnings.catch_warnings():  # torch calls this format beta, once a process
            warnings.simplefilter("ignore")
            self.matrix(self.weight.detach())

    def matrix(self, values: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(self.starts, self.indices.flatten(), values.flatten(), self.size,
                                       check_invariants=False)

    def transposed(self, values: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(self.t_starts, self.t_indices, values.flatten()[self.order], self.size[::-1],
                                       check_invariants=False)

    def forward(self, x: Tensor) -> Tensor:
        return _CSRProduct.apply(x, self.weight, self) + self.bias


class ScipyCSR(nn.Module):
    """SciPy's compressed sparse rows: forward only, one thread."""

    def __init__(self, shape: Shape, device: torch.device):
        super().__init__()
        rows = _Rows(shape, device)
        starts = np.arange(0, shape.n_labels * shape.fan_in + 1, shape.fan_in)
        self.matrix = csr_array((rows.weight.detach().numpy().ravel(), rows.indices.numpy().ravel(), starts),
                                shape=(shape.n_labels, shape.width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.matrix @ np.ascontiguousarray(x.detach().t().numpy())).t()


class DenseBfloat16(nn.Linear):
    """A dense layer with weights in bfloat16 and biases in float32; it is trained in place (ELMO)."""

    def __init__(self, shape: Shape, device: torch.device):
        super().__init__(shape.width, shape.n_labels, device=device, dtype=torch.bfloat16)
        self.bias.data = self.bias.data.float()


def _grouped(shape: Shape, device: torch.device) -> nn.Module:
    """Groups of 16 labels that share their connections."""
    return GroupedFixedFanIn(shape.width, shape.n_labels, shape.fan_in, GROUP_SIZE, device=device)


def _bottleneck(shape: Shape, device: torch.device) -> nn.Module:
    """Two dense layers with as many multiply-adds as the sparse one."""
    rank = max(1, round(shape.n_labels * shape.fan_in / (shape.n_labels + shape.width)))
    return nn.Sequential(nn.Linear(shape.width, rank, device=device), nn.Linear(rank, shape.n_labels, device=device))


@dataclass(frozen=True)
class Peer:
    """A contestant: `build(shape, device)` makes it; `numbers(shape)` counts its weights, `extra(shape)` further bytes.

    `held` is how many bytes a number takes with its gradient and moments; `trains` says whether there are any,
    `cpu_only` whether the peer runs on the CPU alone. One that trains `in_place` holds neither gradients nor logits,
    and does nothing but whole steps; with weights of few bits they are steps of plain SGD, rounded stochastically.
    """

    name: str
    build: Callable[[Shape, torch.device], nn.Module]
    numbers: Callable[[Shape], int]
    extra: Callable[[Shape], int] = lambda shape: 0
    held: int = 16
    trains: bool = True
    cpu_only: bool = False
    in_place: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it can be timed at."""
        return (STEP,) if self.in_place else KINDS if self.trains else KINDS[:1]

    def bytes_needed(self, shape: Shape) -> int:
        """A guess at the bytes of a whole step: weight, gradient, moments, logits and their gradient, what is extra."""
        logits = 0 if self.in_place else 12 * shape.batch * shape.n_labels
        return self.numbers(shape) * self.held + logits + self.extra(shape)


def _sparse(shape: Shape) -> int:
    return shape.n_labels * (shape.fan_in + 1)


def _dense(shape: Shape) -> int:
    return shape.n_labels * (shape.width + 1)


def _index(shape: Shape) -> int:
    return 4 * shape.n_labels * shape.fan_in


PEERS = {peer.name: peer for peer in (
    Peer("FixedFanIn", lambda s, device: FixedFanIn(s.width, s.n_labels, s.fan_in, device=device), _sparse, _index),
    Peer("FixedFanIn, in place", lambda s, device: FixedFanIn(s.width, s.n_labels, s.fan_in, device=device), _sparse,
         _index, held=12, in_place=True),
    Peer("nn.Linear", lambda s, device: nn.Linear(s.width, s.n_labels, device=device), _dense),
    Peer("dense bfloat16, in place", DenseBfloat16, _dense, held=2, in_place=True),
    Peer("masked dense", MaskedDense, _dense, lambda s: 5 * _dense(s)),
    Peer("torch CSR", TorchCSR, _sparse, lambda s: 5 * _index(s)),
    Peer("embedding_bag", EmbeddingBag, _sparse, _index),
    Peer("naive gather", Gather, _sparse, lambda s: 16 * s.multiply_adds),
    Peer("scipy CSR", ScipyCSR, _sparse, _index, held=4, trains=False, cpu_only=True),
    Peer("GroupedFixedFanIn", _grouped, _sparse, lambda s: _index(s) // GROUP_SIZE),
    Peer("GroupedFixedFanIn, in place", _grouped, _sparse, lambda s: _index(s) // GROUP_SIZE, held=12, in_place=True),
    Peer("bottleneck, equal FLOPs", _bottleneck, _sparse),
)}


# --- the race -----------------------------------------------------------------------------------------------------


def race(shapes: Iterable[Shape], peers: Sequence[str] | None = None, *, repeats: int = 5, kinds: Sequence[str] = KINDS,
         device: str | torch.device = "cpu", seconds: float = 60.0, patience: float = math.inf, progress: bool = True
         ) -> list[dict[str, Any]]:
    """Time `peers` (all, unless named) on each shape; one row for each shape, peer and kind.

    A row has the sizes, "peer" and "kind", and either a "note" that says why there is no time, or:
    "median ms", "low ms", "high ms" (quartiles) of "repeats" turns; "times nn.Linear" and "times FixedFanIn", how many
    times as fast as these, where they ran in the same turns; for a step "held MiB" (weights, indices and moments) and
    "peak MiB" (what it adds to the process at its highest; blocks that an allocator kept from before are not seen).
    Peers take turns; those that do not fit into memory together do so in smaller groups, each with FixedFanIn in it,
    whose rows are those of the first group, where nn.Linear is.
    After `seconds` for a shape no further repeat is begun, though at least three are made. What takes longer
    than `patience` seconds, once it is warm, gets no more turns; a peer whose median is above goes without later shapes
    that are nowhere smaller. The "note" says so.
    Raises ValueError for an unknown peer or kind.
    """
    names = list(peers or PEERS)
    for name, known in ((*((n, PEERS) for n in names), *((k, KINDS) for k in kinds))):
        if name not in known:
            raise ValueError(f"{name!r} is not one of {', '.join(map(repr, known))}")
    device = torch.device(device)
    shapes, turns = [Shape(*shape) for shape in shapes], (repeats + 1) * len(names)
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=turns * len(shapes), desc="race", unit="turn", disable=not progress)
    for number, shape in enumerate(shapes, 1):
        slow = _too_slow(shape, rows, patience)
        for i, (group, left_out) in enumerate(_groups(shape, [name for name in names if name not in slow], device)):
            left_out |= slow if i == 0 else {}
            found = _compared(_turns(shape, group, repeats, kinds, device, seconds, patience, bar.update))
            rows += [row for row in found if i == 0 or row["peer"] not in YARDSTICKS]
            rows += [{**shape._asdict(), "peer": name, "kind": kind, "note": why} for name, why in left_out.items()
                     for kind in kinds]
        bar.update(turns * number - bar.n)  # not all had all their turns
    bar.close()
    return rows


def _groups(shape: Shape, names: Sequence[str], device: torch.device) -> list[tuple[list[str], dict[str, str]]]:
    """Peers that fit into memory together, and with the first group those that do not fit at all, with the reason."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    free -= RESERVE
    needs = {name: PEERS[name].bytes_needed(shape) for name in names}
    why = {name: f"not run: a step needs about {need / 2**30:.1f} GiB, {max(free, 0) / 2**30:.1f} GiB are free"
           for name, need in needs.items() if need > free}
    why |= {name: "not run: CPU only" for name in names if PEERS[name].cpu_only and device.type != "cpu"}
    base = [name for name in names if name == "FixedFanIn" and name not in why]
    groups: list[list[str]] = [[]]
    for name in sorted(names, key=lambda name: name not in YARDSTICKS):  # these two together
        if name in why or name in base:
            continue
        if sum(needs[n] for n in (*base, *groups[-1], name)) > free and groups[-1]:
            groups.append([])
        groups[-1].append(name)
    return [(base + sorted(group, key=names.index), why if i == 0 else {}) for i, group in enumerate(groups)]


def _too_slow(shape: Shape, rows: Sequence[dict[str, Any]], patience: float) -> dict[str, str]:
    """Peers that took longer than `patience` at a shape that is nowhere larger, with the reason."""
    why = {}
    for row in rows:
        if row.get("median ms", 0.0) > 1e3 * patience and all(row[k] <= v for k, v in shape._asdict().items()):
            at = ", ".join(f"{k}={row[k]}" for k in Shape._fields)
            why.setdefault(row["peer"], f"not run: {row['kind']} took {row['median ms'] / 1e3:.1f} s at {at}")
    return why


def _turns(shape: Shape, names: Sequence[str], repeats: int, kinds: Sequence[str], device: torch.device,
           seconds: float, patience: float, done: Callable[[], Any]) -> list[dict[str, Any]]:
    contestants = {name: _Contestant(PEERS[name], shape, device) for name in names}
    times: dict[tuple[str, str], list[float]] = {}
    peaks: dict[str, float] = {}
    started = time.perf_counter()
    for repeat in range(repeats + 1):
        for name, contestant in contestants.items():
            for kind in kinds:
                taken = times.setdefault((name, kind), [])
                if kind not in contestant.peer.kinds or taken and taken[-1] > patience:
                    continue
                if repeat == 0 and kind == STEP:  # the first turn compiles and touches memory: not timed
                    contestant.run(kind)
                    peaks[name] = contestant.peak(kind)
                    continue
                took = contestant.run(kind)
                if repeat:
                    taken.append(took)
            done()
        if repeat >= 3 and time.perf_counter() - started > seconds:
            break
    rows = []
    for name in names:
        for kind in kinds:
            row = {**shape._asdict(), "peer": name, "kind": kind}
            if taken := times[name, kind]:
                ms = 1e3 * np.array(taken)
                row |= {"median ms": float(np.median(ms)), "low ms": float(np.percentile(ms, 25)),
                        "high ms": float(np.percentile(ms, 75)), "repeats": len(ms)}
                if kind == STEP:
                    row |= {"held MiB": contestants[name].held() / 2**20, "peak MiB": peaks[name] / 2**20}
                if taken[-1] > patience:
                    row["note"] = f"no more turns: the last took longer than {patience:g} s"
            else:
                row["note"] = f"{PEERS[name].kinds[0]} only"
            rows.append(row)
    contestants.clear()
    gc.collect()
    return rows


class _Contestant:
    """A peer on one shape, and what it is given to do."""

    def __init__(self, peer: Peer, shape: Shape, device: torch.device):
        self.peer, self.device = peer, device
        generator = torch.Generator().manual_seed(0)
        self.layer = peer.build(shape, device)
        self.parameters = list(self.layer.parameters())
        self.x = torch.randn(shape.batch, shape.width, generator=generator).to(device).requires_grad_(peer.trains)
        if not peer.in_place:
            with torch.no_grad():  # laid out in memory as the peer's own output is: that is how a loss hands it back
                self.grad = torch.empty_like(self.layer(self.x))
            self.grad.copy_(torch.randn(shape.batch, shape.n_labels, generator=generator))
        labels = torch.randint(shape.n_labels, (shape.batch, POSITIVES), generator=generator).to(device)
        self.positives = torch.arange(shape.batch, device=device).repeat_interleave(POSITIVES), labels.flatten()
        self.optimizer = self.rounding = None
        if peer.trains and peer.held >= 4:
            self.optimizer = torch.optim.Adam(self.parameters, fused=True)
        elif peer.trains:
            self.optimizer = torch.optim.SGD(self.parameters, lr=1e-3)
            self.rounding = torch.Generator(device).manual_seed(0)

    def run(self, kind: str) -> float:
        """Seconds of one turn."""
        if kind == "forward":
            return self._timed(lambda: self.layer(self.x))
        if kind == STEP:
            took = self._timed(self._step_in_place if self.peer.in_place else self._step)
            self.x.grad = None
            return took
        if kind == "forward and both gradients":
            return self._timed(lambda: torch.autograd.grad(self.layer(self.x), [self.x, *self.parameters], self.grad))
        y = self.layer(self.x)
        wanted = [self.x] if kind == "gradient of x" else self.parameters
        return self._timed(lambda: torch.autograd.grad(y, wanted, self.grad))

    def _step(self) -> None:
        y = self.layer(self.x)
        loss = F.softplus(y).sum() - y[self.positives].sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _step_in_place(self) -> None:
        step_in_place(self.layer, self.optimizer, self.x, *self.positives, want_loss=False, rounding=self.rounding)

    def _timed(self, work: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def held(self) -> int:
        """Bytes of weights, buffers and moments between two steps."""
        return memory.measured(self.layer, [self.optimizer])

    def peak(self, kind: str) -> float:
        """Bytes that a turn adds at its highest to what was held before it."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self.run(kind)
            return torch.cuda.max_memory_allocated(self.device) - before
        process, done = psutil.Process(), threading.Event()
        before = highest = process.memory_info().rss

        def look() -> None:
            nonlocal highest
            while not done.wait(SAMPLE_SECONDS):
                highest = max(highest, process.memory_info().rss)

        looker = threading.Thread(target=look, daemon=True)
        looker.start()
        try:
            self.run(kind)
        finally:
            done.set()
            looker.join()
        return highest - before


def _compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of peers that took turns with each other, with how many times as fast each is as the yardsticks."""
    for name in YARDSTICKS:
        took = {row["kind"]: row["median ms"] for row in rows if row["peer"] == name and "median ms" in row}
        for row in rows:
            if "median ms" in row and row["kind"] in took:
                row[f"times {name}"] = took[row["kind"]] / row["median ms"]
    return rows
