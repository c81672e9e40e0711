"""A walk through a kernel records what the real kernel does; its figure draws what was recorded."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

if not find_spec("triton"):
    pytest.skip("Triton is not installed here", allow_module_level=True)

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

import xmc_explore as xe  # noqa: E402
from xmc_explore.layers import triton_kernels as tk  # noqa: E402
from xmc_explore.layers.walk import OutOfBounds, load_walk, walk  # noqa: E402
from xmc_explore.layers.walker import interpreted, shipped  # noqa: E402
from xmc_explore.plots.static import _rgba  # noqa: E402

B, D, L, K = 40, 24, 70, 4


@pytest.fixture(scope="module")
def tensors():
    g = torch.Generator().manual_seed(0)
    return (torch.randn(B, D, generator=g), torch.randn(L, K, generator=g),
            torch.rand(L, D, generator=g).argsort(1)[:, :K].to(torch.int16), torch.randn(L, generator=g),
            torch.randn(B, L, generator=g))


@triton.jit
def double_kernel(x, y, n, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if MASKED:
        tl.store(y + at, 2 * tl.load(x + at, at < n), at < n)
    else:
        tl.store(y + at, 2 * tl.load(x + at))


@pytest.mark.parametrize("program", [(0, 0), (1, 0), (2, 1)])
def test_forward_touches_what_the_formula_says(tensors, program):
    x, weight, indices, bias, _ = tensors
    found = walk(lambda: tk.forward(x, weight, indices, bias), program)
    assert found.kernel == "forward_kernel" and found.grid == (3, 2, 1) and found.program == (*program, 0)
    labels = np.arange(32 * program[0], min(32 * program[0] + 32, L))
    docs = np.arange(32 * program[1], min(32 * program[1] + 32, B))
    assert [a.tensor.name for a in found.steps] == ["indices", "weight", "x"] * K + ["bias", "y"]
    for k in range(K):
        slots, read = found.steps[3 * k].inside, found.steps[3 * k + 2]
        assert slots.tolist() == (labels * K + k).tolist()
        features = np.unique(indices.numpy()[labels, k].astype(int))
        assert read.inside.tolist() == (features[:, None] * B + docs).ravel().tolist()
        assert read.elements.size == 32 * 32 and read.bytes == len(labels) * len(docs) * 4
    store = found.steps[-1]
    assert store.kind == "store" and store.inside.tolist() == (labels[:, None] * B + docs).ravel().tolist()
    blocks = 2  # of documents: weights, indices and biases are read once for each
    assert found.loaded == {"indices": L * K * 2 * blocks, "weight": L * K * 4 * blocks, "x": L * K * B * 4,
                            "bias": L * 4 * blocks}
    assert found.stored == {"y": L * B * 4}


def test_the_kernel_does_its_work_meanwhile_and_the_interpreter_is_left_as_it_was(tensors):
    x, weight, indices, bias, grad = tensors
    builder = triton.runtime.interpreter.interpreter_builder
    before = dict(vars(builder)).keys() | {triton.runtime.interpreter.GridExecutor.__call__}
    results = []
    walk(lambda: results.append(tk.forward(x, weight, indices, bias)))
    dense = torch.zeros(L, D).scatter_(1, indices.long(), weight)
    torch.testing.assert_close(results[0], x @ dense.t() + bias)
    with pytest.raises(ZeroDivisionError):
        walk(lambda: 1 / 0)
    after = dict(vars(builder)).keys() - {"grid_dim", "grid_idx"}
    assert after <= before and "create_masked_load" not in vars(builder)
    assert triton.runtime.interpreter.GridExecutor.__call__ in before


@pytest.mark.parametrize("kernel, reads, writes", [
    ("weight_gradient_kernel", {"indices": L * K * 2, "grad": B * L * 4, "x": L * K * B * 4},
     {"dweight": L * K * 4, "dbias": L * 4}),
    ("segment_kernel", {"grad": L * K * B * 4, "weight": L * K * 4 * 2, "order": L * K * 4 * 2}, {}),
    ("scatter_kernel", {"grad": B * L * 4, "weight": L * K * 4 * 2, "indices": L * K * 2 * 2}, {"dx": L * K * B * 4}),
])
def test_a_launch_is_chosen_by_its_name(tensors, kernel, reads, writes):
    x, weight, indices, _, grad = tensors
    plan = () if kernel == "scatter_kernel" else tk.plan(indices, D)
    found = walk(lambda: tk.backward(grad, x, weight, indices, (True, True, True), plan), kernel=kernel)
    assert found.kernel == kernel
    assert reads.items() <= found.loaded.items() and writes.items() <= found.stored.items()


def test_lines_of_the_cache_and_masks_are_counted():
    x, y = torch.arange(100.0), torch.empty(100)
    found = walk(lambda: double_kernel[(2,)](x, y, 100, BLOCK=64, MASKED=True), (1,))
    assert torch.equal(y, 2 * x)
    load, store = found.steps
    assert (load.elements >= 0).sum() == 36 and load.bytes == 144 and load.lines == 2  # 64..95, 96..99
    assert load.inside.tolist() == list(range(64, 100)) and store.kind == "store"
    assert found.constants == {"BLOCK": 64, "MASKED": True} and found.loaded == {"x": 400}
    assert found.table()[0]["code"] == "tl.store(y + at, 2 * tl.load(x + at, at < n), at < n)"
    arrow, = (row for row in found.listing(0).splitlines() if row.startswith("-->"))
    assert "tl.load(x + at, at < n)" in arrow


def test_memory_that_is_nobodys_is_not_touched():
    x, y = torch.arange(100.0), torch.zeros(100)
    with pytest.raises(OutOfBounds, match=r"program \(1, 0, 0\) of double_kernel, line \d+, `.*load.*`: 28 of 64 "
                                          r"addresses lie outside x; is there a mask"):
        walk(lambda: double_kernel[(2,)](x, y, 100, BLOCK=64, MASKED=False))
    assert torch.equal(y[:64], 2 * x[:64]) and not y[64:].any()


def test_what_cannot_be_walked_is_said_in_words(tensors):
    x, weight, indices, bias, _ = tensors
    with pytest.raises(ValueError, match=r"program \(3, 0\) is outside the grid \(3, 2, 1\) of forward_kernel"):
        walk(lambda: tk.forward(x, weight, indices, bias), (3, 0))
    with pytest.raises(ValueError, match="no kernel 'nonsense' was launched, only: forward_kernel"):
        walk(lambda: tk.forward(x, weight, indices, bias), kernel="nonsense")
    with pytest.raises(ValueError, match="no kernel was launched, only: none"):
        walk(lambda: None)
    with pytest.raises(ValueError, match="x must be a contiguous tensor on the CPU"):
        walk(lambda: double_kernel[(1,)](torch.zeros(8)[::2], torch.zeros(4), 4, BLOCK=4, MASKED=True))


def test_it_needs_no_variable_of_the_environment():
    """Kernels made to be compiled are walked through just so: as on a machine with a GPU."""
    code = ("import torch; from xmc_explore.layers import triton_kernels as tk; "
            "from xmc_explore.layers.walker import interpreted, record as walk\n"
            "x, w, i = torch.ones(3, 5), torch.ones(7, 2), torch.tensor([[0, 1]] * 7).short()\n"
            "import triton.language as tl; places = (tl, tl.core, tl.math, tl.tensor, tl.dtype)\n"
            "before = [dict(vars(o)) for o in places]\n"
            "assert type(tk.forward_kernel).__name__ == 'JITFunction'\n"
            "found = walk(lambda: tk.backward(torch.ones(3, 7), x, w, i, (True,) * 3, tk.plan(i, 5)), "
            "kernel='weight_gradient_kernel')\n"
            "assert before == [dict(vars(o)) for o in places]\n"
            "with interpreted(): print(found.stored, tk.forward(x, w, i, None).sum().item())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"})
    assert done.stdout.strip() == "{'dweight': 56, 'dbias': 28} 42.0", done.stderr


def test_interpreted_may_be_used_alone():
    x, y = torch.arange(8.0), torch.empty(8)
    with interpreted():
        double_kernel[(2,)](x, y, 8, BLOCK=4, MASKED=True)
    assert torch.equal(y, 2 * x)


# --- kept and shipped ---------------------------------------------------------------------------------------------


def same(a, b):
    assert [(s.kind, s.tensor, s.line, s.elements.tolist()) for s in a.steps] == [
        (s.kind, s.tensor, s.line, s.elements.tolist()) for s in b.steps]
    for name in ("kernel", "grid", "program", "tensors", "constants", "loaded", "stored", "source"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("name", ["forward", "weight_gradient", "segment", "scatter"])
def test_the_walks_that_are_shipped_are_of_the_kernels_as_they_are(name):
    """Else run: python -m xmc_explore.layers.walker"""
    same(load_walk(name), shipped()[name])


def test_a_walk_survives_a_file(tensors, tmp_path):
    x, weight, indices, bias, _ = tensors
    found = walk(lambda: tk.forward(x, weight, indices, bias), (1, 1))
    found.save(tmp_path / "walk.json")
    same(load_walk(tmp_path / "walk.json"), found)
    (tmp_path / "walk.json").write_text('{"tensors": []}')
    with pytest.raises(ValueError, match=r"walk.json holds no walk \(KeyError: 'steps'\)"):
        load_walk(tmp_path / "walk.json")
    with pytest.raises(FileNotFoundError, match="no walk 'backward'; shipped are 'forward', 'scatter'"):
        load_walk("backward")


def test_without_triton_a_recorded_walk_stands_in(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["xmc_explore.layers.walk"], "find_spec", lambda name: None)
    assert walk(lambda: 1 / 0, otherwise="segment").kernel == "segment_kernel"
    assert "Triton is not installed here: this is a recorded walk of segment_kernel" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="Triton is not installed"):
        walk(lambda: 1 / 0)


# --- the figure ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walked(tensors):
    x, weight, indices, bias, _ = tensors
    return walk(lambda: tk.forward(x, weight, indices, bias), (2, 1))


def test_the_figure_draws_what_was_touched_before_and_now(walked):
    picture = xe.plots.memory_traffic(walked, step=5)  # the second gather of x
    z = np.asarray(picture.figure.data[0].z, float)
    assert (z == 2).sum() == len(walked.steps[5].inside) and not (z == 3).any()
    before = {name: set() for name in walked.tensors}
    for access in walked.steps[:5]:
        before[access.tensor.name] |= set(access.inside.tolist())
    before["x"] -= set(walked.steps[5].inside.tolist())
    assert (z == 1).sum() == sum(map(len, before.values()))
    assert np.isfinite(z).sum() == sum(t.size for t in walked.tensors.values())
    assert picture.title == "forward_kernel, program (2, 1), step 5: load x"
    assert re.fullmatch(r"Step 5 of 13 of program \(2, 1\): load 48 numbers of x in 6 lines of 128 bytes, 976 of 1,024 "
                        r"lanes masked; up to here the program has asked for 456 bytes and stored 0\.", picture.caption)
    assert len(picture.table) == 14 and picture.alt.startswith(picture.title)
    assert picture.svg().count("<image") == 2


def test_the_slider_has_every_step_and_needs_no_kernel(walked):
    picture = xe.plots.memory_traffic(walked)
    slider, = picture.figure.layout.sliders
    assert len(slider.steps) == len(picture.figure.frames) == len(walked.steps) and slider.active == 13
    assert slider.steps[13].label == "13: store y" and slider.steps[13].args[0] == ("13",)
    last = np.asarray(picture.figure.frames[13].data[0].z, float)
    assert np.array_equal(last, np.asarray(picture.figure.data[0].z, float), equal_nan=True) and (last == 3).sum() == 48
    assert picture.figure.frames[2].layout.title.text == "forward_kernel, program (2, 1), step 2: load x"
    assert picture.caption.startswith("Program (2, 1) from step 0 to step 13 asks for 936 bytes and stores 192; its "
                                      "last step: store 48 numbers of y")  # true wherever the slider stands
    assert picture.figure.layout.height <= 455  # of a notebook at 1280 x 720 and 125 %: title and slider together


@pytest.mark.parametrize("ground", [255, 17])
def test_what_was_not_touched_stays_in_the_background_of_a_light_and_of_a_dark_page(walked, ground):
    drawn = xe.plots.memory_traffic(walked).figure.data[0].colorscale
    colors = np.array([_rgba(color) for _, color in drawn[::2]])
    apart = np.abs((colors[:, :3] - ground) * colors[:, 3:] / 255).max(1)
    assert apart[0] < 40 < 100 < apart[1:].min()


def test_a_listing_fits_the_screen_of_a_lecturer(walked):
    assert max(map(len, walked.listing(5).splitlines())) <= 104  # columns at 1280 x 720 and 125 %


def test_long_vectors_are_folded(tensors):
    x, weight, indices, _, grad = tensors
    found = walk(lambda: tk.backward(grad, x, weight, indices, (True, False, False), tk.plan(indices, D)),
                 kernel="segment_kernel")
    z = np.asarray(xe.plots.memory_traffic(found, 0).figure.data[0].z, float)
    assert np.isfinite(z).sum() == sum(t.size for t in found.tensors.values()) and z.shape[1] < 130


def test_a_figure_that_cannot_be_drawn_says_why(walked):
    with pytest.raises(ValueError, match="step 14 was not walked; there are steps 0 to 13"):
        xe.plots.memory_traffic(walked, 14)
    x, y = torch.zeros(90_000), torch.zeros(90_000)
    large = walk(lambda: double_kernel[(1,)](x, y, 4, BLOCK=4, MASKED=True))
    with pytest.raises(ValueError, match="cells are too many to draw"):
        xe.plots.memory_traffic(large, 0)
