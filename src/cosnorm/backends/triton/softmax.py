"""Softmax over the products of two sets of rows: the kernel form of `cosnorm.backends.torch.softmax`.

With unit rows x (N, D), y (M, D) and logits z_ij = scale · x_i·y_j, `log_sums` makes the log of each row's
sum of exp, tile after tile, and no logit ever leaves the chip. `gradients` makes the tiles again and writes

    W_ij = a_i exp(z_ij − ℓ_i) + b_j exp(z_ij − ℓ'_j)

for a chunk of rows, in the dtype of the rows, for the two products W y and Wᵀ x of the vendor's library. What
is excluded has W = 0 and takes no part in the sums.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.pairs import Direction, Exclusion
from cosnorm.backends.triton.launch import MOST, launch, product, readable, writable
from cosnorm.backends.triton.launch import precision as precision_of

# Bytes of W that are held at a time.
_CHUNK = 2**27
_EMPTY = float("-inf")


def takes(exclusion: Exclusion) -> bool:
    """Whether the kernels can leave out what is left out: all but lists of pairs, and negatives by bounds."""
    return exclusion.pairs is None and exclusion.negatives is None


def operands(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Unit rows of embeddings of that dtype as the products take them: in it, for which there are units."""
    return rows.to(dtype)


@triton.jit
def _excluded_logits(
    x_pointer,
    y_pointer,
    top,
    left,
    rows,
    columns,
    size,
    scale,
    offset,
    partner_pointer,
    row_label_pointer,
    column_label_pointer,
    mask_pointer,
    mask_stride,
    mask_stride_column,
    SELF: tl.constexpr,
    PARTNER: tl.constexpr,
    LABELS: tl.constexpr,
    MASK: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The logits of the tile at (top, left); −inf where a pair is excluded or outside."""
    # Within a tile 32 bits reach: half the registers of an address for each element.
    own_i, own_j = tl.arange(0, TILE_I), tl.arange(0, TILE_J)
    i, j = top + own_i, left + own_j
    x_pointer += top * size
    y_pointer += left * size
    products = tl.zeros([TILE_I, TILE_J], tl.float32)
    for start in range(0, size, DEPTH):
        d = start + tl.arange(0, DEPTH)
        x = tl.load(
            x_pointer + own_i[:, None] * size + d[None, :],
            mask=(i < rows)[:, None] & (d < size)[None, :],
            other=0.0,
        )
        y = tl.load(
            y_pointer + own_j[None, :] * size + d[:, None],
            mask=(j < columns)[None, :] & (d < size)[:, None],
            other=0.0,
        )
        products = tl.dot(x, y, products, input_precision=PRECISION)
    kept = (i < rows)[:, None] & (j < columns)[None, :]
    if SELF:
        kept = kept & ((i + offset)[:, None] != j[None, :])
    if PARTNER:
        partner = tl.load(partner_pointer + i, mask=i < rows, other=-1)
        kept = kept & (partner[:, None] != j[None, :])
    if LABELS:
        own = tl.load(row_label_pointer + i, mask=i < rows, other=-1)
        other = tl.load(column_label_pointer + j, mask=j < columns, other=-2)
        kept = kept & (own[:, None] != other[None, :])
    if MASK:
        mask_pointer += top * mask_stride + left * mask_stride_column
        place = own_i[:, None] * mask_stride + own_j[None, :] * mask_stride_column
        kept = kept & (tl.load(mask_pointer + place, mask=kept, other=1) == 0)
    return tl.where(kept, products * scale, float("-inf"))


@triton.jit
def _log_sums(
    x_pointer,
    y_pointer,
    sums_pointer,
    rows,
    columns,
    size,
    scale,
    offset,
    partner_pointer,
    row_label_pointer,
    column_label_pointer,
    mask_pointer,
    mask_stride,
    mask_stride_column,
    SELF: tl.constexpr,
    PARTNER: tl.constexpr,
    LABELS: tl.constexpr,
    MASK: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
):
    top = tl.program_id(0).to(tl.int64) * TILE_I
    i = top + tl.arange(0, TILE_I)
    largest = tl.full([TILE_I], float("-inf"), tl.float32)
    total = tl.zeros([TILE_I], tl.float32)
    for start in range(0, columns, TILE_J):
        left = tl.cast(start, tl.int64)
        logits = _excluded_logits(
            x_pointer,
            y_pointer,
            top,
            left,
            rows,
            columns,
            size,
            scale,
            offset,
            partner_pointer,
            row_label_pointer,
            column_label_pointer,
            mask_pointer,
            mask_stride,
            mask_stride_column,
            SELF,
            PARTNER,
            LABELS,
            MASK,
            PRECISION,
            TILE_I,
            TILE_J,
            DEPTH,
        )
        before = largest
        largest = tl.maximum(largest, tl.max(logits, 1))
        # Rows of which all is excluded so far: exp(−inf − 0) is 0, exp(−inf + inf) is not.
        shift = tl.where(largest == float("-inf"), 0.0, largest)
        total = total * tl.exp(before - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    empty = total == 0
    sums = tl.where(empty, float("-inf"), shift + tl.log(tl.where(empty, 1.0, total)))
    tl.store(sums_pointer + i, sums, mask=i < rows)


@triton.jit
def _weights(
    x_pointer,
    y_pointer,
    weights_pointer,
    row_weight_pointer,
    row_sum_pointer,
    column_weight_pointer,
    column_sum_pointer,
    rows,
    columns,
    size,
    scale,
    offset,
    partner_pointer,
    row_label_pointer,
    column_label_pointer,
    mask_pointer,
    mask_stride,
    mask_stride_column,
    SELF: tl.constexpr,
    PARTNER: tl.constexpr,
    LABELS: tl.constexpr,
    MASK: tl.constexpr,
    BOTH: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
):
    top, left = tl.program_id(0).to(tl.int64) * TILE_I, tl.program_id(1).to(tl.int64) * TILE_J
    i, j = top + tl.arange(0, TILE_I), left + tl.arange(0, TILE_J)
    logits = _excluded_logits(
        x_pointer,
        y_pointer,
        top,
        left,
        rows,
        columns,
        size,
        scale,
        offset,
        partner_pointer,
        row_label_pointer,
        column_label_pointer,
        mask_pointer,
        mask_stride,
        mask_stride_column,
        SELF,
        PARTNER,
        LABELS,
        MASK,
        PRECISION,
        TILE_I,
        TILE_J,
        DEPTH,
    )
    weight = tl.load(row_weight_pointer + i, mask=i < rows, other=0.0)
    sums = tl.load(row_sum_pointer + i, mask=i < rows, other=0.0)
    found = weight[:, None] * tl.exp(logits - sums[:, None])
    if BOTH:
        weight = tl.load(column_weight_pointer + j, mask=j < columns, other=0.0)
        sums = tl.load(column_sum_pointer + j, mask=j < columns, other=0.0)
        found += weight[None, :] * tl.exp(logits - sums[None, :])
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    weights_pointer += top * columns + left
    place = tl.arange(0, TILE_I)[:, None] * columns + tl.arange(0, TILE_J)[None, :]
    tl.store(weights_pointer + place, found, mask=inside)


def _tiles(rows: int, columns: int, size: int, dtype: torch.dtype) -> dict[str, int]:
    """Tiles and warps: no larger than the compiler holds in registers, for each dtype on each GPU."""
    most, depth, warps = (64, 32, 8) if dtype == torch.float32 else (128, 64, 8)

    def power(number: int, most: int) -> int:
        return max(16, min(most, triton.next_power_of_2(number)))

    tiles = {"TILE_I": power(rows, most), "TILE_J": power(columns, most), "DEPTH": power(size, depth)}
    return {**tiles, "warps": warps if min(tiles["TILE_I"], tiles["TILE_J"]) == most else 4}


def log_sums(
    x: Tensor,
    y: Tensor,
    scale: float,
    exclusion: Exclusion,
    *,
    symmetric: bool = False,
    columns: bool = False,
    tile: int | None = None,
    kept: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log of the sum of exp of the logits of each row, (N,) float32, and of each column where wanted.

    As `cosnorm.backends.torch.softmax.log_sums`; nothing is kept.
    """
    other = _row_log_sums(y, x, scale, exclusion.transposed(len(y))) if columns else None
    return _row_log_sums(x, y, scale, exclusion), other


def rows_with_gradients(*arguments: object, tile: int | None = None) -> None:
    """There is no such kernel: `log_sums` and `gradients` do it."""
    return


def _row_log_sums(x: Tensor, y: Tensor, scale: float, exclusion: Exclusion) -> Tensor:
    precision = precision_of(x.dtype)
    x, y = readable(x), readable(y)
    sums = torch.full((len(x),), _EMPTY, dtype=torch.float32, device=x.device)
    if len(x) and len(y):
        tiles = _tiles(len(x), len(y), x.shape[1], x.dtype)
        launch(
            _log_sums,
            (triton.cdiv(len(x), tiles["TILE_I"]),),
            x,
            y,
            sums,
            len(x),
            len(y),
            x.shape[1],
            scale,
            registers=MOST,
            **_arguments(exclusion, 0, x),
            PRECISION=precision,
            **tiles,
        )
    return sums


def gradients(
    x: Tensor,
    y: Tensor,
    scale: float,
    exclusion: Exclusion,
    along_rows: Direction,
    along_columns: Direction | None,
    into_x: Tensor,
    into_y: Tensor | None,
    *,
    symmetric: bool = False,
    tile: int | None = None,
    kept: list[Tensor] | None = None,
) -> None:
    """Add scale · W y (N, D) and scale · Wᵀ x (M, D) to what is given.

    As `cosnorm.backends.torch.softmax.gradients`; `tile` is the number of rows of W that are held at a time.
    """
    rows, columns = len(x), len(y)
    x, y = x.detach().contiguous(), y.detach().contiguous()
    chunk = tile or max(128, _CHUNK // max(1, columns * x.element_size()))
    for start in range(0, rows if columns else 0, chunk):
        part = slice(start, min(start + chunk, rows))
        mine = Direction(along_rows.weights[part], along_rows.log_sums[part])
        weights = softmax_weights(x[part], y, scale, exclusion, mine, along_columns, start=start)
        into_x[part].add_(product(weights, y), alpha=scale)
        # In the symmetric case W is symmetric, and what meets the rows has met the columns.
        if into_y is not None and not symmetric:
            into_y.add_(product(weights.mT, x[part]), alpha=scale)


def softmax_weights(
    x: Tensor,
    y: Tensor,
    scale: float,
    exclusion: Exclusion,
    along_rows: Direction,
    along_columns: Direction | None = None,
    *,
    start: int = 0,
) -> Tensor:
    """W of the module's formula, (N, M), in the dtype of x; `start` is the number of the first row of x."""
    dtype, precision = x.dtype, precision_of(x.dtype)
    x, y = readable(x), readable(y)
    by_row = [one.contiguous() for one in along_rows]
    by_column = [one.contiguous() for one in along_columns or along_rows]
    weights = writable((len(x), len(y)), dtype, x.device)
    tiles = _tiles(len(x), len(y), x.shape[1], x.dtype)
    if weights.numel():
        launch(
            _weights,
            (triton.cdiv(len(x), tiles["TILE_I"]), triton.cdiv(len(y), tiles["TILE_J"])),
            x,
            y,
            weights,
            *by_row,
            *by_column,
            len(x),
            len(y),
            x.shape[1],
            scale,
            registers=MOST,
            **_arguments(exclusion, start, x),
            BOTH=along_columns is not None,
            PRECISION=precision,
            **tiles,
        )
    return weights.to(dtype)


def _arguments(exclusion: Exclusion, start: int, like: Tensor) -> dict[str, Any]:
    """An exclusion as the kernels take it, for rows from `start` on."""
    labels = exclusion.labels or (like, like)
    mask = like if exclusion.mask is None else exclusion.mask.view(torch.uint8)
    return {
        "offset": start + (exclusion.offset or 0),
        "partner_pointer": like if exclusion.partner is None else exclusion.partner[start:],
        "row_label_pointer": labels[0] if exclusion.labels is None else labels[0][start:],
        "column_label_pointer": labels[1],
        "mask_pointer": mask if exclusion.mask is None else mask[start:],
        "mask_stride": 0 if exclusion.mask is None else mask.stride(0),
        "mask_stride_column": 0 if exclusion.mask is None else mask.stride(1),
        "SELF": exclusion.offset is not None,
        "PARTNER": exclusion.partner is not None,
        "LABELS": exclusion.labels is not None,
        "MASK": exclusion.mask is not None,
    }
