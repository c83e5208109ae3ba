"""Sparse rows (CSR) and a dense weight by torch's operators: products, their adjoint, cosines and gradient.

With x̂ = x/|x| and ŵ = w/|w| the gradient of y = x̂·ŵ in the weight is (u − ŵ Σ g y) / |w|, where u = Σ g x̂ has
non-zeros only in the columns that the batch has; the projection is dense, as the weight is. Pearson
correlation needs no dense x either: against a centered ŵ the mean of x counts nothing, it only shortens |x|.

A weight whose columns lie together in memory (`weight.t()` is contiguous) is read a feature at a time, which
is what a sparse row wants. Otherwise the columns that occur are gathered, for a few rows of x at a time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.torch.units import UnitRows, largest_of, unit_rows
from cosnorm.devices import is_accelerator
from cosnorm.norms import accumulation_dtype, constant_bound

GATHERED = 2**22  # elements of a dense piece of x


class SparseRows(NamedTuple):
    """Rows of a CSR matrix, as they are or as unit rows (centered: the mean is not subtracted).

    Attributes:
        starts: where each row begins among `values`, (N + 1,).
        columns: column of each value.
        values: in the accumulation dtype.
        constant: the appended component of each unit row (N, 1); 0 without one.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    constant: Tensor


def handles(rows: SparseRows, weight: Tensor) -> bool:
    """Whether this form has these shapes and this layout: it has all."""
    return True


def rows_of_values(starts: Tensor, number: int) -> Tensor:
    """The row of each stored value of a CSR matrix, from where its rows begin (N + 1,)."""
    rows = torch.arange(len(starts) - 1, device=starts.device)
    return rows.repeat_interleave(starts.diff(), output_size=number)


def row_sums(starts: Tensor, values: Tensor) -> Tensor:
    """The sum of each row's stored values, (N,)."""
    return values.new_zeros(len(starts) - 1).index_add_(0, rows_of_values(starts, len(values)), values)


def by_feature(weight: Tensor) -> bool:
    """Whether a weight (M, D) lies a feature at a time."""
    return weight.t().is_contiguous()


def _by_torch(weight: Tensor) -> bool:
    """Whether torch's sparse product is to be taken: on a CPU for what lies as it wants."""
    device = weight.device
    return device.type != "mps" if is_accelerator(device) else by_feature(weight)


def pieces(rows: SparseRows, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """A few rows at a time: which, the columns that occur in them, and their values at these, dense."""
    count = len(rows.starts) - 1
    starts = rows.starts.tolist()
    first = 0
    while first < count:
        last = first + 1
        while last < count:
            wide = min(size, starts[last + 1] - starts[first])
            if wide * (last + 1 - first) > GATHERED:
                break
            last += 1
        inside = slice(starts[first], starts[last])
        columns, place = rows.columns[inside].unique(return_inverse=True)
        lengths = rows.starts[first : last + 1].diff()
        row = torch.arange(last - first, device=lengths.device).repeat_interleave(lengths)
        dense = rows.values.new_zeros(last - first, len(columns))
        dense.index_put_((row, place), rows.values[inside])
        yield slice(first, last), columns, dense
        first = last


def product(rows: SparseRows, weight: Tensor) -> Tensor:
    """x·w for all pairs, (N, M); the weight in the accumulation dtype."""
    shape = (len(rows.starts) - 1, weight.shape[1])
    if _by_torch(weight):
        x = torch.sparse_csr_tensor(rows.starts, rows.columns, rows.values, shape, check_invariants=False)
        return torch.sparse.mm(x, weight.t())
    output = rows.values.new_empty(shape[0], weight.shape[0])
    for which, columns, dense in pieces(rows, weight.shape[1]):
        output[which] = dense @ weight.index_select(1, columns).t()
    return output


def _transposed(rows: SparseRows, size: int) -> Tensor:
    """xᵀ as a CSR matrix, (D, N)."""
    count = len(rows.starts) - 1
    order = rows.columns.argsort(stable=True)
    row = rows_of_values(rows.starts, len(rows.values))
    starts = rows.starts.new_zeros(size + 1)
    counts = starts.new_zeros(size).index_add_(0, rows.columns, torch.ones_like(rows.columns))
    torch.cumsum(counts, 0, out=starts[1:])
    row = row[order].to(starts.dtype)
    return torch.sparse_csr_tensor(starts, row, rows.values[order], (size, count), check_invariants=False)


def adjoint(
    weight: Tensor,
    cotangent: Tensor,
    rows: SparseRows,
    along: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """w·along + offset + cotangentᵀ x in the order of the weight (M, D); along and offset are (M,), or 0."""
    if along is None:
        gradient = torch.zeros_like(weight)
    else:
        gradient = torch.mul(weight, along.unsqueeze(1), out=torch.empty_like(weight))
    if offset is not None:
        gradient.add_(offset.unsqueeze(1))
    if is_accelerator(gradient.device) and _by_torch(gradient):
        return gradient.add_(torch.sparse.mm(_transposed(rows, gradient.shape[1]), cotangent).t())
    if _by_torch(gradient):
        gradient.t().addmm_(_transposed(rows, gradient.shape[1]), cotangent)
        return gradient
    for which, columns, dense in pieces(rows, gradient.shape[1]):
        gradient.index_add_(1, columns, cotangent[which].t() @ dense)
    return gradient


def sparse_unit_rows(
    starts: Tensor, columns: Tensor, stored: Tensor, size: int, *, centered: bool, augment: float
) -> SparseRows:
    """The rows of a CSR matrix (N, size) as unit vectors, whatever their norms; zero rows stay zero."""
    count = len(starts) - 1
    values = stored.to(accumulation_dtype(stored.dtype))
    row = rows_of_values(starts, len(values))
    lengths = starts.diff().to(values.dtype)

    def largest(terms: Tensor) -> Tensor:
        return terms.new_zeros(count).scatter_reduce_(0, row, terms, "amax")

    scale = largest(values.abs())
    scale = torch.where(scale == 0, 1, scale)
    if augment:
        scale = scale.clamp(min=augment)
    values = values / scale[row]
    missing = size - lengths  # zeros that are not stored
    if centered:
        mean = row_sums(starts, values) / size
        mean = mean + (row_sums(starts, values - mean[row]) - missing * mean) / size
        deviation = values - mean[row]
        squared = row_sums(starts, deviation.square()) + missing * mean.square()
        most = torch.maximum(largest(deviation.abs()), mean.abs() * (missing > 0))
        constant = most <= constant_bound(mean, stored.dtype)
        squared = squared.masked_fill(constant, 0)
        values = values.masked_fill(constant[row], 0)
    else:
        squared = row_sums(starts, values.square())
    appended = augment / scale
    squared = squared + appended.square()
    zero = squared == 0
    inverse = squared.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)
    return SparseRows(starts, columns, values * inverse[row], (appended * inverse).unsqueeze(1))


def cosines(
    rows: SparseRows, weight: Tensor, *, centered: bool, augment: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines before they are clamped; 1/|w| and the means of the weight, both marked as not taken."""
    unit = unit_rows(weight, centered=centered, augment=augment)
    # NaN shows itself in all outputs of its row, not only where x has a value beside it.
    products = product(rows, unit.values) + 0 * unit.values.sum(1)
    if unit.constant is not None:
        products = products + rows.constant * unit.constant.squeeze(1)
    marked = weight.new_full((len(weight),), torch.inf)
    return products, marked, marked.clone() if centered else marked[:0].clone()


def gradient_formula(
    cotangent: Tensor, rows: SparseRows, weight: Tensor, *, centered: bool, augment: float
) -> Tensor:
    """The gradient in the weight, for any weight and cotangent; differentiable."""
    unit = unit_rows(weight, centered=centered, augment=augment)
    if not cotangent.numel():
        return torch.zeros_like(weight)
    largest = largest_of(cotangent, 0)
    scaled = cotangent / largest
    if is_accelerator(weight.device) and not torch.is_grad_enabled() and _by_torch(weight):
        summed = torch.sparse.mm(_transposed(rows, weight.shape[1]), scaled).t()
        return _finished(summed, unit, rows, scaled, largest, weight, centered=centered)
    summed = torch.zeros_like(unit.values)
    for which, columns, dense in pieces(rows, weight.shape[1]):
        summed = summed.index_add(1, columns, scaled[which].t() @ dense)
    return _finished(summed, unit, rows, scaled, largest, weight, centered=centered)


def _finished(
    summed: Tensor,
    unit: UnitRows,
    rows: SparseRows,
    scaled: Tensor,
    largest: Tensor,
    weight: Tensor,
    *,
    centered: bool,
) -> Tensor:
    """The gradient in the weight from Σ g x̂ over the batch."""
    along = (unit.values * summed).sum(1, keepdim=True)
    if unit.constant is not None:
        along = along + unit.constant * (scaled * rows.constant).sum(0).unsqueeze(1)
    gradient = summed - unit.values * along
    if centered:
        gradient = gradient - gradient.mean(1, keepdim=True)
    return unit.divide(gradient, largest.t(), weight.dtype)
