"""The cosine of sparse rows with the rows of a dense weight, and its gradient in the weight.

With x̂ = x/|x| and ŵ = w/|w| the gradient of y = x̂·ŵ in the weight is (u − ŵ Σ g y) / |w|, where u = Σ g x̂ has
non-zeros only in the columns that the batch has; the projection is dense, as the weight is. Pearson
correlation needs no dense x either: against a centered ŵ the mean of x counts nothing, it only shortens |x|.

A weight whose columns lie together in memory (`weight.t()` is contiguous) is read a feature at a time, which
is what a sparse row wants: by compiled passes, each of which reads it once, or by torch's sparse products.
Otherwise the columns that occur are gathered, for a few rows of x at a time.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.functional.norms import (
    PlainRows,
    accumulation_dtype,
    in_window,
    not_plain,
    plain_cotangent,
    plain_rows,
    power_of_two,
    row_norms,
    saturate,
    scale_by_exponent,
    scale_exponent,
    unit_rows,
    was_plain,
)
from cosnorm.kernels import cpu_sparse

GATHERED = 2**22  # elements of a dense piece of x
MEANS_TAKEN = 0.1  # of a cosine, the most that Σx̂ μ/|w| may be


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


def sparse_units(x: Tensor, *, centered: bool, augment: float) -> SparseUnits:
    """The rows of a CSR matrix as unit vectors, whatever their norms; zero rows stay zero."""
    starts, columns, stored = x.crow_indices(), x.col_indices(), x.values()
    count, size = x.shape
    values = stored.to(accumulation_dtype(stored.dtype))
    row = rows_of_values(starts)
    lengths = starts.diff().to(values.dtype)

    def summed(terms: Tensor) -> Tensor:
        return row_sums(starts, terms)

    def largest(terms: Tensor) -> Tensor:
        return terms.new_zeros(count).scatter_reduce_(0, row, terms, "amax")

    top = largest(values.abs())
    exponent = scale_exponent(top.clamp(min=augment) if augment else top)
    scale = power_of_two(-exponent, values.dtype)
    values = values * scale[row]
    missing = size - lengths  # zeros that are not stored
    if centered:
        mean = summed(values) / size
        mean = mean + (summed(values - mean[row]) - missing * mean) / size
        deviation = values - mean[row]
        squared = summed(deviation.square()) + missing * mean.square()
        most = torch.maximum(largest(deviation.abs()), mean.abs() * (missing > 0))
        constant = most <= 4 * torch.finfo(stored.dtype).eps * mean.abs()
        squared = squared.masked_fill(constant, 0)
        values = values.masked_fill(constant[row], 0)
    else:
        squared = summed(values.square())
    appended = augment * scale
    squared = squared + appended.square()
    zero = squared == 0
    inverse = squared.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)
    return SparseUnits(starts, columns, values * inverse[row], (appended * inverse).unsqueeze(1))


def sparse_cosine(x: Tensor, weight: Tensor, *, centered: bool, augment: float) -> Tensor:
    """cos(x, w) for CSR rows x (N, D) and rows of the weight (M, D): (N, M). The arguments must be valid."""
    units = sparse_units(x, centered=centered, augment=augment)
    output: Tensor = _SparseCosine.apply(*units, weight, centered, augment)[0]
    return output.to(weight.dtype)


def _by_feature(weight: Tensor) -> bool:
    return weight.t().is_contiguous()


def _pieces(units: SparseUnits, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
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
    for rows, columns, dense in _pieces(units, weight.shape[1]):
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
    for rows, columns, dense in _pieces(units, gradient.shape[1]):
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


def _uncentered(weight: Tensor, share: float, augment: float) -> tuple[PlainRows, Tensor] | None:
    """The weight as it is, with 1/|w − μ|, and the means μ (M,): Pearson correlation without a centered copy.

    x̂·(w − μ) = x̂·w − μ Σx̂, and |w − μ|² = |w|² − D·μ². None unless μ makes up less than half of each |w|²
    (so that this loses one bit at most, and no row is constant) and at most `share` of each |w|, so that the
    products that are taken from each other are hardly larger than their difference can be.
    """
    norm = row_norms(weight, weight.dtype).squeeze(1)
    if in_window(norm) is not True or not norm.numel():
        return None
    mean = weight.mean(1)
    part = float((mean / norm).abs().amax())
    if weight.shape[1] * part**2 > 0.5 or part > share:
        return None
    centered = (norm.square() - mean.square() * weight.shape[1] + augment**2).sqrt_()
    if in_window(centered) is not True:
        return None
    return PlainRows(weight, centered.reciprocal_().unsqueeze(1)), mean


def _products(
    units: SparseUnits, weight: Tensor, sums: Tensor, centered: bool, augment: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """x·w, 1/|w| and the means of the weight's rows where they are still to be taken off; plain form only."""
    most = float(sums.abs().amax()) if sums.numel() else 0.0
    share = MEANS_TAKEN / most if most else torch.inf
    compiled = cpu_sparse.sparse_cosine(units[:3], weight, augment**2, centered, share)
    if compiled:
        return compiled
    uncentered = _uncentered(weight, share, augment) if centered else None
    plain = uncentered[0] if uncentered else plain_rows(weight, centered=centered, augment=augment)
    if plain is None:
        return None
    means = uncentered[1] if uncentered else weight.new_empty(0)
    return sparse_product(units, plain.values), plain.factor.squeeze(1), means


def _forward(
    units: SparseUnits, weight: Tensor, centered: bool, augment: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines before they are clamped, 1/|w|, and the means of the weight's rows.

    The second is infinite where the plain form was not taken. The third is there, (M,), where the weight was
    left as it is though it is to be centered, and otherwise empty.
    """
    no_means = weight.new_empty(0)
    if weight.device.type == "cpu":
        sums = row_sums(units.starts, units.values) if centered else no_means
        found = _products(units, weight, sums, centered, augment)
        if found:
            products, factor, means = found
            if means.numel():
                products.addr_(sums, means, alpha=-1)
            if augment:
                products.add_(units.extra, alpha=augment)
            return products.mul_(factor), factor, means
    unit = unit_rows(weight, centered=centered, augment=augment)
    # NaN shows itself in all outputs of its row, not only where x has a value beside it.
    products = sparse_product(units, unit.values) + 0 * unit.values.sum(1)
    if unit.extra is not None:
        products = products + units.extra * unit.extra.squeeze(1)
    return products, not_plain(unit.inverse_norm), no_means


def _plain_gradient(
    cotangent: Tensor,
    units: SparseUnits,
    cosines: Tensor,
    weight: Tensor,
    factor: Tensor,
    means: Tensor,
    centered: bool,
) -> Tensor:
    along = (cotangent * cosines).sum(0).mul_(factor).mul_(factor).neg_()
    cotangent = cotangent * factor
    if centered and not means.numel():
        plain = plain_rows(weight, centered=True, augment=0.0)
        assert plain is not None
        gradient = adjoint(plain.values, cotangent, units, along)
        return gradient.sub_(gradient.mean(1, keepdim=True))
    offset = None
    if means.numel():
        # (w - μ)·along and u less its mean, at once: both means are one number a row.
        sums = row_sums(units.starts, units.values)
        offset = (means * along + cotangent.t().mv(sums) / weight.shape[1]).neg_()
    return adjoint(weight, cotangent, units, along, offset)


def _unit_gradient(
    cotangent: Tensor, units: SparseUnits, weight: Tensor, centered: bool, augment: float
) -> Tensor:
    """The same for any weight and cotangent; differentiable, so that second derivatives come from it."""
    unit = unit_rows(weight, centered=centered, augment=augment)
    with torch.no_grad():
        magnitudes = torch.nn.functional.pad(cotangent.detach().abs(), (0, 0, 0, 1))  # amax wants a row
        exponent = scale_exponent(magnitudes.amax(0))
        scale = power_of_two(-exponent, cotangent.dtype)
    scaled = cotangent * scale
    summed = torch.zeros_like(unit.values)
    for rows, columns, dense in _pieces(units, weight.shape[1]):
        summed = summed.index_add(1, columns, scaled[rows].t() @ dense)
    along = (unit.values * summed).sum(1, keepdim=True)
    if unit.extra is not None:
        along = along + unit.extra * (scaled * units.extra).sum(0).unsqueeze(1)
    gradient = summed - unit.values * along
    if centered:
        gradient = gradient - gradient.mean(1, keepdim=True)
    gradient = scale_by_exponent(gradient * unit.inverse_norm, exponent.unsqueeze(1) - unit.exponent)
    return saturate(gradient, weight.dtype)


class _SparseCosine(torch.autograd.Function):
    @staticmethod
    def forward(
        starts: Tensor,
        columns: Tensor,
        values: Tensor,
        extra: Tensor,
        weight: Tensor,
        centered: bool,
        augment: float,
    ) -> tuple[Tensor, ...]:
        units = SparseUnits(starts, columns, values, extra)
        cosines, *others = _forward(units, weight.to(values.dtype), centered, augment)
        return cosines.clamp(-1, 1), cosines, *others

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *saved, ctx.centered, ctx.augment = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*saved, *output[1:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        *parts, weight, cosines, factor, means = ctx.saved_tensors
        units = SparseUnits(*parts)
        gradient = None
        if ctx.needs_input_grad[4]:
            values = weight.to(cotangent.dtype)
            plain = not torch.is_grad_enabled() and weight.device.type == "cpu" and was_plain(factor)
            if plain and plain_cotangent(cotangent, (0,), (1,)):
                gradient = _plain_gradient(cotangent, units, cosines, values, factor, means, ctx.centered)
                gradient = gradient.to(weight.dtype)
            else:
                gradient = _unit_gradient(cotangent, units, weight, ctx.centered, ctx.augment)
        return None, None, None, None, gradient, None, None
