"""Which keys are a query's positives: a sparse matrix whose rows are averages, and never a dense one.

Row i of the matrix A (N, M) holds 1/|P(i)| at the positives P(i) of query i. The losses need its product with
the keys (the mean positive of each query) and that of its transpose with the queries, nothing else.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

_PAIRS_AT_ONCE = 2**14


class Positives(Protocol):
    """What a softmax over pairs needs to know of the positives."""

    @property
    def counts(self) -> Tensor:
        """Number of positives of each query, (N,)."""

    def means(self, keys: Tensor) -> Tensor:
        """A @ keys: (M, D) → (N, D)."""

    def spread_(self, into: Tensor, rows: Tensor) -> None:
        """Add Aᵀ @ rows, (N, D) → (M, D), to `into`."""

    def exclusion(self) -> dict[str, Any]:
        """The positives as fields of an `Exclusion` (for decoupled losses)."""


class PairPositives:
    """Positives as pairs (query, key); a query may have any number of them."""

    def __init__(self, rows: Tensor, columns: Tensor, num_queries: int) -> None:
        self.counts = torch.bincount(rows, minlength=num_queries)
        self._one_each = len(rows) == num_queries and bool((rows.diff() == 1).all())
        order = slice(None) if self._one_each else rows.argsort(stable=True)
        self.rows, self.columns = rows[order], columns[order]

    def means(self, keys: Tensor) -> Tensor:  # noqa: D102
        if self._one_each:
            return keys.index_select(0, self.columns)
        means = keys.new_zeros(self.counts.shape[0], keys.shape[1])
        weights = _inverse(self.counts, keys.dtype)
        for part in _parts(self.rows):
            rows = self.rows[part]
            means.index_add_(0, rows, keys[self.columns[part]] * weights[rows].unsqueeze(1))
        return means

    def spread_(self, into: Tensor, rows: Tensor) -> None:  # noqa: D102
        if self._one_each:
            into.index_add_(0, self.columns, rows)
            return
        weights = _inverse(self.counts, rows.dtype)
        for part in _parts(self.rows):
            chosen = self.rows[part]
            into.index_add_(0, self.columns[part], rows[chosen] * weights[chosen].unsqueeze(1))

    def exclusion(self) -> dict[str, Any]:  # noqa: D102
        if bool((self.counts > 1).any()):
            return {"pairs": (self.rows, self.columns)}
        return {"partner": self.counts.new_full(self.counts.shape, -1).index_put_((self.rows,), self.columns)}

    def mutual(self) -> bool:
        """Whether each query has one positive, a query too, whose positive is the query itself."""
        number = len(self.counts)
        if not self._one_each or not number or int(self.columns.max()) >= number:
            return False
        back = self.columns[self.columns]
        return bool((back == torch.arange(number, device=back.device)).all())


class LabelPositives:
    """Positives are the keys of the query's label, less the query itself where it is among the keys.

    Their mean comes from the sum over each class, so that no pair is ever looked at.
    """

    def __init__(self, query_labels: Tensor, key_labels: Tensor, offset: int | None) -> None:
        """`offset`: query i is key i + offset; None: the queries are not among the keys."""
        together = torch.cat([query_labels, key_labels])
        values, dense = together.unique(return_inverse=True)
        self.classes = len(values)
        self.query_labels, self.key_labels = dense.split([len(query_labels), len(key_labels)])
        self.offset = offset
        sizes = torch.bincount(self.key_labels, minlength=self.classes)
        self.counts = sizes[self.query_labels] - int(offset is not None)

    def means(self, keys: Tensor) -> Tensor:  # noqa: D102
        sums = keys.new_zeros(self.classes, keys.shape[1]).index_add_(0, self.key_labels, keys)
        means = sums[self.query_labels]
        if self.offset is not None:
            means -= keys[self.offset : self.offset + len(means)]
        return means.mul_(_inverse(self.counts, keys.dtype).unsqueeze(1))

    def spread_(self, into: Tensor, rows: Tensor) -> None:  # noqa: D102
        rows = rows * _inverse(self.counts, rows.dtype).unsqueeze(1)
        sums = rows.new_zeros(self.classes, rows.shape[1]).index_add_(0, self.query_labels, rows)
        for part in _parts(self.key_labels):
            into[part] += sums[self.key_labels[part]]
        if self.offset is not None:
            into[self.offset : self.offset + len(rows)] -= rows

    def exclusion(self) -> dict[str, Any]:  # noqa: D102
        return {"labels": (self.query_labels, self.key_labels)}


def _inverse(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """1/count, and 0 where there is none (a lone query would keep the rounding of its own sum)."""
    return counts.to(dtype).reciprocal().masked_fill_(counts == 0, 0)


def _parts(indices: Tensor) -> list[slice]:
    return [slice(start, start + _PAIRS_AT_ONCE) for start in range(0, len(indices), _PAIRS_AT_ONCE)]


def pair_positives(
    where: str, positives: Tensor | None, num_queries: int, own_keys: slice, device: torch.device
) -> PairPositives:
    """Positives as an index (N,) or as pairs (P, 2) among the own keys; None: key i belongs to query i."""
    if positives is None:
        rows = torch.arange(num_queries, device=device)
        return PairPositives(rows, rows + own_keys.start, num_queries)
    if positives.ndim == 1:
        rows = (positives != -1).nonzero().squeeze(1)
        columns = positives[rows]
    else:
        rows, columns = positives.unbind(1)
    for name, found, size in (
        ("query", rows, num_queries),
        ("key", columns, own_keys.stop - own_keys.start),
    ):
        if found.numel() and not (int(found.min()) >= 0 and int(found.max()) < size):
            raise ValueError(
                f"{where}: positives must name a {name} between 0 and {size - 1}, got "
                f"{int(found.min())} to {int(found.max())}"
            )
    return PairPositives(rows.long(), columns.long() + own_keys.start, num_queries)
