"""The memory ledger of an output layer: bytes predicted from the sizes, and bytes measured from the tensors.

With Adam every trained number costs four: itself, its gradient and two moments. A fixed fan-in layer adds one index for
each weight, and where Triton runs it the transposed index of `triton_kernels.plan` as well. A step that updates in
place (`logit_free.py`) has no gradient buffer; plain SGD has no moments. Logits are a matter of batch and labels, the
same for every kind of output layer, and gone in a step without logits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import nn

from .layers.fixed_fan_in import index_dtype
from .layers.op import plan_bytes
from .rounding import DTYPES

BYTES = 4  # float32
WEIGHT_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()}
SEGMENT = 512  # that of `layers/triton_kernels.py`, which cannot be imported where there is no Triton


def peak_resident() -> int:
    """The most bytes that this process has held in memory at once since it began, as the system counted them."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts what the parent held into ru_maxrss
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def index_bytes(width: int) -> int:
    """Bytes of one index into `width` features: 2 while int16 holds it, else 4."""
    return index_dtype(width).itemsize


def transposed_bytes(width: int, slots: int) -> int:
    """Bytes of the transposed index that the Triton backend keeps until a rewire: 4 a slot, and 12 a segment.

    A feature that d labels read has d / 512 segments, rounded up; here all features are read equally often. From 2^31
    slots on 8 bytes a slot and 20 a segment.
    """
    wide = 4 if slots < 1 << 31 else 8
    segments = min(slots, width * -(-slots // (width * SEGMENT)))
    return slots * wide + segments * (2 * wide + 4) + 4 * (width + 1)


def _check_dtype(dtype: str) -> None:
    if dtype not in WEIGHT_BYTES:
        raise ValueError(f"dtype={dtype!r}; choose one of {', '.join(map(repr, WEIGHT_BYTES))}")


def parts(kind: str, width: int, n_labels: int, size: int = 0, *, moments: int = 2, gradients: bool = True,
          dtype: str = "float32", group_size: int = 1, head: int = 0, transposed: bool = False) -> dict[str, int]:
    """Bytes of an output layer in training by part: "weights", "biases", "indices", "gradients", "moments".

    `kind` is "dense", "sparse" or "bottleneck"; `size` is the fan-in of a sparse layer or the width of a bottleneck;
    `moments` is 2 for Adam, 1 for SGD with momentum, 0 for plain SGD. `gradients=False` is an update in place: no
    gradient of the weights and biases that belong to labels is ever held. `dtype` is that of these weights; biases,
    gradients and moments are float32. In a sparse layer `group_size` labels share a row of indices (to know which takes
    8 bytes a label), and `head` labels are dense (4 bytes a label to know which). `transposed` counts with the indices
    what the Triton backend keeps of them for its gradient of x; a step in place and groups do without. Raises
    ValueError for a kind or dtype that is not known, and for sizes that cannot be.
    """
    _check_dtype(dtype)
    for name, value in (("width", width), ("n_labels", n_labels), ("size", size)):
        if not isinstance(value, Integral) or value < (name != "size"):
            raise ValueError(f"{name} must be a whole number and not negative; got {value!r}")
    if kind == "sparse" and size > width:
        raise ValueError(f"size={size}, the fan-in, exceeds width={width}: a label cannot read more features than "
                         f"there are")
    if kind == "dense":
        weights, biases, indices, narrow = n_labels * width, n_labels, 0, 0
    elif kind == "sparse":
        tail, biases, narrow = n_labels - head, n_labels, 0
        weights = head * width + tail * size
        indices = -(-tail // group_size) * size * index_bytes(width)
        indices += 8 * tail * (group_size > 1) + 4 * n_labels * (head > 0)
        if transposed and group_size == 1:
            indices += transposed_bytes(width, tail * size)
    elif kind == "bottleneck":
        weights, biases, indices, narrow = n_labels * size, n_labels, 0, size * (width + 1)
    else:
        raise ValueError(f"kind={kind!r}; choose one of 'dense', 'sparse', 'bottleneck'")
    numbers = weights + biases
    return {"weights": weights * WEIGHT_BYTES[dtype] + narrow * BYTES, "biases": biases * BYTES, "indices": indices,
            "gradients": (numbers * gradients + narrow) * BYTES, "moments": (numbers + narrow) * moments * BYTES}


def predicted(kind: str, width: int, n_labels: int, size: int = 0, **options: Any) -> int:
    """Bytes of an output layer in training, all of its `parts` together; the options are those of `parts`."""
    return sum(parts(kind, width, n_labels, size, **options).values())


def bottleneck_width(width: int, n_labels: int, fan_in: int) -> int:
    """The bottleneck whose memory comes closest to that of a sparse layer with this fan-in (both with Adam)."""
    budget = predicted("sparse", width, n_labels, fan_in)
    return max(1, round((budget / (4 * BYTES) - n_labels) / (n_labels + width + 1)))


def break_even(width: int, dtype: str = "bfloat16", *, moments: int = 2, gradients: bool = True) -> float:
    """The fan-in below which a sparse float32 layer takes fewer bytes than a dense one of `dtype` with nothing beside.

    The dense layer is updated in place by plain SGD (after ELMO); the sparse one as `moments` and `gradients` say, by
    default with Adam. Biases are left out, and so are logits. Raises ValueError for an unknown dtype.
    """
    _check_dtype(dtype)
    a_connection = BYTES * (1 + gradients + moments) + index_bytes(width)
    return width * WEIGHT_BYTES[dtype] / a_connection


def measured(module: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Bytes that the tensors of `module` take now: parameters, gradients, buffers, their optimizer moments, and what
    a backend keeps of its indices."""
    tensors = [*module.parameters(), *module.buffers()]
    for p in module.parameters():
        if p.grad is not None:
            tensors.append(p.grad)
        for optimizer in optimizers:
            state = optimizer.state.get(p, {}).values()
            tensors += [t for t in state if torch.is_tensor(t) and t.shape == p.shape]
    return sum(t.numel() * t.element_size() for t in tensors) + sum(map(plan_bytes, module.buffers()))


# --- the ledger of the paper's data sets --------------------------------------------------------------------------

DATASETS = {"LF-AmazonTitles-131K": 131_073, "LF-WikiSeeAlso-320K": 312_330, "Wikipedia-500K": 501_070,
            "Amazon-670K": 670_091, "AmazonTitles-670K": 670_091, "LF-AmazonTitles-1.3M": 1_305_265,
            "Amazon-3M": 2_812_281, "LF-Paper2Keywords-8.6M": 8_623_847}

# GiB of a whole training process, encoder and activations included, as its authors print them: SPARTEX (NeurIPS 2024)
# for dense and fixed fan-in on Amazon-3M; ELMO's README table for Renee and ELMO; notes of third parties on HASTE
# (ICML 2026) for HASTE and for fixed fan-in on the other sets. SPARTEX does not say how wide its indices are.
PUBLISHED = {
    "dense": {"Amazon-3M": 46.3},
    "fixed fan-in": {"Amazon-670K": 3.7, "AmazonTitles-670K": 5.0, "Amazon-3M": 13.5, "LF-Paper2Keywords-8.6M": 18.4},
    "HASTE": {"Amazon-670K": 2.1, "AmazonTitles-670K": 3.2, "Amazon-3M": 5.67, "LF-Paper2Keywords-8.6M": 12.5},
    "Renee": {"LF-WikiSeeAlso-320K": 13.89, "Wikipedia-500K": 12.69, "Amazon-670K": 11.91, "AmazonTitles-670K": 12.46,
              "LF-AmazonTitles-1.3M": 19.9, "Amazon-3M": 39.7},
    "ELMO bfloat16": {"LF-WikiSeeAlso-320K": 6.57, "Wikipedia-500K": 7.21, "Amazon-670K": 5.68,
                      "AmazonTitles-670K": 5.12, "LF-AmazonTitles-1.3M": 6.61, "Amazon-3M": 10.39},
    "ELMO float8": {"LF-WikiSeeAlso-320K": 5.58, "Wikipedia-500K": 5.38, "Amazon-670K": 3.55,
                    "AmazonTitles-670K": 3.62, "LF-AmazonTitles-1.3M": 4.63, "Amazon-3M": 6.6},
}


# How HASTE is set up for them in its configuration files: labels a group, fan-in, share of labels in the dense head.
HASTE = {"Amazon-670K": (16, 64, 0.10), "AmazonTitles-670K": (16, 128, 0.10), "Amazon-3M": (64, 128, 0.02),
         "LF-Paper2Keywords-8.6M": (32, 64, 0.05)}


class Entry(NamedTuple):
    """One line of the ledger: `bytes` that a part of a method takes on a data set, predicted from its sizes.

    `published_gib` is what the authors print for the whole process (encoder, activations and all), None where they do
    not; it stands on every line of that method and data set.
    """

    dataset: str
    method: str
    part: str
    bytes: int
    published_gib: float | None


def ledger(dataset_sizes: Mapping[str, int] | None = None, width: int = 768, *, fan_in: int = 128, batch: int = 128,
           haste: tuple[int, int, float] = (64, 128, 0.02), chunks: int = 8) -> list[Entry]:
    """Predicted bytes of the output layer of each method on data sets (name -> labels, the paper's by default).

    Methods: "dense", "masked" (dense with a mask of one byte a weight), "bottleneck" (as much memory as fixed fan-in,
    int16), "fixed fan-in, int16" and ", int32": all float32 with Adam. "Renee": float32 with gradient and momentum,
    logit gradients in half precision and no logits beside them (its section 3). "ELMO bfloat16" and "ELMO float8":
    weights alone, updated in place in `chunks` parts. "HASTE": labels in groups that share indices, and a dense head;
    `haste` is (labels a group, fan-in, share of the head) where `HASTE` has no published ones; bfloat16 with float32
    momentum (from its released code). "fixed fan-in, no logits": int16, plain SGD in place, as `logit_free`
    does it, in float32 and in bfloat16. The fan-in behind the published number of LF-Paper2Keywords-8.6M is not known.
    Parts: "weights", "biases", "indices", "mask", "gradients", "moments", "logits"; those of no bytes are left out.
    """
    found = []
    for dataset, n in (dataset_sizes or DATASETS).items():
        logits = 2 * batch * n * BYTES  # and their gradient
        adam = parts("sparse", width, n, fan_in)
        in_place = dict(moments=0, gradients=False)
        methods = {
            "dense": parts("dense", width, n) | {"logits": logits},
            "masked": parts("dense", width, n) | {"mask": n * width, "logits": logits},
            "bottleneck": parts("bottleneck", width, n, bottleneck_width(width, n, fan_in)) | {"logits": logits},
            "fixed fan-in, int16": adam | {"indices": n * fan_in * 2, "logits": logits},
            "fixed fan-in, int32": adam | {"indices": n * fan_in * 4, "logits": logits},
            "Renee": parts("dense", width, n, moments=1) | {"logits": batch * n * 2},
            "HASTE": _haste(width, n, *HASTE.get(dataset, haste)) | {"logits": logits // 2},
            "ELMO bfloat16": _elmo(width, n, batch, chunks, "bfloat16"),
            "ELMO float8": _elmo(width, n, batch, chunks, "float8_e4m3fn"),
            "fixed fan-in, no logits": parts("sparse", width, n, fan_in, **in_place),
            "fixed fan-in, no logits, bfloat16": parts("sparse", width, n, fan_in, **in_place, dtype="bfloat16"),
        }
        for method, taken in methods.items():
            published = PUBLISHED.get(method.removesuffix(", int16").removesuffix(", int32"), {}).get(dataset)
            found += [Entry(dataset, method, part, size, published) for part, size in taken.items() if size]
    return found


def _haste(width: int, n_labels: int, group: int, fan_in: int, head: float) -> dict[str, int]:
    """Weights and their gradients in bfloat16, one momentum in float32, int32 indices for each group."""
    dense = round(head * n_labels)
    weights = dense * width + (n_labels - dense) * fan_in
    return {"weights": 2 * weights, "biases": 2 * n_labels, "indices": -(-(n_labels - dense) // group) * fan_in * 4,
            "gradients": 2 * (weights + n_labels), "moments": 4 * (weights + n_labels)}


def _elmo(width: int, n_labels: int, batch: int, chunks: int, dtype: str) -> dict[str, int]:
    """Weights, and for one chunk at a time logits in bfloat16 and, unless they are fused away, the gradient."""
    chunk = -(-n_labels // chunks)
    return {"weights": n_labels * width * WEIGHT_BYTES[dtype], "logits": batch * chunk * 2,
            "gradients": chunk * width * 2 if dtype == "bfloat16" else 0}
