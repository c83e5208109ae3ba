"""The cosine of sparse rows on a CPU by torch's operators and one look at the norms of the weight."""

import torch
from torch import Tensor

from cosnorm.backends.look.rows import cotangent_fits, fits, norms_of, prepare
from cosnorm.backends.torch.sparse import SparseRows, adjoint, product, row_sums
from cosnorm.norms import NORM_LIMIT

MEANS_TAKEN = 0.1  # of a cosine, the most that Σx̂ μ/|w| may be


def handles(rows: SparseRows, weight: Tensor) -> bool:
    """Whether this form has these shapes and this layout: it has all."""
    return True


def share_of_means(rows: SparseRows, centered: bool) -> float:
    """The most that a mean of the weight may be of its |w|, for `MEANS_TAKEN`."""
    sums = row_sums(rows.starts, rows.values) if centered else rows.values[:0]
    most = float(sums.abs().amax()) if sums.numel() else 0.0
    return MEANS_TAKEN / most if most else torch.inf


def finish(
    products: Tensor, factor: Tensor, means: Tensor, rows: SparseRows, augment: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines from the products with the weight as it is, the factors, and the means (inf: taken off)."""
    if means.numel() and means[0] != torch.inf:
        products.addr_(row_sums(rows.starts, rows.values), means, alpha=-1)
    if augment:
        products.add_(rows.constant, alpha=augment)
    return products.mul_(factor), factor, means


def _uncentered(weight: Tensor, share: float, augment: float) -> tuple[Tensor, Tensor] | None:
    """1/|w − μ| and μ (M,) of the weight's rows: Pearson correlation without a centered copy.

    x̂·(w − μ) = x̂·w − μ Σx̂, and |w − μ|² = |w|² − D·μ². None unless μ makes up less than half of each |w|²
    (so that this loses one bit at most, and no row is constant) and at most `share` of each |w|, so that the
    products that are taken from each other are hardly larger than their difference can be.
    """
    limit = NORM_LIMIT[weight.dtype]
    norm = norms_of(weight, weight.dtype).squeeze(1)
    if fits(norm, limit) is not True or not norm.numel():
        return None
    mean = weight.mean(1)
    part = float((mean / norm).abs().amax())
    if weight.shape[1] * part**2 > 0.5 or part > share:
        return None
    centered = (norm.square() - mean.square() * weight.shape[1] + augment**2).sqrt_()
    return (centered.reciprocal_(), mean) if fits(centered, limit) is True else None


def cosines(
    rows: SparseRows, weight: Tensor, *, centered: bool, augment: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines before they are clamped, 1/|w|, and the means of the weight's rows (M,), if centered.

    The means are inf where they were taken off a copy of the weight.
    """
    found = _uncentered(weight, share_of_means(rows, True), augment) if centered else None
    if found is not None:
        return finish(product(rows, weight), *found, rows, augment)
    prepared = prepare(weight, centered=centered, augment=augment)
    if prepared is None:
        return None
    values, factor = prepared
    means = weight.new_full((len(weight) if centered else 0,), torch.inf)
    return finish(product(rows, values), factor.squeeze(1), means, rows, augment)


def gradient(
    cotangent: Tensor,
    rows: SparseRows,
    found: Tensor,
    weight: Tensor,
    factor: Tensor,
    means: Tensor,
    *,
    centered: bool,
) -> Tensor | None:
    """The gradient in the weight from the cosines that were found; None where this form could be wrong."""
    terms = gradient_terms(cotangent, rows, found, weight, factor, means)
    if terms is None:
        return None
    cotangent, along, offset = terms
    if centered and offset is None:
        prepared = prepare(weight, centered=True, augment=0.0)
        assert prepared is not None
        gradient = adjoint(prepared[0], cotangent, rows, along)
        return gradient.sub_(gradient.mean(1, keepdim=True))
    return adjoint(weight, cotangent, rows, along, offset)


def gradient_terms(
    cotangent: Tensor, rows: SparseRows, found: Tensor, weight: Tensor, factor: Tensor, means: Tensor
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The cotangent times the factors, and what the adjoint takes of the weight and of 1, (M,)."""
    if (factor.numel() and factor[0] == torch.inf) or not cotangent_fits(cotangent, (cotangent.shape[1],)):
        return None
    along = (cotangent * found).sum(0).mul_(factor).mul_(factor).neg_()
    cotangent = cotangent * factor
    if not means.numel() or means[0] == torch.inf:
        return cotangent, along, None
    # (w - μ)·along and u less its mean, at once: both means are one number a row.
    sums = row_sums(rows.starts, rows.values)
    return cotangent, along, (means * along + cotangent.t().mv(sums) / weight.shape[1]).neg_()
