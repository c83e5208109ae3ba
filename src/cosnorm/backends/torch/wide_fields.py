"""Receptive fields of float32 and half types on an accelerator: norms and means in float64, few launches.

What is one number for each field is float64, which holds every square. The images enter the convolutions
divided by a number for each sample, the one in the middle, by its exponent, between its largest and its
smallest field: so both sides of the products keep away from the ends of the range.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.backends.geometry import Geometry, all_groups, by_group, crop, memory_format, windows
from cosnorm.backends.torch.units import largest_of, wide_rows
from cosnorm.devices import is_accelerator
from cosnorm.norms import CONSTANT_EPS, saturate

# The bits of float64 that hold its exponent.
_EXPONENT = 0x7FF0000000000000
# Norms of the smallest field that has a say in the scale of its sample, and the largest 1/norm after that.
_SMALLEST = 2.0**-112
_LARGEST_FACTOR = 2.0**116
# Windows of more places are reduced along one dimension after the other.
_PLACES = 32


class _Fields(NamedTuple):
    """Numbers of float64.

    numbers: those of the fields as they are kept, (2 or 3, N, G, 1, *T): the last are 1/|field|, 0 for zero
        fields, the first of three the means.
    inverse_scale: for each sample, (N, 1, 1, …).
    shift: of each sample and group, what may be subtracted exactly, (N, G, 1, …); None: nothing is centered.
    """

    numbers: Tensor
    inverse_scale: Tensor
    shift: Tensor | None


def is_wide(x: Tensor, augment: float) -> bool:
    """Whether this form is the one to take."""
    return is_accelerator(x.device) and x.dtype != torch.float64 and x.device.type != "mps" and augment == 0.0


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of convolutions: float16 has not the range for fields of any size."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def statistics_of(x: Tensor, weight: torch.Size, geometry: Geometry, *, centered: bool) -> Tensor:
    """Memory for what is kept of the fields, (number,)."""
    samples, _, *places = geometry.shape(x.shape, weight)
    fields = samples * geometry.groups * math.prod(places)
    number = 3 * fields + samples * geometry.groups if centered else 2 * fields
    return x.new_empty(number + samples, dtype=torch.float64)


def cosines(
    x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines; before they were clamped; and what is kept of the fields."""
    statistics = statistics_of(x, weight.shape, geometry, centered=centered)
    fields = _view(statistics, x, weight.shape, geometry, centered=centered)
    images = _look(x, geometry, fields)
    dtype = product_dtype(x)
    (filters,), _ = wide_rows((weight.flatten(1),), dtype, centered=centered, augment=0.0)
    unit = filters.values.view(weight.shape)
    exact = _products(x, *_values(images, geometry, fields, dtype), _factor(fields), unit)
    return exact.clamp(-1, 1), exact.contiguous(memory_format=memory_format(x, weight)), statistics


def folded(x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool) -> Tensor:
    """The cosines with filters that are unit vectors."""
    statistics = statistics_of(x, weight.shape, geometry, centered=centered)
    fields = _view(statistics, x, weight.shape, geometry, centered=centered)
    images = _look(x, geometry, fields)
    dtype = product_dtype(x)
    exact = _products(x, *_values(images, geometry, fields, dtype), _factor(fields), weight.to(dtype))
    return exact.clamp_(-1, 1)


def gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor | None,
    statistics: Tensor | None,
    geometry: Geometry,
    *,
    centered: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients in x and in the weight; of an operation that another form computed all is made again."""
    into_x = into_w = x.new_empty(0)
    if not cotangent.numel():
        return torch.zeros_like(x), torch.zeros_like(weight)
    if products is None or statistics is None or statistics.ndim != 1:
        _, products, statistics = cosines(x, weight, geometry, centered=centered)
    dtype, groups, places = product_dtype(x), geometry.groups, tuple(range(2, x.ndim))
    fields = _view(statistics, x, weight.shape, geometry, centered=centered)
    images = geometry.pad(x) if centered else x
    values, geometry = _values(images, geometry, fields, dtype)
    (filters,), _ = wide_rows((weight.flatten(1),), dtype, centered=centered, augment=0.0)
    unit = filters.values.view(weight.shape)
    # Beyond it the gradient of a field has left the range, if fields of all sizes lie in one image.
    factor = _factor(fields).clamp_(max=_LARGEST_FACTOR)
    if needs[0]:
        # The cotangents of a sample are divided by the sum of their magnitudes.
        largest = _sum_of(cotangent, (1, *places))
        h = _weighed(cotangent, factor / largest.unsqueeze(1), groups, dtype)
        through, _ = geometry.adjoints(h, values, unit, (True, False))
        assert through is not None
        along = (by_group(h, groups) * by_group(products, groups)).sum(2, keepdim=True, dtype=torch.float32)
        numbers = along.new_empty((1 + centered, *along.shape), dtype=torch.float64)
        torch.mul(along, factor, out=numbers[0])
        if fields.shift is not None:
            means = (fields.numbers[0] - fields.shift) * fields.inverse_scale
            torch.mul(numbers[0], means, out=numbers[1])
        spread = geometry.spread(numbers, values.shape[2:], at_once=math.prod(geometry.kernel) <= _PLACES)
        gradient = torch.empty_like(through, dtype=torch.float32)
        grouped = by_group(gradient, groups)
        torch.addcmul(by_group(through, groups), by_group(values, groups), spread[0], value=-1, out=grouped)
        if centered:
            grouped += spread[1]
        gradient = crop(gradient, x.shape)
        grown = torch.mul(gradient, largest * fields.inverse_scale.squeeze(1), out=torch.empty_like(x))
        into_x = saturate(grown, x.dtype)
    if needs[1]:
        largest = largest_of(cotangent, (0, *places))
        h = _weighed(cotangent / largest, factor, groups, dtype)
        _, sums = geometry.adjoints(h, values, unit, (False, True))
        assert sums is not None
        u, rows = sums.flatten(1), filters.values
        if centered:
            u = u - u.mean(-1, keepdim=True)
        along = (rows * u).sum(-1, keepdim=True, dtype=torch.float32)
        u = torch.addcmul(u, rows, along, value=-1)
        into_w = filters.divide(u, largest.reshape(-1, 1), x.dtype).view(weight.shape)
    return into_x, into_w


def _sum_of(cotangent: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The sum of magnitudes, positive, in float64: no sum over parts of what it divides leaves the range."""
    total = torch.linalg.vector_norm(cotangent, 1, dim, True, dtype=torch.float64)
    return total.clamp_(min=torch.finfo(torch.float32).tiny)


def _view(
    statistics: Tensor, x: Tensor, weight: torch.Size, geometry: Geometry, *, centered: bool
) -> _Fields:
    samples, _, *places = geometry.shape(x.shape, weight)
    groups, ones = geometry.groups, (1,) * (x.ndim - 1)
    fields = samples * groups * math.prod(places)
    number = 3 if centered else 2
    numbers, scale, shift = statistics.split([number * fields, samples, samples * groups if centered else 0])
    return _Fields(
        numbers.view(number, samples, groups, 1, *places),
        scale.view(samples, 1, *ones),
        shift.view(samples, groups, *ones) if centered else None,
    )


def _look(x: Tensor, geometry: Geometry, fields: _Fields) -> Tensor:
    """Fill in the numbers of the fields; gives the images, padded if they are to be shifted."""
    if fields.shift is None:
        _look_plain(x, geometry, fields)
        return x
    padded = geometry.pad(x)
    _look_centered(x, padded, geometry, fields)
    return padded


def _look_plain(x: Tensor, geometry: Geometry, fields: _Fields) -> None:
    """Norms of fields: those of the channels of each place, and of these over each window."""
    norms, factor = fields.numbers
    maps = torch.linalg.vector_norm(by_group(x, geometry.groups), 2, 2, True, dtype=torch.float64)
    at_once = math.prod(geometry.kernel) <= _PLACES
    windows(geometry, geometry.pad(maps), torch.linalg.vector_norm, at_once=at_once, out=norms)
    torch.reciprocal(norms, out=factor)
    _choose_scale(fields.numbers, fields, squares=False)


def _look_centered(x: Tensor, padded: Tensor, geometry: Geometry, fields: _Fields) -> None:
    """Means, and norms of what is left: from sums of squares, and from the extremes of a field.

    The square of max|x − μ| less that of the largest one that counts as zero is at most Σ (x − μ)², and
    stands in for what rounding has eaten of that.
    """
    means, squares, factor = fields.numbers
    grouped = by_group(padded, geometry.groups)
    maps = (len(x), geometry.groups, 1, *grouped.shape[3:])
    sums, extremes = x.new_empty((2, *maps), dtype=torch.float64), x.new_empty((2, *maps))
    torch.sum(grouped, 2, True, dtype=torch.float64, out=sums[0])
    torch.linalg.vector_norm(grouped, 2, 2, True, dtype=torch.float64, out=sums[1])
    sums[1].square_()
    torch.aminmax(grouped, dim=2, keepdim=True, out=(extremes[0], extremes[1]))
    _choose_shift(x, geometry, extremes, fields)
    at_once = math.prod(geometry.kernel) <= _PLACES
    windows(geometry, sums, torch.sum, at_once=at_once, out=fields.numbers[:2])
    found = x.new_empty((2, *means.shape))
    for one, reduce, into in zip(extremes, (torch.amin, torch.amax), found, strict=True):
        windows(geometry, one, reduce, at_once=at_once, out=into)
    size = grouped.shape[2] * math.prod(geometry.kernel)
    means /= size
    squared = torch.addcmul(squares, means, means, value=-size)
    largest = torch.linalg.vector_norm(found - means, torch.inf, 0)
    bound = CONSTANT_EPS * torch.finfo(x.dtype).eps
    beyond = torch.addcmul(largest.square_(), means, means, value=-(bound**2))
    F.threshold(beyond, 0.0, torch.inf, inplace=True)
    torch.maximum(squared, beyond, out=factor).reciprocal_()
    _choose_scale(fields.numbers[1:], fields, squares=True)
    factor.sqrt_()


def _choose_shift(x: Tensor, geometry: Geometry, extremes: Tensor, fields: _Fields) -> None:
    """The number next to zero between the extremes of a sample's group, where no x − c is rounded, else 0.

    That is where c ≤ x ≤ 2c (Sterbenz). Such data has a mean that is large beside its deviations, whose
    digits the products would otherwise lose.
    """
    assert fields.shift is not None
    own, dims = extremes, tuple(range(2, x.ndim + 1))
    for dimension, (padding, size) in enumerate(zip(geometry.padding, x.shape[2:], strict=True)):
        own = own.narrow(4 + dimension, padding, size)
    lowest, highest = own[0].amin(dims, keepdim=True), own[1].amax(dims, keepdim=True)
    nearest = torch.clamp(torch.zeros_like(lowest), lowest, highest)
    fields.shift.copy_(nearest.where(highest - lowest <= nearest.abs(), 0))


def _choose_scale(pair: Tensor, fields: _Fields, *, squares: bool) -> None:
    """The scale of each sample from sizes of its fields and their reciprocals; what is not finite is 0.

    A field of which something is not finite is NaN by its products.
    """
    pair.nan_to_num_(nan=0.0, posinf=0.0)
    top = pair.amax(tuple(range(2, pair.ndim))).clamp_(min=torch.finfo(torch.float64).tiny)
    # Where all sizes that there are lie in one image, the largest keep their place.
    top[1].clamp_(max=_SMALLEST ** (-2 if squares else -1))
    ratio, scale = top[1] / top[0], fields.inverse_scale
    if not squares:
        torch.sqrt(ratio, out=scale.view(-1))
        return
    torch.pow(ratio, 0.25, out=scale.view(-1))
    # By a power of two: rounding would be as large as what some centered fields have.
    scale.view(torch.int64).bitwise_and_(_EXPONENT)


def _values(
    images: Tensor, geometry: Geometry, fields: _Fields, dtype: torch.dtype
) -> tuple[Tensor, Geometry]:
    """The images as they enter the convolution, and where the fields lie there; shifted, they are padded."""
    values = torch.empty_like(images, dtype=dtype)
    if fields.shift is None:
        torch.mul(images, fields.inverse_scale.squeeze(1), out=values)
        return values, geometry
    into, given = by_group(values, geometry.groups), by_group(images, geometry.groups)
    # One rounding, or none: computed in float64.
    offset = fields.shift * -fields.inverse_scale
    torch.addcmul(offset, given, fields.inverse_scale, out=into)
    return values, geometry.without_padding()


def _factor(fields: _Fields) -> Tensor:
    """1/|field| for the images as they enter."""
    return fields.numbers[-1] / fields.inverse_scale


def _products(x: Tensor, values: Tensor, geometry: Geometry, factor: Tensor, unit: Tensor) -> Tensor:
    """The cosines before they are clamped, in the dtype of x."""
    products = geometry.convolve(values, unit)
    output = products if products.dtype == x.dtype else torch.empty_like(products, dtype=x.dtype)
    groups = geometry.groups
    torch.mul(by_group(products, groups), factor, out=by_group(output, groups))
    return output


def _weighed(cotangent: Tensor, factor: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """G times a number of each field."""
    h = torch.empty_like(cotangent, dtype=dtype)
    torch.mul(by_group(cotangent, groups), factor, out=by_group(h, groups))
    return all_groups(by_group(h, groups))
