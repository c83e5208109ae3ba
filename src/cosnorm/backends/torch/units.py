"""Rows as unit vectors, whatever their norms, by operators that never look at the data.

`unit_rows` divides by the largest magnitude first, all in one dtype, and is differentiable: second
derivatives, forward mode, `vmap` and export come from it, and all of float64. `wide_rows` makes the same of
the narrower types by norms in float64, which holds each of their squares: fewer launches and less traffic.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.norms import accumulation_dtype, constant_bound


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

    def divide(self, u: Tensor, factor: Tensor) -> Tensor:
        """U · factor / |x|, and 0 for zero rows, in the accumulation dtype."""
        # factor / scale may be out of range where the result is not: its root is not.
        root = (factor.sqrt() / self.scale.sqrt()).clamp(max=torch.finfo(u.dtype).max)
        return u * self.inverse_norm * root * root


class WideRows(NamedTuple):
    """The same with norms in float64, (*, 1); those of zero rows are inf, so that what they divide is 0."""

    values: Tensor
    constant: Tensor | None
    norm: Tensor

    def divide(self, u: Tensor, factor: Tensor) -> Tensor:
        """U · factor / |x|, and 0 for zero rows, in the accumulation dtype."""
        quotient = factor.to(torch.float64) / self.norm
        return torch.mul(u, quotient, out=torch.empty_like(u, dtype=accumulation_dtype(u.dtype)))


def center(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values less their mean along the last dimension, and the mean.

    Twice, because the first mean is rounded: for rows of mean 100 and deviation 0.01 in float32 its error
    would be left in every component as a common offset of 1e-6.
    """
    mean = values.mean(-1, keepdim=True)
    deviation = values - mean
    return deviation - deviation.mean(-1, keepdim=True), mean


def largest_of(values: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """The largest magnitude along dimensions, kept; 1 where all is 0, so that it divides."""
    values = values.detach()
    largest = values.abs() if dim == () else torch.linalg.vector_norm(values, torch.inf, dim, keepdim=True)
    return torch.nn.functional.threshold(largest, 0.0, 1.0)


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
    x: Tensor, dtype: torch.dtype, *, centered: bool, augment: float, norm: Tensor | None = None
) -> WideRows:
    """Unit rows of float32 or half rows in `dtype`; their norms may be given."""
    values, constant = x, None
    if centered:
        mean = x.mean(-1, keepdim=True, dtype=torch.float64)
        working = dtype if dtype == torch.float64 else accumulation_dtype(x.dtype)
        values = torch.sub(x, mean, out=torch.empty_like(x, dtype=working))
        if norm is None or augment:
            largest = torch.linalg.vector_norm(values, torch.inf, -1, keepdim=True, dtype=torch.float64)
            constant = largest <= constant_bound(mean, x.dtype)
        if augment:
            values.masked_fill_(constant, 0)
    if norm is None:
        norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True, dtype=torch.float64)
        if augment:
            norm.hypot_(norm.new_full((), augment))
        elif constant is not None:
            norm.masked_fill_(constant, torch.inf)
        else:
            torch.nn.functional.threshold_(norm, 0.0, torch.inf)
    appended = (augment / norm).to(accumulation_dtype(x.dtype)) if augment else None
    return WideRows(torch.div(values, norm, out=torch.empty_like(values, dtype=dtype)), appended, norm)
