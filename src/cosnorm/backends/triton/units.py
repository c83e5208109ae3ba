"""Norms of rows, and rows as unit vectors: what every kernel of rows begins with.

Sums of squares and means are float64, which holds every square of the narrower types without a look at the
magnitudes first: one pass, memory-bound on a GPU, exact from the least subnormal number to the largest. Two
sets of rows (those of x and of the weight) are worked on in one launch. No kernel looks at the data from the
host: nothing here waits for the device.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.triton.launch import interpreting, launch, writable
from cosnorm.norms import CONSTANT_EPS

# Elements of a tile: 16 for each thread, whose float64 copies are registers; 8 where rows are short; 2 where
# no row but the first is aligned, so that each element has an address of its own. And the most of one row.
_TILE, _SHORT, _UNALIGNED, _BLOCK = 2048, 1024, 256, 1024
# The same for filters, which are worked on beside images or in float64.
FILTER_TILE = 512


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
def deviations(pointer, row, start, rows, size, mean, BLOCK: tl.constexpr):
    """The rows less their means, in float64; 0 outside of them."""
    values = load_rows(pointer, row, start, rows, size, BLOCK).to(tl.float64) - mean[:, None]
    return tl.where((start + tl.arange(0, BLOCK) < size)[None, :], values, 0.0)


@triton.jit
def reciprocal(x):
    """1/x of float64 numbers, positive, inf or NaN: the compiler's own quotient is a call, which spills."""
    bits = x.to(tl.int64, bitcast=True)
    exponent = (bits >> 52) - 1023
    mantissa = (bits - (exponent << 52)).to(tl.float64, bitcast=True)
    found = (1.0 / mantissa.to(tl.float32)).to(tl.float64)
    found = found * (2.0 - mantissa * found)
    found = found * (2.0 - mantissa * found)
    found *= ((1023 - exponent) << 52).to(tl.float64, bitcast=True)
    return tl.where(x == float("inf"), 0.0, tl.where(x != x, x, found))


@triton.jit
def square_root(x):
    """The same of the root: of float64 numbers, positive, inf or NaN."""
    bits = x.to(tl.int64, bitcast=True)
    half = ((bits >> 52) - 1023) >> 1
    mantissa = (bits - (half << 53)).to(tl.float64, bitcast=True)
    inverse = tl.rsqrt(mantissa.to(tl.float32)).to(tl.float64)
    inverse = inverse * (1.5 - 0.5 * mantissa * inverse * inverse)
    root = mantissa * inverse
    root += 0.5 * inverse * (mantissa - root * root)
    root *= ((1023 + half) << 52).to(tl.float64, bitcast=True)
    return tl.where(x < float("inf"), root, x)


@triton.jit
def norm_of(squared, augment, constant):
    """A norm, of a sum of squares without the appended component.

    It is inf for zero rows, so that what they divide is 0; NaN for rows that are not finite; and negative for
    constant rows beside an appended component: |norm| is the norm, and the values count as zero.
    """
    squared = tl.where(constant, 0.0, squared)
    appended = tl.zeros_like(squared) + augment
    squared += appended * appended
    norm = square_root(tl.where(squared == 0, 1.0, squared))
    norm = tl.where(squared == 0, float("inf"), tl.where(squared == float("inf"), float("nan"), norm))
    return tl.where(constant & (squared > 0), -norm, norm)


@triton.jit
def factor_of(norm):
    """What makes unit values of values with such a norm, in float64: 0 for zero rows."""
    return tl.where(norm < 0, 0.0, reciprocal(tl.abs(norm)))


@triton.jit
def inverse_of(norm):
    """1/|norm|, rounded once, as float32, of norms within the window; 0 for inf."""
    size = tl.abs(norm)
    inverse = (1.0 / size.to(tl.float32)).to(tl.float64)
    inverse = inverse * (2.0 - size * inverse)
    return tl.where(size == float("inf"), 0.0, inverse).to(tl.float32)


@triton.jit
def beyond(norm, LIMIT: tl.constexpr):
    """Whether products of rows with such norms as they are could leave the range, or lose their digits."""
    size = tl.abs(norm)
    return (size < 1 / LIMIT) | ((size > LIMIT) & (size < float("inf")))


@triton.jit
def row_norms(
    pointer, row, rows, size, augment, bound, CENTERED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Norm and mean of each row; a row counts as constant up to `bound` times its mean."""
    squared = tl.zeros([ROWS], tl.float64)
    mean = tl.zeros([ROWS], tl.float64)
    constant = tl.zeros([ROWS], tl.int32) > 0
    if CENTERED:
        total = tl.zeros([ROWS], tl.float64)
        for start in range(0, size, BLOCK):
            total += tl.sum(load_rows(pointer, row, start, rows, size, BLOCK).to(tl.float64), 1)
        mean = total * reciprocal(tl.zeros_like(total) + size)
        largest = tl.zeros([ROWS], tl.float64)
        for start in range(0, size, BLOCK):
            values = deviations(pointer, row, start, rows, size, mean, BLOCK)
            squared += tl.sum(values * values, 1)
            largest = tl.maximum(largest, tl.max(tl.abs(values), 1))
        constant = largest <= bound * tl.abs(mean)
    else:
        for start in range(0, size, BLOCK):
            values = load_rows(pointer, row, start, rows, size, BLOCK).to(tl.float64)
            squared += tl.sum(values * values, 1)
    return norm_of(squared, augment, constant), mean


@triton.jit
def _norms(
    x_pointer,
    y_pointer,
    norms_pointer,
    x_unit_pointer,
    y_unit_pointer,
    rows_x,
    rows_y,
    programs_x,
    size,
    augment,
    bound,
    CENTERED: tl.constexpr,
    KNOWN: tl.constexpr,
    WRITE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Norms (and means) of two sets, unless they are known, and where it is asked for the unit rows."""
    program = tl.program_id(0)
    second = program >= programs_x
    program -= tl.where(second, programs_x, 0)
    rows, before = tl.where(second, rows_y, rows_x), tl.where(second, rows_x, 0)
    pointer, unit_pointer = x_pointer, x_unit_pointer
    if second:
        pointer, unit_pointer = y_pointer, y_unit_pointer
    row = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = before + row
    if KNOWN:
        norm = tl.load(norms_pointer + place, mask=row < rows, other=1.0)
        mean = tl.zeros([ROWS], tl.float64)
        if CENTERED:
            mean = tl.load(norms_pointer + rows_x + rows_y + place, mask=row < rows, other=0.0)
    else:
        norm, mean = row_norms(pointer, row, rows, size, augment, bound, CENTERED, ROWS, BLOCK)
        tl.store(norms_pointer + place, norm, mask=row < rows)
        if CENTERED:
            tl.store(norms_pointer + rows_x + rows_y + place, mean, mask=row < rows)
    if WRITE:
        factor = factor_of(norm)
        for start in range(0, size, BLOCK):
            values = deviations(pointer, row, start, rows, size, mean, BLOCK) * factor[:, None]
            store_rows(unit_pointer, values.to(tl.float32), row, start, rows, size, BLOCK)


def tile(rows: int, size: int, limit: int = _TILE) -> dict[str, int]:
    """How many rows a program takes, and how much of them at once; the interpreter pays by the program."""
    most = _UNALIGNED if size % 16 else _TILE if size >= _BLOCK // 2 else _SHORT
    most = min(most, limit)
    block = min(_BLOCK, most, max(16, triton.next_power_of_2(size)))
    most = most * (8 if interpreting() else 1) // block
    return {"ROWS": max(1, min(most, triton.next_power_of_2(rows))), "BLOCK": block}


def norms(
    x: Tensor,
    y: Tensor,
    into: Tensor,
    *,
    centered: bool,
    augment: float,
    eps: float,
    known: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Norms of rows x (N, D) and y (M, D), and unit rows in `dtype` if one is given; in one launch.

    Args:
        x: as a kernel reads it.
        y: the same.
        into: norms of x and then of y, as `norm_of` gives them, and with `centered` their means: (1 or 2,
            N + M), float64.
        centered: less their means.
        augment: the appended component.
        eps: of the stored dtype, for constant rows.
        known: they are there.
        dtype: of the unit rows; None: none are made.
    """
    (n, size), m = x.shape, len(y)
    unit = None
    if dtype is not None:
        unit = writable((n, size), dtype, x.device), writable((m, size), dtype, x.device)
    if n + m:
        shape = tile(max(n, m), size)
        programs = triton.cdiv(n, shape["ROWS"])
        launch(
            _norms,
            (programs + triton.cdiv(m, shape["ROWS"]),),
            x,
            y,
            into,
            *(unit or (x, y)),
            n,
            m,
            programs,
            size,
            float(augment),
            CONSTANT_EPS * eps,
            CENTERED=centered,
            KNOWN=known,
            WRITE=unit is not None,
            **shape,
        )
    return unit
