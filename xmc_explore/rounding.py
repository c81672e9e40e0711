"""From float32 to bfloat16 and FP8 (E4M3), to the nearest value or up and down by chance.

A weight that takes small steps in a format with few values never moves if it is rounded to the nearest: 1 + 0.001 is 1
in bfloat16, as often as it is tried. Rounded *stochastically*, up with the chance that is the distance from the value
below in units of the spacing, it is right on average: E[round(x)] = x. So weights can be trained without a float32 copy
(Zamirai et al., 2020; ELMO does it in the output layer).

    format         exponent, mantissa bits   largest    smallest normal   spacing below that
    bfloat16       8, 7                      3.39e38    2^-126            2^-133
    float8_e4m3fn  4, 3                      448        2^-6              2^-9; no infinity
"""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn}


def round_to(x: Tensor, dtype: torch.dtype, generator: torch.Generator | None = None) -> Tensor:
    """float32 x in another `dtype`: to the nearest (ties to even), or by chance if a `generator` is given.

    What the format holds exactly stays. What is larger than its largest value becomes that value, with its sign; so
    does infinity in FP8, which has none, while bfloat16 keeps it. NaN stays NaN. Raises TypeError for other dtypes.
    """
    if dtype not in DTYPES.values() or x.dtype != torch.float32:
        raise TypeError(f"rounding goes from float32 to bfloat16 or float8_e4m3fn; got {x.dtype} to {dtype}")
    if dtype == torch.float32:
        return x
    largest = torch.finfo(dtype).max
    if generator is None:
        return _saturated(x, largest, dtype).to(dtype)
    up_or_down = _bfloat16 if dtype == torch.bfloat16 else _float8
    return _saturated(up_or_down(x, generator), largest, dtype).to(dtype)


def _saturated(x: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
    held = x.clamp(-largest, largest)  # NaN passes
    return held if dtype == torch.float8_e4m3fn else torch.where(x.isinf(), x, held)


def _bfloat16(x: Tensor, generator: torch.Generator) -> Tensor:
    """bfloat16 is float32 without its last 16 bits: add 16 random bits there, then cut them off."""
    bits = x.contiguous().view(torch.int32)
    chance = torch.empty_like(bits).random_(0, 1 << 16, generator=generator)
    cut = chance.add_(bits).bitwise_and_(-1 << 16).view(torch.float32)
    # A NaN could carry over into another number, a number above the largest into infinity.
    return torch.where(x.isfinite(), torch.where(cut.isinf(), x, cut), x)


def _float8(x: Tensor, generator: torch.Generator) -> Tensor:
    """Up from the E4M3 value below |x| with the chance (|x| - below) / spacing."""
    size = x.abs()
    exponent = (size.view(torch.int32) >> 23).clamp_(min=127 - 6, max=127 + 8)  # biased by 127, as float32 has it
    spacing = ((exponent - 3) << 23).view(torch.float32)  # 2^(exponent - 3): three bits of mantissa
    steps = size / spacing  # exact, as the spacing is a power of two
    below = steps.floor()
    up = torch.rand(x.shape, generator=generator, device=x.device) < steps - below
    return torch.where(x.isfinite(), (below + up) * spacing, size).copysign(x)
