"""Cosines of rows, (N, D) with (M, D), and their gradients: the vendor's matrix product between fused passes.

Forward: the norms of both in one launch, the product of the rows as they are, and an epilogue; for few rows
one kernel reads the weight once. Backward: with unit rows ŵ and the cotangent g,

    u = g ŵ,   ∂/∂x = (u − x̂ (x̂·u)) / |x|   (eqs. 9-12),

one launch writes both sets of unit rows from the norms that were kept, the products by the library again, the
projection of both in one pass. Centered rows enter their products as unit rows.

What the products could not hold (norms or cotangents beyond a window) is computed again in float64, by
kernels of their own whose programs end at once where there is nothing to do: every finite row comes out
right, and no usual tile pays for it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.torch.contraction import Contraction
from cosnorm.backends.triton.launch import (
    COTANGENT_LIMIT,
    MOST,
    launch,
    precision,
    product,
    readable,
    writable,
)
from cosnorm.backends.triton.units import (
    FILTER_TILE,
    beyond,
    clamp,
    inverse_of,
    load_rows,
    norm_of,
    norms,
    reciprocal,
    store_rows,
    tile,
)
from cosnorm.norms import NORM_LIMIT

_LIMIT = NORM_LIMIT[torch.float32]
# Rows and columns of a tile of the epilogue; of what one program of the rare kernels looks at; and of a tile
# that these compute.
_TILE, _FEW = (32, 64), 16
_LOOKED_AT, _AGAIN = (128, 512), (16, 64)
# Rows of the weight, and how much of them at once, for few rows.
_FEW_TILE = {torch.float32: (32, 64), torch.bfloat16: (32, 128), torch.float16: (32, 128)}


@triton.jit
def _finish_products(
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
def _products_again(
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
def _few_rows(
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


def handles(x: Tensor, y: Tensor, contraction: Contraction, keep: bool) -> bool:
    """Whether the kernels have these shapes and this layout."""
    return contraction.is_product and x.ndim == y.ndim == 2


def saved(x: Tensor, y: Tensor, contraction: Contraction, centered: bool) -> tuple[Tensor, Tensor]:
    """No products, and memory for the norms of x and then of y, and for their means."""
    return x.new_empty(0), x.new_empty((2 if centered else 1, len(x) + len(y)), dtype=torch.float64)


def cosines(
    x: Tensor, y: Tensor, contraction: Contraction, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine of each row of x (N, D) with each row of y (M, D): (N, M); nothing; and norms and means."""
    dtype, eps = x.dtype, torch.finfo(x.dtype).eps
    x, y = x.detach().contiguous(), y.detach().contiguous()
    readable_x, readable_y = readable(x), readable(y)
    (n, size), m = x.shape, len(y)
    output, numbers = writable((n, m), dtype, x.device), saved(x, y, contraction, centered)[1]
    if 0 < n <= _FEW and m and not centered:
        launch(
            _few_rows,
            (triton.cdiv(m, _FEW_TILE[dtype][0]),),
            readable_x,
            readable_y,
            output,
            numbers,
            n,
            m,
            size,
            float(augment),
            registers=MOST,
            PRECISION=precision(dtype),
            ROWS=_FEW,
            TILE=_FEW_TILE[dtype][0],
            DEPTH=_FEW_TILE[dtype][1],
        )
    else:
        options: Any = {"centered": centered, "augment": augment, "eps": eps}
        unit = norms(readable_x, readable_y, numbers, dtype=dtype if centered else None, **options)
        products = product(x, y.mT) if unit is None else product(unit[0].to(dtype), unit[1].to(dtype).mT)
        # Without aligned rows each element has an address of its own, in two registers.
        tile_i = _TILE[0] if m % 16 == 0 else _TILE[0] // 2
        if output.numel():
            launch(
                _finish_products,
                (triton.cdiv(n, tile_i), triton.cdiv(m, _TILE[1])),
                readable(products),
                output,
                numbers,
                n,
                m,
                float(augment),
                UNIT=centered,
                AUGMENTED=bool(augment),
                TILE_I=tile_i,
                TILE_J=_TILE[1],
            )
    if output.numel() and not centered:
        launch(
            _products_again,
            (triton.cdiv(n, _LOOKED_AT[0]), triton.cdiv(m, _LOOKED_AT[1])),
            output,
            readable_x,
            readable_y,
            numbers,
            n,
            m,
            size,
            float(augment),
            registers=MOST,
            LIMIT=_LIMIT,
            LOOK_I=_LOOKED_AT[0],
            LOOK_J=_LOOKED_AT[1],
            TILE_I=_AGAIN[0],
            TILE_J=_AGAIN[1],
        )
    return output.to(dtype), x.new_empty(0), numbers


@triton.jit
def _look_at_cotangent(
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
def _project(
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
def _gradients_again(
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


def project_more(
    sums: Tensor,
    more: Tensor,
    unit: Tensor,
    gradient: Tensor,
    norms: Tensor,
    appended: tuple[Tensor, Tensor],
    *,
    centered: bool,
    augment: float,
    limit: float,
) -> None:
    """The gradients in rows (N, D) from sums in two parts, the second of float64; as `_project` does it.

    Args:
        sums: Σ h x for each row, as many numbers as the rows have, in the order of their memory.
        more: the same, in float64.
        unit: the unit rows.
        gradient: memory for the result.
        norms: of the rows.
        appended: the sums of h, (N,), in two parts, too.
        centered: the rows are.
        augment: their appended component.
        limit: the largest magnitude of a gradient.
    """
    rows = len(unit)
    size = unit[0].numel()
    shape = tile(rows, size, FILTER_TILE)
    launch(
        _project,
        (triton.cdiv(rows, shape["ROWS"]),),
        sums,
        sums,
        unit,
        unit,
        gradient,
        gradient,
        norms,
        appended[0],
        appended[0],
        more,
        appended[1],
        rows,
        0,
        1,
        0,
        triton.cdiv(rows, shape["ROWS"]),
        size,
        float(augment),
        limit,
        CENTERED=centered,
        AUGMENTED=bool(augment),
        MORE=True,
        **shape,
    )


def folded(x: Tensor, weight: Tensor, constant: Tensor | None, *, centered: bool, augment: float) -> None:
    """Declined: torch's form does it."""


def gradients(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    products: Tensor,
    statistics: Tensor,
    contraction: Contraction,
    *,
    centered: bool,
    augment: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients of `cosines` in x and in y; an empty tensor for one that is not needed."""
    dtype, eps = x.dtype, torch.finfo(x.dtype).eps
    if not cotangent.numel():
        return torch.zeros_like(x), torch.zeros_like(y)
    cotangent = cotangent.detach().contiguous()
    (n, m), size = cotangent.shape, x.shape[1]
    known = statistics.dtype == torch.float64 and statistics.shape == (2 if centered else 1, n + m)
    numbers = statistics if known else saved(x, y, contraction, centered)[1]
    options: Any = {"centered": centered, "augment": augment, "eps": eps}
    unit = norms(readable(x), readable(y), numbers, known=known, dtype=dtype, **options)
    assert unit is not None
    tile_i = _TILE[0] // 2 if augment else _TILE[0]
    parts_x, parts_y = triton.cdiv(m, _TILE[1]), triton.cdiv(n, tile_i)
    empty: Any = {"dtype": torch.float32, "device": x.device}
    most_x, most_y = torch.empty((parts_x, n), **empty), torch.empty((parts_y, m), **empty)
    sums_x, sums_y = (torch.empty_like(one) if augment else one for one in (most_x, most_y))
    given = readable(cotangent)
    launch(
        _look_at_cotangent,
        (parts_y, parts_x),
        given,
        numbers,
        most_x,
        most_y,
        sums_x,
        sums_y,
        n,
        m,
        AUGMENTED=bool(augment),
        TILE_I=tile_i,
        TILE_J=_TILE[1],
    )
    own = [one.to(dtype) for one in unit]
    through = [
        readable(product(cotangent, own[1])) if needs[0] else None,
        readable(product(cotangent.mT, own[0])) if needs[1] else None,
    ]
    found = [
        writable(tuple(one.shape), dtype, x.device) if needed else None
        for one, needed in zip((x, y), needs, strict=True)
    ]
    # A scaler looks for inf in float16; the other types saturate.
    limit = torch.inf if dtype == torch.float16 else torch.finfo(dtype).max
    either = [one[0] if one[0] is not None else one[1] for one in (through, found)]
    shape = tile(max(n, m), size)
    first, all_of = (triton.cdiv(rows, shape["ROWS"]) for rows in (n, m))
    programs = first * needs[0], first * needs[0] + all_of * needs[1]
    launch(
        _project,
        (programs[1],),
        *(either[0] if one is None else one for one in through),
        *unit,
        *(either[1] if one is None else one for one in found),
        numbers,
        sums_x,
        sums_y,
        numbers,
        numbers,
        n,
        m,
        parts_x,
        parts_y,
        programs[0],
        size,
        float(augment),
        limit,
        CENTERED=centered,
        AUGMENTED=bool(augment),
        MORE=False,
        **shape,
    )
    looked = [triton.cdiv(rows, _LOOKED_AT[0]) * needed for rows, needed in zip((n, m), needs, strict=True)]
    launch(
        _gradients_again,
        (sum(looked),),
        given,
        *unit,
        *(either[1] if one is None else one for one in found),
        numbers,
        most_x,
        most_y,
        n,
        m,
        parts_x,
        parts_y,
        looked[0],
        size,
        float(augment),
        limit,
        registers=MOST,
        LIMIT=COTANGENT_LIMIT,
        CENTERED=centered,
        LOOK=_LOOKED_AT[0],
        ROWS=_AGAIN[0],
        BLOCK=_AGAIN[1],
    )
    into_x, into_y = (x.new_empty(0) if one is None else one.to(dtype) for one in found)
    return into_x, into_y
