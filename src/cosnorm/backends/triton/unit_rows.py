"""Unit rows of losses, and the way of gradients back through them: one launch each.

The counterpart of `cosnorm.backends.torch.unit_rows`: norms are sums in float64, so that rows of every scale
are right without a look at them, and a gradient u is finished as u · factor / |x| in float64, too.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.torch.units import UnitRows
from cosnorm.backends.triton.launch import launch, readable, writable
from cosnorm.backends.triton.units import clamp, factor_of, load_rows, reciprocal, row_norms, store_rows, tile

_RANGE = torch.finfo(torch.float32)


@triton.jit
def make_units(
    x_pointer,
    y_pointer,
    units_pointer,
    rounded_pointer,
    divisors_pointer,
    rows_x,
    rows_y,
    programs_x,
    size,
    least,
    most,
    ROUNDED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Unit rows of two sets beside each other, in float32 and rounded; 1/|x / scale| and scale of each."""
    program = tl.program_id(0)
    second = program >= programs_x
    program -= tl.where(second, programs_x, 0)
    rows, before = tl.where(second, rows_y, rows_x), tl.where(second, rows_x, 0)
    pointer = x_pointer
    if second:
        pointer = y_pointer
    row = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    norm, _ = row_norms(pointer, row, rows, size, 0.0, 0.0, False, ROWS, BLOCK)
    factor = factor_of(norm)
    # The norm, or the end of float32's range beyond which it lies, and what that leaves; 0 for zero rows.
    scale = tl.minimum(tl.maximum(norm, tl.zeros_like(norm) + least), tl.zeros_like(norm) + most)
    at = divisors_pointer + 2 * (before + row)
    tl.store(at, tl.where(norm != norm, norm, scale * factor).to(tl.float32), mask=row < rows)
    tl.store(at + 1, scale.to(tl.float32), mask=row < rows)
    units_pointer += before.to(tl.int64) * size
    rounded_pointer += before.to(tl.int64) * size
    for start in range(0, size, BLOCK):
        values = load_rows(pointer, row, start, rows, size, BLOCK).to(tl.float64) * factor[:, None]
        store_rows(units_pointer, values.to(tl.float32), row, start, rows, size, BLOCK)
        if ROUNDED:
            store_rows(rounded_pointer, values.to(tl.float32), row, start, rows, size, BLOCK)


@triton.jit
def take_off(
    u_pointer,
    unit_pointer,
    along_pointer,
    scale_pointer,
    number,
    rows,
    size,
    POINTER: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows u times a scale, less their parts along the unit rows, in place; and u·v of each."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    scale = number
    if POINTER:
        scale = tl.load(scale_pointer)
    along = tl.zeros([ROWS], tl.float32)
    for start in range(0, size, BLOCK):
        u = load_rows(u_pointer, row, start, rows, size, BLOCK)
        along += tl.sum(u * load_rows(unit_pointer, row, start, rows, size, BLOCK), 1)
    tl.store(along_pointer + row, along * scale, mask=row < rows)
    for start in range(0, size, BLOCK):
        u = load_rows(u_pointer, row, start, rows, size, BLOCK)
        u -= along[:, None] * load_rows(unit_pointer, row, start, rows, size, BLOCK)
        store_rows(u_pointer, u * scale, row, start, rows, size, BLOCK)


@triton.jit
def divide_rows(
    u_pointer,
    divisors_pointer,
    factor_pointer,
    x_pointer,
    y_pointer,
    rows_x,
    rows_y,
    programs_x,
    size,
    limit,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The rows u · factor / |x| of two sets beside each other, each into memory of its own."""
    program = tl.program_id(0)
    second = program >= programs_x
    program -= tl.where(second, programs_x, 0)
    rows, before = tl.where(second, rows_y, rows_x), tl.where(second, rows_x, 0)
    pointer = x_pointer
    if second:
        pointer = y_pointer
    row = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = divisors_pointer + 2 * (before + row)
    inverse = tl.load(at, mask=row < rows, other=0.0).to(tl.float64)
    scale = tl.load(at + 1, mask=row < rows, other=1.0).to(tl.float64)
    quotient = inverse * tl.load(factor_pointer).to(tl.float64) * reciprocal(scale)
    u_pointer += before.to(tl.int64) * size
    for start in range(0, size, BLOCK):
        u = load_rows(u_pointer, row, start, rows, size, BLOCK).to(tl.float64) * quotient[:, None]
        store_rows(pointer, clamp(u, limit).to(tl.float32), row, start, rows, size, BLOCK)


def units_beside(sets: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows of sets of one dtype beside each other, in float32; the same in `dtype`; and their divisors.

    The divisors, (rows, 2), are `inverse_norm` and `scale` of `UnitRows`.
    """
    number, size = sum(map(len, sets)), sets[0].shape[1]
    units = torch.empty((number, size), dtype=torch.float32, device=sets[0].device)
    rounded = units if dtype == torch.float32 else writable((number, size), dtype, units.device)
    divisors = torch.empty((number, 2), dtype=torch.float32, device=units.device)
    start = 0
    for first in range(0, len(sets), 2):
        pair = [readable(one) for one in sets[first : first + 2]]
        rows_x, rows_y = len(pair[0]), sum(map(len, pair[1:]))
        if rows_x + rows_y and size:
            shape = tile(max(rows_x, rows_y), size)
            programs = triton.cdiv(rows_x, shape["ROWS"])
            launch(
                make_units,
                (programs + triton.cdiv(rows_y, shape["ROWS"]),),
                pair[0],
                pair[-1],
                units[start:],
                rounded[start:],
                divisors[start:],
                rows_x,
                rows_y,
                programs,
                size,
                _RANGE.tiny,
                _RANGE.max,
                ROUNDED=rounded is not units,
                **shape,
            )
        start += rows_x + rows_y
    return units, rounded.to(dtype), divisors


def unit_rows(x: Tensor) -> UnitRows:
    """The rows of x (N, D) as unit vectors, in float32."""
    units, _, divisors = units_beside([x], torch.float32)
    return UnitRows(units, None, divisors[:, :1], divisors[:, 1:])


def inverse_norms(x: Tensor) -> None:
    """None: norms alone do not make unit rows of every scale."""
    return


def quotients(divisors: Tensor, factor: Tensor) -> None:
    """None: a quotient may be out of range where the result is not."""
    return


def project_(u: Tensor, values: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Multiply u (N, D) by a scale and take off its parts along the unit rows, in place; gives u·v, (N,)."""
    along = u.new_empty(len(u))
    if u.numel():
        shape = tile(*u.shape)
        launch(
            take_off,
            (triton.cdiv(len(u), shape["ROWS"]),),
            u,
            values,
            along,
            *scale_arguments(scale, u),
            len(u),
            u.shape[1],
            POINTER=isinstance(scale, Tensor),
            **shape,
        )
    return along


def scale_arguments(scale: float | Tensor, like: Tensor) -> tuple[Tensor, float]:
    """A scale as a kernel takes it: where it stands, or as a number."""
    return (scale, 1.0) if isinstance(scale, Tensor) else (like, scale)


def finish(u: Tensor, divisors: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """As `cosnorm.backends.torch.unit_rows.finish`."""
    return finish_each(u, divisors, factor, [(len(u), dtype)])[0]


def finish_each(
    u: Tensor, divisors: Tensor, factor: Tensor, sets: Sequence[tuple[int, torch.dtype]]
) -> list[Tensor]:
    """The rows u · factor / |x|, saturated, of sets beside each other, each of so many rows and a dtype."""
    size, start = u.shape[1], 0
    u, divisors, factor = u.contiguous(), divisors.contiguous(), factor.to(torch.float32)
    found = [writable((rows, size), dtype, u.device) for rows, dtype in sets]
    for first in range(0, len(sets), 2):
        pair = found[first : first + 2]
        rows_x, rows_y = len(pair[0]), sum(map(len, pair[1:]))
        dtype = sets[first][1]
        # A scaler looks for inf in float16; the other types saturate.
        limit = torch.inf if dtype == torch.float16 else torch.finfo(dtype).max
        if (rows_x + rows_y) and size:
            shape = tile(max(rows_x, rows_y), size)
            programs = triton.cdiv(rows_x, shape["ROWS"])
            launch(
                divide_rows,
                (programs + triton.cdiv(rows_y, shape["ROWS"]),),
                u[start:],
                divisors[start:],
                factor,
                pair[0],
                pair[-1],
                rows_x,
                rows_y,
                programs,
                size,
                limit,
                **shape,
            )
        start += rows_x + rows_y
    return [one.to(dtype) for one, (_, dtype) in zip(found, sets, strict=True)]
