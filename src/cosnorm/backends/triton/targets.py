"""Each embedding beside the weight of its own class, in float64: one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.triton.launch import launch, readable
from cosnorm.backends.triton.units import (
    FILTER_TILE,
    clamp,
    factor_of,
    load_rows,
    reciprocal,
    row_norms,
    square_root,
    tile,
)


@triton.jit
def look_at_targets(
    x_pointer,
    weight_pointer,
    places_pointer,
    classes_pointer,
    found_pointer,
    cosine_pointer,
    sine_pointer,
    toward_w_pointer,
    toward_x_pointer,
    rows,
    classes,
    size,
    least,
    CLASSES: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Cosine and sine of each embedding and its target, and if `DIRECTIONS` where each turns to the other."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = tl.load(places_pointer + row, mask=row < rows, other=-1)
    here = (place >= 0) & (place < classes)
    own = tl.minimum(tl.maximum(place, 0), classes - 1)
    if CLASSES:
        own = tl.load(classes_pointer + own, mask=row < rows, other=0)
    tl.store(found_pointer + row, own, mask=row < rows)
    # Rows behind the last one are no rows of the weight either.
    own = tl.where(row < rows, own, 0)
    norm_x, _ = row_norms(x_pointer, row, rows, size, 0.0, 0.0, False, ROWS, BLOCK)
    squared, products = tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64)
    for start in range(0, size, BLOCK):
        x = load_rows(x_pointer, row, start, rows, size, BLOCK).to(tl.float64)
        w = load_rows(weight_pointer, own, start, own + 1, size, BLOCK).to(tl.float64)
        squared += tl.sum(w * w, 1)
        products += tl.sum(x * w, 1)
    norm_w = square_root(tl.where(squared == 0, 1.0, squared))
    norm_w = tl.where(squared == 0, float("inf"), norm_w)
    norm_w = tl.where(squared == float("inf"), float("nan"), norm_w)
    by_x, by_w = factor_of(norm_x), factor_of(norm_w)
    cosine = clamp(products * by_x * by_w, 1.0)
    rest_w, rest_x = tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64)
    for start in range(0, size, BLOCK):
        x = load_rows(x_pointer, row, start, rows, size, BLOCK).to(tl.float64) * by_x[:, None]
        w = load_rows(weight_pointer, own, start, own + 1, size, BLOCK).to(tl.float64) * by_w[:, None]
        left = w - cosine[:, None] * x
        rest_w += tl.sum(left * left, 1)
        left = x - cosine[:, None] * w
        rest_x += tl.sum(left * left, 1)
    sine = tl.where(rest_w == 0, 0.0, square_root(tl.where(rest_w == 0, 1.0, rest_w)))
    tl.store(cosine_pointer + row, tl.where(here, cosine, 0.0), mask=row < rows)
    tl.store(sine_pointer + row, tl.where(here, sine, 0.0), mask=row < rows)
    if DIRECTIONS:
        other = tl.where(rest_x == 0, 0.0, square_root(tl.where(rest_x == 0, 1.0, rest_x)))
        # A zero vector has no direction, and what rounding leaves of equal vectors is none.
        some = here & (by_x != 0) & (by_w != 0)
        into_w = tl.where(some, reciprocal(tl.where(sine == 0, 1.0, sine)), 0.0)
        into_w = tl.where(sine <= least, 0.0, into_w)
        into_x = tl.where(some, reciprocal(tl.where(other == 0, 1.0, other)), 0.0)
        into_x = tl.where(other <= least, 0.0, into_x)
        for start in range(0, size, BLOCK):
            x = load_rows(x_pointer, row, start, rows, size, BLOCK).to(tl.float64) * by_x[:, None]
            w = load_rows(weight_pointer, own, start, own + 1, size, BLOCK).to(tl.float64) * by_w[:, None]
            column = start + tl.arange(0, BLOCK)
            at = row[:, None] * size + column[None, :]
            inside = (row < rows)[:, None] & (column < size)[None, :]
            toward = tl.where((into_w == 0)[:, None], 0.0, (w - cosine[:, None] * x) * into_w[:, None])
            tl.store(toward_w_pointer + at, toward, mask=inside)
            toward = tl.where((into_x == 0)[:, None], 0.0, (x - cosine[:, None] * w) * into_x[:, None])
            tl.store(toward_x_pointer + at, toward, mask=inside)


def find(
    embeddings: Tensor, weight: Tensor, places: Tensor, classes: Tensor | None, *, directions: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The row of the weight, cosine and sine, (N,), and both directions, (N, D), of each embedding.

    Args:
        embeddings: (N, D).
        weight: one row for each class, (C, D).
        places: labels among the classes that take part, (N,); out of their range: not here.
        classes: the numbers of these; None: all.
        directions: whether they are wanted.
    """
    rows, size = embeddings.shape
    number = len(weight) if classes is None else len(classes)
    found = torch.empty(rows, dtype=torch.int64, device=embeddings.device)
    both = torch.empty((2, rows), dtype=torch.float64, device=embeddings.device)
    toward = torch.empty((2, rows if directions else 0, size), dtype=torch.float64, device=embeddings.device)
    if rows:
        # Without aligned rows each element has an address of its own, in two registers, in both sets.
        shape = tile(rows, size, FILTER_TILE if size % 16 == 0 else FILTER_TILE // 4)
        launch(
            look_at_targets,
            (triton.cdiv(rows, shape["ROWS"]),),
            readable(embeddings),
            readable(weight),
            places.contiguous(),
            found if classes is None else classes.contiguous(),
            found,
            both[0],
            both[1],
            toward[0],
            toward[1],
            rows,
            number,
            size,
            16 * torch.finfo(torch.float64).eps,
            CLASSES=classes is not None,
            DIRECTIONS=directions,
            **shape,
        )
    return found, both[0], both[1], toward[0], toward[1]
