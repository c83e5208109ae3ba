"""Which keys are an anchor's positives: a sparse matrix whose rows are averages, and never a dense one.

An anchor is a row that looks for its positives: a query among keys, or a key among queries. Row i of the
matrix A (N, M) holds w_ip / Σ w at the positives P(i) of anchor i, with their weights w: 1/|P(i)| without.
The softmax needs its product with the others (the mean positive of each anchor) and that of its transpose
with the anchors.
"""

import copy
from typing import Any, Protocol

import torch
from torch import Tensor

from cosnorm.devices import at_once, is_accelerator
from cosnorm.operators.by_turns import Shared, SharedGradients
from cosnorm.operators.indices import assert_all

_PAIRS_AT_ONCE = 2**14


class Positives(Protocol):
    """What a softmax over pairs needs to know of the positives."""

    @property
    def counts(self) -> Tensor:
        """Number of positives of each anchor, (N,)."""

    def means(self, keys: Tensor | Shared) -> Tensor:
        """A @ keys: (M, D) → (N, D)."""

    def spread_(self, into: Tensor | SharedGradients, rows: Tensor) -> None:
        """Add Aᵀ @ rows, (N, D) → (M, D), to `into`."""

    def exclusion(self) -> dict[str, Any]:
        """The positives as fields of an `Exclusion` (for decoupled losses)."""

    def places(self) -> dict[str, Any]:
        """The positives as fields of `Negatives`."""

    def among(self, own: slice) -> "Positives | None":
        """The same, counted among the own others, where all of them are; None: others have some."""

    def is_symmetric(self) -> bool:
        """Whether key i is a positive of query k where k is one of i, as far as a device may be asked."""


class PairPositives:
    """Positives as pairs (anchor, other); an anchor may have any number of them.

    Args:
        rows: the anchors, (P,).
        columns: the others, (P,).
        number: of anchors.
        weights: of the pairs, (P,), relative to those of the same anchor; None: 1.
    """

    def __init__(self, rows: Tensor, columns: Tensor, number: int, weights: Tensor | None = None) -> None:
        order = rows.argsort(stable=True)
        self.rows, self.columns, self.weights = rows[order], columns[order], None
        if weights is None:
            self.counts = counts_of(rows, number)
        else:
            self.weights = weights[order]
            self.counts = counts_of(rows, number, (weights > 0).long())

    def shares(self, dtype: torch.dtype) -> Tensor:
        """A at the pairs, (P,)."""
        if self.weights is None:
            return _inverse(self.counts, dtype)[self.rows]
        # Sums of float32 fit into float64; where there is none, none is given.
        wide = torch.float32 if self.weights.device.type == "mps" else torch.float64
        weights = self.weights.to(wide)
        sums = weights.new_zeros(self.counts.shape).index_add_(0, self.rows, weights)
        return (weights / sums.masked_fill_(sums == 0, 1)[self.rows]).to(dtype)

    def parts(self) -> list[slice]:
        """The pairs, a number of them at a time."""
        return _parts(self.rows)

    def among(self, own: slice) -> "PairPositives":  # noqa: D102
        return PairPositives(self.rows, self.columns - own.start, len(self.counts), self.weights)

    def means(self, keys: Tensor | Shared) -> Tensor:  # noqa: D102
        if isinstance(keys, Shared):
            return keys.means(self)
        means, shares = keys.new_zeros(self.counts.shape[0], keys.shape[1]), self.shares(keys.dtype)
        for part in _parts(self.rows):
            share = shares[part].unsqueeze(1)
            chosen = keys[self.columns[part]].mul_(share)
            if self.weights is not None:  # 0 · NaN is none
                chosen.masked_fill_(share == 0, 0)
            means.index_add_(0, self.rows[part], chosen)
        return means

    def spread_(self, into: Tensor | SharedGradients, rows: Tensor) -> None:  # noqa: D102
        if isinstance(into, SharedGradients):
            into.spread(self, rows)
            return
        shares = self.shares(rows.dtype)
        for part in _parts(self.rows):
            into.index_add_(0, self.columns[part], rows[self.rows[part]] * shares[part].unsqueeze(1))

    def places(self) -> dict[str, Any]:  # noqa: D102
        columns = self.columns
        if self.weights is not None:  # what weighs nothing is no positive
            columns = columns.where(self.weights > 0, -1)
        return {"listed": (self.rows, columns)}

    def exclusion(self) -> dict[str, Any]:  # noqa: D102
        rows, columns = self.places()["listed"]
        if self.weights is not None or is_accelerator(rows.device) or bool((self.counts > 1).any()):
            return {"pairs": (rows, columns)}
        return {"partner": self.counts.new_full(self.counts.shape, -1).index_put_((rows,), columns)}

    def is_symmetric(self) -> bool:  # noqa: D102
        return False


class OnePositive:
    """At most one positive for each anchor: its column, and where some have none, which have one."""

    def __init__(self, columns: Tensor, known: Tensor | None, offset: int | None = None) -> None:
        """`offset`: that of anchor i is i + offset; None: they have no order."""
        self.columns, self.known, self.offset = columns, known, offset
        self.counts = torch.ones_like(columns) if known is None else known.to(columns.dtype)

    def among(self, own: slice) -> "OnePositive":  # noqa: D102
        return OnePositive(self.columns - own.start, self.known)

    def means(self, keys: Tensor | Shared) -> Tensor:  # noqa: D102
        if isinstance(keys, Shared):
            return keys.means(self)
        if not len(keys):
            return keys.new_zeros(len(self.columns), keys.shape[1])
        means = keys.index_select(0, self.columns)
        return means if self.known is None else means.where(self.known.unsqueeze(1), 0)

    def spread_(self, into: Tensor | SharedGradients, rows: Tensor) -> None:  # noqa: D102
        if isinstance(into, SharedGradients):
            into.spread(self, rows)
        elif len(into):
            known = self.known
            into.index_add_(0, self.columns, rows if known is None else rows.where(known.unsqueeze(1), 0))

    def places(self) -> dict[str, Any]:  # noqa: D102
        return self.paired().places()

    def paired(self) -> PairPositives:
        """The same as pairs; one that is unknown weighs 0."""
        rows = torch.arange(len(self.columns), device=self.columns.device)
        weights = None if self.known is None else self.known.to(torch.float32)
        return PairPositives(rows, self.columns, len(rows), weights)

    def exclusion(self) -> dict[str, Any]:  # noqa: D102
        if self.offset is not None:
            return {"offset": self.offset}
        known = self.known
        return {"partner": self.columns if known is None else self.columns.masked_fill(~known, -1)}

    def is_symmetric(self) -> bool:  # noqa: D102
        number = len(self.columns)
        if is_accelerator(self.columns.device) or not number or self.known is not None:
            return False
        if int(self.columns.max()) >= number:
            return False
        back = self.columns[self.columns]
        return bool((back == torch.arange(number, device=back.device)).all())


class LabelPositives:
    """Positives are those of the anchor's label, less the anchor itself where it is among the others.

    Their mean comes from the sum over each class, so that no pair is ever looked at.
    """

    def __init__(self, query_labels: Tensor, key_labels: Tensor, offset: int | None) -> None:
        """`offset`: anchor i is the other i + offset; None: the anchors are not among them."""
        together = torch.cat([query_labels, key_labels])
        dense, self.classes = _numbered(together)
        self.query_labels, self.key_labels = dense.split([len(query_labels), len(key_labels)])
        self.offset = offset
        sizes = counts_of(self.key_labels, self.classes)
        self.counts = sizes[self.query_labels] - int(offset is not None)

    def among(self, own: slice) -> None:  # noqa: D102
        return None

    def part(self, columns: slice) -> "LabelPositives":  # noqa: D102
        found = copy.copy(self)
        found.key_labels = self.key_labels[columns]
        if self.offset is not None:
            here = columns.start <= self.offset < columns.stop
            found.offset = self.offset - columns.start if here else None
        return found

    def means(self, keys: Tensor | Shared) -> Tensor:  # noqa: D102
        if isinstance(keys, Shared):
            return keys.means(self)
        sums = keys.new_zeros(self.classes, keys.shape[1]).index_add_(0, self.key_labels, keys)
        means = sums[self.query_labels]
        if self.offset is not None:
            means -= keys[self.offset : self.offset + len(means)]
        return means.mul_(_inverse(self.counts, keys.dtype).unsqueeze(1))

    def spread_(self, into: Tensor | SharedGradients, rows: Tensor) -> None:  # noqa: D102
        if isinstance(into, SharedGradients):
            into.spread(self, rows)
            return
        rows = rows * _inverse(self.counts, rows.dtype).unsqueeze(1)
        sums = rows.new_zeros(self.classes, rows.shape[1]).index_add_(0, self.query_labels, rows)
        for part in _parts(self.key_labels):
            into[part] += sums[self.key_labels[part]]
        if self.offset is not None:
            into[self.offset : self.offset + len(rows)] -= rows

    def exclusion(self) -> dict[str, Any]:  # noqa: D102
        return {"labels": (self.query_labels, self.key_labels)}

    def places(self) -> dict[str, Any]:  # noqa: D102
        return self.exclusion()

    def is_symmetric(self) -> bool:  # noqa: D102
        return True


def _inverse(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """1/count, and 0 where there is none (a lone query would keep the rounding of its own sum)."""
    return counts.to(dtype).reciprocal().masked_fill_(counts == 0, 0)


def counts_of(indices: Tensor, size: int, each: Tensor | None = None) -> Tensor:
    """How often each number in [0, size) occurs; or the sum of what each counts."""
    return indices.new_zeros(size).index_add_(0, indices, torch.ones_like(indices) if each is None else each)


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
    where: str,
    positives: Tensor | None,
    weights: Tensor | None,
    num_queries: int,
    own_keys: slice,
    device: torch.device,
    most: float = torch.inf,
) -> OnePositive | PairPositives:
    """Positives as an index (N,) or as pairs (P, 2) among the own keys; None: key i belongs to query i."""
    if positives is None:
        first = own_keys.start
        return OnePositive(torch.arange(num_queries, device=device) + first, None, first)
    number = own_keys.stop - own_keys.start
    if positives.ndim == 2:
        rows, columns = positives.unbind(1)
        check_indices(where, "query", rows, num_queries)
        check_indices(where, "key", columns, number)
        if weights is not None:
            _check_weights(where, weights, most)
        elif not is_accelerator(device) and len(rows) == num_queries and bool((rows.diff() == 1).all()):
            return OnePositive(columns.long() + own_keys.start, None)
        return PairPositives(rows.long(), columns.long() + own_keys.start, num_queries, weights)
    known = positives != -1
    check_indices(where, "key", positives, number, least=-1)
    if not is_accelerator(device) and bool(known.all()):
        return OnePositive(positives.long() + own_keys.start, None)
    return OnePositive(positives.long().clamp(0, max(0, number - 1)) + own_keys.start, known)


def _check_weights(where: str, weights: Tensor, most: float) -> None:
    message = f"{where}: positive_weights must be finite and not negative"
    if most < torch.inf:
        message = f"{where}: positive_weights must be between 0 and {most:g}"
    right = (weights >= 0).logical_and_(weights <= min(most, torch.finfo(weights.dtype).max))
    if is_accelerator(weights.device):
        assert_all(right, message)
    elif not bool(right.all()):
        raise ValueError(f"{message}, got {float(weights[~right][0])}")


def linked(
    where: str, pairs: PairPositives, num_columns: int, first_row: int, first_column: int
) -> tuple[Tensor, Tensor]:
    """Numbers that are equal where rows and columns hang together by pairs, for each row and each own column.

    Captions of one image have one number, and so have images of one caption: among themselves they are no
    negatives. Rows and columns count from `first_row` and `first_column`; a column without pairs has a number
    below 0.
    """
    num_rows, device = len(pairs.counts), pairs.rows.device
    rows, columns = pairs.places()["listed"]
    # Pairs that weigh nothing link a row and a column behind the last ones.
    some = columns >= 0
    rows, columns = rows.where(some, num_rows), (columns - first_column).where(some, num_columns)
    of_rows = torch.arange(num_rows + 1, device=device) + first_row
    alone = -1 - first_column - torch.arange(num_columns + 1, device=device)

    def passed(of_rows: Tensor) -> tuple[Tensor, Tensor]:
        found = alone.scatter_reduce(0, columns, of_rows[rows], "amin", include_self=False)
        return of_rows.scatter_reduce(0, rows, found[columns], "amin"), found

    # Pairs without chains need one round; an accelerator is not asked, and makes four.
    for _ in range(4 if is_accelerator(device) else num_rows):
        found, _ = passed(of_rows)
        if not is_accelerator(device) and torch.equal(found, of_rows):
            break
        of_rows = found
    found, others = passed(of_rows)
    if is_accelerator(device):
        assert_all(found == of_rows, f"{where}: positives make long chains of pairs; pass labels=")
    return found[:-1], others[:-1]


def check_indices(where: str, name: str, found: Tensor, size: int, *, least: int = 0) -> None:
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
