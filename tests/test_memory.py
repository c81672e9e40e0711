"""The ledger against what is there: tensors counted one by one, and the memory that a process has grown by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from corpus_for_tests import tiny_corpus

import xmc_explore as xe
from xmc_explore import memory
from xmc_explore.logit_free import loss_by_chunks, step_in_place
from xmc_explore.rounding import round_to
from xmc_explore.training import Run

D, L, K = 96, 2000, 12
SGD, MOMENTUM, ADAM = ("sgd", 0.0), ("sgd", 0.9), ("adam", 0.0)
KINDS = {
    "sparse, Adam": ("sparse", "float32", ADAM, True),
    "sparse, SGD with momentum": ("sparse", "float32", MOMENTUM, True),
    "sparse, SGD": ("sparse", "float32", SGD, True), "dense, Adam": ("dense", "float32", ADAM, True),
    "bottleneck, Adam": ("bottleneck", "float32", ADAM, True),
    "sparse, Adam in place": ("sparse", "float32", ADAM, False),
    "sparse, SGD in place": ("sparse", "float32", SGD, False),
    "dense, Adam in place": ("dense", "float32", ADAM, False),
    "sparse, bfloat16": ("sparse", "bfloat16", SGD, False), "sparse, float8": ("sparse", "float8_e4m3fn", SGD, False),
    "dense, bfloat16": ("dense", "bfloat16", SGD, False), "dense, float8": ("dense", "float8_e4m3fn", SGD, False),
}


def trained(kind, dtype, optimizer, gradients, d=D, n=L, k=K):
    """A layer after a step with an optimizer, whose gradients are still there, or after one in place."""
    layer = {"sparse": lambda: xe.FixedFanIn(d, n, k), "dense": lambda: torch.nn.Linear(d, n),
             "bottleneck": lambda: torch.nn.Sequential(torch.nn.Linear(d, k), torch.nn.Linear(k, n))}[kind]()
    labels = layer[-1] if kind == "bottleneck" else layer
    labels.weight.data = round_to(labels.weight.data, getattr(torch, dtype))
    name, momentum = optimizer
    rule = (torch.optim.SGD(layer.parameters(), lr=0.1, momentum=momentum) if name == "sgd"
            else torch.optim.Adam(layer.parameters(), lr=0.1))
    x, rows = torch.randn(4, d), torch.arange(4)
    if gradients:
        loss_by_chunks(labels, layer[:-1](x) if kind == "bottleneck" else x, rows, rows).backward()
        rule.step()
    else:
        step_in_place(layer, rule, x, rows, rows)
    return layer, rule


def bill(kind, dtype, optimizer, gradients, d=D, n=L, k=K):
    moments = {SGD: 0, MOMENTUM: 1, ADAM: 2}[optimizer]
    return memory.predicted(kind, d, n, k, moments=moments, gradients=gradients, dtype=dtype)


@pytest.mark.parametrize("what", KINDS)
def test_bytes_of_the_tensors_are_those_of_the_ledger(what):
    layer, rule = trained(*KINDS[what])
    assert memory.measured(layer, [rule]) / L == pytest.approx(bill(*KINDS[what]) / L, rel=0.001)


@pytest.mark.skipif(not xe.backends()["triton"].usable, reason="Triton is not usable here")
@pytest.mark.parametrize(("d", "n", "k"), [(6, 40, 3), (4, 700, 3), (5, 3, 1)])  # segments: one each, two each, few
def test_the_transposed_index_of_triton_is_in_the_ledger_and_in_the_bytes_that_are_measured(d, n, k):
    from xmc_explore.layers import triton_kernels

    assert memory.SEGMENT == triton_kernels.SEGMENT
    found = {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for backend in ("reference", "triton"):
        layer = xe.FixedFanIn(d, n, k, backend=backend, device=device)
        indices = (torch.arange(n)[:, None] + torch.arange(k)) % d  # every feature is read as often, up to one
        layer.indices.copy_(indices)
        layer(torch.randn(2, d, device=device, requires_grad=True)).sum().backward()
        found[backend] = memory.measured(layer, [])
        options = {"moments": 0, "transposed": backend == "triton"}
        assert found[backend] == memory.predicted("sparse", d, n, k, **options)
    plan = triton_kernels.plan(layer.indices, d)
    assert found["triton"] - found["reference"] == sum(t.numel() * t.element_size() for t in plan)
    assert memory.transposed_bytes(d, n * k) == found["triton"] - found["reference"]
    layer.indices.copy_(layer.indices.clone())  # a write, as a rewire does
    layer(torch.randn(2, d, device=device, requires_grad=True)).sum().backward()
    assert memory.measured(layer, []) == found["triton"]  # the new one took the place of the old one


def test_groups_and_dense_layers_keep_no_transposed_index():
    for kind, options in (("dense", {}), ("sparse", {"group_size": 4})):
        assert memory.parts(kind, 64, 100, 8, transposed=True, **options) == memory.parts(kind, 64, 100, 8, **options)
    slots = 1 << 31  # numbers of slots no longer fit 4 bytes
    assert memory.transposed_bytes(1 << 20, slots) == 8 * slots + 20 * (slots // 512) + 4 * ((1 << 20) + 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a C library that can be told to give memory back")
def test_a_process_grows_by_what_the_ledger_says():
    """Resident memory before and after, for every kind, at sizes where what else the process does is small."""
    code = f"""
        import gc, json, sys
        sys.path.insert(0, {str(sys.path[0])!r})
        import psutil, torch
        from test_memory import KINDS, bill, trained
        from xmc_explore.layers import cpu
        process, found = psutil.Process(), {{}}
        sizes = dict(d=64, n=800_000, k=20)

        def resident():
            gc.collect()
            cpu._gone.clear()  # memory of results that the kernels keep for the next ones
            return process.memory_info().rss

        for what, kind in KINDS.items():
            trained(*kind)  # compiles what it needs
            before = resident()
            kept = trained(*kind, **sizes)
            found[what] = [resident() - before, bill(*kind, **sizes)]
            del kept
        print(json.dumps(found))
    """
    # With this the C library gives back what it is done with, so that the next layer cannot grow into it unseen.
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True,
                          env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)})
    for what, (grown, predicted) in json.loads(done.stdout.splitlines()[-1]).items():
        assert grown == pytest.approx(predicted, rel=0.1), what


def test_where_a_dense_layer_of_few_bits_is_the_lighter_one():
    for dtype in ("bfloat16", "float8_e4m3fn"):
        even = memory.break_even(768, dtype)
        dense = memory.predicted("dense", 768, 10_000, moments=0, gradients=False, dtype=dtype)
        below, above = (memory.predicted("sparse", 768, 10_000, int(even) + more) for more in (-1, 2))
        assert below < dense < above
    assert memory.break_even(768) == pytest.approx(768 * 2 / 18)
    assert memory.break_even(768, moments=0, gradients=False) == 256  # weights and indices alone, both in place
    whole = {}
    for entry in memory.ledger():
        whole[entry.dataset, entry.method] = whole.get((entry.dataset, entry.method), 0) + entry.bytes
    on_3m = {method: size for (dataset, method), size in whole.items() if dataset == "Amazon-3M"}
    order = ["fixed fan-in, no logits", "ELMO float8", "ELMO bfloat16", "fixed fan-in, int16", "Renee", "dense"]
    assert sorted(order, key=on_3m.get) == order
    published = {e.method: e.published_gib for e in memory.ledger() if e.dataset == "Amazon-3M"}
    assert published["ELMO bfloat16"] < published["fixed fan-in, int16"] == 13.5  # so say their authors, too


def test_a_run_records_the_bytes_of_its_output_layer():
    corpus = tiny_corpus()
    for method, kind, size in (("SET", "sparse", 8), ("dense", "dense", 0), ("bottleneck", "bottleneck", 3)):
        recipe = xe.Recipe.method(method, hidden=40, aux_clusters=4, bottleneck_width=3)
        run = Run(corpus, recipe, steps=5)
        record = run.step()
        run.close("interrupted")
        assert record["output_bytes"] == memory.predicted(kind, 40, 30, size)


def test_the_ledger_at_the_sizes_of_the_paper():
    gib = 2**30
    assert memory.predicted("dense", 768, 2_812_281) / gib == pytest.approx(32.18, abs=0.06)
    assert memory.predicted("sparse", 768, 670_091, 128) / gib == pytest.approx(1.44, abs=0.02)
    assert memory.index_bytes(32768) == 2 and memory.index_bytes(32769) == 4
    with pytest.raises(ValueError, match="kind='masked'"):
        memory.predicted("masked", 1, 1)


def test_a_bottleneck_of_equal_memory_is_one():
    width = memory.bottleneck_width(512, 4000, 8)
    sparse = memory.predicted("sparse", 512, 4000, 8)
    assert abs(memory.predicted("bottleneck", 512, 4000, width) - sparse) <= 0.5 * 16 * (4000 + 513)


@pytest.mark.parametrize(("arguments", "words"), [
    (("sparse", 768, 100, 900), "size=900, the fan-in, exceeds width=768"), (("dense", -1, 100), "width .* got -1"),
    (("dense", 768, 0), "n_labels .* got 0"), (("sparse", 768, 100, None), "size .* got None"),
    (("dense", "768", 100), "width .* got '768'"), (("dense", float("nan"), 100), "width .* got nan"),
])
def test_a_bill_of_sizes_that_cannot_be(arguments, words):
    with pytest.raises(ValueError, match=words):
        memory.predicted(*arguments)


def test_a_break_even_of_an_unknown_type():
    with pytest.raises(ValueError, match="dtype='x'; choose one of 'float32'"):
        memory.break_even(768, "x")


def test_the_peak_of_a_process_stays_when_the_memory_has_gone():
    code = ("import numpy as np, psutil; from xmc_explore.memory import peak_resident; before = peak_resident(); "
            "a = np.ones(30_000_000); del a; print(peak_resident() - before, "
            "peak_resident() - psutil.Process().memory_info().rss)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    grown, above = map(int, done.stdout.split())
    assert 200e6 < grown < 300e6 and above > 150e6  # in bytes everywhere
