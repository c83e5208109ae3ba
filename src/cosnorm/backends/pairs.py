"""What the tiles of a loss over pairs are told: which pairs stay out, and what each row and column weighs."""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.devices import is_accelerator


class Exclusion(NamedTuple):
    """The pairs (i, j) that are left out: where any of these says so. Numbers for each row, never for pairs.

    Attributes:
        offset: those with i + offset = j.
        partner: those with partner[i] = j, (N,) int64.
        pairs: those listed, rows in rising order and their columns, (P,) each; where a row has many.
        labels: those with equal labels, (N,) and (M,) int64.
        mask: those where it is True, (N, M), of any strides.
    """

    offset: int | None = None
    partner: Tensor | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    labels: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None

    def exclude_(self, logits: Tensor, rows: slice, columns: slice) -> None:
        """Put −inf at the logits of a tile that are left out."""
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
            # Those of other tiles are marked behind the last place.
            inside = (listed >= rows.start) & (listed < rows.stop)
            inside &= (found >= columns.start) & (found < columns.stop)
            at = (listed - rows.start) * logits.shape[1] + (found - columns.start)
            marks = torch.zeros(logits.numel() + 1, dtype=torch.bool, device=logits.device)
            marks.index_fill_(0, at.where(inside, logits.numel()), 1)
            logits.masked_fill_(marks[:-1].view(logits.shape), -torch.inf)
            return
        bounds = torch.tensor([rows.start, rows.stop], device=logits.device)
        first, last = torch.searchsorted(listed, bounds).tolist()
        found = found[first:last]
        inside = ((found >= columns.start) & (found < columns.stop)).nonzero().squeeze(1)
        logits[listed[first:last][inside] - rows.start, found[inside] - columns.start] = -torch.inf

    def transposed(self, columns: int) -> "Exclusion":
        """The same pairs as (j, i), for M = `columns`; no two rows may have one partner."""
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
