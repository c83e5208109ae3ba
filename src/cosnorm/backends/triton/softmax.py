"""Softmax over the products of two sets of rows: the kernel form of `cosnorm.backends.torch.softmax`.

With unit rows x (N, D), y (M, D) and logits z_ij = scale · x_i·y_j, `log_sums` makes the log of each row's
sum of exp, tile after tile, and no logit ever leaves the chip. `gradients` makes the tiles again and writes

    W_ij = a_i exp(z_ij − ℓ_i) + b_j exp(z_ij − ℓ'_j)

for a chunk of rows, in the dtype of the rows, for the two products W y and Wᵀ x of the vendor's library. What
is excluded has W = 0 and takes no part in the sums.

Where the kernels are told the positives P, whole losses come from the same two passes: `losses` sums the
logits of the positives, too, and `loss_gradients` takes a_i/|P_i| off at them (`softmax_tiles.py`).
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from cosnorm.backends.pairs import Direction, Exclusion, Places
from cosnorm.backends.triton.launch import MOST, launch, product, product_into, readable, writable
from cosnorm.backends.triton.launch import precision as precision_of
from cosnorm.backends.triton.softmax_tiles import (
    BY_LABEL,
    GIVEN,
    NO_POSITIVES,
    OWN_KEY,
    _log_sums,
    _weights,
    sum_up,
)
from cosnorm.backends.triton.unit_rows import project_, scale_arguments

__all__ = ["gradients", "log_sums", "loss_gradients", "losses", "operands", "project_", "takes"]

# Bytes of W that are held at a time.
_CHUNK = 2**27
_EMPTY = float("-inf")

# 1/τ may be a tensor, which the kernels read where it stands.
TAKES_TENSOR_SCALE = True


def takes(exclusion: Exclusion) -> bool:
    """Whether the kernels can leave out what is left out: all but lists of pairs."""
    return exclusion.pairs is None


def operands(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Unit rows of embeddings of that dtype as the products take them: in it, for which there are units."""
    return rows.to(dtype)


def _tiles(
    rows: int, columns: int, size: int, dtype: torch.dtype, *, sought: int = NO_POSITIVES, whole: bool = False
) -> dict[str, int]:
    """Tiles and warps: no larger than the compiler holds in registers, for each dtype on each GPU.

    Where positives are sought in it, a tile is there twice; `whole`: the losses are made, too.
    """
    most_i, most_j, depth = (64, 64, 32) if dtype == torch.float32 else (128, 128, 64)
    if whole or sought != NO_POSITIVES:
        most_j, depth = 64, 16 if dtype == torch.float32 else depth
    if whole and sought == BY_LABEL:
        most_i = 64

    def power(number: int, most: int) -> int:
        return max(16, min(most, triton.next_power_of_2(number)))

    tiles = {"TILE_I": power(rows, most_i), "TILE_J": power(columns, most_j), "DEPTH": power(size, depth)}
    full = tiles["TILE_I"] == most_i and tiles["TILE_J"] == most_j
    return {**tiles, "warps": 8 if full else 4}


def log_sums(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
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


def _row_log_sums(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    positives: Places | None = None,
    *,
    own: bool = False,
    into: Tensor | None = None,
    others: Tensor | None = None,
) -> Tensor:
    """Log sums; with `into`, (3, N), losses, 1 for each row that takes part, and 1/|P| are written there."""
    dtype, precision = x.dtype, precision_of(x.dtype)
    x, y = readable(x), readable(y)
    sums = torch.empty(len(x), dtype=torch.float32, device=x.device)
    if not len(y):
        return sums.fill_(_EMPTY)
    if len(x):
        arguments = _positive_arguments(positives, 0, x)
        sought = arguments["POSITIVE"] if own or arguments["POSITIVE"] == BY_LABEL else NO_POSITIVES
        tiles = _tiles(len(x), len(y), x.shape[1], dtype, sought=sought, whole=into is not None)
        made = [sums] * 3 if into is None else into.unbind()
        launch(
            _log_sums,
            (triton.cdiv(len(x), tiles["TILE_I"]),),
            x,
            y,
            sums,
            sums if others is None else others,
            *made,
            len(x),
            len(y),
            x.shape[1],
            *scale_arguments(scale, x),
            registers=MOST,
            POINTER=isinstance(scale, Tensor),
            **_arguments(exclusion, 0, x),
            **arguments,
            OWN=own,
            LOSSES=into is not None,
            SOUGHT=sought,
            OTHERS=others is not None,
            PRECISION=precision,
            **tiles,
        )
    return sums


def gradients(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
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
    x, y = x.detach().contiguous(), y.detach().contiguous()
    for part in chunks(x, y, tile):
        mine = Direction(along_rows.weights[part], along_rows.log_sums[part])
        weights = softmax_weights(x[part], y, scale, exclusion, mine, along_columns, start=part.start)
        into_x[part].add_(product(weights, y) * scale)
        # In the symmetric case W is symmetric, and what meets the rows has met the columns.
        if into_y is not None and not symmetric:
            into_y.add_(product(weights.mT, x[part]) * scale)


def chunks(x: Tensor, y: Tensor, tile: int | None) -> list[slice]:
    """Rows of W, in parts that are held at a time, each as many as given."""
    rows, columns = len(x), len(y)
    chunk = tile or max(128, _CHUNK // max(1, columns * x.element_size()))
    return [slice(start, min(start + chunk, rows)) for start in range(0, rows if columns else 0, chunk)]


def softmax_weights(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    along_rows: Direction,
    along_columns: Direction | None = None,
    *,
    start: int = 0,
) -> Tensor:
    """W of the module's formula, (N, M), in the dtype of x; `start` is the number of the first row of x."""
    by_row = *(one.contiguous() for one in along_rows), along_rows.weights
    by_column = by_row
    if along_columns is not None:
        by_column = *(one.contiguous() for one in along_columns), along_columns.weights
    options: Any = {"both": along_columns is not None, "back": False, "start": start}
    return _weights_of(x, y, scale, exclusion, None, by_row, by_column, **options)


def _weights_of(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    positives: Places | None,
    by_row: tuple[Tensor, ...],
    by_column: tuple[Tensor, ...],
    *,
    both: bool,
    back: bool,
    start: int,
    share: float = 1.0,
    own: bool = False,
) -> Tensor:
    """W; for each row and column its weight, log sum and 1/|P|."""
    dtype, precision = x.dtype, precision_of(x.dtype)
    x, y = readable(x), readable(y)
    weights = writable((len(x), len(y)), dtype, x.device)
    arguments = _positive_arguments(positives, start, x)
    tiles = _tiles(len(x), len(y), x.shape[1], dtype, sought=arguments["POSITIVE"])
    if weights.numel():
        given = None if positives is None else positives.given
        launch(
            _weights,
            (triton.cdiv(len(x), tiles["TILE_I"]), triton.cdiv(len(y), tiles["TILE_J"])),
            x,
            y,
            weights,
            *by_row,
            *by_column,
            x if given is None else given.contiguous(),
            share,
            start,
            len(x),
            len(y),
            x.shape[1],
            *scale_arguments(scale, x),
            registers=MOST,
            POINTER=isinstance(scale, Tensor),
            **_arguments(exclusion, start, x),
            **arguments,
            OWN=own,
            BOTH=both,
            BACK=back,
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
        "partner_pointer": like if exclusion.partner is None else exclusion.partner[start:].contiguous(),
        "row_label_pointer": labels[0] if exclusion.labels is None else labels[0][start:].contiguous(),
        "column_label_pointer": labels[1].contiguous(),
        "mask_pointer": mask if exclusion.mask is None else mask[start:],
        "mask_stride": 0 if exclusion.mask is None else mask.stride(0),
        "mask_stride_column": 0 if exclusion.mask is None else mask.stride(1),
        "SELF": exclusion.offset is not None,
        "PARTNER": exclusion.partner is not None,
        "LABELS": exclusion.labels is not None,
        "MASK": exclusion.mask is not None,
    }


def _positive_arguments(positives: Places | None, start: int, like: Tensor) -> dict[str, Any]:
    """The same of the positives."""
    if positives is None:
        kind, row, column, offset = NO_POSITIVES, like, like, None
    elif positives.labels is not None:
        kind, (row, column), offset = BY_LABEL, positives.labels, positives.offset
        row = row[start:]
    elif positives.given is not None:
        kind, row, column, offset = GIVEN, positives.given[start:], like, None
    else:
        kind, row, column, offset = OWN_KEY, like, like, positives.offset or 0
    return {
        "positive_pointer": row.contiguous(),
        "positive_column_pointer": column.contiguous(),
        "positive_offset": start + (offset or 0),
        "POSITIVE": kind,
        "NOT_SELF": offset is not None,
    }


class Losses(NamedTuple):
    """Losses of rows, and what their gradients need.

    Attributes:
        losses: (N,); 0 for those that do not take part.
        part: 1 for those that do, (N,).
        quotients: 1/|P|, 0 without a positive, (N,).
        log_sums: of the rows and, where wanted, of the columns, (N,) each.
    """

    losses: Tensor
    part: Tensor
    quotients: Tensor
    log_sums: list[Tensor]

    def sums(self) -> tuple[Tensor, Tensor]:
        """The sum of the losses and the number of those that take part, in one launch."""
        loss = self.losses.new_empty(())
        count = torch.empty((), dtype=torch.int64, device=loss.device)
        launch(sum_up, (1,), self.losses, self.part, loss, count, len(self.losses), BLOCK=1024)
        return loss, count


def losses(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    positives: Places,
    *,
    own: bool,
    columns: bool,
) -> Losses:
    """Losses log Σ exp z − mean of z over the positives, for rows, or for rows and columns on average.

    Args:
        x: unit rows as the products take them, (N, D).
        y: the same, (M, D).
        scale: of the logits.
        exclusion: what the sums do not hold.
        positives: of each row.
        own: the sums hold the positives all the same.
        columns: columns look for their row, too; then x and y have one length.
    """
    into = torch.empty((3, len(x)), dtype=torch.float32, device=x.device)
    other = None
    if columns:
        back = positives.transposed()
        other = _row_log_sums(y, x, scale, exclusion.transposed(len(y)), back, own=own)
    rows = _row_log_sums(x, y, scale, exclusion, positives, own=own, into=into, others=other)
    return Losses(into[0], into[1], into[2], [rows] if other is None else [rows, other])


def loss_gradients(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    positives: Places,
    found: Losses,
    into_x: Tensor,
    into_y: Tensor | None,
    *,
    own: bool,
    symmetric: bool,
    tile: int | None,
) -> None:
    """Write (not add) W y and Wᵀ x, for W with the positives and without the scale, in float32.

    Args:
        x: as for `losses`, and so are y, scale, exclusion, positives and own.
        y: see x.
        scale: see x.
        exclusion: see x.
        positives: see x.
        found: what `losses` gave; `part` may hold what each loss weighs.
        into_x: (N, D).
        into_y: (M, D), of memory of its own; None: not wanted.
        own: see x.
        symmetric: x is y, and so is what is excluded.
        tile: rows of W that are held at a time.
    """
    x, y = x.detach().contiguous(), y.detach().contiguous()
    first, last = found.log_sums[0], found.log_sums[-1]
    both = symmetric or len(found.log_sums) > 1
    by_column = found.part, last, found.quotients
    for part in chunks(x, y, tile):
        by_row = found.part[part], first[part], found.quotients[part]
        weights = _weights_of(
            x[part],
            y,
            scale,
            exclusion,
            positives,
            by_row,
            by_column,
            both=both,
            back=symmetric,
            start=part.start,
            share=1 / len(found.log_sums),
            own=own,
        )
        product_into(weights, y, into_x[part])
        if into_y is not None and not symmetric:
            product_into(weights.mT, x[part], into_y, add=part.start > 0)
