"""What is asked of negatives inside a tile, from numbers for each row: who leaves, who weighs more."""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.devices import is_accelerator

Place = tuple[Tensor, Tensor]


class Guide(NamedTuple):
    """Other unit rows, whose cosine decides.

    Attributes:
        x: beside the rows, (N, G).
        y: beside the columns, (M, G).
        most: the largest cosine of a negative, (N,) or (1,).
    """

    x: Tensor
    y: Tensor
    most: Tensor


class Negatives(NamedTuple):
    """Which negatives leave a sum, and how the others weigh. Positives are never touched.

    Attributes:
        groups: those of equal groups leave, (N,) and (M,) int64.
        most: those whose cosine is above it leave, (N,) or (1,).
        guide: those whose other cosine is above another number leave.
        hardness: β; the others weigh exp(β·cosine).
        listed: the positives, rows in rising order and their columns, (P,) each.
        labels: the positives are those of equal labels, (N,) and (M,).
    """

    groups: tuple[Tensor, Tensor] | None = None
    most: Tensor | None = None
    guide: Guide | None = None
    hardness: float = 0.0
    listed: Place | None = None
    labels: tuple[Tensor, Tensor] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return self.groups is None and self.most is None and self.guide is None and not self.hardness

    @property
    def is_symmetric(self) -> bool:
        """Whether (j, i) leaves with (i, j): where no row has a bound of its own, and no pairs are listed."""
        bounds = [self.most, None if self.guide is None else self.guide.most]
        return self.listed is None and all(one is None or one.shape == (1,) for one in bounds)

    def part(self, columns: slice, guide: Tensor | None) -> "Negatives":
        """The same of some columns, which count from 0 then; `guide`: what it has beside them."""
        groups, listed, labels = self.groups, self.listed, self.labels
        return self._replace(
            groups=None if groups is None else (groups[0], groups[1][columns]),
            guide=None if self.guide is None or guide is None else self.guide._replace(y=guide),
            listed=None if listed is None else (listed[0], listed[1] - columns.start),
            labels=None if labels is None else (labels[0], labels[1][columns]),
        )

    def similar(self, rows: slice, columns: slice) -> Tensor | None:
        """The guide's cosines of a tile."""
        return None if self.guide is None else self.guide.x[rows] @ self.guide.y[columns].t()

    def adjust_(
        self,
        logits: Tensor,
        rows: slice,
        columns: slice,
        unit: float | Tensor,
        share: float | Tensor,
        similar: Tensor | None,
    ) -> None:
        """Put −inf at the negatives of a tile that leave.

        Args:
            logits: of a tile, those of negatives in all of it.
            rows: of the tile.
            columns: of the tile.
            unit: the logit of the cosine 1.
            share: what the logits of positives are of that.
            similar: the guide's cosines.
        """
        stay = self._staying(logits, rows, columns, unit, similar)
        positives = None
        if stay is not None or self.hardness:
            positives = self._positives(rows, columns)
        if positives is not None and self.hardness:
            _scale_(logits, positives, share)
        if stay is not None:
            if isinstance(positives, Tensor):
                stay.masked_fill_(positives, 1)
            elif positives is not None:
                stay[positives] = 1
            logits.sub_(stay.reciprocal_().sub_(1))  # less 0, or less ∞

    def _staying(
        self, logits: Tensor, rows: slice, columns: slice, unit: float | Tensor, similar: Tensor | None
    ) -> Tensor | None:
        """1 at the negatives that stay, 0 at those that leave; None where nobody leaves, if one may look.

        Numbers, with which one may compute: filling by a mask takes ten times as long on a CPU.
        """
        stay: Tensor | None = None
        if self.most is not None:
            stay = _at_most(logits, self.most * unit, rows)
        if self.guide is not None and similar is not None:
            stay = _both(stay, _at_most(similar, self.guide.most, rows))
        if self.groups is not None:
            others = self.groups[0][rows].unsqueeze(1) != self.groups[1][columns]
            stay = _both(stay, others.to(logits.dtype))
        return stay

    def _positives(self, rows: slice, columns: slice) -> Tensor | Place | None:
        """Where the positives of a tile are: a mask, or on a CPU their places."""
        if self.labels is not None:
            return self.labels[0][rows].unsqueeze(1) == self.labels[1][columns]
        return None if self.listed is None else places_in(*self.listed, rows, columns)


def _at_most(tile: Tensor, most: Tensor, rows: slice) -> Tensor | None:
    if len(most) != 1:
        return torch.le(tile, most[rows].unsqueeze(1), out=torch.empty_like(tile))
    # A tile of which nothing leaves is read once, and not written.
    if not is_accelerator(tile.device) and bool(tile.amax() <= most):
        return None
    return torch.le(tile, most, out=torch.empty_like(tile))


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one.mul_(other)


def _scale_(logits: Tensor, positives: Tensor | Place, share: float | Tensor) -> None:
    if isinstance(positives, tuple):
        logits[positives] *= share
    else:
        logits.copy_(torch.where(positives, logits * share, logits))


def places_in(listed: Tensor, found: Tensor, rows: slice, columns: slice) -> Tensor | Place:
    """Those of listed pairs (rows in rising order, and their columns) that are in a tile.

    On a CPU their places, two tensors; on an accelerator, where nobody waits for how many, a mask.
    """
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if is_accelerator(listed.device):
        # Those of other tiles are marked behind the last place.
        inside = (listed >= rows.start) & (listed < rows.stop)
        inside &= (found >= columns.start) & (found < columns.stop)
        at = (listed - rows.start) * width + (found - columns.start)
        marks = torch.zeros(height * width + 1, dtype=torch.bool, device=listed.device)
        marks.index_fill_(0, at.where(inside, height * width), 1)
        return marks[:-1].view(height, width)
    bounds = torch.tensor([rows.start, rows.stop], device=listed.device)
    first, last = torch.searchsorted(listed, bounds).tolist()
    found = found[first:last]
    inside = ((found >= columns.start) & (found < columns.stop)).nonzero().squeeze(1)
    return listed[first:last][inside] - rows.start, found[inside] - columns.start
