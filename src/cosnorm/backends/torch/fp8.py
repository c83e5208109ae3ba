"""Rows in 8 bits, and their products.

Each row is divided by its largest element a, times 448 (the largest number of e4m3), and rounded; with the
norm |x| the scale of the row is a / (448 |x|), and the scaled product of two rows is their cosine: its norms
are row scales, so the normalization costs nothing. To normalize first and round then would lose the small
components: e4m3 has no number below 2^-9.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.torch.units import unit_rows

LARGEST = 448.0
DTYPE = torch.float8_e4m3fn


class Quantized(NamedTuple):
    """Rows in 8 bits: ``values * scale`` are unit rows; ``constant`` is the appended component of each."""

    values: Tensor
    scale: Tensor
    constant: Tensor | None


def handles(x: Tensor) -> bool:
    """Whether this form has these shapes and this layout: it has all."""
    return True


def quantize(x: Tensor, *, centered: bool, augment: float) -> Quantized:
    """The rows of x (N, D) in 8 bits."""
    unit = unit_rows(x, centered=centered, augment=augment)
    # The largest element of the unit row, which is a / |x|.
    largest = torch.linalg.vector_norm(unit.values, torch.inf, -1, keepdim=True)
    factor = torch.where(largest > 0, LARGEST / largest, 0)
    return Quantized((unit.values * factor).to(DTYPE), largest / LARGEST, unit.constant)


def scaled_product(x: Quantized, y: Quantized, dtype: torch.dtype) -> Tensor:
    """The cosines; by 8-bit matrix units where there are any, else the same numbers by a float32 product."""
    if _has_fp8_units(x.values.device) and not any(size % 16 for size in y.values.shape):
        # Rounded to bfloat16 by the units; they give no other type for scales by row.
        output = torch._scaled_mm(
            x.values, y.values.t(), scale_a=x.scale, scale_b=y.scale.t(), out_dtype=torch.bfloat16
        )
    else:
        output = (x.values.float() @ y.values.float().mT).mul_(x.scale).mul_(y.scale.mT)
    if x.constant is not None and y.constant is not None:
        output = output + (x.constant * y.constant.mT).to(output.dtype)
    return output.clamp_(-1, 1).to(dtype)


def _has_fp8_units(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
