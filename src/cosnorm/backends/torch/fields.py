"""Cosines of receptive fields by torch's operators, branch-free: right on every device, without a look.

With a field x of a group, unit filters ŵ and the cotangent g of c = ŵ·x / |x|, eqs. 9-12 read

    ∂/∂x = Σ h ŵ − k x,   h = g / |x|,   k = Σ h c / |x|,

the sums over the filters of the group. Summed over overlapping fields that is a transposed convolution of h
with ŵ, less x times k spread over the places of its field: no field is ever unfolded. A filter receives the
projection of Σ h x as any row does. Centered, ŵ has no mean and does not see that of a field: the images
themselves enter the convolutions.

`cosines`, `folded` and `gradients` compute; `gradient_formula` and `tangent_formula` are the same,
differentiable.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cosnorm.backends.geometry import Geometry, all_groups, by_group, crop, empty_output, memory_format
from cosnorm.backends.torch import wide_fields
from cosnorm.backends.torch.units import UnitRows, WideRows, largest_of, unit_rows, wide_rows
from cosnorm.backends.torch.wide_fields import is_wide
from cosnorm.backends.torch.windows import Fields, dtypes_of, fields_of, over_filters
from cosnorm.norms import saturate

Filters = UnitRows | WideRows


def handles(x: Tensor, weight: Tensor, geometry: Geometry, centered: bool) -> bool:
    """Whether this form has these shapes and this layout: it has all."""
    return True


def saved(
    x: Tensor, weight: Tensor, geometry: Geometry, centered: bool, augment: float
) -> tuple[Tensor, Tensor]:
    """Empty products and statistics of the shapes that `cosines` returns with `keep`."""
    if is_wide(x, augment):
        products = empty_output(x, weight, geometry, x.dtype)
        return products, wide_fields.statistics_of(x, weight.shape, geometry, centered=centered)
    products = empty_output(x, weight, geometry, dtypes_of(x)[0])
    samples, _, *places = products.shape
    number = 0 if centered and augment else 2 if centered else 1
    return products, products.new_empty((number, samples, geometry.groups, 1, *places))


def cosines(
    x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines; before they were rounded and clamped; and the factors and means of the fields."""
    if is_wide(x, augment):
        return wide_fields.cosines(x, weight, geometry, centered=centered)
    fields = fields_of(x, geometry, centered=centered, augment=augment, differentiable=False)
    filters = _filters(x, weight, centered=centered, augment=augment, differentiable=False)
    exact = products_of(fields, filters, weight.shape)
    output, nothing = exact.clamp(-1, 1).to(x.dtype), x.new_empty(0)
    if not keep:
        return output, nothing, nothing
    exact = exact.contiguous(memory_format=memory_format(x, weight))
    if fields.kept is not None:
        return output, exact, exact.new_empty((0, *fields.factor.shape))
    means = [] if fields.mean is None else [fields.mean]
    return output, exact, torch.stack([fields.factor, *means])


def folded(
    x: Tensor, weight: Tensor, constant: Tensor | None, geometry: Geometry, *, centered: bool, augment: float
) -> Tensor:
    """The cosines with filters that are unit vectors, whose appended components are `constant`, (O, 1)."""
    if is_wide(x, augment):
        return wide_fields.folded(x, weight, geometry, centered=centered)
    fields = fields_of(x, geometry, centered=centered, augment=augment, differentiable=False)
    filters = unit_filters(weight, constant, fields.values.dtype)
    return products_of(fields, filters, weight.shape).clamp_(-1, 1).to(x.dtype)


def gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor | None,
    statistics: Tensor | None,
    geometry: Geometry,
    *,
    centered: bool,
    augment: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients in x and in the weight; what is None, because another form computed, is made again."""
    if is_wide(x, augment):
        given = cotangent, x, weight, products, statistics, geometry
        return wide_fields.gradients(*given, centered=centered, needs=needs)
    if statistics is None or statistics.ndim != x.ndim + 2:
        products = statistics = None
    known = statistics if statistics is not None and len(statistics) else None
    options: Any = {"centered": centered, "augment": augment, "differentiable": False}
    fields = fields_of(x, geometry, known=known, **options)
    filters = _filters(x, weight, **options)
    return gradients_of(cotangent, x, weight, fields, filters, products, centered, needs)


def cosine_formula(
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    *,
    centered: bool,
    augment: float,
    unit: UnitRows | None = None,
) -> Tensor:
    """The cosines by operators that other runtimes have; the filters may be given as unit vectors.

    Each sample is divided by its largest magnitude, and all sums are of float32 (float64 for float64).
    """
    options: Any = {"centered": centered, "augment": augment, "differentiable": True, "portable": True}
    fields, filters = fields_of(x, geometry, **options), unit or _filters(x, weight, **options)
    return products_of(fields, filters, weight.shape).clamp(-1, 1).to(x.dtype)


def gradient_formula(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    *,
    centered: bool,
    augment: float,
    needs: Sequence[bool],
    unit: UnitRows | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradients, differentiable; the filters may be given as unit vectors."""
    options: Any = {"centered": centered, "augment": augment, "differentiable": True}
    fields = fields_of(x, geometry, **options)
    filters = unit or _filters(x, weight, **options)
    return gradients_of(cotangent, x, weight, fields, filters, None, centered, needs)


def tangent_formula(
    tangents: tuple[Tensor | None, Tensor | None],
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    *,
    centered: bool,
    augment: float,
    unit: UnitRows | None = None,
) -> Tensor:
    """The derivative of the cosines along tangents of x and the weight (None: 0); differentiable."""
    fields = fields_of(x, geometry, centered=centered, augment=augment, differentiable=True)
    filters = unit or _filters(x, weight, centered=centered, augment=augment, differentiable=True)
    assert isinstance(filters, UnitRows)
    values, places, groups = fields.values, fields.geometry, geometry.groups
    moved = torch.zeros_like(products_of(fields, filters, weight.shape))
    if tangents[0] is not None:
        tangent = tangents[0].to(values.dtype)
        tangent = tangent if fields.scale is None else tangent / fields.scale
        tangent = geometry.pad(tangent) if values.shape != x.shape else tangent
        along = places.box((by_group(values, groups) * by_group(tangent, groups)).sum(2, keepdim=True))
        if fields.mean is not None:
            along = along - fields.mean * places.box(by_group(tangent, groups).sum(2, keepdim=True))
        along = along * fields.factor.square()
        along = along if fields.kept is None else along * fields.kept
        through = by_group(places.convolve(tangent, filters.values.reshape(weight.shape)), groups)
        output = by_group(products_of(fields, filters, weight.shape), groups)
        moved = moved + all_groups(through * fields.factor - output * along)
    if tangents[1] is not None:
        tangent = tangents[1].reshape(len(weight), -1).to(values.dtype) / filters.scale * filters.inverse_norm
        if centered:
            tangent = tangent - tangent.mean(-1, keepdim=True)
        along = (filters.values * tangent).sum(-1, keepdim=True)
        constant = None if filters.constant is None else -filters.constant * along
        one = torch.ones_like(along[:1])
        direction = UnitRows(tangent - filters.values * along, constant, one, one)
        moved = moved + products_of(fields, direction, weight.shape)
    return moved.to(x.dtype)


def _filters(
    x: Tensor,
    weight: Tensor,
    *,
    centered: bool,
    augment: float,
    differentiable: bool,
    portable: bool = False,
) -> Filters:
    """The filters as unit rows in the dtype of the products."""
    dtype, wide = dtypes_of(x, portable=portable)
    rows = weight.reshape(len(weight), -1)
    if differentiable or x.dtype == wide or wide == torch.float32:
        return unit_rows(rows.to(dtype), centered=centered, augment=augment, stored=x.dtype)
    (filters,), _ = wide_rows((rows,), dtype, centered=centered, augment=augment)
    return filters


def unit_filters(weight: Tensor, constant: Tensor | None, dtype: torch.dtype) -> UnitRows:
    """Filters that are unit vectors already, as rows in a dtype."""
    one = weight.new_ones((1, 1), dtype=dtype)
    return UnitRows(
        weight.reshape(len(weight), -1).to(dtype), None if constant is None else constant.to(dtype), one, one
    )


def products_of(fields: Fields, filters: Filters, shape: torch.Size, *, in_place: bool = False) -> Tensor:
    """The cosines of fields and filters as they come out of the products, (N, O, *T)."""
    geometry, values = fields.geometry, fields.values
    products = geometry.convolve(values, filters.values.to(values.dtype).reshape(shape))
    grouped = by_group(products, geometry.groups)
    if in_place and grouped.dtype == fields.factor.dtype:
        output = grouped.mul_(fields.factor)
    else:
        output = grouped * fields.factor
    if fields.kept is not None:
        output = output * fields.kept
    if filters.constant is not None:
        own = filters.constant.reshape(geometry.groups, -1, *[1] * geometry.rank)
        output = torch.addcmul(output, fields.factor * _beside_fields(fields.appended), own)
    return all_groups(output)


def _beside_fields(appended: Tensor | float) -> Tensor | float:
    return appended.unsqueeze(1) if isinstance(appended, Tensor) else appended


def gradients_of(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    fields: Fields,
    filters: Filters,
    products: Tensor | None,
    centered: bool,
    needs: Sequence[bool],
    *,
    bounded: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradients in x and in the weight; an empty tensor for one that is not needed.

    With `bounded` the norms and the cotangent leave nothing to saturate, and nothing is differentiated.
    """
    if not cotangent.numel():
        return torch.zeros_like(x), torch.zeros_like(weight)
    values, geometry, factor = fields.values, fields.geometry, fields.factor
    groups, places = geometry.groups, tuple(range(2, x.ndim))
    cotangent = cotangent.to(factor.dtype)
    divides = fields.scale is not None
    both = all(needs) and not divides and fields.kept is None

    def weighed(summed: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """G / |x| by group; where numbers may leave the range, divided by the largest cotangent of a sum."""
        largest = largest_of(cotangent, summed) if divides else None
        return by_group(cotangent if largest is None else cotangent / largest, groups) * factor, largest

    def adjoints(h: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
        unit = filters.values.to(values.dtype).reshape(weight.shape)
        return geometry.adjoints(all_groups(h).to(values.dtype), values, unit, needs)

    def finish(gradient: Tensor) -> Tensor:
        return gradient.to(x.dtype) if bounded else saturate(gradient, x.dtype)

    into_x = into_w = x.new_empty(0)
    sums: Tensor | None = None
    if needs[0]:
        h, largest = weighed((1, *places))
        through, sums = adjoints(h, (True, both))
        assert through is not None
        if products is None:
            products = products_of(fields, filters, weight.shape)
        along = over_filters(torch.mul, h, by_group(products, groups), blocks=bounded) * factor
        along = along if fields.kept is None else along * fields.kept
        spread = geometry.spread(along, values.shape[2:])
        gradient, grouped = by_group(through, groups), by_group(values, groups)
        if bounded and gradient.dtype == spread.dtype:
            gradient.addcmul_(grouped, spread, value=-1)
        else:
            gradient = torch.addcmul(gradient, grouped, spread, value=-1)
        if fields.mean is not None:
            gradient = gradient + geometry.spread(along * fields.mean, values.shape[2:])
        gradient = crop(all_groups(gradient), x.shape)
        if largest is not None and fields.scale is not None:
            # largest / scale may be out of range where the result is not: its root is not.
            root = (largest.sqrt() / fields.scale.sqrt()).clamp(max=torch.finfo(gradient.dtype).max)
            gradient = gradient * root * root
        into_x = finish(gradient)
    if needs[1]:
        h, largest = weighed((0, *places))
        if sums is None:
            _, sums = adjoints(h if fields.kept is None else h * fields.kept, (False, True))
        assert sums is not None
        u = sums.reshape(len(weight), -1).to(factor.dtype)
        if centered:
            u = u - u.mean(-1, keepdim=True)
        along = (filters.values * u).sum(-1, keepdim=True)
        if filters.constant is not None:
            appended = (h * _beside_fields(fields.appended)).sum((0, *range(3, h.ndim)))
            along = along + filters.constant * appended.reshape(-1, 1)
        u = torch.addcmul(u, filters.values, along, value=-1)
        one = u.new_ones((1, 1)) if largest is None else largest.reshape(-1, 1)
        into_w = filters.divide(u, one, x.dtype).reshape(weight.shape)
    return into_x, into_w
