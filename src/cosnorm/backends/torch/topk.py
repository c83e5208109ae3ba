"""The k nearest keys of unit rows by torch's own top-k of each tile: no look at the data."""

from torch import Tensor

from cosnorm.backends.nearest import Best, LeftOut
from cosnorm.devices import at_once

# Columns of a tile, and on a CPU numbers of it.
WIDTH, _TILE = 2**15, 2**22


def merge_(
    best: Best, x: Tensor, y: Tensor, first: int, left_out: LeftOut, *, symmetric: bool, tile: int | None
) -> None:
    """Take the keys y into what is known of the queries x.

    Args:
        best: what is known.
        x: unit rows (N, D).
        y: unit rows (M, D).
        first: the number of the first of these keys.
        left_out: pairs that stay out.
        symmetric: y is x, and what stays out is symmetric; of no use here.
        tile: rows and columns of a tile; None chooses.
    """
    width = tile or max(1, min(WIDTH, len(y)))
    height = tile or max(1, at_once(x.device, _TILE) // width)
    for top in range(0, len(x), height):
        rows = slice(top, min(top + height, len(x)))
        for left in range(0, len(y), width):
            keys = y[left : left + width]
            cosines = x[rows] @ keys.t()
            start = first + left
            left_out.leave_out_(cosines, rows, slice(start, start + len(keys)))
            best.of(rows).take_all_(cosines, start)
