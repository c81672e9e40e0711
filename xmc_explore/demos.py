"""Demonstrations: one call, one claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil
import torch
from tqdm.auto import tqdm

from . import memory
from .layers import FixedFanIn
from .layers.backends import usable_device
from .logit_free import InPlace, step_in_place

AMAZON_3M = 2_812_281
POSITIVES = 36  # labels a document, as in Amazon-3M
MIB = 1 << 20
Watch = Callable[[Sequence[float], Sequence[int], Mapping[str, int], str, bool], None]


@dataclass(frozen=True)
class Measured:
    """What a demonstration measured: seconds of each step, the loss where it was computed, bytes."""

    n_labels: int
    width: int
    fan_in: int
    optimizer: str
    seconds: list[float] = field(repr=False)
    losses: dict[int, float] = field(repr=False)
    memory: list[int] = field(repr=False)  # bytes after each step: of the whole process, or on the device
    layer_bytes: int  # measured: weights, indices, moments
    dense_bytes: int  # predicted: weights, gradients and moments of the dense layer
    device: str = "cpu"

    @property
    def resident(self) -> int:
        """Bytes of the whole process, or on the device, at their highest between two steps."""
        return max(self.memory)

    @property
    def where(self) -> str:
        return "resident in the whole process" if self.device == "cpu" else f"held on {self.device}"

    def __str__(self) -> str:
        first, last = (list(self.losses.items())[i] for i in (0, -1))
        return (f"{self.n_labels:,} labels, every one scored and updated at each step, {self.optimizer}\n"
                f"  {np.median(self.seconds):.2f} s a step (median of {len(self.seconds)}); "
                f"loss {first[1]:,.0f} at step {first[0]}, {last[1]:,.0f} at step {last[0]}\n"
                f"  {self.resident / MIB:,.0f} MiB {self.where}; the layer takes "
                f"{self.layer_bytes / MIB:,.0f} MiB, {self.layer_bytes / self.n_labels:.0f} bytes a label\n"
                f"  the dense layer would take {self.dense_bytes / MIB:,.0f} MiB for weights, gradients and moments")


def three_million_labels(steps: int = 10, optimizer: str = "sgd", *, n_labels: int = AMAZON_3M, width: int = 768,
                         fan_in: int = 32, batch: int = 32, seed: int = 0, device: str | torch.device = "cpu",
                         progress: bool = True, watch: Watch | None = None) -> Measured:
    """Train an output layer of the size of Amazon-3M on this machine: no logits, no gradient of the weights is kept.

    `watch(seconds, memory, limits, title, last)` is called after each step, with what was measured so far and with
    bytes to compare it with (name -> bytes); `xe.StepPicture()` draws it in a notebook. `progress` is a line of text.
    On a `device` that is not the CPU, memory is what its allocator holds of it.

    The documents are synthetic: the same few batches of normal vectors again and again, each with labels drawn by
    Zipf's law, so that the loss can fall. What is measured is the layer, not a classifier.
    Raises ValueError for an optimizer other than "sgd" and "adam", fewer than two steps, or a device that is not there.
    """
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer={optimizer!r}; choose one of 'sgd', 'adam'")
    if steps < 2:
        raise ValueError(f"steps must be at least 2; got {steps}")
    device = usable_device(device)
    generator = torch.Generator(device).manual_seed(seed)
    layer = FixedFanIn(width, n_labels, fan_in, generator=generator, device=device)
    if optimizer == "sgd":
        rule = torch.optim.SGD(layer.parameters(), lr=0.01)
    else:
        rule = torch.optim.AdamW(layer.parameters(), lr=0.01)
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(4):
        drawn = [np.unique(np.minimum(rng.zipf(1.3, POSITIVES) - 1, n_labels - 1)) for _ in range(batch)]
        rows = np.repeat(np.arange(batch), [len(d) for d in drawn])
        batches.append((torch.randn(batch, width, generator=generator, device=device),
                        torch.from_numpy(rows).to(device), torch.from_numpy(np.concatenate(drawn)).to(device)))
    moments = {"sgd": 0, "adam": 2}[optimizer]
    limits = {"a dense layer with Adam": memory.predicted("dense", width, n_labels),
              "this layer, by the ledger": memory.predicted("sparse", width, n_labels, fan_in, moments=moments,
                                                            gradients=False)}
    title = f"{n_labels:,} labels, each scored and updated in every step"
    process, cuda = psutil.Process(), device.type == "cuda"
    wait = (lambda: torch.cuda.synchronize(device)) if cuda else (lambda: None)
    held = (lambda: torch.cuda.memory_reserved(device)) if cuda else (lambda: process.memory_info().rss)
    seconds, losses, resident = [], {}, []
    bar = tqdm(range(steps), desc=f"{n_labels:,} labels", unit="step", disable=not progress)
    for step in bar:
        x, rows, columns = batches[step % len(batches)]
        wanted = step in (0, steps - 1)
        wait()
        start = time.perf_counter()
        done: InPlace = step_in_place(layer, rule, x, rows, columns, want_loss=wanted)
        wait()
        seconds.append(time.perf_counter() - start)
        if wanted:
            losses[step] = float(done.loss)
        resident.append(held())
        bar.set_postfix_str(f"{seconds[-1]:.2f} s, {resident[-1] / MIB:,.0f} MiB", refresh=False)
        if watch is not None:
            watch(seconds, resident, limits, title, step == steps - 1)
    return Measured(n_labels, width, fan_in, optimizer, seconds[1:], losses, resident,
                    memory.measured(layer, [rule]), limits["a dense layer with Adam"], device.type)
