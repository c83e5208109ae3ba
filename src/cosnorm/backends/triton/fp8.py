"""Rows in 8 bits with their scales, in one kernel: the largest element, the norm, the cast."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.triton.launch import launch, readable, writable
from cosnorm.backends.triton.units import deviations, factor_of, reciprocal, row_norms, store_rows, tile
from cosnorm.norms import CONSTANT_EPS

_LARGEST = 448.0  # of e4m3


@triton.jit
def _quantize(
    x_pointer,
    values_pointer,
    scale_pointer,
    extra_pointer,
    rows,
    size,
    augment,
    bound,
    limit,
    CENTERED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    norm, mean = row_norms(x_pointer, row, rows, size, augment, bound, CENTERED, ROWS, BLOCK)
    largest = tl.zeros([ROWS], tl.float64)
    for start in range(0, size, BLOCK):
        values = tl.abs(deviations(x_pointer, row, start, rows, size, mean, BLOCK))
        largest = tl.maximum(largest, tl.max(values, 1))
    factor = factor_of(norm)
    into = tl.where(
        (largest > 0) & (factor != 0), limit * reciprocal(tl.where(largest > 0, largest, 1.0)), 0.0
    )
    for start in range(0, size, BLOCK):
        values = deviations(x_pointer, row, start, rows, size, mean, BLOCK) * into[:, None]
        store_rows(values_pointer, values.to(tl.float32), row, start, rows, size, BLOCK)
    tl.store(
        scale_pointer + row,
        (largest * factor * reciprocal(tl.zeros_like(largest) + limit)).to(tl.float32),
        mask=row < rows,
    )
    tl.store(extra_pointer + row, (augment * reciprocal(tl.abs(norm))).to(tl.float32), mask=row < rows)


def handles(x: Tensor) -> bool:
    """Whether the kernel has these shapes and this layout: it has all."""
    return True


def quantize(x: Tensor, *, centered: bool, augment: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """Values (N, D) in e4m3, scales (N, 1), and the appended components (N, 1) or None."""
    eps = torch.finfo(x.dtype).eps
    x = readable(x)
    rows, size = x.shape
    values = writable((rows, size), torch.float8_e4m3fn, x.device)
    scale, extra = (torch.empty((rows, 1), dtype=torch.float32, device=x.device) for _ in range(2))
    if rows:
        shape = tile(rows, size)
        launch(
            _quantize,
            (triton.cdiv(rows, shape["ROWS"]),),
            x,
            values,
            scale,
            extra,
            rows,
            size,
            augment,
            CONSTANT_EPS * eps,
            _LARGEST,
            CENTERED=centered,
            **shape,
        )
    return values.to(torch.float8_e4m3fn), scale, extra if augment else None
