"""Cosines of receptive fields on a CPU by torch's operators and one look at the norms.

The formulas are those of `cosnorm.backends.torch.fields`, in the dtype of the images as they are: where no
norm is out of its window nothing can overflow or lose its digits. Elsewhere this declines.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cosnorm.backends.geometry import Geometry, all_groups, by_group, empty_output, memory_format
from cosnorm.backends.look import rows
from cosnorm.backends.look.rows import fits
from cosnorm.backends.torch.fields import gradients_of, products_of, unit_filters
from cosnorm.backends.torch.units import UnitRows
from cosnorm.backends.torch.windows import (
    Fields,
    beyond_constant,
    blocks_of,
    moments,
    over_filters,
    shift_of,
)
from cosnorm.norms import (
    COTANGENT_LIMIT,
    NORM_LIMIT,
    accumulation_dtype,
    constant_bound,
    product_dtype,
)


def handles(x: Tensor, weight: Tensor, geometry: Geometry, centered: bool) -> bool:
    """Whether this form has these shapes and this layout: it has all."""
    return True


def saved(
    x: Tensor, weight: Tensor, geometry: Geometry, centered: bool, augment: float
) -> tuple[Tensor, Tensor]:
    """Empty products and statistics of the shapes that `cosines` returns with `keep`."""
    products = empty_output(x, weight, geometry, accumulation_dtype(x.dtype))
    samples, _, *places = products.shape
    return products, products.new_empty((samples, geometry.groups, 1, *places))


def cosines(
    x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines; before they were rounded and clamped; and the factors of the fields."""
    filters = _filters(weight, centered=centered, augment=augment)
    fields = _fields(x, geometry, centered=centered, augment=augment) if filters else None
    if filters is None or fields is None:
        return None
    products = products_of(fields, filters, weight.shape, in_place=True)
    nothing = x.new_empty(0)
    if not keep:
        return products.clamp_(-1, 1).to(x.dtype), nothing, nothing
    products = products.contiguous(memory_format=memory_format(x, weight))
    return products.clamp(-1, 1).to(x.dtype), products, fields.factor.contiguous()


def folded(
    x: Tensor, weight: Tensor, constant: Tensor | None, geometry: Geometry, *, centered: bool, augment: float
) -> Tensor | None:
    """The cosines with filters that are unit vectors, whose appended components are `constant`, (O, 1)."""
    fields = _fields(x, geometry, centered=centered, augment=augment)
    if fields is None:
        return None
    filters = unit_filters(weight, constant, fields.values.dtype)
    return products_of(fields, filters, weight.shape, in_place=True).clamp_(-1, 1).to(x.dtype)


def gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor,
    statistics: Tensor,
    geometry: Geometry,
    *,
    centered: bool,
    augment: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor] | None:
    """The gradients in x and in the weight; None if `cosines` declined, or this cotangent must be."""
    if statistics.ndim != x.ndim + 1 or not _was_computed(statistics) or not _cotangent_fits(cotangent):
        return None
    filters = _filters(weight, centered=centered, augment=augment)
    if centered:
        fields = _fields(x, geometry, centered=centered, augment=augment)
    else:
        values = x.to(product_dtype(x.dtype, x.device))
        fields = Fields(values, geometry, statistics, None, None, augment, None)
    assert filters is not None
    assert fields is not None
    return gradients_of(cotangent, x, weight, fields, filters, products, centered, needs, bounded=True)


def _filters(weight: Tensor, *, centered: bool, augment: float) -> UnitRows | None:
    """The filters as unit rows; None where a norm is out of its window."""
    found = rows.prepare(weight.flatten(1), centered=centered, augment=augment)
    if found is None:
        return None
    values, factor = found
    one = factor.new_ones((1, 1))
    return UnitRows(values.to(factor.dtype) * factor, augment * factor if augment else None, factor, one)


def _fields(x: Tensor, geometry: Geometry, *, centered: bool, augment: float) -> Fields | None:
    """The receptive fields of images as they are; None where a norm is out of its window."""
    values = x.to(product_dtype(x.dtype, x.device))
    accumulation = accumulation_dtype(x.dtype)
    limit = NORM_LIMIT[accumulation]
    groups, mean, constant = geometry.groups, None, None
    if centered:
        shift = shift_of(values, geometry)
        if bool((shift != 0).any()):
            values = all_groups(by_group(geometry.pad(values), groups) - shift)
            geometry = geometry.without_padding()
        if values.numel() and not bool(values.abs().amax() < limit):
            return None  # deviations may be in the window while the products are not
        mean, norms, constant = _deviations(by_group(values, groups), shift, geometry, x.dtype)
        mean, norms = mean.to(accumulation), norms.to(accumulation)
        allowed = fits(norms, limit)
        if allowed is None:
            zero = norms == 0 if constant is None else (norms == 0).logical_and_(constant.logical_not())
            nonzero = by_group(values, groups).abs().amax(2, keepdim=True)
            allowed = not bool(zero.logical_and_(geometry.box(nonzero, torch.amax) > 0).any())
    else:
        maps = over_filters(lambda x: x.to(accumulation).square(), by_group(values, groups), blocks=True)
        norms = geometry.box(maps).sqrt_()
        allowed = fits(norms, limit)
        if allowed is None:
            # Fields of norm 0 are zero if no value vanished when it was squared.
            nonzero = (by_group(values, groups) != 0).any(2, keepdim=True)
            allowed = not bool(nonzero.logical_and(maps == 0).any())
    if not allowed:
        return None
    if augment:
        norms = norms.square_().add_(augment**2).sqrt_()
        if not fits(norms, limit):
            return None
    factor = norms.reciprocal().masked_fill_(norms == 0, 0)
    kept = constant.logical_not().to(accumulation) if constant is not None and augment else None
    return Fields(values, geometry, factor, mean, kept, augment, None)


def _deviations(
    grouped: Tensor, shift: Tensor, geometry: Geometry, stored: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The mean of each field and its norm less that, in float64, and which are constant; None: none is."""
    mean, squared, squares = moments(grouped, geometry, torch.float64, blocks=True)
    size = grouped.shape[2] * math.prod(geometry.kernel)
    # √(Σ(x − μ)²) ≥ max|x − μ|, so only fields below either bound can be constant, or have lost their digits.
    bound = torch.maximum(size * constant_bound(mean + shift, stored).square_(), 1e-12 * squares)
    if not bool((squared <= bound).logical_and_(squares > 0).any()):
        return mean, squared.sqrt_(), None
    beyond = beyond_constant(grouped, mean, shift, geometry, stored)
    constant = beyond == torch.inf
    return mean, torch.maximum(squared, beyond).masked_fill_(constant, 0).sqrt_(), constant


def _was_computed(statistics: Tensor) -> bool:
    return not statistics.numel() or float(statistics.flatten()[0]) != torch.inf


def _cotangent_fits(cotangent: Tensor) -> bool:
    """Whether the sums of magnitudes that enter each sample and each filter are in their window.

    A sum of magnitudes is 0 only if all of them are: unlike squares they do not vanish.
    """
    dtype = accumulation_dtype(cotangent.dtype)
    places = tuple(range(2, cotangent.ndim))
    parts = cotangent.split(blocks_of(cotangent))
    sums = torch.cat([part.to(dtype).abs().sum(places) for part in parts])
    return all(fits(sums.sum(dimension), COTANGENT_LIMIT[dtype]) is not False for dimension in (0, 1))
