"""Kernels of the gradients of rows; `rows.py` says what is computed, and launches them."""

import triton
import triton.language as tl

from cosnorm.backends.triton.units import (
    clamp,
    inverse_of,
    load_rows,
    reciprocal,
    store_rows,
)


@triton.jit
def look_at_cotangent(
    cotangent_pointer,
    norms_pointer,
    row_most_pointer,
    column_most_pointer,
    row_sums_pointer,
    column_sums_pointer,
    rows,
    columns,
    AUGMENTED: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
):
    """Of each tile the largest magnitude of each row and column; and Σ g/|other|, for augmented rows."""
    i = tl.program_id(0).to(tl.int64) * TILE_I + tl.arange(0, TILE_I)
    j = tl.program_id(1) * TILE_J + tl.arange(0, TILE_J)
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    values = tl.load(cotangent_pointer + i[:, None] * columns + j[None, :], mask=inside, other=0.0)
    values = values.to(tl.float32)
    place_i = tl.program_id(1).to(tl.int64) * rows + i
    place_j = tl.program_id(0).to(tl.int64) * columns + j
    tl.store(row_most_pointer + place_i, tl.max(tl.abs(values), 1), mask=i < rows)
    tl.store(column_most_pointer + place_j, tl.max(tl.abs(values), 0), mask=j < columns)
    if AUGMENTED:
        norm_x = tl.load(norms_pointer + i, mask=i < rows, other=1.0)
        norm_y = tl.load(norms_pointer + rows + j, mask=j < columns, other=1.0)
        inverse_x, inverse_y = inverse_of(norm_x), inverse_of(norm_y)
        tl.store(row_sums_pointer + place_i, tl.sum(values * inverse_y[None, :], 1), mask=i < rows)
        tl.store(column_sums_pointer + place_j, tl.sum(values * inverse_x[:, None], 0), mask=j < columns)


@triton.jit
def finished(u, unit, along, offset, inverse, limit):
    """(u − x̂ along − offset) / |x| in float64, within the limit, as float32."""
    values = (u - unit * along[:, None] - offset[:, None]).to(tl.float64) * inverse[:, None]
    return clamp(values, limit).to(tl.float32)


@triton.jit
def _load_sums(sums_pointer, more_pointer, row, start, rows, size, MORE: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of products, and what else belongs to them, in float64."""
    sums = load_rows(sums_pointer, row, start, rows, size, BLOCK)
    if MORE:
        column = start + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (column < size)[None, :]
        more = tl.load(more_pointer + row[:, None] * size + column[None, :], mask=inside, other=0.0)
        sums = sums.to(tl.float64) + more
    return sums


@triton.jit
def project(
    sums_x_pointer,
    sums_y_pointer,
    unit_x_pointer,
    unit_y_pointer,
    gradient_x_pointer,
    gradient_y_pointer,
    norms_pointer,
    row_sums_pointer,
    column_sums_pointer,
    more_pointer,
    more_sums_pointer,
    rows_x,
    rows_y,
    parts_x,
    parts_y,
    programs_x,
    size,
    augment,
    limit,
    CENTERED: tl.constexpr,
    AUGMENTED: tl.constexpr,
    MORE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(u − x̂ (x̂·u)) / |x| for each row of two sets, less its mean if centered.

    With MORE there is one set, and more of its sums in float64.
    """
    program = tl.program_id(0)
    second = program >= programs_x
    program -= tl.where(second, programs_x, 0)
    rows, before = tl.where(second, rows_y, rows_x), tl.where(second, rows_x, 0)
    sums_pointer, unit_pointer, gradient_pointer = sums_x_pointer, unit_x_pointer, gradient_x_pointer
    if second:
        sums_pointer, unit_pointer, gradient_pointer = sums_y_pointer, unit_y_pointer, gradient_y_pointer
    row = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inverse = reciprocal(tl.abs(tl.load(norms_pointer + before + row, mask=row < rows, other=1.0)))
    along = tl.zeros([ROWS], tl.float64 if MORE else tl.float32)
    total, ones = tl.zeros_like(along), tl.zeros_like(along)
    for start in range(0, size, BLOCK):
        unit = load_rows(unit_pointer, row, start, rows, size, BLOCK)
        u = _load_sums(sums_pointer, more_pointer, row, start, rows, size, MORE, BLOCK)
        along += tl.sum(unit * u, 1)
        if CENTERED:
            total += tl.sum(u, 1)
            ones += tl.sum(unit, 1)
    mean, tilt = tl.zeros_like(along), tl.zeros_like(along)
    if CENTERED:
        # A unit row's own mean is not 0, but its rounding. (Triton 3.6 wants each of the sums used once.)
        numbers = tl.zeros_like(along) + size
        share = (1.0 / numbers.to(tl.float32)).to(along.dtype)
        mean, tilt = total * share, ones * share
        along -= mean * tilt * numbers
    if AUGMENTED:
        parts, appended_pointer = tl.where(second, parts_y, parts_x), row_sums_pointer
        if second:
            appended_pointer = column_sums_pointer
        appended = tl.zeros_like(along)
        place = row
        for _ in range(0, parts):
            appended += tl.load(appended_pointer + place, mask=row < rows, other=0.0)
            place += rows
        if MORE:
            appended += tl.load(more_sums_pointer + row, mask=row < rows, other=0.0)
        along += augment * augment * inverse.to(along.dtype) * appended
    offset = mean - along * tilt
    for start in range(0, size, BLOCK):
        unit = load_rows(unit_pointer, row, start, rows, size, BLOCK)
        u = _load_sums(sums_pointer, more_pointer, row, start, rows, size, MORE, BLOCK)
        store_rows(
            gradient_pointer, finished(u, unit, along, offset, inverse, limit), row, start, rows, size, BLOCK
        )


@triton.jit
def gradients_again(
    cotangent_pointer,
    unit_x_pointer,
    unit_y_pointer,
    gradient_x_pointer,
    gradient_y_pointer,
    norms_pointer,
    row_most_pointer,
    column_most_pointer,
    rows_x,
    rows_y,
    parts_x,
    parts_y,
    programs_x,
    size,
    augment,
    limit,
    LIMIT: tl.constexpr,
    CENTERED: tl.constexpr,
    LOOK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradients of rows whose largest cotangent is beyond the window, in float64."""
    program = tl.program_id(0)
    second = program >= programs_x
    program -= tl.where(second, programs_x, 0)
    rows, before = tl.where(second, rows_y, rows_x), tl.where(second, rows_x, 0)
    others, parts = tl.where(second, rows_x, rows_y), tl.where(second, parts_y, parts_x)
    stride, stride_other = tl.where(second, 1, rows_y), tl.where(second, rows_y, 1)
    most_pointer, unit_pointer = row_most_pointer, unit_x_pointer
    other_pointer, gradient_pointer = unit_y_pointer, gradient_x_pointer
    if second:
        most_pointer, unit_pointer = column_most_pointer, unit_y_pointer
        other_pointer, gradient_pointer = unit_x_pointer, gradient_y_pointer
    top = program.to(tl.int64) * LOOK
    if tl.max(_rare(most_pointer, top + tl.arange(0, LOOK), rows, parts, LIMIT).to(tl.int32)) > 0:
        for begin in range(0, LOOK, ROWS):
            row = top + begin + tl.arange(0, ROWS)
            rare = _rare(most_pointer, row, rows, parts, LIMIT)
            if tl.max(rare.to(tl.int32)) > 0:
                inverse = reciprocal(
                    tl.abs(tl.load(norms_pointer + before + row, mask=row < rows, other=1.0))
                )
                appended = tl.zeros([ROWS], tl.float64)
                place = row * stride
                for other in range(0, others):
                    norm = tl.load(norms_pointer + rows_x - before + other)
                    inverse_other = reciprocal(tl.abs(norm))
                    g = tl.load(cotangent_pointer + place, mask=rare, other=0.0)
                    place += stride_other
                    appended += g.to(tl.float32).to(tl.float64) * inverse_other
                wide = tl.zeros_like(inverse) + augment
                along = wide * wide * inverse * appended
                total, ones = tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64)
                for start in range(0, size, BLOCK):
                    u = _sums_again(
                        cotangent_pointer,
                        other_pointer,
                        row,
                        rare,
                        start,
                        size,
                        others,
                        stride,
                        stride_other,
                        ROWS,
                        BLOCK,
                    )
                    unit = load_rows(unit_pointer, row, start, rows, size, BLOCK).to(tl.float64)
                    along += tl.sum(unit * u, 1)
                    total += tl.sum(u, 1)
                    ones += tl.sum(unit, 1)
                offset = tl.zeros([ROWS], tl.float64)
                if CENTERED:
                    offset = (total - along * ones) * reciprocal(tl.zeros_like(total) + size)
                for start in range(0, size, BLOCK):
                    u = _sums_again(
                        cotangent_pointer,
                        other_pointer,
                        row,
                        rare,
                        start,
                        size,
                        others,
                        stride,
                        stride_other,
                        ROWS,
                        BLOCK,
                    )
                    unit = load_rows(unit_pointer, row, start, rows, size, BLOCK).to(tl.float64)
                    values = finished(u, unit, along, offset, inverse, limit)
                    column = start + tl.arange(0, BLOCK)
                    inside = rare[:, None] & (column < size)[None, :]
                    tl.store(gradient_pointer + row[:, None] * size + column[None, :], values, mask=inside)


@triton.jit
def _rare(most_pointer, row, rows, parts, LIMIT: tl.constexpr):
    """Whether the largest cotangent of a row, of so many parts, is beyond the window; 0 is not."""
    most = tl.load(most_pointer + row, mask=row < rows, other=0.0)
    place = row
    for _ in range(1, parts):
        place += rows
        most = tl.maximum(most, tl.load(most_pointer + place, mask=row < rows, other=0.0))
    return (most > 0) & ((most < 1 / LIMIT) | ((most > LIMIT) & (most < float("inf"))))


@triton.jit
def _sums_again(
    cotangent_pointer,
    other_pointer,
    row,
    rare,
    start,
    size,
    others,
    stride,
    stride_other,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Σ g ŵ over the other rows, of columns start … start + BLOCK, in float64."""
    column = start + tl.arange(0, BLOCK)
    sums = tl.zeros([ROWS, BLOCK], tl.float64)
    given, unit = cotangent_pointer + row * stride, other_pointer + column
    for _ in range(0, others):
        g = tl.load(given, mask=rare, other=0.0).to(tl.float32)
        values = tl.load(unit, mask=column < size, other=0.0).to(tl.float32)
        sums += g.to(tl.float64)[:, None] * values.to(tl.float64)[None, :]
        given += stride_other
        unit += size
    return sums
