"""Exercises of notebook 04: from program id to tile, the mask, bytes moved, and a kernel as one program sees it."""

from __future__ import annotations

import numpy as np
import torch

from .exercise import Mistake, Prediction, WriteFunction, WriteKernel
from .pictures import cells

try:
    import triton.language as tl
except ImportError:  # Triton is for Linux: elsewhere its kernels can be read
    tl = None

# --- a program and its tile ---------------------------------------------------------------------------------------


def tile_of_program(program, block_l, block_b):
    labels = program[0] * block_l + np.arange(block_l)
    docs = program[1] * block_b + np.arange(block_b)
    return labels, docs


def _starts_at_its_id(program, block_l, block_b):
    return program[0] + np.arange(block_l), program[1] + np.arange(block_b)


def _axes_swapped(program, block_l, block_b):
    return program[1] * block_l + np.arange(block_l), program[0] * block_b + np.arange(block_b)


def _every_nth(program, block_l, block_b):
    return program[0] + block_l * np.arange(block_l), program[1] + block_b * np.arange(block_b)


def _program(rng):
    first = int(rng.integers(1, 9))
    return (first, first + int(rng.integers(1, 5))), int(2 ** rng.integers(2, 6)), int(2 ** rng.integers(2, 6))


# --- the mask -----------------------------------------------------------------------------------------------------


def tile_mask(labels, docs, n_labels, batch):
    return (labels < n_labels)[:, None] & (docs < batch)[None, :]


def _one_too_many(labels, docs, n_labels, batch):
    return (labels <= n_labels)[:, None] & (docs <= batch)[None, :]


def _either(labels, docs, n_labels, batch):
    return (labels < n_labels)[:, None] | (docs < batch)[None, :]


def _labels_alone(labels, docs, n_labels, batch):
    return np.repeat((labels < n_labels)[:, None], len(docs), axis=1)


def _last_tile(rng):
    labels, docs = 32 + np.arange(8), 16 + np.arange(16)
    return labels, docs, int(rng.integers(33, 39)), int(rng.integers(17, 31))


# --- the gradient of the weights, as one program makes it ---------------------------------------------------------


def weight_gradient_tile(grad, x, indices, labels):
    tile = np.zeros((len(labels), indices.shape[1]))
    for row, label in enumerate(labels):
        if label < len(indices):  # the mask
            for k, feature in enumerate(indices[label]):
                tile[row, k] = (grad[label] * x[feature]).sum()
    return tile


def _mean_over_documents(grad, x, indices, labels):
    return weight_gradient_tile(grad, x, indices, labels) / grad.shape[1]


def _without_mask(grad, x, indices, labels):
    return weight_gradient_tile(grad, x, indices, np.minimum(labels, len(indices) - 1))


def _row_of_the_tile(grad, x, indices, labels):
    tile = np.zeros((len(labels), indices.shape[1]))
    for row, label in enumerate(labels):
        if label < len(indices):
            for k, feature in enumerate(indices[label]):
                tile[row, k] = (grad[row] * x[feature]).sum()
    return tile


def _features_in_order(grad, x, indices, labels):
    tile = np.zeros((len(labels), indices.shape[1]))
    inside = labels[labels < len(indices)]
    tile[:len(inside)] = grad[inside] @ x[:indices.shape[1]].T
    return tile


def _weight_tile(rng):
    n_labels, width, fan_in, batch = (int(n) for n in rng.integers((9, 6, 2, 3), (13, 10, 5, 8)))
    indices = rng.random((n_labels, width)).argsort(1)[:, :fan_in]
    return (rng.standard_normal((n_labels, batch)), rng.standard_normal((width, batch)), indices,
            8 + np.arange(8))  # the second tile of eight labels: it sticks out


def _gathered(walk) -> float:
    return walk.loaded["x"] / 1000


def _once(walk) -> float:
    return walk.tensors["x"].size * walk.tensors["x"].itemsize / 1000


# --- a kernel of one's own, and three that are nearly right -------------------------------------------------------


def own_kernel(grad, x, indices, dweight, n_labels, batch, K: tl.constexpr, BLOCK: tl.constexpr):
    label = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for k in range(K):
        feature = tl.load(indices + label * K + k, label < n_labels, 0).to(tl.int32)
        total = tl.zeros((BLOCK, BLOCK), tl.float32)
        for start in range(0, batch, BLOCK):
            doc = start + tl.arange(0, BLOCK)
            mask = (label < n_labels)[:, None] & (doc < batch)[None, :]
            g = tl.load(grad + label[:, None] * batch + doc[None, :], mask, 0)
            total += g * tl.load(x + feature[:, None] * batch + doc[None, :], mask, 0)
        tl.store(dweight + label * K + k, tl.sum(total, 1), label < n_labels)


def _first_tile_alone(grad, x, indices, dweight, n_labels, batch, K: tl.constexpr, BLOCK: tl.constexpr):
    label = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    doc = tl.arange(0, BLOCK)
    mask = (label < n_labels)[:, None] & (doc < batch)[None, :]
    g = tl.load(grad + label[:, None] * batch + doc[None, :], mask, 0)
    for k in range(K):
        feature = tl.load(indices + label * K + k, label < n_labels, 0).to(tl.int32)
        read = tl.load(x + feature[:, None] * batch + doc[None, :], mask, 0)
        tl.store(dweight + label * K + k, tl.sum(g * read, 1), label < n_labels)


def _last_tile_alone(grad, x, indices, dweight, n_labels, batch, K: tl.constexpr, BLOCK: tl.constexpr):
    label = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for k in range(K):
        feature = tl.load(indices + label * K + k, label < n_labels, 0).to(tl.int32)
        for start in range(0, batch, BLOCK):
            doc = start + tl.arange(0, BLOCK)
            mask = (label < n_labels)[:, None] & (doc < batch)[None, :]
            g = tl.load(grad + label[:, None] * batch + doc[None, :], mask, 0)
            read = tl.load(x + feature[:, None] * batch + doc[None, :], mask, 0)
            tl.store(dweight + label * K + k, tl.sum(g * read, 1), label < n_labels)


def _summed_over_labels(grad, x, indices, dweight, n_labels, batch, K: tl.constexpr, BLOCK: tl.constexpr):
    label = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for k in range(K):
        feature = tl.load(indices + label * K + k, label < n_labels, 0).to(tl.int32)
        total = tl.zeros((BLOCK, BLOCK), tl.float32)
        for start in range(0, batch, BLOCK):
            doc = start + tl.arange(0, BLOCK)
            mask = (label < n_labels)[:, None] & (doc < batch)[None, :]
            g = tl.load(grad + label[:, None] * batch + doc[None, :], mask, 0)
            total += g * tl.load(x + feature[:, None] * batch + doc[None, :], mask, 0)
        tl.store(dweight + label * K + k, tl.sum(total, 0), label < n_labels)


def _small_layer(rng):
    n_labels, batch, fan_in = (int(n) for n in rng.integers((17, 17, 2), (24, 40, 4)))
    indices = rng.random((n_labels, 9)).argsort(1)[:, :fan_in].astype(np.int16)
    grad, x = (rng.standard_normal((n, batch)).astype(np.float32) for n in (n_labels, 9))
    return grad, x, indices


def _launch(kernel, grad, x, indices, block=16):
    n_labels, batch = grad.shape
    dweight = torch.full(indices.shape, torch.nan)
    kernel[(-(-n_labels // block),)](*map(torch.from_numpy, (grad, x, indices)), dweight, n_labels, batch,
                                     K=indices.shape[1], BLOCK=block)
    return None if dweight.isnan().all() else dweight


EXERCISES = [
    WriteFunction(
        name="tile_of_program", title="which tile is mine?", notebook="04", difficulty=1, importance=5, minutes=5,
        reference=tile_of_program, inputs=_program,
        statement="Write `tile_of_program(program, block_l, block_b)`: the labels and the documents of one program's "
                  "tile, as two arrays. `program` is the pair of its ids: the first counts tiles of `block_l` labels, "
                  "the second tiles of `block_b` documents. Do not think of the ends yet.",
        hints=("Tile number 0 has the labels 0 to block_l - 1. With which label does tile number p begin?",
               "`np.arange(n)` is what `tl.arange(0, n)` is in a kernel."),
        mistakes=(
            Mistake("Tiles overlap", "Program p begins at p times the size of a tile, not at p: as it is, the next "
                    "program does nearly the same tile again.", _starts_at_its_id),
            Mistake("The two ids are swapped", "The first id counts tiles of labels, the second tiles of documents.",
                    _axes_swapped),
            Mistake("A tile is a block of neighbours", "You took every n-th label: then no two numbers of a tile lie "
                    "side by side in memory.", _every_nth)),
        because="These two lines open every kernel of this package. A program is told nothing else."),
    WriteFunction(
        name="tile_mask", title="what sticks out", notebook="04", difficulty=2, importance=5, minutes=6,
        reference=tile_mask, inputs=_last_tile,
        picture=cells("Which cells of the tile exist?", "label", "document", lambda labels, docs, *_: (labels, docs)),
        statement="70 labels in tiles of 32 make three tiles, and the third sticks out. Write `tile_mask(labels, docs, "
                  "n_labels, batch)`: a Boolean array `[len(labels), len(docs)]` that says which cells of the tile "
                  "exist.",
        hints=("One comparison for the labels, one for the documents.",
               "`labels[:, None]` stands upright and `docs[None, :]` lies; `&` of both is a table."),
        mistakes=(
            Mistake("One too many", "Label number n_labels does not exist: labels count from 0, so it is `<`.",
                    _one_too_many),
            Mistake("A cell needs both", "You joined with *or*: a cell exists if its label exists *and* its document "
                    "does.", _either),
            Mistake("The documents have an end too", "You looked at the labels alone.", _labels_alone)),
        because="Without it the program would read and, worse, write whatever lies behind the tensor. A walk stops at "
                "such an address; a GPU often does not."),
    Prediction(
        name="bytes_gathered", title="the traffic of the gather", notebook="04", difficulty=2, importance=4, minutes=5,
        unit="kB", tolerance=0.03, answer=_gathered,
        statement="The forward pass over all six tiles: 70 labels, 4 connections each, 40 documents, 24 features, "
                  "numbers of 4 bytes. How many kB (thousands of bytes) of `x` do all programs together *ask for*?",
        hints=("For each label, each connection and each document one number is read.",
               "No program knows what another has read already, and the kernel itself keeps nothing of x."),
        traps=((_once, "That is x itself, each number once: what *memory* has to give if caches keep the rest. The "
                       "programs ask for every number many times."),
               (lambda walk: _gathered(walk) / 4, "So many *numbers*; each has 4 bytes.")),
        because="Each number of x is asked for L K / D times on average: 12 here, 5,461 for L = 131,072, K = 32 and "
                "D = 768. Where x lies decides the speed of the layer.",
        worked="$L \\times K \\times B \\times 4 = 70 \\cdot 4 \\cdot 40 \\cdot 4 = 44{,}800$ bytes: 44.8 kB."),
    WriteFunction(
        name="weight_gradient_tile", title="a kernel, as one program sees it", notebook="04", difficulty=3,
        importance=4, minutes=12, reference=weight_gradient_tile, inputs=_weight_tile,
        statement=r"""One program makes the gradient of the weights for its tile of labels:

$$\frac{\partial\,\mathrm{loss}}{\partial w_{l,k}} = \sum_{b} g_{l,b}\; x_{\mathrm{idx}(l,k),\,b} .$$

Write `weight_gradient_tile(grad, x, indices, labels)` in NumPy. Kernels keep `grad` as `[L, B]` and `x` as `[D, B]`;
`indices` is `[L, K]`; `labels` are those of the tile, some of which may not exist. Return `[len(labels), K]`, with 0
where there is no label. Loops are fine: the program has a tile, you have patience.""",
        hints=("For one label that exists and one of its connections, it is a product of two rows, summed.",
               "The row of `grad` is that of the *label*, not of its place in the tile.",
               "`if label < len(indices)` is the mask."),
        mistakes=(
            Mistake("Not the mean over documents", "The loss has done its own averaging: here the documents are "
                    "summed.", _mean_over_documents),
            Mistake("Labels that do not exist got a gradient", "Their rows stay 0: the last label is not theirs.",
                    _without_mask),
            Mistake("That is row 0 of the tile, not of the tensor", "The second tile begins at label 8: `grad[label]`, "
                    "not `grad[row]`.", _row_of_the_tile),
            Mistake("Every label reads the first K features", "`indices[label]` says which rows of x.",
                    _features_in_order)),
        because="No two programs write to one place: no atomics. The gradient of x has no such luck, see below."),
    WriteKernel(
        name="own_kernel", title="a kernel of your own", notebook="04", difficulty=4, importance=4, minutes=20,
        reference=own_kernel, inputs=_small_layer, launch=_launch, tolerance=1e-4,
        statement="""Write `own_kernel`, in Triton, for the gradient of the weights. Program p has the labels from
`p * BLOCK` on, all of their `K` slots, and all documents. The kernel below is right for up to `BLOCK` documents and
wrong for more, because its only tile of documents is the first: start from it.

```python
    label = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    doc = tl.arange(0, BLOCK)  # the first tile of documents and no other
    mask = (label < n_labels)[:, None] & (doc < batch)[None, :]
    g = tl.load(grad + label[:, None] * batch + doc[None, :], mask, 0)
    for k in range(K):
        feature = tl.load(indices + label * K + k, label < n_labels, 0).to(tl.int32)
        read = tl.load(x + feature[:, None] * batch + doc[None, :], mask, 0)
        tl.store(dweight + label * K + k, tl.sum(g * read, 1), label < n_labels)
```

It is run by Triton's interpreter under `xe.walk`: leave out a mask on purpose and see what it says.""",
        hints=("A loop over the documents, `for start in range(0, batch, BLOCK)`, and `doc`, `mask` and `g` inside it.",
               "The products of all turns come together in a block of sums: `total = tl.zeros((BLOCK, BLOCK), "
               "tl.float32)` before the loop over documents, `total += g * read` in it.",
               "One store for each `k`, after the loop over documents. `weight_gradient_kernel` in "
               "`triton_kernels.py` does it with three axes."),
        mistakes=(
            Mistake("Documents from BLOCK on are missing", "The only tile of documents is the first: `doc` has to move "
                    "with a loop over `start`.", _first_tile_alone),
            Mistake("Only the last tile of documents counts", "Each turn of the loop writes over what the one before "
                    "it has found: add up in `total`, and store once, after the loop.", _last_tile_alone),
            Mistake("Summed along the wrong axis", "Axis 0 of the tile is labels and axis 1 documents: a weight's "
                    "gradient is the sum over documents, `tl.sum(total, 1)`.", _summed_over_labels)),
        because="That is a kernel which a GPU would take as it stands. The sum in registers, stored once, is what "
                "makes it need no atomics."),
]
