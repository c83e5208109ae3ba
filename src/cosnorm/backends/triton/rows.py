"""Cosines of rows, (N, D) with (M, D), and their gradients: the vendor's matrix product between fused passes.

Forward: the norms (one pass over each operand), the product of the rows as they are, and an epilogue. Rows
whose norms the product cannot hold are computed again, scaled, in the tiles of the epilogue that they touch,
so that every finite row comes out right and no usual tile pays for it. Backward: with unit rows ŵ and the
cotangent g,

    u = g ŵ,   ∂/∂x = (u − x̂ (x̂·u)) / |x|   (eqs. 9-12),

the product by the library again, the projection in one pass. Centered rows are made unit rows first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.torch.contraction import Contraction
from cosnorm.backends.triton.launch import COTANGENT_WINDOW, ROW_WINDOW, launch, product, readable, writable
from cosnorm.backends.triton.units import (
    KernelRows,
    centered_rows,
    clamp,
    load_rows,
    power_of_two,
    row_statistics,
    scale_by_exponent,
    scale_exponent,
    store_rows,
    tile,
    unit_rows,
)

_TILE, _DEPTH = 64, 32


@triton.jit
def _finish_products(
    products_pointer,
    output_pointer,
    x_pointer,
    y_pointer,
    extra_x_pointer,
    inverse_x_pointer,
    exponent_x_pointer,
    extra_y_pointer,
    inverse_y_pointer,
    exponent_y_pointer,
    rows,
    columns,
    size,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    exponent_x = tl.load(exponent_x_pointer + i, mask=i < rows, other=0)
    exponent_y = tl.load(exponent_y_pointer + j, mask=j < columns, other=0)
    scale_x, scale_y = power_of_two(-exponent_x), power_of_two(-exponent_y)
    widest = tl.maximum(tl.max(tl.abs(exponent_x)), tl.max(tl.abs(exponent_y)))
    places = i[:, None] * columns + j[None, :]
    if widest > WINDOW:
        products = tl.zeros([TILE, TILE], tl.float32)
        for start in range(0, size, DEPTH):
            d = start + tl.arange(0, DEPTH)
            x = tl.load(
                x_pointer + i[:, None] * size + d[None, :],
                mask=(i < rows)[:, None] & (d < size)[None, :],
                other=0.0,
            ).to(tl.float32)
            y = tl.load(
                y_pointer + j[None, :] * size + d[:, None],
                mask=(j < columns)[None, :] & (d < size)[:, None],
                other=0.0,
            ).to(tl.float32)
            products += tl.dot(x * scale_x[:, None], y * scale_y[None, :], input_precision="ieee")
    else:
        products = tl.load(products_pointer + places, mask=inside, other=0.0).to(tl.float32)
        products = products * scale_x[:, None] * scale_y[None, :]
    inverse_x = tl.load(inverse_x_pointer + i, mask=i < rows, other=0.0)
    inverse_y = tl.load(inverse_y_pointer + j, mask=j < columns, other=0.0)
    extra_x = tl.load(extra_x_pointer + i, mask=i < rows, other=0.0)
    extra_y = tl.load(extra_y_pointer + j, mask=j < columns, other=0.0)
    cosines = products * inverse_x[:, None] * inverse_y[None, :] + extra_x[:, None] * extra_y[None, :]
    tl.store(output_pointer + places, clamp(cosines, 1.0), mask=inside)


def handles(x: Tensor, y: Tensor, contraction: Contraction, keep: bool) -> bool:
    """Whether the kernels have these shapes and this layout."""
    return contraction.is_product and x.ndim == y.ndim == 2


def saved(x: Tensor, y: Tensor, contraction: Contraction, centered: bool) -> tuple[Tensor, Tensor]:
    """Empty products and statistics: nothing is kept."""
    return x.new_empty(0), x.new_empty(0)


def cosines(
    x: Tensor, y: Tensor, contraction: Contraction, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine of each row of x (N, D) with each row of y (M, D): (N, M); and nothing else."""
    dtype, nothing = x.dtype, saved(x, y, contraction, centered)
    x, y = x.detach().contiguous(), y.detach().contiguous()
    rows_x = unit_rows(x, centered=centered, augment=augment, dtype=dtype if centered else None)
    rows_y = unit_rows(y, centered=centered, augment=augment, dtype=dtype if centered else None)
    if rows_x.values is not None and rows_y.values is not None:
        # Unit rows are products in range: their factors are 1.
        x, y = rows_x.values, rows_y.values
        rows_x, rows_y = _ones(rows_x), _ones(rows_y)
    products = product(x, y.mT)
    output = writable((len(x), len(y)), dtype, x.device)
    grid = (triton.cdiv(len(x), _TILE), triton.cdiv(len(y), _TILE))
    if output.numel():
        launch(
            _finish_products,
            grid,
            readable(products),
            output,
            readable(x),
            readable(y),
            rows_x.extra,
            rows_x.inverse_norm,
            rows_x.exponent,
            rows_y.extra,
            rows_y.inverse_norm,
            rows_y.exponent,
            len(x),
            len(y),
            x.shape[1],
            WINDOW=ROW_WINDOW,
            TILE=_TILE,
            DEPTH=_DEPTH,
        )
    return output.to(dtype), *nothing


def _ones(rows: KernelRows) -> KernelRows:
    return KernelRows(None, rows.extra, torch.ones_like(rows.inverse_norm), torch.zeros_like(rows.exponent))


@triton.jit
def _largest(cotangent_pointer, rows_pointer, columns_pointer, rows, columns, TILE: tl.constexpr):
    """The largest magnitude of each row and of each column, as the bits of floats, which order alike."""
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    j = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    values = tl.load(cotangent_pointer + i[:, None] * columns + j[None, :], mask=inside, other=0.0)
    bits = tl.abs(values.to(tl.float32)).to(tl.int32, bitcast=True)
    tl.atomic_max(rows_pointer + i, tl.max(bits, 1), mask=i < rows)
    tl.atomic_max(columns_pointer + j, tl.max(bits, 0), mask=j < columns)


@triton.jit
def _window_exponent(bits, WINDOW: tl.constexpr):
    """The exponent to scale cotangents by, of the bits of the largest; 0 where they are fine as they are."""
    exponent = scale_exponent(bits.to(tl.float32, bitcast=True))
    return tl.where(tl.abs(exponent) > WINDOW, exponent, 0)


@triton.jit
def _again(
    sums_pointer,
    cotangent_pointer,
    unit_pointer,
    largest_pointer,
    rows,
    others,
    size,
    stride,
    stride_other,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Σ_j g_ij · 2^-e_i · unit_j for the rows i whose cotangents the product could not hold."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exponent = _window_exponent(tl.load(largest_pointer + row, mask=row < rows, other=0), WINDOW)
    if tl.max(tl.abs(exponent)) > 0:
        start = tl.program_id(1) * BLOCK
        d = start + tl.arange(0, BLOCK)
        sums = tl.zeros([ROWS, BLOCK], tl.float32)
        for other in range(0, others):
            place = row * stride + other * stride_other
            values = tl.load(cotangent_pointer + place, mask=row < rows, other=0.0).to(tl.float32)
            unit = tl.load(unit_pointer + other * size + d, mask=d < size, other=0.0).to(tl.float32)
            sums += (values * power_of_two(-exponent))[:, None] * unit[None, :]
        before = load_rows(sums_pointer, row, start, rows, size, BLOCK)
        sums = tl.where((exponent != 0)[:, None], sums, before)
        store_rows(sums_pointer, sums, row, start, rows, size, BLOCK)


@triton.jit
def _project(
    sums_pointer,
    x_pointer,
    gradient_pointer,
    largest_pointer,
    cotangent_pointer,
    extra_pointer,
    rows,
    others,
    size,
    stride,
    stride_other,
    augment,
    eps,
    limit,
    CENTERED: tl.constexpr,
    AUGMENTED: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(u − x̂ (x̂·u)) / |x| for each row, less its mean if centered; `limit` is the largest finite number."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exponent, inverse, mean, factor = row_statistics(
        x_pointer, row, rows, size, augment, eps, CENTERED, ROWS, BLOCK
    )
    scale = power_of_two(-exponent)
    cotangent_exponent = _window_exponent(tl.load(largest_pointer + row, mask=row < rows, other=0), WINDOW)
    along = tl.zeros([ROWS], tl.float32)
    for start in range(0, size, BLOCK):
        unit = centered_rows(x_pointer, row, start, rows, size, scale, mean, BLOCK) * factor[:, None]
        along += tl.sum(unit * load_rows(sums_pointer, row, start, rows, size, BLOCK), 1)
    if AUGMENTED:
        extra = tl.zeros([ROWS], tl.float32)
        for start in range(0, others, BLOCK):
            j = start + tl.arange(0, BLOCK)
            values = tl.load(
                cotangent_pointer + row[:, None] * stride + j.to(tl.int64)[None, :] * stride_other,
                mask=(row < rows)[:, None] & (j < others)[None, :],
                other=0.0,
            ).to(tl.float32)
            values *= power_of_two(-cotangent_exponent)[:, None]
            extra += tl.sum(values * tl.load(extra_pointer + j, mask=j < others, other=0.0)[None, :], 1)
        along += augment * scale * inverse * extra
    offset = tl.zeros([ROWS], tl.float32)
    if CENTERED:
        for start in range(0, size, BLOCK):
            unit = centered_rows(x_pointer, row, start, rows, size, scale, mean, BLOCK) * factor[:, None]
            offset += tl.sum(
                load_rows(sums_pointer, row, start, rows, size, BLOCK) - unit * along[:, None], 1
            )
        offset /= size
    for start in range(0, size, BLOCK):
        unit = centered_rows(x_pointer, row, start, rows, size, scale, mean, BLOCK) * factor[:, None]
        gradient = load_rows(sums_pointer, row, start, rows, size, BLOCK) - unit * along[:, None]
        gradient = (gradient - offset[:, None]) * inverse[:, None]
        gradient = scale_by_exponent(gradient, (cotangent_exponent - exponent)[:, None])
        store_rows(gradient_pointer, clamp(gradient, limit), row, start, rows, size, BLOCK)


def _gradient(
    cotangent: Tensor, x: Tensor, unit: KernelRows, largest: Tensor, centered: bool, augment: float
) -> Tensor:
    """The gradient in x (N, D) for a cotangent (N, M), transposed or not; `unit` are the other rows."""
    assert unit.values is not None
    eps, dtype = torch.finfo(x.dtype).eps, x.dtype
    # A scaler looks for inf in float16; the other types saturate.
    limit = torch.inf if dtype == torch.float16 else torch.finfo(dtype).max
    sums = readable(product(cotangent, unit.values))
    x, values = readable(x), readable(unit.values)
    if cotangent.dtype != values.dtype:  # in the interpreter
        cotangent = cotangent.to(values.dtype)
    rows, size = x.shape
    others = cotangent.shape[1]
    gradient = writable((rows, size), dtype, x.device)
    if gradient.numel():
        shape = tile(rows, size)
        programs = triton.cdiv(rows, shape["ROWS"])
        launch(
            _again,
            (programs, triton.cdiv(size, shape["BLOCK"])),
            sums,
            cotangent,
            values,
            largest,
            rows,
            others,
            size,
            *cotangent.stride(),
            WINDOW=COTANGENT_WINDOW,
            **shape,
        )
        launch(
            _project,
            (programs,),
            sums,
            x,
            gradient,
            largest,
            cotangent,
            unit.extra,
            rows,
            others,
            size,
            *cotangent.stride(),
            augment,
            eps,
            limit,
            CENTERED=centered,
            AUGMENTED=bool(augment),
            WINDOW=COTANGENT_WINDOW,
            **shape,
        )
    return gradient.to(dtype)


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
    cotangent = cotangent.detach().contiguous()
    rows, columns = cotangent.shape
    largest_x = torch.zeros(rows, dtype=torch.int32, device=x.device)
    largest_y = torch.zeros(columns, dtype=torch.int32, device=x.device)
    if cotangent.numel():
        grid = (triton.cdiv(rows, _TILE), triton.cdiv(columns, _TILE))
        launch(_largest, grid, readable(cotangent), largest_x, largest_y, rows, columns, TILE=_TILE)
    gradient_x = gradient_y = x.new_empty(0)
    if needs[0]:
        unit = unit_rows(y, centered=centered, augment=augment, dtype=y.dtype)
        gradient_x = _gradient(cotangent, x, unit, largest_x, centered, augment)
    if needs[1]:
        unit = unit_rows(x, centered=centered, augment=augment, dtype=x.dtype)
        gradient_y = _gradient(cotangent.mT, y, unit, largest_y, centered, augment)
    return gradient_x, gradient_y
