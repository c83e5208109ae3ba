"""Softmax over the products of two sets of rows, a tile at a time: neither forward nor backward needs N×M.

With unit rows x (N, D) and y (M, D) and logits z_ij = scale · x_i·y_j, two passes over tiles do everything:

    `log_sums`    ℓ_i = log Σ_j exp z_ij, and ℓ'_j = log Σ_i exp z_ij where both directions are wanted;
    `gradients`   W_ij = a_i exp(z_ij − ℓ_i) + b_j exp(z_ij − ℓ'_j), and from it scale · W y and scale · Wᵀ x.

A set with itself is symmetric: a tile above the diagonal serves its rows and its columns, so the two passes
cost two matrix products instead of three. In one direction alone `rows_with_gradients` keeps whole rows of
logits and needs no second look at them.

A cosine is bounded, so up to `BOUNDED` exp cannot overflow, nor a sum lose its digits: no maximum is looked
for. Beyond it the sums are taken relative to the largest logit.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cosnorm.backends.pairs import Direction, Exclusion
from cosnorm.devices import AT_ONCE, at_once, is_accelerator

# exp(±64) = 6e±27: sums and quotients of a billion of them stay normal float32 numbers.
BOUNDED = 64.0
LOG2_E = math.log2(math.e)
TILE, _DIAGONAL = 1024, 512
# Numbers of the tiles that may be kept between the two passes of one call: 16 MiB of float32.
KEPT = 2**22
# Logits of a block of whole rows: 8 MiB of float32.
_WHOLE_ROWS = 2**21


# 1/τ may be a tensor, which nobody has looked at.
TAKES_TENSOR_SCALE = True


def takes(exclusion: Exclusion, *, columns: bool) -> bool:
    """Whether these tiles can leave out what is left out: always."""
    return True


def operands(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Unit rows of embeddings of that dtype as the products take them: in their accumulation dtype."""
    return rows


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
    """Log of the sums of exp over each row, and over each column where wanted; −inf for an empty sum.

    Args:
        x: unit rows (N, D).
        y: unit rows (M, D); the same tensor as x if `symmetric`.
        scale: what the products are multiplied by.
        exclusion: the pairs that take no part.
        symmetric: what is excluded is symmetric too, and every row counts in one direction.
        columns: also over each column.
        tile: rows and columns of a tile.
        kept: an empty list, for the first tiles, which `gradients` then need not make again.
    """
    plain = is_bounded(exclusion.scale(scale))
    room = at_once(x.device, KEPT if plain else 0) if kept is not None else 0
    empty = 0.0 if plain else -torch.inf
    sums = x.new_full((len(x),), empty)
    # In the symmetric case a column of a tile is a row of the tile across the diagonal.
    other = sums if symmetric else y.new_full((len(y),), empty) if columns else None
    for rows, cols, logits, turned in _tiles(x, y, scale, exclusion, symmetric, tile, kept, room):
        both = other is not None and (not symmetric or rows != cols)
        if plain:
            sums[rows] += logits.sum(1)
            if both:
                other[cols] += turned.sum(0)  # type: ignore[index]
        else:
            sums[rows] = torch.logaddexp(sums[rows], logits.logsumexp(1))
            if both:
                other[cols] = torch.logaddexp(other[cols], turned.logsumexp(0))  # type: ignore[index]
    if plain:
        sums = sums.log_()
        if columns and other is not None and not symmetric:
            other.log_()
    return sums, other if columns else None


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

    Args:
        x: unit rows (N, D).
        y: unit rows (M, D).
        scale: what the products are multiplied by.
        exclusion: the pairs that take no part.
        along_rows: a and ℓ.
        along_columns: b and ℓ', for the second direction; as `along_rows` if `symmetric`.
        into_x: of the shape of x.
        into_y: of the shape of y; the same memory as `into_x` if `symmetric`; None where it is not wanted.
        symmetric: as in `log_sums`.
        tile: rows and columns of a tile.
        kept: the tiles that `log_sums` kept; they are overwritten.
    """
    weigh = _bounded_weights if is_bounded(exclusion.scale(scale)) else _shifted_weights
    a, b = _Scaled(along_rows, scale), None
    if along_columns is not None:
        b = a if along_columns is along_rows else _Scaled(along_columns, scale)
    directed = symmetric and exclusion.is_directed
    for rows, cols, logits, turned in _tiles(x, y, scale, exclusion, symmetric, tile, kept):
        if not directed:
            weights = weigh(logits, a, b, rows, cols)
        elif rows == cols:
            weights = weigh(logits, a, None, rows, cols)
            weights = weights + weights.t()
        else:
            weights = weigh(logits, a, None, rows, cols).add_(weigh(turned.t(), a, None, cols, rows).t())
        into_x[rows].addmm_(weights, y[cols])
        if into_y is not None and (not symmetric or rows != cols):
            into_y[cols].addmm_(weights.t(), x[rows])


def rows_with_gradients(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    row_weights: Tensor,
    own: Tensor | None,
    into_x: Tensor,
    into_y: Tensor | None,
    *,
    tile: int | None = None,
) -> Tensor | None:
    """`log_sums` over rows and `gradients` of the same in one pass over blocks of whole rows.

    Args:
        x: unit rows (N, D).
        y: unit rows (M, D).
        scale: what the products are multiplied by.
        exclusion: the pairs that take no part.
        row_weights: a, (N,).
        own: one more logit for each row's sum, (N,).
        into_x: of the shape of x.
        into_y: of the shape of y; None where it is not wanted.
        tile: rows of a block; None chooses.

    Returns:
        The log sums (N,); None, and nothing done, where blocks of whole rows would be too low.
    """
    room = at_once(x.device, _WHOLE_ROWS)
    if len(y) > room // 64:
        return None
    count = tile or max(1, min(at_once(x.device, TILE), room // max(1, len(y))))
    sums = x.new_empty(len(x))
    everything, top = slice(0, len(y)), exclusion.scale(scale)
    for start in range(0, len(x), count):
        rows = slice(start, min(start + count, len(x)))
        logits = (x[rows] * (top * LOG2_E)) @ y.t()
        exclusion.exclude_(logits, rows, everything, scale, LOG2_E)
        largest = None
        if not is_bounded(top):
            largest = logits.amax(1, keepdim=True)
            if own is not None:
                largest = largest.maximum(own[rows].unsqueeze(1) * LOG2_E)
            largest.masked_fill_(largest == -torch.inf, 0)
            logits -= largest
        total = logits.exp2_().sum(1, keepdim=True)
        others = total if own is None else total.clone()
        if own is not None:
            total += (own[rows].unsqueeze(1) * LOG2_E - (0 if largest is None else largest)).exp2_()
        factor = (row_weights[rows].unsqueeze(1) / total).masked_fill_(total == 0, 0)
        into_x[rows].addmm_(logits.mul_(factor.mul_(scale)), y)
        if into_y is not None:
            into_y.addmm_(logits.t(), x[rows])
        others.log_()
        logs = (others if largest is None else others.add_(largest, alpha=1 / LOG2_E)).squeeze(1)
        # Where there are no others the sum is the own logit to the last bit, and its pull is 0.
        sums[rows] = logs if own is None else torch.logaddexp(logs, own[rows])
    return sums


class _Scaled:
    """A direction with its weights times the scale, and these over the sums."""

    def __init__(self, given: Direction, scale: float | Tensor) -> None:
        self.weights, self.sums = given.weights * scale, given.log_sums
        self.quotients = self.weights * (-self.sums).exp()


def _bounded_weights(
    exponentials: Tensor,
    along_rows: _Scaled,
    along_columns: _Scaled | None,
    rows: slice,
    columns: slice,
) -> Tensor:
    """W of a tile from exp of the logits, which is overwritten."""
    quotients = along_rows.quotients[rows].unsqueeze(1)
    if along_columns is not None:
        quotients = quotients + along_columns.quotients[columns]
    return exponentials.mul_(quotients)


def _shifted_weights(
    logits: Tensor, along_rows: _Scaled, along_columns: _Scaled | None, rows: slice, columns: slice
) -> Tensor:
    """The same where exp of a logit could overflow."""
    found = None
    if along_columns is not None:
        found = (logits - along_columns.sums[columns]).exp_().mul_(along_columns.weights[columns])
    weights = logits.sub_(along_rows.sums[rows].unsqueeze(1)).exp_()
    weights.mul_(along_rows.weights[rows].unsqueeze(1))
    return weights if found is None else weights.add_(found)


def _tiles(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    symmetric: bool,
    tile: int | None,
    kept: list[Tensor] | None,
    room: int = 0,
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Rows, columns and logits of each tile; if symmetric, only of those on and above the diagonal.

    The logits come as its rows see them, and as its columns do: these are others where columns look as rows
    do, and leave out something else. Up to `BOUNDED` not the logits come, but exp of them. Those that were
    kept come as they are.
    """
    shape = shape_of_tile(x, y, tile, TILE if len(y) > 2**13 else TILE // 2, square=symmetric)
    places = _places(len(x), len(y), shape, symmetric, at_once(x.device, _DIAGONAL))
    buffer: Tensor | None = None
    # One piece of memory, since fresh pages cost more than the product that they save.
    pool = x.new_empty(min(room, len(x) * len(y)))
    top = exclusion.scale(scale)
    base = LOG2_E if is_bounded(top) else 1.0
    scaled, of = x[:0], slice(0, 0)
    directed = symmetric and exclusion.is_directed
    for number, (rows, columns) in enumerate(places):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        layers = 2 if directed and rows != columns else 1
        if kept is not None and number < len(kept):
            yield rows, columns, kept[number][0], kept[number][-1]
            continue
        if kept is not None and number == len(kept) and layers * height * width <= len(pool):
            tile_of = pool[: layers * height * width].view(layers, height, width)
            pool = pool[layers * height * width :]
            kept.append(tile_of)
        else:
            if buffer is None:
                most = min(shape[0], len(x)) * min(shape[1], len(y))
                buffer = x.new_empty(most * (2 if directed else 1))
            tile_of = buffer[: layers * height * width].view(layers, height, width)
        logits = tile_of[0]
        if rows != of:
            scaled, of = x[rows] * (top * base), rows
        torch.mm(scaled, y[columns].t(), out=logits)
        if layers == 2:
            exclusion.exclude_both_(logits, rows, columns, scale, base, tile_of[1])
        else:
            exclusion.exclude_(logits, rows, columns, scale, base)
        if is_bounded(top):
            tile_of.exp2_()
        yield rows, columns, logits, tile_of[-1]


def is_bounded(scale: float | Tensor) -> bool:
    """Whether it is known that exp of the logits cannot overflow."""
    return not isinstance(scale, Tensor) and scale <= BOUNDED


def shape_of_tile(
    x: Tensor, y: Tensor, tile: int | None, on_cpu: int, *, square: bool = False
) -> tuple[int, int]:
    """Rows and columns of a tile."""
    if tile or not is_accelerator(x.device):
        return tile or on_cpu, tile or on_cpu
    side = math.isqrt(AT_ONCE)
    height = max(1, side if square else min(len(x), max(side, AT_ONCE // max(1, len(y)))))
    return height, AT_ONCE // height


def _places(
    height: int, width: int, tile: tuple[int, int], symmetric: bool, diagonal: int
) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, tile[0]):
        rows = slice(top, min(top + tile[0], height))
        if symmetric:
            yield from _triangle(rows.start, rows.stop, diagonal)
        for left in range(rows.stop if symmetric else 0, width, tile[1]):
            yield rows, slice(left, min(left + tile[1], width))


def _triangle(start: int, stop: int, diagonal: int) -> Iterator[tuple[slice, slice]]:
    """The tiles on and above a diagonal; small ones along it, as half of those is done twice."""
    if stop - start <= diagonal:
        yield slice(start, stop), slice(start, stop)
        return
    middle = (start + stop) // 2
    yield from _triangle(start, middle, diagonal)
    yield slice(start, middle), slice(middle, stop)
    yield from _triangle(middle, stop, diagonal)
