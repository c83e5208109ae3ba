"""Products of sparse rows with a dense weight, and their adjoint.

A weight whose columns lie together in memory (`weight.t()` is contiguous) is read a feature at a time, which
is what a sparse row wants: by compiled passes, each of which reads it once, or by torch's sparse products.
Otherwise the columns that occur are gathered, for a few rows of x at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.kernels import cpu_sparse

GATHERED = 2**22  # elements of a dense piece of x


class SparseUnits(NamedTuple):
    """Sparse rows divided by their norms (centered: by their deviations, the mean is not subtracted).

    Attributes:
        starts: where each row begins among `values`, (N + 1,).
        columns: column of each value.
        values: in the accumulation dtype.
        extra: the appended component of each row (N, 1), divided by the norm too; 0 without one.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    extra: Tensor


def rows_of_values(starts: Tensor) -> Tensor:
    """The row of each stored value of a CSR matrix, from where its rows begin (N + 1,)."""
    return torch.arange(len(starts) - 1, device=starts.device).repeat_interleave(starts.diff())


def row_sums(starts: Tensor, values: Tensor) -> Tensor:
    """The sum of each row's stored values, (N,)."""
    return values.new_zeros(len(starts) - 1).index_add_(0, rows_of_values(starts), values)


def _by_feature(weight: Tensor) -> bool:
    return weight.t().is_contiguous()


def pieces(units: SparseUnits, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """A few rows at a time: which, the columns that occur in them, and their values at these, dense."""
    count = len(units.starts) - 1
    starts = units.starts.tolist()
    first = 0
    while first < count:
        last = first + 1
        while last < count:
            wide = min(size, starts[last + 1] - starts[first])
            if wide * (last + 1 - first) > GATHERED:
                break
            last += 1
        inside = slice(starts[first], starts[last])
        columns, place = units.columns[inside].unique(return_inverse=True)
        lengths = units.starts[first : last + 1].diff()
        row = torch.arange(last - first, device=lengths.device).repeat_interleave(lengths)
        dense = units.values.new_zeros(last - first, len(columns))
        dense.index_put_((row, place), units.values[inside])
        yield slice(first, last), columns, dense
        first = last


def sparse_product(units: SparseUnits, weight: Tensor) -> Tensor:
    """x·w for all pairs; the weight in the accumulation dtype."""
    compiled = cpu_sparse.sparse_products(units[:3], weight)
    if compiled is not None:
        return compiled
    shape = (len(units.starts) - 1, weight.shape[1])
    if _by_feature(weight) and weight.device.type == "cpu":
        x = torch.sparse_csr_tensor(units.starts, units.columns, units.values, shape, check_invariants=False)
        return torch.sparse.mm(x, weight.t())
    output = units.values.new_empty(shape[0], weight.shape[0])
    for rows, columns, dense in pieces(units, weight.shape[1]):
        output[rows] = dense @ weight.index_select(1, columns).t()
    return output


def _transposed(units: SparseUnits, size: int) -> Tensor:
    """xᵀ as a CSR matrix, (D, N)."""
    count = len(units.starts) - 1
    order = units.columns.argsort(stable=True)
    row = rows_of_values(units.starts)
    starts = units.starts.new_zeros(size + 1)
    starts[1:] = units.columns.bincount(minlength=size).cumsum(0)
    row = row[order].to(starts.dtype)
    return torch.sparse_csr_tensor(starts, row, units.values[order], (size, count), check_invariants=False)


def add_adjoint_(gradient: Tensor, cotangent: Tensor, units: SparseUnits) -> Tensor:
    """Gradient += cotangentᵀ x, in the columns that occur."""
    if _by_feature(gradient) and gradient.device.type == "cpu":
        gradient.t().addmm_(_transposed(units, gradient.shape[1]), cotangent)
        return gradient
    for rows, columns, dense in pieces(units, gradient.shape[1]):
        gradient.index_add_(1, columns, cotangent[rows].t() @ dense)
    return gradient


def adjoint(
    weight: Tensor,
    cotangent: Tensor,
    units: SparseUnits,
    along: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """w·along + offset + cotangentᵀ x in the order of the weight (M, D); along and offset are (M,), or 0."""
    compiled = cpu_sparse.sparse_gradient(units[:3], cotangent, weight, along, offset)
    if compiled is not None:
        return compiled
    if along is None:
        gradient = torch.zeros_like(weight)
    else:
        gradient = torch.mul(weight, along.unsqueeze(1), out=torch.empty_like(weight))
    if offset is not None:
        gradient.add_(offset.unsqueeze(1))
    return add_adjoint_(gradient, cotangent, units)
