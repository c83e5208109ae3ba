"""The cosine of sparse rows with the rows of a dense weight, and its gradient in the weight.

With x̂ = x/|x| and ŵ = w/|w| the gradient of y = x̂·ŵ in the weight is (u − ŵ Σ g y) / |w|, where u = Σ g x̂ has
non-zeros only in the columns that the batch has; the projection is dense, as the weight is. Pearson
correlation needs no dense x either: against a centered ŵ the mean of x counts nothing, it only shortens |x|.
"""

from typing import Any

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
from cosnorm.functional.sparse_products import (
    SparseUnits,
    adjoint,
    pieces,
    row_sums,
    rows_of_values,
    sparse_product,
)
from cosnorm.kernels import cpu_sparse

MEANS_TAKEN = 0.1  # of a cosine, the most that Σx̂ μ/|w| may be


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
    for rows, columns, dense in pieces(units, weight.shape[1]):
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
