"""Rows in 8 bits with their scales, in one kernel: the largest element, the norm, the cast."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.triton.launch import launch, readable, writable
from cosnorm.backends.triton.units import centered_rows, power_of_two, row_statistics, store_rows, tile

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
    eps,
    limit,
    CENTERED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exponent, inverse, mean, factor = row_statistics(
        x_pointer, row, rows, size, augment, eps, CENTERED, ROWS, BLOCK
    )
    scale = power_of_two(-exponent)
    largest = tl.zeros([ROWS], tl.float32)
    for start in range(0, size, BLOCK):
        values = tl.abs(centered_rows(x_pointer, row, start, rows, size, scale, mean, BLOCK))
        largest = tl.maximum(largest, tl.max(values, 1))
    into = tl.where((largest > 0) & (factor != 0), limit / tl.where(largest > 0, largest, 1.0), 0.0)
    for start in range(0, size, BLOCK):
        values = centered_rows(x_pointer, row, start, rows, size, scale, mean, BLOCK) * into[:, None]
        store_rows(values_pointer, values, row, start, rows, size, BLOCK)
    tl.store(scale_pointer + row, largest * factor / limit, mask=row < rows)
    tl.store(extra_pointer + row, augment * scale * inverse, mask=row < rows)


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
            eps,
            _LARGEST,
            CENTERED=centered,
            **shape,
        )
    return values.to(torch.float8_e4m3fn), scale, extra if augment else None
