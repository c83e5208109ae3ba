"""Kernels of the cosines of rows; `rows.py` says what is computed, and launches them."""

import triton
import triton.language as tl

from cosnorm.backends.triton.units import (
    beyond,
    clamp,
    inverse_of,
    norm_of,
    reciprocal,
)


@triton.jit
def finish_products(
    products_pointer,
    output_pointer,
    norms_pointer,
    rows,
    columns,
    augment,
    UNIT: tl.constexpr,
    AUGMENTED: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
):
    """Products of rows as they are (or of unit rows) to cosines."""
    i = tl.program_id(0).to(tl.int64) * TILE_I + tl.arange(0, TILE_I)
    j = tl.program_id(1) * TILE_J + tl.arange(0, TILE_J)
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    places = i[:, None] * columns + j[None, :]
    cosines = tl.load(products_pointer + places, mask=inside, other=0.0).to(tl.float32)
    if AUGMENTED or not UNIT:
        norm_x = tl.load(norms_pointer + i, mask=i < rows, other=1.0)
        norm_y = tl.load(norms_pointer + rows + j, mask=j < columns, other=1.0)
        inverse_x, inverse_y = inverse_of(norm_x), inverse_of(norm_y)
        if not UNIT:
            cosines = cosines * inverse_x[:, None] * inverse_y[None, :]
        if AUGMENTED:
            cosines += (augment * inverse_x)[:, None] * (augment * inverse_y)[None, :]
    tl.store(output_pointer + places, clamp(cosines, 1.0), mask=inside)


@triton.jit
def products_again(
    output_pointer,
    x_pointer,
    y_pointer,
    norms_pointer,
    rows,
    columns,
    size,
    augment,
    LIMIT: tl.constexpr,
    LOOK_I: tl.constexpr,
    LOOK_J: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
):
    """Cosines of tiles in which a row's norm is beyond the window, in float64."""
    top, left = tl.program_id(0).to(tl.int64) * LOOK_I, tl.program_id(1) * LOOK_J
    all_i, all_j = top + tl.arange(0, LOOK_I), left + tl.arange(0, LOOK_J)
    rare_x = beyond(tl.load(norms_pointer + all_i, mask=all_i < rows, other=1.0), LIMIT)
    rare_y = beyond(tl.load(norms_pointer + rows + all_j, mask=all_j < columns, other=1.0), LIMIT)
    if tl.max(rare_x.to(tl.int32)) + tl.max(rare_y.to(tl.int32)) > 0:
        for number in range(0, (LOOK_I // TILE_I) * (LOOK_J // TILE_J)):
            i = top + number // (LOOK_J // TILE_J) * TILE_I + tl.arange(0, TILE_I)
            j = left + number % (LOOK_J // TILE_J) * TILE_J + tl.arange(0, TILE_J)
            norm_x = tl.load(norms_pointer + i, mask=i < rows, other=1.0)
            norm_y = tl.load(norms_pointer + rows + j, mask=j < columns, other=1.0)
            rare = beyond(norm_x, LIMIT)[:, None] | beyond(norm_y, LIMIT)[None, :]
            if tl.max(rare.to(tl.int32)) > 0:
                inverse_x, inverse_y = reciprocal(norm_x), reciprocal(norm_y)
                sums = tl.zeros([TILE_I, TILE_J], tl.float64)
                for d in range(0, size):
                    x = tl.load(x_pointer + i * size + d, mask=i < rows, other=0.0)
                    y = tl.load(y_pointer + j.to(tl.int64) * size + d, mask=j < columns, other=0.0)
                    sums += (
                        x.to(tl.float32).to(tl.float64)[:, None] * y.to(tl.float32).to(tl.float64)[None, :]
                    )
                appended = tl.zeros_like(sums) + augment
                cosines = (sums + appended * appended) * inverse_x[:, None] * inverse_y[None, :]
                inside = rare & (i < rows)[:, None] & (j < columns)[None, :]
                places = i[:, None] * columns + j[None, :]
                tl.store(output_pointer + places, clamp(cosines, 1.0).to(tl.float32), mask=inside)


@triton.jit
def few_rows(
    x_pointer,
    y_pointer,
    output_pointer,
    norms_pointer,
    rows,
    columns,
    size,
    augment,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Norms and cosines of up to ROWS rows with a tile of the weight, which is read once."""
    i, j = tl.arange(0, ROWS), tl.program_id(0) * TILE + tl.arange(0, TILE)
    products = tl.zeros([ROWS, TILE], tl.float32)
    squared_x, squared_y = tl.zeros([ROWS], tl.float64), tl.zeros([TILE], tl.float64)
    for start in range(0, size, DEPTH):
        d = start + tl.arange(0, DEPTH)
        x = tl.load(
            x_pointer + i[:, None] * size + d[None, :],
            mask=(i < rows)[:, None] & (d < size)[None, :],
            other=0.0,
        )
        y = tl.load(
            y_pointer + j.to(tl.int64)[:, None] * size + d[None, :],
            mask=(j < columns)[:, None] & (d < size)[None, :],
            other=0.0,
        )
        products = tl.dot(x, tl.trans(y), products, input_precision=PRECISION)
        wide_x, wide_y = x.to(tl.float32).to(tl.float64), y.to(tl.float32).to(tl.float64)
        squared_x += tl.sum(wide_x * wide_x, 1)
        squared_y += tl.sum(wide_y * wide_y, 1)
    norm_x, norm_y = norm_of(squared_x, augment, squared_x < 0), norm_of(squared_y, augment, squared_y < 0)
    tl.store(norms_pointer + i, norm_x, mask=(i < rows) & (tl.program_id(0) == 0))
    tl.store(norms_pointer + rows + j, norm_y, mask=j < columns)
    inverse_x, inverse_y = inverse_of(norm_x), inverse_of(norm_y)
    cosines = products * inverse_x[:, None] * inverse_y[None, :]
    cosines += (augment * inverse_x)[:, None] * (augment * inverse_y)[None, :]
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    tl.store(
        output_pointer + i.to(tl.int64)[:, None] * columns + j[None, :], clamp(cosines, 1.0), mask=inside
    )
