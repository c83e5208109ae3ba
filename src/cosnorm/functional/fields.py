"""Receptive fields of a convolution: their norms, means and prepared values, without unfolding.

A field is one window over all channels of a group. Its squared norm is a box filter (a sum over the window)
of one map, Σ_c x², so a field costs as much as a single output channel. Zero padding counts as zeros.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad

from cosnorm.functional.norms import (
    accumulation_dtype,
    in_window,
    is_constant,
    power_of_two,
    product_dtype,
    scale_exponent,
)

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_INPUT_GRADIENT = {1: grad.conv1d_input, 2: grad.conv2d_input, 3: grad.conv3d_input}
_WEIGHT_GRADIENT = {1: grad.conv1d_weight, 2: grad.conv2d_weight, 3: grad.conv3d_weight}


@dataclass(frozen=True)
class Geometry:
    """Where the receptive fields lie; one number a dimension, but for the groups."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.kernel)

    def unpadded(self) -> "Geometry":
        """The same fields on an input that is padded already."""
        return Geometry(self.kernel, self.stride, (0,) * self.rank, self.dilation, self.groups)

    def pad(self, x: Tensor) -> Tensor:
        """Pad with zeros."""
        return F.pad(x, [amount for padding in reversed(self.padding) for amount in (padding, padding)])

    def crop_to(self, padded: Tensor, x: Tensor) -> Tensor:
        """Take the padding off again, if there is any."""
        if padded.shape != x.shape:
            for dimension, padding in enumerate(self.padding, start=2):
                padded = padded.narrow(dimension, padding, x.shape[dimension])
        return padded

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The plain convolution."""
        convolve: Any = _CONV[self.rank]
        result: Tensor = convolve(x, weight, None, self.stride, self.padding, self.dilation, self.groups)
        return result

    def input_gradient(self, shape: torch.Size, weight: Tensor, h: Tensor) -> Tensor:
        """Adjoint of the plain convolution in its input."""
        return _INPUT_GRADIENT[self.rank](
            shape, weight, h, self.stride, self.padding, self.dilation, self.groups
        )

    def weight_gradient(self, x: Tensor, shape: torch.Size, h: Tensor) -> Tensor:
        """Adjoint of the plain convolution in its weight."""
        return _WEIGHT_GRADIENT[self.rank](x, shape, h, self.stride, self.padding, self.dilation, self.groups)

    def box(self, maps: Tensor) -> Tensor:
        """Sum over each window of each map: (N, G, *S) → (N, G, *O)."""
        ones = maps.new_ones((1, 1, *self.kernel))
        windows = _CONV[self.rank](
            maps.flatten(0, 1).unsqueeze(1), ones, None, self.stride, self.padding, self.dilation
        )
        return windows.reshape(*maps.shape[:2], *windows.shape[2:])

    def box_adjoint(self, windows: Tensor, shape: torch.Size) -> Tensor:
        """Spread a number for each window over its positions: (N, G, *O) → (N, G, *S)."""
        flat = windows.flatten(0, 1).unsqueeze(1)
        ones = windows.new_ones((1, 1, *self.kernel))
        maps = self.__class__(self.kernel, self.stride, self.padding, self.dilation, 1).input_gradient(
            torch.Size((flat.shape[0], 1, *shape[2:])), ones, flat
        )
        return maps.reshape(*windows.shape[:2], *shape[2:])

    def largest(self, maps: Tensor) -> Tensor:
        """Maximum over each window of each map that needs no padding: (N, G, *S) → (N, G, *O)."""
        return _MAX_POOL[self.rank](maps, self.kernel, self.stride, 0, self.dilation)


def in_order_of(weight: Tensor, x: Tensor) -> Tensor:
    """Images with the channels last if the filters have them last: torch's convolutions answer in that order.

    All layers that follow are in it then, too; pooling is several times faster.
    """
    wanted = (
        weight.ndim == 4
        and weight.shape[1] == x.shape[1]
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # which cannot ask for an order
        and x.is_contiguous()
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
    )
    return x.contiguous(memory_format=torch.channels_last) if wanted else x


class Fields(NamedTuple):
    """Prepared receptive fields.

    values: what enters the convolution, (N, C, *S).
    geometry: where the fields lie in `values`.
    factor: 1/|field|, 0 for zero fields, (N, G, *O).
    mean: the mean of each field of `values`, (N, G, *O); None where nothing is centered.
    constant: which fields count as zero although their values are not, (N, G, *O); None: no such field.
    extra: the appended component in the scale of `values`: a number, or (N, 1, …).
    exponent: `values` are those of the input times 2^-exponent, (N, 1, …); None: times 1.
    """

    values: Tensor
    geometry: Geometry
    factor: Tensor
    mean: Tensor | None
    constant: Tensor | None
    extra: Tensor | float
    exponent: Tensor | None


def _by_group(x: Tensor, groups: int) -> Tensor:
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _shift(values: Tensor, geometry: Geometry) -> Tensor | None:
    """For each sample and group: its mean where subtracting it is exact, else 0, (N, G, 1, …).

    x − c is exact where c/2 ≤ x ≤ 2c (Sterbenz). Such data has a mean that is large beside its deviations,
    which the sums of squares would otherwise lose.
    """
    if values.numel() == 0:
        return None
    grouped = _by_group(values, geometry.groups).flatten(2)
    mean = grouped.mean(-1)
    ratios = torch.stack([grouped.amin(-1), grouped.amax(-1)]) / mean
    exact = (ratios >= 0.5).logical_and(ratios <= 2).all(0)
    shift = torch.where(exact, mean, 0)
    return shift.reshape(*shift.shape, *[1] * (geometry.rank + 1))


def _centered_squares(
    values: Tensor, shift: Tensor | None, geometry: Geometry, stored: torch.dtype, *, look: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """For each field: Σ (x − μ)², μ (both float64), and which fields are constant.

    With `look` the data decides whether the constant fields must be searched for.
    """
    grouped = _by_group(values, geometry.groups)
    size = grouped.shape[2]
    for length in geometry.kernel:
        size *= length
    sums = geometry.box(grouped.sum(2, dtype=torch.float64))
    squares = geometry.box(grouped.double().square().sum(2))
    mean = sums / size
    centered = (squares - sums * mean).clamp(min=0)
    with torch.no_grad():
        true_mean = (
            mean if shift is None else mean + shift.flatten(1).reshape(*mean.shape[:2], *[1] * geometry.rank)
        )
        eps = torch.finfo(stored).eps
        # √(Σ(x − μ)²) ≥ max|x − μ|, so only fields below either bound can be constant.
        doubtful = centered <= torch.maximum(size * (4 * eps * true_mean).square(), 1e-12 * squares)
        if look and not bool(doubtful.any()):
            return centered, mean, None
        padded, bare = _by_group(geometry.pad(values), geometry.groups).detach(), geometry.unpadded()
        largest = torch.maximum(
            bare.largest(padded.amax(2).double()) - mean, mean + bare.largest(-padded.amin(2).double())
        )
        constant = is_constant(largest, true_mean, stored)
    # Rounding may have eaten a small sum; it is at least the square of its largest term.
    return torch.maximum(centered, largest.square()), mean, constant


def _finish(
    values: Tensor,
    geometry: Geometry,
    squared: Tensor,
    mean: Tensor | None,
    constant: Tensor | None,
    extra: Tensor | float,
    exponent: Tensor | None,
) -> Fields:
    if constant is not None:
        squared = squared.masked_fill(constant, 0)
    squared = squared + (extra.square() if isinstance(extra, Tensor) else extra**2)
    zero = squared == 0
    factor = squared.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)
    factor = factor.to(accumulation_dtype(values.dtype))
    return Fields(values, geometry, factor, mean, constant, extra, exponent)


def plain_fields(x: Tensor, geometry: Geometry, *, centered: bool, augment: float) -> Fields | None:
    """The receptive fields of the input as it is, or None where that could be wrong; looks at the data."""
    values = x.to(product_dtype(x.dtype, x.device))
    accumulation = accumulation_dtype(x.dtype)
    mean = constant = None
    if centered:
        shift = _shift(values, geometry)
        if shift is not None and bool((shift != 0).any()):
            values = (_by_group(geometry.pad(values), geometry.groups) - shift).flatten(1, 2)
            geometry = geometry.unpadded()
        else:
            shift = None
        squared, mean, constant = _centered_squares(values, shift, geometry, x.dtype, look=True)
        norm = squared.sqrt().to(accumulation)
        largest = _by_group(values, geometry.groups).abs().amax() if values.numel() else norm.sum()
        if not bool(largest < 2.0**30):  # deviations may be in the window while the products are not
            return None
        if constant is not None:
            norm = norm.masked_fill(constant, 0)
        allowed = in_window(norm)
        if allowed is None and constant is not None:
            allowed = not bool((norm == 0).logical_and_(constant.logical_not()).any())
    else:
        maps = torch.linalg.vector_norm(
            _by_group(values, geometry.groups), dim=2, dtype=accumulation
        ).square_()
        squared = geometry.box(maps)
        allowed = in_window(squared.sqrt())
        if allowed is None:
            # Fields of norm 0 are zero if no value vanished when it was squared.
            nonzero = (_by_group(values, geometry.groups) != 0).any(2)
            allowed = not bool(nonzero.logical_and_(maps == 0).any())
    if not allowed:
        return None
    fields = _finish(values, geometry, squared, mean, constant, augment, None)
    return fields if in_window(fields.factor) is not False else None


def wide_fields(x: Tensor, geometry: Geometry, *, centered: bool, augment: float) -> Fields:
    """The receptive fields of any finite input, by operations that never look at the data.

    On a CPU it computes in float64, which holds every product of the narrower types; a float64 input is
    scaled by a power of two, one for each sample. Elsewhere (accelerators pay dearly for float64) each
    sample is scaled in its accumulation dtype.
    """
    values = x.double() if x.device.type == "cpu" else x.to(accumulation_dtype(x.dtype))
    with torch.no_grad():
        # NaN and inf must not set the scale of the sample's other fields.
        flat = values.detach().flatten(1).abs().nan_to_num(nan=0.0, posinf=0.0)
        largest = flat.amax(1) if flat.shape[1] else flat.new_zeros(flat.shape[0])
        exponent = scale_exponent(largest.clamp(min=augment) if augment else largest)
        exponent = exponent.reshape(-1, *[1] * (x.ndim - 1))
        scale = power_of_two(-exponent, values.dtype)
    values = values * scale
    extra: Tensor | float = augment * scale if augment else 0.0
    mean = constant = None
    if centered:
        with torch.no_grad():
            shift = _shift(values.detach(), geometry)
        if shift is not None:
            values = (_by_group(geometry.pad(values), geometry.groups) - shift).flatten(1, 2)
            geometry = geometry.unpadded()
        squared, mean, constant = _centered_squares(values, shift, geometry, x.dtype, look=False)
        squared, mean = squared.to(values.dtype), mean.to(values.dtype)
    else:
        squared = geometry.box(_by_group(values, geometry.groups).square().sum(2))
    return _finish(values, geometry, squared, mean, constant, extra, exponent)
