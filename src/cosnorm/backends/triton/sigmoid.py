"""A sigmoid for each pair of queries and keys: losses, and what each pair weighs, in one pass over the tiles.

With logits z_ij = scale · x_i·y_j + bias and the sign s_ij, 1 for a query's own key and −1 for all others,

    loss_i = Σ_j log(1 + exp(−s_ij z_ij)),    W_ij = −a_i s_ij σ(−s_ij z_ij),

and W is written for a chunk of rows, in the dtype of the rows, for the products W y and Wᵀ x of the vendor's
library; Σ_j W_ij and Σ_j W_ij x_i·y_j are what a learned bias and scale want.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.pairs import Exclusion
from cosnorm.backends.triton.launch import MOST, launch, precision, product_into, readable, writable
from cosnorm.backends.triton.softmax_launches import chunks
from cosnorm.backends.triton.unit_rows import project_, scale_arguments

__all__ = ["project_", "takes", "whole_losses"]


def takes(exclusion: Exclusion, *, columns: bool) -> bool:
    """Whether there is a kernel for tiles by themselves: only whole losses are made here."""
    return False


@triton.jit
def sigmoid_pass(
    x_pointer,
    y_pointer,
    losses_pointer,
    sums_pointer,
    into_pointer,
    row_weight_pointer,
    begin,
    after,
    rows,
    columns,
    size,
    scale_pointer,
    number_scale,
    bias_pointer,
    number_bias,
    POINTER: tl.constexpr,
    BIAS_POINTER: tl.constexpr,
    WEIGHED: tl.constexpr,
    WRITE: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Losses of the rows; if `WRITE`, sums over their weights, and these."""
    top = tl.program_id(0).to(tl.int64) * TILE_I
    own_i, own_j = tl.arange(0, TILE_I), tl.arange(0, TILE_J)
    i = top + own_i
    scale, bias = number_scale, number_bias
    if POINTER:
        scale = tl.load(scale_pointer)
    if BIAS_POINTER:
        bias = tl.load(bias_pointer)
    weight = tl.zeros([TILE_I], tl.float32) + 1.0
    if WEIGHED:
        weight = tl.load(row_weight_pointer + i, mask=i < rows, other=0.0)
    x_pointer += top * size
    into_pointer += top * columns
    losses = tl.zeros([TILE_I], tl.float32)
    into_bias, into_scale = tl.zeros([TILE_I], tl.float32), tl.zeros([TILE_I], tl.float32)
    for left in range(0, columns, TILE_J):
        j = left + own_j
        products = tl.zeros([TILE_I, TILE_J], tl.float32)
        for start in range(0, size, DEPTH):
            d = start + tl.arange(0, DEPTH)
            x = tl.load(
                x_pointer + own_i[:, None] * size + d[None, :],
                mask=(i < rows)[:, None] & (d < size)[None, :],
                other=0.0,
            )
            y = tl.load(
                y_pointer + j.to(tl.int64)[None, :] * size + d[:, None],
                mask=(j < columns)[None, :] & (d < size)[:, None],
                other=0.0,
            )
            products = tl.dot(x, y, products, input_precision=PRECISION)
        inside = (i < rows)[:, None] & (j < columns)[None, :]
        sign = tl.where((i + begin)[:, None] == j[None, :], -1.0, 1.0)
        logits = sign * (products * scale + bias)
        small = tl.exp(-tl.abs(logits))
        # log(1 + small) keeps the digits of what is small by its series.
        series = small * (1.0 - small * (0.5 - small * (1.0 / 3.0)))
        lost = tl.where(logits > 0, logits, 0.0) + tl.where(small < 0.01, series, tl.log(1.0 + small))
        lost = tl.where(logits != logits, logits, lost)
        losses += tl.sum(tl.where(inside, lost, 0.0), 1)
        if WRITE:
            softly = sign * tl.where(logits >= 0, 1.0, small) / (1.0 + small) * weight[:, None]
            softly = tl.where(inside, softly, 0.0)
            into_bias += tl.sum(softly, 1)
            into_scale += tl.sum(softly * products, 1)
            tl.store(into_pointer + own_i[:, None] * columns + j[None, :], softly, mask=inside)
    tl.store(losses_pointer + i, losses, mask=i < rows)
    if WRITE:
        tl.store(sums_pointer + i, into_scale, mask=i < rows)
        tl.store(sums_pointer + after + i, into_bias, mask=i < rows)


def _tiles(rows: int, columns: int, size: int, dtype: torch.dtype) -> dict[str, int]:
    """Tiles and warps, as those of the softmax."""
    most, depth = (64, 16) if dtype == torch.float32 else (64, 64)

    def power(number: int, most: int) -> int:
        return max(16, min(most, triton.next_power_of_2(number)))

    tiles = {"TILE_I": power(rows, most), "TILE_J": power(columns, most), "DEPTH": power(size, depth)}
    return {**tiles, "warps": 8 if tiles["TILE_I"] == tiles["TILE_J"] == most else 4}


def whole_losses(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    *,
    weights: Tensor | None,
    into_x: Tensor | None,
    into_y: Tensor | None,
    tile: int | None,
) -> tuple[Tensor, Tensor]:
    """Losses of the queries, (N,); and what scale and bias receive from each, (2, N), or nothing.

    Args:
        x: unit rows as the products take them, (N, D); query i belongs to key i.
        y: the same, (M, D).
        scale: of the products.
        bias: beside them.
        weights: of the losses, (N,); None: 1 for each.
        into_x: W y is written here, (N, D); None: no gradient is made.
        into_y: Wᵀ x, (M, D).
        tile: rows of W that are held at a time.
    """
    x, y = x.detach().contiguous(), y.detach().contiguous()
    number, dtype = len(x), x.dtype
    losses = torch.empty(number, dtype=torch.float32, device=x.device)
    write = into_x is not None and into_y is not None
    sums = torch.empty((2, number), dtype=torch.float32, device=x.device) if write else losses
    for part in chunks(x, y, tile) if write else [slice(0, number)]:
        rows = x[part]
        made = writable((len(rows), len(y)), dtype, x.device) if write else losses
        tiles = _tiles(len(rows), len(y), x.shape[1], dtype)
        launch(
            sigmoid_pass,
            (triton.cdiv(len(rows), tiles["TILE_I"]),),
            readable(rows),
            readable(y),
            losses[part],
            sums[0, part] if write else losses,
            made,
            losses if weights is None else weights[part].contiguous(),
            part.start,
            number,
            len(rows),
            len(y),
            x.shape[1],
            *scale_arguments(scale, x),
            *scale_arguments(bias, x),
            registers=MOST,
            POINTER=isinstance(scale, Tensor),
            BIAS_POINTER=isinstance(bias, Tensor),
            WEIGHED=weights is not None,
            WRITE=write,
            PRECISION=precision(dtype),
            **tiles,
        )
        if into_x is not None and into_y is not None:
            product_into(made.to(dtype), y, into_x[part])
            product_into(made.to(dtype).mT, rows, into_y, add=part.start > 0)
    return losses, sums if write else losses.new_empty(0)
