"""Cosines of all embeddings with the classes of one block after another, and the way back from them.

For losses that are sums over blocks: no block has to know of the others before its gradient can be made.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.classes import ClassRows
from cosnorm.backends.torch.classes import Buffer, nearest_of, spread


class Tile(NamedTuple):
    """A block of classes: which, their unit weights, cosines (classes, N), and the nearest sub-centers."""

    block: slice
    unit: Tensor
    cosines: Tensor
    nearest: Tensor


class ClassTiles:
    """All blocks of classes beside unit embeddings x (N, D)."""

    def __init__(self, x: Tensor, weights: ClassRows) -> None:
        self._x, self._weights = x, weights
        blocks = weights.blocks
        self._rows = min(blocks.size, blocks.number) * blocks.sub_centers

    def __iter__(self) -> Iterator[Tile]:
        """Cosines come in memory that the next block overwrites, and may be changed."""
        buffer = Buffer(self._x, self._rows * len(self._x))
        for block in self._weights.blocks.parts():
            unit = self._weights.unit(block)
            cosines = buffer.product(unit, self._x.t())
            yield Tile(block, unit, *nearest_of(cosines, self._weights.blocks.sub_centers))

    def back(
        self, tile: Tile, into_cosines: Tensor, into_x: Tensor, into_weight: bool
    ) -> tuple[slice, Tensor, Tensor]:
        """Add what the gradients in cosines give to `into_x`; the block, its unit weights, and theirs."""
        into = spread(into_cosines, tile.nearest, self._weights.blocks.sub_centers)
        into_x.addmm_(into.t(), tile.unit)
        return tile.block, tile.unit, torch.mm(into, self._x) if into_weight else tile.unit
