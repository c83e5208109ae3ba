"""A sigmoid for each pair of queries and keys, a tile at a time."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.backends.pairs import Exclusion
from cosnorm.backends.torch.softmax import shape_of_tile

_TILE = 1024
# The scale may be a tensor, which nobody has looked at.
TAKES_TENSOR_SCALE = True


def takes(exclusion: Exclusion, *, columns: bool) -> bool:
    """Whether these tiles can leave out what is left out: always."""
    return True


def operands(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Unit rows as the products take them: as they are."""
    return rows


def losses(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    exclusion: Exclusion,
    positives: tuple[Tensor, Tensor] | None,
    *,
    tile: int | None,
    weights: Tensor | None = None,
    into_x: Tensor | None = None,
    into_y: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """−Σ_j log σ(±(scale · x_i·y_j + bias)) of each row, (N,); and the gradient in bias.

    Args:
        x: unit rows (N, D).
        y: unit rows (M, D).
        scale: of the products.
        bias: beside them.
        exclusion: the pairs that take no part.
        positives: those of equal labels, (N,) and (M,), have the sign +; None: none has.
        tile: rows and columns of a tile; None chooses.
        weights: of the losses, (N,), for gradients; None: none is made.
        into_x: the gradient in x, less the scale, is added here.
        into_y: the same for y.
    """
    height, width = shape_of_tile(x, y, tile, _TILE)
    found, into_bias = x.new_zeros(len(x)), x.new_zeros(())
    for top in range(0, len(x), height):
        rows = slice(top, min(top + height, len(x)))
        scaled = x[rows] * scale
        for left in range(0, len(y), width):
            columns = slice(left, min(left + width, len(y)))
            logits = scaled @ y[columns].t()
            exclusion.exclude_(logits, rows, columns, scale)
            logits += bias
            same: Tensor | None = None
            if positives is not None:
                same = positives[0][rows].unsqueeze(1) == positives[1][columns]
                same &= logits != -torch.inf
                torch.where(same, -logits, logits, out=logits)
            found[rows] -= F.logsigmoid(-logits).sum(1)
            if weights is None or into_x is None:
                continue
            softly = logits.sigmoid_().mul_(weights[rows].unsqueeze(1))
            if same is not None:
                torch.where(same, -softly, softly, out=softly)
            into_bias += softly.sum()
            into_x[rows].addmm_(softly, y[columns])
            if into_y is not None:
                into_y[columns].addmm_(softly.t(), x[rows])
    return found, into_bias
