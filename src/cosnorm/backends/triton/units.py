"""Rows as unit vectors, whatever their norms: the kernel form of `cosnorm.backends.torch.units.unit_rows`.

A row is scaled by 2^-e, which is exact, so that its largest magnitude is near 1. No kernel looks at the data
from the host: nothing here waits for the device. A program takes a tile of whole rows, block after block.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.triton.launch import launch, readable, writable

# Elements of a tile, and the most of one row at once.
_TILE, _BLOCK = 4096, 2048


class KernelRows(NamedTuple):
    """Statistics of rows, and the unit rows where they were asked for.

    values: unit rows, (N, D), in the dtype that was asked for; None if it was not.
    extra: the appended component of each unit row, (N,); 0 without `augment`.
    inverse_norm: 1/|x · 2^-exponent|, 0 for zero rows, (N,) float32.
    exponent: (N,) int32.
    """

    values: Tensor | None
    extra: Tensor
    inverse_norm: Tensor
    exponent: Tensor


@triton.jit
def scale_exponent(largest):
    """An exponent e with `largest` · 2^-e near 1 and 2^-e a normal number; 0 for 0."""
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) - 127
    # inf comes out as 128, whose reciprocal is no normal number.
    return tl.where(largest == 0, 0, tl.minimum(exponent, 126))


@triton.jit
def power_of_two(exponent):
    """2^exponent, exactly, for exponents of normal numbers."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def scale_by_exponent(values, exponent):
    """Multiply by 2^exponent in two steps, for exponents outside of the normal range too."""
    first = exponent >> 1
    second = exponent - first
    first = tl.minimum(tl.maximum(first, -126), 127)
    second = tl.minimum(tl.maximum(second, -126), 127)
    return values * power_of_two(first) * power_of_two(second)


@triton.jit
def clamp(values, limit):
    """Between ±limit; NaN stays NaN."""
    values = tl.where(values > limit, limit, values)
    return tl.where(values < -limit, -limit, values)


@triton.jit
def load_rows(pointer, row, start, rows, size, BLOCK: tl.constexpr):
    """Columns start … start + BLOCK of the rows, as float32; 0 outside of them."""
    column = start + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < size)[None, :]
    return tl.load(pointer + row[:, None] * size + column[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_rows(pointer, values, row, start, rows, size, BLOCK: tl.constexpr):
    """The counterpart of `load_rows`, in the dtype of the memory."""
    column = start + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < size)[None, :]
    tl.store(pointer + row[:, None] * size + column[None, :], values, mask=inside)


@triton.jit
def centered_rows(pointer, row, start, rows, size, scale, mean, BLOCK: tl.constexpr):
    """The rows times `scale`, less `mean`; 0 outside of them."""
    values = load_rows(pointer, row, start, rows, size, BLOCK) * scale[:, None] - mean[:, None]
    return tl.where((start + tl.arange(0, BLOCK) < size)[None, :], values, 0.0)


@triton.jit
def row_statistics(
    pointer,
    row,
    rows,
    size,
    augment,
    eps,
    CENTERED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of each row: its exponent, 1/norm and mean (these of x · 2^-exponent), and the factor of its values.

    The factor is 1/norm but for constant rows, which count as zero.
    """
    zeros = tl.zeros([ROWS], tl.float32)
    ones = zeros + 1.0
    largest = zeros
    for start in range(0, size, BLOCK):
        values = tl.abs(load_rows(pointer, row, start, rows, size, BLOCK))
        largest = tl.maximum(largest, tl.max(values, 1))
    exponent = scale_exponent(tl.maximum(largest, augment))
    scale = power_of_two(-exponent)
    mean = zeros
    kept = ones
    if CENTERED:
        total = zeros
        for start in range(0, size, BLOCK):
            total += tl.sum(centered_rows(pointer, row, start, rows, size, scale, zeros, BLOCK), 1)
        first = total / size
        # Twice: the first mean is rounded, which would stay in every component as a common offset.
        total = zeros
        for start in range(0, size, BLOCK):
            total += tl.sum(centered_rows(pointer, row, start, rows, size, scale, first, BLOCK), 1)
        mean = first + total / size
        largest = zeros
        for start in range(0, size, BLOCK):
            values = tl.abs(centered_rows(pointer, row, start, rows, size, scale, mean, BLOCK))
            largest = tl.maximum(largest, tl.max(values, 1))
        kept = tl.where(largest <= 4 * eps * tl.abs(first), 0.0, 1.0)
    squared = zeros
    for start in range(0, size, BLOCK):
        values = centered_rows(pointer, row, start, rows, size, scale, mean, BLOCK)
        squared += tl.sum(values * values, 1)
    extra = augment * scale
    squared = tl.where(kept == 0.0, 0.0, squared) + extra * extra
    zero = squared == 0
    inverse = tl.where(zero, 0.0, tl.div_rn(ones, tl.sqrt_rn(tl.where(zero, 1.0, squared))))
    return exponent, inverse, mean, inverse * kept


@triton.jit
def _unit_rows(
    x_pointer,
    values_pointer,
    extra_pointer,
    inverse_pointer,
    exponent_pointer,
    rows,
    size,
    augment,
    eps,
    CENTERED: tl.constexpr,
    WRITE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exponent, inverse, mean, factor = row_statistics(
        x_pointer, row, rows, size, augment, eps, CENTERED, ROWS, BLOCK
    )
    scale = power_of_two(-exponent)
    tl.store(extra_pointer + row, augment * scale * inverse, mask=row < rows)
    tl.store(inverse_pointer + row, inverse, mask=row < rows)
    tl.store(exponent_pointer + row, exponent, mask=row < rows)
    if WRITE:
        for start in range(0, size, BLOCK):
            values = centered_rows(x_pointer, row, start, rows, size, scale, mean, BLOCK) * factor[:, None]
            store_rows(values_pointer, values, row, start, rows, size, BLOCK)


def tile(rows: int, size: int) -> dict[str, int]:
    """How many rows a program takes, and how much of them at once."""
    block = min(_BLOCK, triton.next_power_of_2(max(size, 1)))
    return {"ROWS": min(_TILE // block, triton.next_power_of_2(rows)), "BLOCK": block}


def unit_rows(
    x: Tensor, *, centered: bool = False, augment: float = 0.0, dtype: torch.dtype | None = None
) -> KernelRows:
    """Unit rows of x (N, D), float32 or half, in `dtype`; None: only their norms."""
    eps = torch.finfo(x.dtype).eps
    x = readable(x)
    rows, size = x.shape
    values = None if dtype is None else writable((rows, size), dtype, x.device)
    extra, inverse = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
    exponent = torch.empty(rows, dtype=torch.int32, device=x.device)
    if rows:
        shape = tile(rows, size)
        launch(
            _unit_rows,
            (triton.cdiv(rows, shape["ROWS"]),),
            x,
            x if values is None else values,
            extra,
            inverse,
            exponent,
            rows,
            size,
            augment,
            eps,
            CENTERED=centered,
            WRITE=values is not None,
            **shape,
        )
    return KernelRows(None if values is None or dtype is None else values.to(dtype), extra, inverse, exponent)
