"""A sigmoid for each pair of queries and keys, a tile at a time."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.backends.pairs import Exclusion
from cosnorm.backends.torch.softmax import shape_of_tile

_TILE = 1024


def losses(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    offset: int,
    *,
    tile: int | None,
    weights: Tensor | None = None,
    into_x: Tensor | None = None,
    into_y: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """−Σ_j log σ(±(scale · x_i·y_j + bias)) of each query, (N,), + for its own key; and the gradient in bias.

    Args:
        x: unit rows (N, D).
        y: unit rows (M, D).
        scale: of the products.
        bias: beside them.
        offset: query i belongs to key i + offset.
        tile: rows and columns of a tile; None chooses.
        weights: of the losses, (N,), for gradients; None: none is made.
        into_x: the gradient in x, less the scale, is added here.
        into_y: the same for y.
    """
    height, width = shape_of_tile(x, y, tile, _TILE)
    own = y[offset : offset + len(x)]
    positive = (x * own).sum(1) * scale + bias
    found = -F.logsigmoid(positive)
    into_bias = x.new_zeros(())
    exclusion = Exclusion(offset=offset)
    if weights is not None and into_x is not None and into_y is not None:
        pull = (-weights * torch.sigmoid(-positive)).unsqueeze(1)
        into_bias += pull.sum()
        into_x.addcmul_(own, pull)
        into_y[offset : offset + len(x)].addcmul_(x, pull)
    for top in range(0, len(x), height):
        rows = slice(top, min(top + height, len(x)))
        scaled = x[rows] * scale
        for left in range(0, len(y), width):
            columns = slice(left, min(left + width, len(y)))
            logits = (scaled @ y[columns].t()).add_(bias)
            exclusion.exclude_(logits, rows, columns)
            found[rows] -= F.logsigmoid(-logits).sum(1)
            if weights is not None and into_x is not None and into_y is not None:
                softly = logits.sigmoid_().mul_(weights[rows].unsqueeze(1))
                into_bias += softly.sum()
                into_x[rows].addmm_(softly, y[columns])
                into_y[columns].addmm_(softly.t(), x[rows])
    return found, into_bias
