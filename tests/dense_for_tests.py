"""What a sparse layer is held against, on every backend that runs: a dense one with the same entries, in float64."""

from __future__ import annotations

import torch

import xmc_explore as xe

USABLE = [name for name, b in xe.backends().items() if b.usable]
# Triton's kernels run where Triton compiles them; without a GPU its interpreter takes tensors of the CPU. Tests with a
# parameter `backend` find this to be torch's default device (conftest.py).
DEVICES = {name: "cuda" if b.devices == ("cuda",) else "cpu" for name, b in xe.backends().items() if b.usable}
HERE = "(cpu|cuda:0)"  # that device, in a pattern for an error
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def generator(seed=0):
    """A random generator on torch's default device."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def autocast():
    """Autocast to bfloat16 on torch's default device."""
    return torch.autocast(torch.get_default_device().type, torch.bfloat16)


def dense_result(layer, x, grad):
    """Output and gradients (of x, of the weights in the slots, of the bias) of a dense float64 layer."""
    x = x.detach().double().requires_grad_()
    weight = layer.to_dense().double().requires_grad_()
    bias = layer.bias.detach().double().requires_grad_()
    y = torch.nn.functional.linear(x, weight, bias)
    y.backward(grad.double())
    return y.detach(), x.grad, weight.grad.gather(1, layer.indices_of(slice(None)).long()), bias.grad


def close(found, expected, dtype):
    """Equal up to what the dtype of a result can hold, against the largest of its numbers."""
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale)
