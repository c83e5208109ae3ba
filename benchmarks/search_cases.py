"""Nearest keys: ours, and the bare product that no exact search can do without, in the same tiles.

"plain" writes every cosine of a tile and looks at none; "torch's top-k" looks at all of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.registry import Case, Step
from cosnorm.backends.look.topk import _HEIGHT, _WIDTH
from cosnorm.functional import cosine_topk

K = 10


def in_tiles(rows: Tensor, keys: Tensor, look: Callable[[Tensor, slice], None]) -> None:
    """The products of all rows with all keys, each tile in the same memory."""
    memory = rows.new_empty(_HEIGHT * _WIDTH)
    for some in rows.split(_HEIGHT):
        for left in range(0, len(keys), _WIDTH):
            part = keys[left : left + _WIDTH]
            tile = memory[: len(some) * len(part)].view(len(some), len(part))
            torch.mm(some, part.t(), out=tile)
            look(tile, slice(left, left + len(part)))


def search(number: int, size: int, kinds: int = 0, *, torchs: bool = True) -> dict[str, Step]:
    """Rows of no order, or sorted by the cluster that they are of, as data sets often are."""
    rows = torch.randn(number, size)
    if kinds:
        rows += 3 * torch.randn(kinds, size).repeat_interleave(-(-number // kinds), 0)[:number]
    units, keys = F.normalize(rows), rows.clone()

    def bare() -> None:
        in_tiles(units, units, lambda tile, columns: None)

    def by_torch() -> list[Tensor]:
        best: list[Tensor] = []
        for some in units.split(_HEIGHT):
            found: list[Tensor] = []
            in_tiles(some, units, lambda tile, columns, found=found: found.append(tile.topk(K).values))
            best.append(torch.cat(found, 1).topk(K).values)
        return [torch.cat(best)]

    steps: dict[str, Step] = {"plain": bare}
    if torchs:
        steps["torch's top-k of each tile"] = by_torch
    steps["ours"] = lambda: [cosine_topk(rows, keys, K).values]
    steps["ours, a set with itself"] = lambda: [cosine_topk(rows, k=K, exclude_self=False).values]
    return steps


CASES = [
    Case("topk-20000x512", lambda: search(20_000, 512)),
    Case("topk-20000x512-sorted", lambda: search(20_000, 512, 100)),
    Case("topk-20000x64", lambda: search(20_000, 64)),
    Case("topk-100000x512", lambda: search(100_000, 512, torchs=False)),
]
