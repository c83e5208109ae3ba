"""Which keys are a query's positives: a sparse matrix whose rows are averages, and never a dense one.

Row i of the matrix A (N, M) holds 1/|P(i)| at the positives P(i) of query i. The losses need its product with
the keys (the mean positive of each query) and that of its transpose with the queries, nothing else.
"""

from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from cosnorm.backends.pairs import Places
from cosnorm.devices import at_once, is_accelerator
from cosnorm.operators.indices import assert_all

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

    def is_symmetric(self) -> bool:
        """Whether key i is a positive of query k where k is one of i, as far as a device may be asked."""

    def places(self) -> Places | None:
        """The positives as kernels look for them in a tile, without a launch; None where they cannot."""


class PairPositives:
    """Positives as pairs (query, key); a query may have any number of them."""

    def __init__(self, rows: Tensor, columns: Tensor, num_queries: int) -> None:
        self.counts = counts_of(rows, num_queries)
        order = rows.argsort(stable=True)
        self.rows, self.columns = rows[order], columns[order]

    def means(self, keys: Tensor) -> Tensor:  # noqa: D102
        means = keys.new_zeros(self.counts.shape[0], keys.shape[1])
        weights = _inverse(self.counts, keys.dtype)
        for part in _parts(self.rows):
            rows = self.rows[part]
            means.index_add_(0, rows, keys[self.columns[part]] * weights[rows].unsqueeze(1))
        return means

    def spread_(self, into: Tensor, rows: Tensor) -> None:  # noqa: D102
        weights = _inverse(self.counts, rows.dtype)
        for part in _parts(self.rows):
            chosen = self.rows[part]
            into.index_add_(0, self.columns[part], rows[chosen] * weights[chosen].unsqueeze(1))

    def exclusion(self) -> dict[str, Any]:  # noqa: D102
        if is_accelerator(self.counts.device) or bool((self.counts > 1).any()):
            return {"pairs": (self.rows, self.columns)}
        return {"partner": self.counts.new_full(self.counts.shape, -1).index_put_((self.rows,), self.columns)}

    def is_symmetric(self) -> bool:  # noqa: D102
        return False

    def places(self) -> None:  # noqa: D102
        return None


class OnePositive:
    """At most one positive for each query: its column, and where some have none, which have one."""

    def __init__(self, columns: Tensor, known: Tensor | None) -> None:
        self.columns, self._known = columns, known

    @cached_property
    def counts(self) -> Tensor:  # noqa: D102
        known = self._known
        return torch.ones_like(self.columns) if known is None else known.to(self.columns.dtype)

    def means(self, keys: Tensor) -> Tensor:  # noqa: D102
        if not len(keys):
            return keys.new_zeros(len(self.columns), keys.shape[1])
        means = keys.index_select(0, self.columns)
        return means if self._known is None else means.where(self._known.unsqueeze(1), 0)

    def spread_(self, into: Tensor, rows: Tensor) -> None:  # noqa: D102
        if len(into):
            known = self._known
            into.index_add_(0, self.columns, rows if known is None else rows.where(known.unsqueeze(1), 0))

    def exclusion(self) -> dict[str, Any]:  # noqa: D102
        known = self._known
        return {"partner": self.columns if known is None else self.columns.masked_fill(~known, -1)}

    def is_symmetric(self) -> bool:  # noqa: D102
        number = len(self.columns)
        if is_accelerator(self.columns.device) or not number or self._known is not None:
            return False
        if int(self.columns.max()) >= number:
            return False
        back = self.columns[self.columns]
        return bool((back == torch.arange(number, device=back.device)).all())

    def places(self) -> Places | None:  # noqa: D102
        return Places(given=self.exclusion()["partner"])


class GivenKeys(OnePositive):
    """The own keys, from `start` on, that are given; −1 for none. What no tile needs is made if asked."""

    def __init__(self, given: Tensor, number: int, start: int) -> None:
        self._given, self._number, self._start = given, number, start

    @cached_property
    def columns(self) -> Tensor:  # type: ignore[override]  # noqa: D102
        return self._given.clamp(0, max(0, self._number - 1)) + self._start

    @cached_property
    def _known(self) -> Tensor:  # type: ignore[override]
        return self._given != -1

    def places(self) -> Places | None:  # noqa: D102
        return super().places() if self._start else Places(given=self._given)


class OwnKey(OnePositive):
    """Key i + start belongs to query i."""

    def __init__(self, number: int, start: int, device: torch.device) -> None:
        self._number, self._start, self._device = number, start, device
        self._known = None

    @cached_property
    def columns(self) -> Tensor:  # type: ignore[override]  # noqa: D102
        return torch.arange(self._number, device=self._device) + self._start

    def places(self) -> Places:  # noqa: D102
        return Places(offset=self._start)


class LabelPositives:
    """Positives are the keys of the query's label, less the query itself where it is among the keys.

    Their mean comes from the sum over each class, so that no pair is ever looked at.
    """

    def __init__(self, query_labels: Tensor, key_labels: Tensor, offset: int | None) -> None:
        """`offset`: query i is key i + offset; None: the queries are not among the keys."""
        self.given, self.offset = (query_labels, key_labels), offset

    @cached_property
    def _numbers(self) -> tuple[Tensor, Tensor, int]:
        """Labels as whole numbers from 0 on, and a bound for how many there are."""
        dense, classes = _numbered(torch.cat(self.given))
        queries, keys = dense.split([len(one) for one in self.given])
        return queries, keys, classes

    @property
    def query_labels(self) -> Tensor:
        """Numbers of the queries' labels."""
        return self._numbers[0]

    @property
    def key_labels(self) -> Tensor:
        """Numbers of the keys' labels."""
        return self._numbers[1]

    @property
    def classes(self) -> int:
        """A bound for the numbers."""
        return self._numbers[2]

    @cached_property
    def counts(self) -> Tensor:  # noqa: D102
        sizes = counts_of(self.key_labels, self.classes)
        return sizes[self.query_labels] - int(self.offset is not None)

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

    def is_symmetric(self) -> bool:  # noqa: D102
        return True

    def places(self) -> Places:  # noqa: D102
        return Places(labels=self.given, offset=self.offset)


def _inverse(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """1/count, and 0 where there is none (a lone query would keep the rounding of its own sum)."""
    return counts.to(dtype).reciprocal().masked_fill_(counts == 0, 0)


def counts_of(indices: Tensor, size: int) -> Tensor:
    """How often each number in [0, size) occurs."""
    return indices.new_zeros(size).index_add_(0, indices, torch.ones_like(indices))


def _numbered(labels: Tensor) -> tuple[Tensor, int]:
    """Labels as whole numbers from 0 on, and a bound for how many there are."""
    if not is_accelerator(labels.device):
        values, dense = labels.unique(return_inverse=True)
        return dense, len(values)
    # How many there are nobody waits for: at most as many as labels.
    values, order = labels.sort()
    steps = torch.zeros_like(values)
    torch.ne(values[1:], values[:-1], out=steps[1:])
    return torch.empty_like(order).scatter_(0, order, steps.cumsum(0)), len(labels)


def _parts(indices: Tensor) -> list[slice]:
    step = at_once(indices.device, _PAIRS_AT_ONCE)
    return [slice(start, start + step) for start in range(0, len(indices), step)]


def pair_positives(
    where: str, positives: Tensor | None, num_queries: int, own_keys: slice, device: torch.device
) -> OnePositive | PairPositives:
    """Positives as an index (N,) or as pairs (P, 2) among the own keys; None: key i belongs to query i."""
    if positives is None:
        return OwnKey(num_queries, own_keys.start, device)
    number = own_keys.stop - own_keys.start
    if positives.ndim == 2:
        rows, columns = positives.unbind(1)
        _check(where, "query", rows, num_queries)
        _check(where, "key", columns, number)
        if not is_accelerator(device) and len(rows) == num_queries and bool((rows.diff() == 1).all()):
            return OnePositive(columns.long() + own_keys.start, None)
        return PairPositives(rows.long(), columns.long() + own_keys.start, num_queries)
    _check(where, "key", positives, number, least=-1)
    if not is_accelerator(device) and bool((positives != -1).all()):
        return OnePositive(positives.long() + own_keys.start, None)
    return GivenKeys(positives.long(), number, own_keys.start)


def _check(where: str, name: str, found: Tensor, size: int, *, least: int = 0) -> None:
    """Raise unless indices are in [least, size)."""
    if not found.numel():
        return
    message = f"{where}: positives must name a {name} between 0 and {size - 1}"
    if is_accelerator(found.device):
        assert_all((found >= least).logical_and_(found < size), message)
        return
    low, high = (int(bound) for bound in torch.aminmax(found))
    if low < least or high >= size:
        raise ValueError(f"{message}, got {low} to {high}")
