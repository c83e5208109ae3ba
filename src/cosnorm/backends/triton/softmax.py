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
from torch import Tensor

from cosnorm.backends.pairs import Direction, Exclusion, Places
from cosnorm.backends.triton.launch import launch, product, product_into
from cosnorm.backends.triton.softmax_launches import chunks, row_log_sums, weights_of
from cosnorm.backends.triton.softmax_tiles import sum_up
from cosnorm.backends.triton.unit_rows import project_

__all__ = ["gradients", "log_sums", "loss_gradients", "losses", "operands", "project_", "takes"]

# 1/τ may be a tensor, which the kernels read where it stands.
TAKES_TENSOR_SCALE = True


def takes(exclusion: Exclusion, *, columns: bool) -> bool:
    """Whether the kernels can leave out what is left out: all but lists of pairs, and negatives by bounds.

    Where columns look, too, one may be the partner of many rows, which is a list to it.
    """
    listed = exclusion.pairs is not None or (columns and exclusion.partner is not None)
    return not listed and exclusion.negatives is None


def operands(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Unit rows of embeddings of that dtype as the products take them: in it, for which there are units."""
    return rows.to(dtype)


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
    other = row_log_sums(y, x, scale, exclusion.transposed(len(y))) if columns else None
    return row_log_sums(x, y, scale, exclusion), other


def rows_with_gradients(*arguments: object, tile: int | None = None) -> None:
    """There is no such kernel: `log_sums` and `gradients` do it."""
    return


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
    return weights_of(x, y, scale, exclusion, None, by_row, by_column, **options)


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
        own: the sums hold the positives whatever their labels.
        columns: columns look for their row, too; then x and y have one length.
    """
    into = torch.empty((3, len(x)), dtype=torch.float32, device=x.device)
    other = None
    if columns:
        back = positives.transposed()
        other = row_log_sums(y, x, scale, exclusion.transposed(len(y)), back, own=own)
    rows = row_log_sums(x, y, scale, exclusion, positives, own=own, into=into, others=other)
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
        weights = weights_of(
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
