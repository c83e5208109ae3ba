"""Class weights as unit rows, a block of classes at a time: what all forms of a softmax over them read."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.torch.unit_rows import unit_rows
from cosnorm.backends.torch.units import UnitRows
from cosnorm.norms import accumulation_dtype


class Blocks(NamedTuple):
    """Which classes take part, and how they are cut.

    Attributes:
        number: how many classes take part.
        sub_centers: rows of the weight for each class.
        classes: their sorted numbers; None: all.
        size: classes of a block.
    """

    number: int
    sub_centers: int
    classes: Tensor | None
    size: int

    def parts(self) -> list[slice]:
        """The classes that take part, in blocks."""
        return [slice(i, min(i + self.size, self.number)) for i in range(0, self.number, self.size)]

    def rows(self, block: slice) -> slice | Tensor:
        """The rows of the weight that belong to a block."""
        if self.classes is None:
            return slice(block.start * self.sub_centers, block.stop * self.sub_centers)
        first = self.classes[block] * self.sub_centers
        inner = torch.arange(self.sub_centers, device=first.device)
        return (first.unsqueeze(1) + inner).flatten()


class Negatives(NamedTuple):
    """What becomes of the cosines c of embeddings with other classes than their own.

    Attributes:
        hard: of each embedding, (N,): a cosine above it counts as c (t + c); None: none does.
        ease: t, ().
        above: those above this take no part.
    """

    hard: Tensor | None
    ease: Tensor | None
    above: float

    @property
    def largest(self) -> float:
        """What no cosine can count more than, in magnitude: t is a mean of cosines."""
        return 1.0 if self.hard is None else 2.0

    def change_(self, cosines: Tensor) -> Tensor | None:
        """Change cosines (classes, N) in place; gives the derivatives, None if all that stay have 1."""
        left_out = cosines > self.above if self.above < 1 else None
        slopes = None
        if self.hard is not None and self.ease is not None:
            hard = cosines > self.hard
            slopes = torch.where(hard, self.ease + 2 * cosines, 1)
            cosines.mul_(torch.where(hard, self.ease + cosines, 1))
        if left_out is not None:
            cosines.masked_fill_(left_out, -torch.inf)
        return slopes


class ClassRows:
    """Unit class weights, a block at a time: never all of them.

    Attributes:
        weight: (C·K, D).
        divisors: (C·K, 2), `inverse_norm` and `scale` of the rows that have been looked at, see `UnitRows`.
        known: all have been looked at.
    """

    def __init__(
        self,
        weight: Tensor,
        blocks: Blocks,
        inverse_norms: Tensor | None,
        make: Callable[[Tensor], UnitRows] = unit_rows,
    ) -> None:
        """`inverse_norms` are those of all rows, (C·K, 1), where their scales are 1; None: not known.

        `make` makes unit rows of any scale.
        """
        self.weight, self.blocks, self._make = weight, blocks, make
        self.divisors = weight.new_ones((len(weight), 2), dtype=accumulation_dtype(weight.dtype))
        self.known = inverse_norms is not None
        if inverse_norms is not None:
            self.divisors[:, :1] = inverse_norms

    def unit(self, block: slice) -> Tensor:
        """The unit rows of a block."""
        rows = self.blocks.rows(block)
        if self.known:
            return self.weight[rows] * self.divisors[rows, :1]
        unit = self._make(self.weight[rows])
        self.divisors[rows] = torch.cat([unit.inverse_norm, unit.scale], 1)
        return unit.values
