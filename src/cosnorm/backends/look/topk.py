"""The k nearest keys on a CPU: what a tile adds is looked for only above what is known.

A product of rows of 512 numbers takes a CPU 5 ms for a tile of 1024×1024, torch's top-k of that another 1.1.
After t tiles a query finds k/t keys in the next one that are nearer than its k-th so far; one comparison and
a search for bytes that are not 0, eight at a time, find them in a third of a millisecond. A set with itself
is symmetric: a tile above the diagonal serves its rows and its columns, and half of the products are left.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.nearest import Best, LeftOut

# A tile is large, as each has a few dozen small operations of its own: 16 MiB of float32.
_HEIGHT, _WIDTH, _SQUARE = 1024, 4096, 2048
# With more candidates than one in so many cosines the top-k of the whole tile takes less.
_FEW = 64


def merge_(
    best: Best, x: Tensor, y: Tensor, first: int, left_out: LeftOut, *, symmetric: bool, tile: int | None
) -> None:
    """Take the keys y into what is known of the queries x; see the torch form of the same name."""
    height, width = (_SQUARE, _SQUARE) if symmetric else (_HEIGHT, _WIDTH)
    height, width = min(tile or height, len(x)), min(tile or width, len(y))
    memory = _Memory(
        x.new_empty(height * width), torch.zeros(height * width + 8, dtype=torch.bool, device=x.device)
    )
    for rows, columns in _tiles(len(x), len(y), height, width, symmetric):
        cosines = memory.tile(rows.stop - rows.start, columns.stop - columns.start)
        torch.mm(x[rows], y[columns].t(), out=cosines)
        start = first + columns.start
        left_out.leave_out_(cosines, rows, slice(start, first + columns.stop))
        _take_(best.of(rows), cosines, start, memory.marks)
        if symmetric and rows != columns:
            _take_(best.of(columns), cosines, first + rows.start, memory.marks, across=True)


def _tiles(number: int, keys: int, height: int, width: int, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each tile; if symmetric, of those on and above the diagonal."""
    for top in range(0, number, max(1, height)):
        rows = slice(top, min(top + height, number))
        for left in range(top if symmetric else 0, keys, max(1, width)):
            yield rows, slice(left, min(left + width, keys))


class _Memory(NamedTuple):
    """What every tile is written into."""

    cosines: Tensor
    marks: Tensor

    def tile(self, height: int, width: int) -> Tensor:
        return self.cosines[: height * width].view(height, width)


def _take_(best: Best, cosines: Tensor, first: int, marks: Tensor, *, across: bool = False) -> None:
    """Take in a tile of cosines; `across`: its columns are the queries."""
    known = best.values[:, -1:]
    torch.gt(cosines, known.t() if across else known, out=marks[: cosines.numel()].view(cosines.shape))
    found = _places(marks, cosines.numel())
    if found is None:
        best.take_all_(cosines.t() if across else cosines, first)
    elif len(found):
        rows = found // cosines.shape[1]
        columns, values = found - rows * cosines.shape[1], cosines.view(-1)[found]
        if across:
            order = columns.argsort()
            rows, columns, values = columns[order], rows[order], values[order]
        _take_some_(best, rows, columns + first, values)


def _places(marks: Tensor, number: int) -> Tensor | None:
    """Which of the first marks are True; None if many are."""
    end = -(-number // 8) * 8
    marks[number:end] = False
    eights = marks[:end].view(torch.int64).nonzero().squeeze(1)
    if len(eights) > number // _FEW:
        return None
    of, place = marks[:end].view(-1, 8)[eights].nonzero().unbind(1)
    return eights[of] * 8 + place


def _take_some_(best: Best, rows: Tensor, keys: Tensor, cosines: Tensor) -> None:
    """Take in single keys; `rows`, whose they are, rises."""
    k = best.values.shape[1]
    counts = torch.bincount(rows, minlength=len(best.values))
    touched = counts.nonzero().squeeze(1)
    most = int(counts.max())
    values = cosines.new_full((len(touched), k + most), -torch.inf)
    indices = keys.new_zeros(values.shape)
    values[:, :k], indices[:, :k] = best.values[touched], best.indices[touched]
    # Behind the k known ones of its row, one after the other.
    before = counts.cumsum(0) - counts
    line = counts.clamp(max=1).cumsum(0) - 1
    at = line[rows] * (k + most) + k + torch.arange(len(rows), device=rows.device) - before[rows]
    values.view(-1)[at], indices.view(-1)[at] = cosines, keys
    largest = values.topk(k)
    best.values[touched] = largest.values
    best.indices[touched] = indices.gather(1, largest.indices)
