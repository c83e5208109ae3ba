"""Rows as unit vectors, whatever their norms, by operators that never look at the data.

`unit_rows` divides by the largest magnitude first, all in one dtype, and is differentiable: second
derivatives, forward mode, `vmap` and export come from it, and all of float64. `wide_rows` makes the same of
the narrower types by norms in float64, which holds each of their squares: fewer launches and less traffic.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.norms import accumulation_dtype, constant_bound, saturate


class UnitRows(NamedTuple):
    """Unit vectors, and what divides the gradient that comes through them.

    values: x / |x|, zero rows stay zero.
    constant: the appended component of each unit vector, (*, 1), or None.
    inverse_norm: 1/|x / scale|, 0 for zero rows, (*, 1).
    scale: (*, 1), positive: |x| = scale / inverse_norm.
    """

    values: Tensor
    constant: Tensor | None
    inverse_norm: Tensor
    scale: Tensor

    def divide(self, u: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
        """U · factor / |x|, and 0 for zero rows, saturated."""
        # factor / scale may be out of range where the result is not: its root is not.
        root = (factor.to(u.dtype).sqrt() / self.scale.sqrt()).clamp(max=torch.finfo(u.dtype).max)
        return saturate(u * self.inverse_norm * root * root, dtype)


class WideRows(NamedTuple):
    """The same with norms in float64, (*, 1); those of zero rows are inf, so that what they divide is 0."""

    values: Tensor
    constant: Tensor | None
    norm: Tensor

    def divide(self, u: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
        """U · factor / |x|, and 0 for zero rows, saturated."""
        divided = torch.mul(u, factor / self.norm, out=torch.empty_like(u, dtype=dtype))
        return saturate(divided, dtype)


def center(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values less their mean along the last dimension, and the mean.

    Twice, because the first mean is rounded: for rows of mean 100 and deviation 0.01 in float32 its error
    would be left in every component as a common offset of 1e-6.
    """
    mean = values.mean(-1, keepdim=True)
    deviation = values - mean
    return deviation - deviation.mean(-1, keepdim=True), mean


def largest_of(values: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """The largest magnitude along dimensions, kept, as a normal number: what divides zeros is the least."""
    values = values.detach()
    largest = values.abs() if dim == () else torch.linalg.vector_norm(values, torch.inf, dim, keepdim=True)
    return largest.clamp(min=torch.finfo(values.dtype).tiny)


def unit_rows(
    x: Tensor, *, centered: bool = False, augment: float = 0.0, stored: torch.dtype | None = None
) -> UnitRows:
    """The rows along the last dimension, in their accumulation dtype; differentiable.

    `stored` is the dtype whose eps decides which centered rows are constant: that of x, if not given.
    """
    values = x.to(accumulation_dtype(x.dtype))
    scale = largest_of(values)
    if augment:
        scale = scale.clamp(min=augment)
    values = values / scale
    if centered:
        deviation, mean = center(values)
        largest = torch.linalg.vector_norm(deviation.detach(), torch.inf, -1, keepdim=True)
        constant = largest <= constant_bound(mean.detach(), stored or x.dtype)
        values = torch.where(constant, 0, deviation)
    squared = values.square().sum(-1, keepdim=True)
    appended = None
    if augment:
        appended = augment / scale
        squared = squared + appended.square()
    zero = squared == 0
    inverse_norm = torch.where(zero, 0, torch.where(zero, 1, squared).rsqrt())
    if appended is not None:
        appended = appended * inverse_norm
    return UnitRows(values * inverse_norm, appended, inverse_norm, scale)


def wide_rows(
    x: Tensor,
    y: Tensor,
    dtype: torch.dtype,
    *,
    centered: bool,
    augment: float,
    norms: Tensor | None = None,
) -> tuple[WideRows, WideRows, Tensor]:
    """Unit rows of two sets of float32 or half rows, in `dtype`, and all their norms, which may be given.

    What is one number a row is worked on for both at once.
    """
    number = x[..., 0].numel()
    shapes = (*x.shape[:-1], 1), (*y.shape[:-1], 1)

    def numbers() -> tuple[Tensor, Tensor, Tensor]:
        both = x.new_empty(number + y[..., 0].numel(), dtype=torch.float64)
        return both, both[:number].view(shapes[0]), both[number:].view(shapes[1])

    values, constant = [x, y], None
    if centered:
        means, *each = numbers()
        for place, (rows, mean) in enumerate(zip((x, y), each, strict=True)):
            torch.mean(rows, -1, keepdim=True, dtype=torch.float64, out=mean)
            working = dtype if dtype == torch.float64 else accumulation_dtype(x.dtype)
            values[place] = torch.sub(rows, mean, out=torch.empty_like(rows, dtype=working))
        if norms is None or augment:
            largest, *each = numbers()
            for rows, into in zip(values, each, strict=True):
                torch.linalg.vector_norm(rows, torch.inf, -1, True, dtype=torch.float64, out=into)
            constant = largest <= constant_bound(means, x.dtype)
            if augment:
                values[0].masked_fill_(constant[:number].view(shapes[0]), 0)
                values[1].masked_fill_(constant[number:].view(shapes[1]), 0)
    if norms is None:
        norms, *each = numbers()
        for rows, into in zip(values, each, strict=True):
            torch.linalg.vector_norm(rows, 2, -1, True, dtype=torch.float64, out=into)
        if augment:
            norms.hypot_(norms.new_full((), augment))
        elif constant is not None:
            norms.masked_fill_(constant, torch.inf)
        else:
            torch.nn.functional.threshold(norms, 0.0, torch.inf, inplace=True)

    def unit(rows: Tensor, norm: Tensor) -> WideRows:
        appended = (augment / norm).to(accumulation_dtype(x.dtype)) if augment else None
        return WideRows(torch.div(rows, norm, out=torch.empty_like(rows, dtype=dtype)), appended, norm)

    first, second = norms[:number].view(shapes[0]), norms[number:].view(shapes[1])
    return unit(values[0], first), unit(values[1], second), norms
