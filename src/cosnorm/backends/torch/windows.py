"""Receptive fields of any finite input: norms and means by operators that never look at the data.

Narrower types are taken in float64 on a CPU, which holds each of their squares; elsewhere, and in float64
itself, each sample is divided by a power of two first; the portable form of exported programs has float32
throughout, and divides by the largest magnitude. All of it is differentiable if it is asked to be.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.backends.geometry import Geometry, all_groups, by_group
from cosnorm.devices import is_accelerator
from cosnorm.norms import CONSTANT_EPS


class Fields(NamedTuple):
    """Receptive fields as they enter the convolution; a number for each is (N, G, 1, *T).

    values: images, (N, C, *S), perhaps divided and shifted.
    geometry: where the fields lie in `values`.
    factor: 1/|field|, 0 for zero fields.
    mean: the mean of each field of `values`; None where nothing is centered.
    kept: 0 for constant fields, 1 for all others; None where their factor says it.
    appended: the appended component in the scale of `values`, a number or (N, 1, …); 0: none.
    scale: `values` are those of the input divided by this, (N, 1, …); None: by 1.
    """

    values: Tensor
    geometry: Geometry
    factor: Tensor
    mean: Tensor | None
    kept: Tensor | None
    appended: Tensor | float
    scale: Tensor | None


def dtypes_of(x: Tensor, *, portable: bool = False) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of products, and that of sums of squares; portable: no float64 but for float64."""
    if portable and x.dtype != torch.float64:
        return torch.float32, torch.float32
    if x.dtype == torch.float64 or not is_accelerator(x.device):
        return torch.float64, torch.float64
    return torch.float32, torch.float32 if x.device.type == "mps" else torch.float64


def fields_of(
    x: Tensor,
    geometry: Geometry,
    *,
    centered: bool,
    augment: float,
    differentiable: bool,
    known: Tensor | None = None,
    portable: bool = False,
) -> Fields:
    """The receptive fields of any finite input; their factors and means may be known."""
    dtype, wide = dtypes_of(x, portable=portable)
    appended: Tensor | float
    scale: Tensor | None
    shift: Tensor | float
    values, appended, scale, shift = x.to(dtype), augment, None, 0.0
    if dtype in (x.dtype, torch.float32):  # it cannot hold all products of x as they are
        scale = _scale(values, augment, portable=portable)
        values, appended = values / scale, augment / scale if augment else 0.0
        if centered:
            shift = shift_of(values, geometry)
            values = all_groups(by_group(geometry.pad(values), geometry.groups) - shift)
            geometry = geometry.without_padding()
    if known is not None:
        factor, mean = known[0], known[1] if centered else None
        return Fields(values, geometry, factor, mean, None, appended, scale)
    grouped = by_group(values, geometry.groups)
    mean = kept = None
    if centered:
        mean, squared, _ = moments(grouped, geometry, wide)
        beyond = beyond_constant(grouped, mean, shift, geometry, x.dtype)
        squared, mean = torch.maximum(squared, beyond), mean.to(dtype)
        if augment:
            constant = beyond == torch.inf
            squared, kept = squared.masked_fill(constant, 0), constant.logical_not().to(dtype)
    elif dtype == wide or differentiable:
        squared = geometry.box(grouped.square().sum(2, keepdim=True, dtype=wide))
    else:
        squared = geometry.box(torch.linalg.vector_norm(grouped, dim=2, keepdim=True, dtype=wide).square_())
    if augment:
        squared = (
            squared + (appended.to(wide).unsqueeze(1) if isinstance(appended, Tensor) else appended) ** 2
        )
    factor = F.threshold(squared, smallest_square(dtype), torch.inf).rsqrt().to(dtype)
    return Fields(values, geometry, factor, mean, kept, appended, scale)


def _scale(values: Tensor, augment: float, *, portable: bool) -> Tensor:
    """What divides each sample, (N, 1, …): the power of two above its largest magnitude, NaN and inf apart.

    Portable: that magnitude itself, as other runtimes take no number apart.
    """
    # Over the channels first: what is not finite must not set the scale of the sample's other fields.
    largest = torch.linalg.vector_norm(values.detach(), torch.inf, 1, keepdim=True)
    largest = largest.nan_to_num(nan=0.0, posinf=0.0).amax(tuple(range(1, values.ndim)), keepdim=True)
    numbers = torch.finfo(values.dtype)
    largest = largest.clamp(max(augment, numbers.tiny), numbers.max / 4)
    return largest if portable else largest / torch.frexp(largest).mantissa


def shift_of(values: Tensor, geometry: Geometry) -> Tensor:
    """For each sample and group its mean where subtracting it is exact, else 0, (N, G, 1, …).

    x − c is exact where c/2 ≤ x ≤ 2c (Sterbenz). Such data has a mean that is large beside its deviations,
    which the sums of squares would otherwise lose.
    """
    grouped = by_group(values.detach(), geometry.groups)
    inner = tuple(range(2, grouped.ndim))
    mean = grouped.mean(inner, keepdim=True)
    ratios = torch.stack([grouped.amin(inner, keepdim=True), grouped.amax(inner, keepdim=True)]) / mean
    return torch.where((ratios >= 0.5).logical_and(ratios <= 2).all(0), mean, 0)


def moments(
    grouped: Tensor, geometry: Geometry, dtype: torch.dtype, *, blocks: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each field the mean, Σ (x − μ)² as it is left over from Σ x², and that; summed in a dtype."""
    size = grouped.shape[2] * math.prod(geometry.kernel)

    def maps(x: Tensor) -> Tensor:
        x = x.to(dtype)
        return torch.stack([x.sum(2, keepdim=True), x.square().sum(2, keepdim=True)])

    both = (
        torch.cat([maps(part) for part in grouped.split(blocks_of(grouped))], 1) if blocks else maps(grouped)
    )
    sums, squares = geometry.box(both).unbind()
    mean = sums / size
    return mean, torch.addcmul(squares, sums, mean, value=-1), squares


def over_filters(function: Callable[..., Tensor], *tensors: Tensor, blocks: bool) -> Tensor:
    """The sum of a function of tensors (N, G, O, *T) over their third dimension, kept.

    By blocks of samples what it makes stays in the cache, and nothing as large as the tensors is made.
    """
    if not blocks:
        return function(*tensors).sum(2, keepdim=True)
    parts = zip(*(one.split(blocks_of(one)) for one in tensors), strict=True)
    return torch.cat([function(*part).sum(2, keepdim=True) for part in parts])


def blocks_of(samples: Tensor) -> int:
    """How many samples are worked on at once: 1 MiB of float32."""
    return max(1, 2**18 // max(1, samples[:1].numel()))


def beyond_constant(
    grouped: Tensor, mean: Tensor, shift: Tensor | float, geometry: Geometry, stored: torch.dtype
) -> Tensor:
    """The square of max|x − μ| less that of the largest one that counts as zero; inf for constant fields.

    It is at most Σ (x − μ)², and stands in for what rounding has eaten of that.
    """
    grouped, mean = grouped.detach(), mean.detach()
    extremes = torch.stack([grouped.amax(2, keepdim=True), -grouped.amin(2, keepdim=True)])
    highest, lowest = geometry.box(extremes, torch.amax).to(mean.dtype).unbind()
    largest = torch.maximum(highest - mean, lowest + mean)
    bound = CONSTANT_EPS * torch.finfo(stored).eps
    true_mean = mean + shift if isinstance(shift, Tensor) else mean
    beyond = torch.addcmul(largest.square(), true_mean, true_mean, value=-(bound**2))
    return F.threshold(beyond, smallest_square(grouped.dtype), torch.inf)


def smallest_square(dtype: torch.dtype) -> float:
    """The square of the smallest norm whose reciprocal is a number of the dtype."""
    return torch.finfo(dtype).tiny ** 2
