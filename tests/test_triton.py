"""The Triton kernels against a dense float64 layer: in Triton's interpreter without a GPU, compiled with one.

tests/test_fixed_fan_in.py and tests/test_op.py run over this backend too (gradcheck, opcheck, compile, autocast).
"""

import os
import subprocess
import sys

import pytest
import torch

import xmc_explore as xe
from xmc_explore.layers.backends import Backend, backends, pick

TRITON = backends()["triton"]
if not TRITON.usable:
    pytest.skip(f"no Triton here: {TRITON.reason}", allow_module_level=True)

from xmc_explore.layers import triton_kernels as tk  # noqa: E402

HERE = pytest.param("cpu", marks=pytest.mark.skipif("cpu" not in TRITON.devices, reason="Triton compiles for CUDA"))
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(),
                                                                      reason="no CUDA device")])
EVERYWHERE = pytest.mark.parametrize("device", [HERE, GPU])
# B, D, L, K. Tiles are 32 or 64 documents wide: these end before, at and after one. Then K = 1, K = D, one of each.
SHAPES = [(3, 5, 7, 2), (33, 20, 40, 5), (32, 17, 33, 17), (65, 9, 12, 1), (1, 40, 300, 3), (1, 1, 1, 1), (40, 8, 1, 3),
          (0, 6, 4, 2)]
# Half types: their own step size (2^-8, 2^-11) a few times over, as the sums themselves are float32.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
LARGE = [(64, 768, 5000, 32), (256, 384, 3001, 16), (1, 100, 70_000, 8)]


def problem(shape, dtype, device, index=torch.int16):
    """x [B, D], weight, indices, bias, grad [B, L]: all in the plainest layout."""
    b, d, n_labels, k = shape
    g = torch.Generator().manual_seed(sum(shape))
    indices = torch.rand(n_labels, d, generator=g).argsort(1)[:, :k].to(index)
    tensors = [torch.randn(size, generator=g, dtype=torch.float64) for size in ((b, d), (n_labels, k), (n_labels,),
                                                                                (b, n_labels))]
    x, weight, bias, grad = (t.to(device, dtype) for t in tensors)
    return x, weight, indices.to(device), bias, grad


def dense(x, weight, indices, bias, grad):
    """y and the gradients of x, weight and bias of a dense float64 layer with the same entries, on the CPU."""
    x, weight, bias, grad = (t.detach().cpu().double() for t in (x, weight, bias, grad))
    indices = indices.cpu().long()
    matrix = x.new_zeros((len(weight), x.shape[1])).scatter_(1, indices, weight)
    return x @ matrix.t() + bias, grad @ matrix, (grad.t() @ x).gather(1, indices), grad.sum(0)


def close(found, expected, dtype):
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def compare(x, weight, indices, bias, grad):
    """Forward and backward, with a plan and without, beside the dense layer."""
    y, *gradients = dense(x, weight, indices, bias, grad)
    close(tk.forward(x, weight, indices, bias), y, x.dtype)
    for plan in (tk.plan(indices, x.shape[1]), ()):
        for found, expected in zip(tk.backward(grad, x, weight, indices, (True,) * 3, plan), gradients, strict=True):
            assert found.dtype == x.dtype and found.device == x.device
            close(found, expected, x.dtype)


@EVERYWHERE
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_a_dense_layer(shape, dtype, device):
    compare(*problem(shape, dtype, device))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_equals_a_dense_layer_of_some_size(shape, dtype):
    compare(*problem(shape, dtype, "cuda"))


@EVERYWHERE
@pytest.mark.parametrize("index", [torch.int16, torch.int32], ids=str)
def test_both_kinds_of_indices(index, device):
    compare(*problem((5, 11, 13, 4), torch.float32, device, index))


@EVERYWHERE
def test_tensors_that_are_not_contiguous(device):
    x, weight, indices, bias, grad = problem((9, 12, 20, 5), torch.float32, device)
    layouts = [(x.t().contiguous().t(), grad.t().contiguous().t()),  # as the kernels have them: nothing is copied
               (x.repeat(1, 2)[:, :12], grad.repeat_interleave(2, 1)[:, ::2])]
    for x, grad in layouts:
        compare(x, weight.t().contiguous().t(), indices.t().contiguous().t(), bias.repeat_interleave(2)[::2], grad)


@EVERYWHERE
def test_sums_are_float32_for_half_types(device):
    """2,500 ones: in float16 a sum of ones comes to rest at 2,048."""
    n = 2500
    x, weight = torch.ones(1, n, device=device).half(), torch.ones(1, n, device=device).half()
    indices = torch.arange(n, dtype=torch.int16, device=device)[None]
    assert tk.forward(x, weight, indices, None).item() == n
    many = torch.ones(n, 1, device=device).half()
    one = torch.ones(1, 1, device=device).half()
    index = torch.zeros(1, 1, dtype=torch.int16, device=device)
    _, dweight, dbias = tk.backward(many, many, one, index, (False, True, True))
    assert dweight.item() == dbias.item() == n


@EVERYWHERE
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True),
                                   (False, False, False)], ids=str)
@pytest.mark.parametrize("batch", [0, 3])
def test_only_what_is_needed(needs, batch, device):
    x, weight, indices, bias, grad = problem((batch, 5, 7, 2), torch.float32, device)
    found = tk.backward(grad, x, weight, indices, needs, tk.plan(indices, 5))
    assert tuple(t is not None for t in found) == needs
    for t, expected in zip(found, dense(x, weight, indices, bias, grad)[1:], strict=True):
        if t is not None:
            close(t, expected, x.dtype)


@pytest.mark.parametrize("segment", [1, 3, 512])
def test_the_plan_holds_every_slot_once_under_its_feature(segment, monkeypatch):
    monkeypatch.setattr(tk, "SEGMENT", segment)
    d, n_labels, k = 9, 30, 3
    indices = torch.stack([torch.randperm(d - 2)[:k] for _ in range(n_labels)]).to(torch.int16)  # two are never read
    indices[:, 0] = 0  # and one by every label
    indices[:, 1:][indices[:, 1:] == 0] = 8
    order, start, stop, place, ends = tk.plan(indices, d)
    assert sorted(order.tolist()) == list(range(n_labels * k))
    assert ((stop - start) <= segment).all() and (stop > start).all()
    assert sorted(place.tolist()) == list(range(len(start)))
    assert (order[start.long()].diff() >= 0).all()  # in the order of their first labels
    flat = indices.flatten()
    for s in range(len(start)):
        feature = int(torch.searchsorted(ends, place[s].long(), right=True)) - 1
        assert (flat[order[start[s]:stop[s]].long()] == feature).all()
    assert int((stop - start).sum()) == n_labels * k and len(ends) == d + 1 and ends[-1] == len(start)


@EVERYWHERE
def test_a_feature_that_every_label_reads_is_summed_by_many_programs(device, monkeypatch):
    monkeypatch.setattr(tk, "SEGMENT", 4)
    x, weight, _, bias, grad = problem((3, 6, 50, 2), torch.float32, device)
    indices = torch.tensor([[0, 1 + label % 4] for label in range(50)], dtype=torch.int16, device=device)
    compare(x, weight, indices, bias, grad)  # and feature 5 is read by none: its gradient is zero


@EVERYWHERE
def test_the_gradient_of_x_has_the_same_bits_each_time(device):
    x, weight, indices, _, grad = problem((33, 20, 40, 5), torch.float32, device)
    plan = tk.plan(indices, 20)
    first, second = (tk.backward(grad, x, weight, indices, (True, False, False), plan)[0] for _ in range(2))
    assert torch.equal(first, second)


@EVERYWHERE
def test_a_layer_trains_and_follows_a_rewire(device):
    layer = xe.FixedFanIn(6, 9, 3, backend="triton", device=device)
    twin = xe.FixedFanIn(6, 9, 3, backend="reference", device=device)
    twin.load_state_dict(layer.state_dict())
    for _ in range(2):
        results = []
        for one in (layer, twin):
            one.zero_grad()
            x = torch.linspace(-1, 1, 24, device=device).reshape(4, 6).requires_grad_()
            one(x).square().sum().backward()
            results.append((x.grad, one.weight.grad, one.bias.grad))
        torch.testing.assert_close(*results)
        for one in (layer, twin):
            one.indices.copy_((one.indices + 1) % 6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_compiled_and_under_autocast_on_a_gpu():
    """tests/test_op.py says the same of every backend of the CPU."""
    layer = xe.FixedFanIn(64, 500, 8, device="cuda")
    compiled = torch.compile(torch.nn.Sequential(torch.nn.Linear(32, 64, device="cuda"), layer), fullgraph=True)
    x = torch.randn(9, 32, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        y = compiled(x)
    y.sum().backward()
    assert y.dtype == torch.float32 and layer.weight.grad.isfinite().all()
    torch.testing.assert_close(y, layer(compiled[0](x)), atol=0.1, rtol=0.05)


# Run without TRITON_INTERPRET: Triton's compiler needs no GPU to make the code of one.
AHEAD_OF_TIME = """
import re, sys
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from xmc_explore.layers import triton_grouped as tg, triton_kernels as tk

SIZES = {"BLOCK_L": 32, "BLOCK_K": 16, "BLOCK_S": 32, "BLOCK_F": 32, "BLOCK_B": 32, "FAN_IN": 32, "SUM": tl.float32}
ALWAYS = {"partial": "*fp32", **dict.fromkeys(("order", "start", "stop", "place", "ends"), "*i32")}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of fast memory, a program gets so many KiB of a multiprocessor's at most: CUDA C programming guide, technical
# specifications per compute capability.
SHARED = {75: 64, 80: 163, 86: 99, 90: 227}
KERNELS = [(tk, name) for name in ("forward", "weight_gradient", "segment", "combine", "scatter")]
KERNELS += [(tg, name) for name in ("forward", "weight_gradient", "x_gradient")]
GPUS = ("fp32", "i16", True, 80), ("bf16", "i32", False, 90), ("fp16", "i16", True, 75), ("fp32", "i32", False, 86)
for number, index, bias, capability in GPUS:
    for module, name in KERNELS:
        kernel = getattr(module, name + "_kernel")
        sizes = SIZES if module is tk else tg._tiles(1000, 128, 256, DTYPES[number])
        constants = {n: sizes[n] for n in kernel.arg_names if n in sizes}
        constants |= {"bias": None} if "bias" in kernel.arg_names and not bias else {}
        kinds = {n: "constexpr" if n in constants else ALWAYS.get(n) or (
            "i32" if n in ("batch", "n_labels", "in_features") else "*" + (index if n == "indices" else number))
            for n in kernel.arg_names}
        if name in ("scatter", "x_gradient"):
            kinds["dx"] = "*fp32"
        aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n not in constants}
        source = ASTSource(kernel, kinds, {(kernel.arg_names.index(n),): v for n, v in constants.items()}, aligned)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        wide = re.findall(r"ld\\.global\\S*\\.v[24]|cp\\.async\\.c[ag]\\S* .*0x(?:8|10),", made.asm["ptx"])
        print(capability, number, kernel.__module__.split(".")[-1], name, made.metadata.shared,
              "bytes:", len(made.asm["cubin"]) > 0, "fits:", made.metadata.shared <= SHARED[capability] << 10,
              "vectors:", len(wide) > 0)
"""


def test_every_kernel_compiles_for_gpus_that_are_not_here(tmp_path):
    """From Turing to Hopper, groups of 1,000 labels too; what is gathered is, by vectors of 8 or 16 bytes a thread."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", AHEAD_OF_TIME], capture_output=True, text=True, timeout=300,
                          env=environment)
    rows = done.stdout.splitlines()
    assert len(rows) == 32 and all(row.endswith("bytes: True fits: True vectors: True") for row in rows), (
        done.stdout + done.stderr)


# --- which backend ------------------------------------------------------------------------------------------------


def test_auto_never_picks_the_interpreter():
    if "cpu" in TRITON.devices:
        assert not TRITON.auto and "interpreter" in TRITON.reason
        assert pick("auto", torch.device("cpu")).name == "cpu"
        assert pick("auto", torch.device("cuda")).name == "reference"
        assert pick("triton", torch.device("cpu")).module is tk
    else:
        assert pick("auto", torch.device("cuda")).module is tk


def test_a_backend_may_have_a_file_of_another_name():
    assert Backend("triton", True, "", (), file="triton_kernels").module is tk
