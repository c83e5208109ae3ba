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
from torch import Tensor

from cosnorm.backends.torch.contraction import Contraction
from cosnorm.backends.triton.launch import (
    COTANGENT_LIMIT,
    MOST,
    PASS,
    launch,
    precision,
    product,
    readable,
    writable,
)
from cosnorm.backends.triton.row_gradients import gradients_again, look_at_cotangent, project
from cosnorm.backends.triton.row_passes import few_rows, finish_products, products_again
from cosnorm.backends.triton.units import (
    FILTER_TILE,
    norms,
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
            few_rows,
            (triton.cdiv(m, _FEW_TILE[dtype][0]),),
            readable_x,
            readable_y,
            output,
            numbers,
            n,
            m,
            size,
            float(augment),
            registers=2 * PASS,
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
                finish_products,
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
            products_again,
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
    """The gradients in rows (N, D) from sums in two parts, the second of float64; as `project` does it.

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
        project,
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
        look_at_cotangent,
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
        project,
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
        gradients_again,
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
