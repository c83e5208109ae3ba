"""What the tiles of a loss over pairs are told: which pairs stay out, and what each row and column weighs."""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.negatives import Negatives, places_in
from cosnorm.devices import is_accelerator


class Exclusion(NamedTuple):
    """The pairs (i, j) that are left out: where any of these says so. Numbers for each row, never for pairs.

    Attributes:
        offset: those with i + offset = j.
        partner: those with partner[i] = j, (N,) int64.
        pairs: those listed, rows in rising order and their columns, (P,) each; where a row has many.
        labels: those with equal labels, (N,) and (M,) int64.
        mask: those where it is True, (N, M), of any strides.
        negatives: what is asked of those that are no positives.
    """

    offset: int | None = None
    partner: Tensor | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    labels: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    negatives: Negatives | None = None

    def scale(self, scale: float | Tensor) -> float | Tensor:
        """What the cosines of a tile are multiplied by: a negative may weigh more than a positive."""
        return scale if self.negatives is None else scale + self.negatives.hardness

    @property
    def is_directed(self) -> bool:
        """Whether rows leave out what columns do not, where they are the same."""
        return self.negatives is not None and not self.negatives.is_symmetric

    def exclude_(
        self, logits: Tensor, rows: slice, columns: slice, scale: float | Tensor = 1.0, base: float = 1.0
    ) -> None:
        """Put −inf at the logits of a tile that are left out.

        They are the cosines · `self.scale(scale)` · base.
        """
        self._exclude(logits, rows, columns)
        if self.negatives is not None and logits.numel():
            top = self.scale(scale)
            similar = self.negatives.similar(rows, columns)
            self.negatives.adjust_(logits, rows, columns, top * base, scale / top, similar)

    def exclude_both_(
        self,
        logits: Tensor,
        rows: slice,
        columns: slice,
        scale: float | Tensor,
        base: float,
        other: Tensor,
    ) -> None:
        """The same for the rows of a tile, and in `other` for its columns, which look as rows do."""
        self._exclude(logits, rows, columns)
        other.copy_(logits)
        if self.negatives is not None and logits.numel():
            top = self.scale(scale)
            similar, numbers = self.negatives.similar(rows, columns), (top * base, scale / top)
            self.negatives.adjust_(logits, rows, columns, *numbers, similar)
            turned = None if similar is None else similar.t()
            self.negatives.adjust_(other.t(), columns, rows, *numbers, turned)

    def _exclude(self, logits: Tensor, rows: slice, columns: slice) -> None:
        if self.mask is not None:
            logits.masked_fill_(self.mask[rows, columns], -torch.inf)
        if self.offset is not None:
            top = rows.start + self.offset
            first, last = max(top, columns.start), min(rows.stop + self.offset, columns.stop)
            if first < last:
                block = logits[first - top : last - top, first - columns.start : last - columns.start]
                block.fill_diagonal_(-torch.inf)
        if self.labels is not None:
            same = self.labels[0][rows].unsqueeze(1) == self.labels[1][columns]
            logits.masked_fill_(same, -torch.inf)
        if self.partner is not None:
            leave_out_(logits, self.partner[rows] - columns.start, 1)
        if self.pairs is not None:
            self._exclude_listed(logits, *self.pairs, rows, columns)

    @staticmethod
    def _exclude_listed(logits: Tensor, listed: Tensor, found: Tensor, rows: slice, columns: slice) -> None:
        if is_accelerator(logits.device):
            marks = places_in(listed, found, rows, columns)
            assert isinstance(marks, Tensor)
            logits.masked_fill_(marks, -torch.inf)
        else:
            at = places_in(listed, found, rows, columns)
            assert isinstance(at, tuple)
            logits[at] = -torch.inf

    def part(self, columns: slice, guide: Tensor | None) -> "Exclusion":
        """The same of some columns, which count from 0 then; `guide`: what it has beside them."""
        first = columns.start
        pairs, labels = self.pairs, self.labels
        return Exclusion(
            None if self.offset is None else self.offset - first,
            None if self.partner is None else self.partner - first,
            None if pairs is None else (pairs[0], pairs[1] - first),
            None if labels is None else (labels[0], labels[1][columns]),
            None if self.mask is None else self.mask[:, columns],
            None if self.negatives is None else self.negatives.part(columns, guide),
        )

    def transposed(self, columns: int) -> "Exclusion":
        """The same pairs as (j, i), for M = `columns`; no two rows may have one partner."""
        assert self.negatives is None, "rows have bounds, columns have none"
        partner = self.partner
        if partner is not None:
            rows = torch.arange(len(partner), device=partner.device)
            # Rows without one are put behind the last place.
            back = partner.new_full((columns + 1,), -1)
            partner = back.index_put_((partner.where(partner >= 0, columns),), rows)[:-1]
        pairs = self.pairs
        if pairs is not None:
            order = pairs[1].argsort(stable=True)
            pairs = pairs[1][order], pairs[0][order]
        return Exclusion(
            None if self.offset is None else -self.offset,
            partner,
            pairs,
            None if self.labels is None else (self.labels[1], self.labels[0]),
            None if self.mask is None else self.mask.mT,
        )


class Places(NamedTuple):
    """Which keys are a query's positives, as kernels look for them in a tile.

    Without any of these it is key i + offset (0, if not given) of query i.

    Attributes:
        given: the one of each query, −1 for none, (N,) int64.
        labels: those with equal labels, (N,) and (M,).
        offset: with labels: query i is key i + offset, and no positive of its own.
    """

    given: Tensor | None = None
    labels: tuple[Tensor, Tensor] | None = None
    offset: int | None = None

    def transposed(self) -> "Places":
        """The same of the keys, where each belongs to one query."""
        assert self.given is None
        assert self.labels is None
        return Places(offset=-(self.offset or 0))


def leave_out_(logits: Tensor, places: Tensor, dim: int) -> None:
    """Put −inf at one place of each row (`dim` 1) or column (0); a place beyond the tile is none."""
    if not logits.numel():
        return
    places = places.unsqueeze(dim)
    if is_accelerator(logits.device):
        inside = places.clamp(0, logits.shape[dim] - 1)
        logits.scatter_(dim, inside, logits.gather(dim, inside).masked_fill_(inside == places, -torch.inf))
        return
    places = places.squeeze(dim)
    inside = ((places >= 0) & (places < logits.shape[dim])).nonzero().squeeze(1)
    at = (inside, places[inside]) if dim else (places[inside], inside)
    logits[at] = -torch.inf


class Direction(NamedTuple):
    """One direction of a softmax: what each row weighs, and the log of its sum; weight and log 0 where empty.

    Attributes:
        weights: (N,).
        log_sums: (N,).
    """

    weights: Tensor
    log_sums: Tensor


def direction(weights: Tensor, log_sums: Tensor) -> Direction:
    """A direction; an empty sum, whose log is −inf, has no gradient."""
    part = log_sums != -torch.inf
    zero = log_sums.new_zeros(())
    return Direction(weights.to(log_sums.dtype).where(part, zero), log_sums.where(part, zero))
