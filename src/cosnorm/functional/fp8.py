"""Cosine of rows with 8-bit products: a cosine's norms are row scales, so the normalization costs nothing.

Each row is divided by its largest element a, times 448 (the largest number of e4m3), and rounded; with the
norm |x| the scale of the row is a / (448 |x|), and the scaled product of two rows is their cosine. To
normalize first and round then would lose the small components: e4m3 has no number below 2^-9.

The gradient is that of the cosine of the rows as they are (eqs. 9-12), in their own dtype.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.cosine_rows import unit_gradients
from cosnorm.functional.norms import unit_rows

LARGEST = 448.0
DTYPE = torch.float8_e4m3fn


class Quantized(NamedTuple):
    """Rows in 8 bits: ``values * scale`` are unit rows; ``extra`` is the appended component of each."""

    values: Tensor
    scale: Tensor
    extra: Tensor | None


def fp8_cosine(x: Tensor, weight: Tensor, *, centered: bool, augment: float, kernels: bool) -> Tensor:
    """Cosine of each row of x (N, D) with each row of the weight (M, D), both rounded to 8 bits."""
    output: Tensor = _Fp8Cosine.apply(x, weight, centered, augment, kernels)
    return output


def quantize(x: Tensor, *, centered: bool, augment: float) -> Quantized:
    """The rows of x in 8 bits."""
    unit = unit_rows(x, centered=centered, augment=augment)
    # The largest element of the unit row, which is a / |x|.
    largest = unit.values.abs().amax(-1, keepdim=True) if x.shape[-1] else unit.inverse_norm
    factor = torch.where(largest > 0, LARGEST / largest, 0)
    return Quantized((unit.values * factor).to(DTYPE), largest / LARGEST, unit.extra)


def scaled_product(x: Quantized, y: Quantized, dtype: torch.dtype) -> Tensor:
    """The cosines; by 8-bit matrix units where there are any, else the same numbers by a float32 product."""
    if _has_fp8_units(x.values.device) and not any(size % 16 for size in y.values.shape):
        # Rounded to bfloat16 by the units; they give no other type for scales by row.
        output = torch._scaled_mm(
            x.values, y.values.t(), scale_a=x.scale, scale_b=y.scale.t(), out_dtype=torch.bfloat16
        )
    else:
        output = (x.values.float() @ y.values.float().mT).mul_(x.scale).mul_(y.scale.mT)
    if x.extra is not None and y.extra is not None:
        output = output + (x.extra * y.extra.mT).to(output.dtype)
    return output.clamp_(-1, 1).to(dtype)


def _has_fp8_units(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _forward(x: Tensor, weight: Tensor, centered: bool, augment: float, kernels: bool) -> Tensor:
    with without_autocast(x.device):
        if kernels:
            from cosnorm.kernels.fp8 import quantize as by_kernel

            rows = [Quantized(*by_kernel(one, centered=centered, augment=augment)) for one in (x, weight)]
        else:
            rows = [quantize(one, centered=centered, augment=augment) for one in (x, weight)]
        return scaled_product(rows[0], rows[1], x.dtype)


_forward_op = torch.library.custom_op("cosnorm::cosine_fp8", _forward, mutates_args=())


@_forward_op.register_fake
def _(x: Tensor, weight: Tensor, centered: bool, augment: float, kernels: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


class _Fp8Cosine(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, centered: bool, augment: float, kernels: bool) -> Tensor:
        operator = _forward_op if torch.compiler.is_compiling() else _forward
        return operator(x, weight, centered, augment, kernels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.centered, ctx.augment, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_w = ctx.needs_input_grad[:2]
        into_x, into_w = unit_gradients(
            cotangent, x.unsqueeze(1), weight, ctx.centered, ctx.augment, needs_x, needs_w
        )
        return into_x.squeeze(1) if needs_x else None, into_w if needs_w else None, None, None, None
