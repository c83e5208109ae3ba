"""The nearest keys of each query so far, and what a tile of cosines adds to them: for a search in tiles."""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.pairs import Exclusion


class Best(NamedTuple):
    """The k largest cosines of each query among the keys that were looked at.

    Attributes:
        values: (N, k), falling; −inf where there was no key.
        indices: which keys, (N, k); they mean nothing where the value is −inf.
    """

    values: Tensor
    indices: Tensor

    @staticmethod
    def none(queries: Tensor, k: int) -> "Best":
        """Before any key was looked at."""
        values = queries.new_full((len(queries), k), -torch.inf)
        return Best(values, torch.zeros_like(values, dtype=torch.int64))

    def of(self, rows: slice) -> "Best":
        """Those of some queries, in the same memory."""
        return Best(self.values[rows], self.indices[rows])

    def take_all_(self, cosines: Tensor, first: int) -> None:
        """Take in a tile of cosines (N, width), whose first key has the number `first`; it is overwritten.

        What is NaN is no candidate: a key of NaN touches no query.
        """
        k = self.values.shape[1]
        cosines.nan_to_num_(-torch.inf, torch.inf, -torch.inf)
        found = cosines.topk(min(k, cosines.shape[1]))
        values = torch.cat([self.values, found.values], 1).topk(k)
        self.indices.copy_(torch.cat([self.indices, found.indices + first], 1).gather(1, values.indices))
        self.values.copy_(values.values)


class LeftOut(NamedTuple):
    """The pairs of query and key that stay out of a search.

    Attributes:
        exclusion: pairs by their places, keys counted over all processes.
        below: keys whose cosine is not below this, (N, 1); None: no bound.
    """

    exclusion: Exclusion
    below: Tensor | None

    @property
    def is_symmetric(self) -> bool:
        """Whether (i, j) stays out where (j, i) does, for queries that are the keys."""
        apart = self.exclusion
        return self.below is None and apart.mask is None and apart.partner is None and apart.pairs is None

    def leave_out_(self, cosines: Tensor, rows: slice, columns: slice) -> None:
        """Put −inf at the cosines of a tile that stay out."""
        self.exclusion.exclude_(cosines, rows, columns)
        if self.below is not None:
            cosines.masked_fill_(cosines >= self.below[rows], -torch.inf)
