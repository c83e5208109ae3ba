"""Rows as unit vectors, whatever their norms, by operators that never look at the data.

`unit_rows` divides by the largest magnitude first, all in one dtype, and is differentiable: second
derivatives, forward mode, `vmap` and export come from it, and all of float64. `wide_rows` makes the same of
the narrower types by norms in float64, which holds each of their squares: fewer launches and less traffic.
"""

import math
from collections.abc import Sequence
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
    if centered and values.dtype == torch.float64:
        # By a power of two: else the division rounds what the rule for constant rows looks at.
        scale = scale / (2 * torch.frexp(scale).mantissa)
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
    sets: Sequence[Tensor],
    dtype: torch.dtype,
    *,
    centered: bool,
    augment: float,
    norms: Tensor | None = None,
) -> tuple[list[WideRows], Tensor]:
    """Unit rows of sets of float32 or half rows, in `dtype`, and all their norms, which may be given.

    What is one number a row is worked on for all sets at once.
    """
    stored, accumulation = sets[0].dtype, accumulation_dtype(sets[0].dtype)
    counts = [math.prod(rows.shape[:-1]) for rows in sets]
    pieces: Sequence[Tensor] = sets

    def new_numbers() -> Tensor:
        return sets[0].new_empty(sum(counts), dtype=torch.float64)

    def norms_of(order: float) -> Tensor:
        found = new_numbers()
        for rows, into in zip(pieces, _beside(pieces, found), strict=True):
            torch.linalg.vector_norm(rows, order, -1, True, dtype=torch.float64, out=into)
        return found

    constant = None
    if centered:
        means = new_numbers()
        # float32 and bfloat16 have one range: what is rounded to that in the end may be so before.
        working = torch.bfloat16 if stored == dtype == torch.bfloat16 else max(dtype, accumulation, key=_size)
        pieces, parts = _memory(sets, counts, working)
        for rows, mean, deviation in zip(sets, _beside(sets, means), parts, strict=True):
            torch.mean(rows, -1, keepdim=True, dtype=torch.float64, out=mean)
            torch.sub(rows, mean, out=deviation)
        if norms is None or augment:
            constant = norms_of(torch.inf) <= constant_bound(means, stored)
    if augment and constant is not None:
        for rows, none in zip(pieces, _beside(pieces, constant), strict=True):
            rows.masked_fill_(none, 0)
    if norms is None:
        norms = norms_of(2)
        if augment:
            norms.hypot_(norms.new_full((), augment))
        elif constant is not None:
            norms.masked_fill_(constant, torch.inf)
        else:
            torch.nn.functional.threshold(norms, 0.0, torch.inf, inplace=True)
    units = [
        torch.div(rows, norm, out=torch.empty_like(rows, dtype=dtype))
        for rows, norm in zip(pieces, _beside(pieces, norms), strict=True)
    ]
    if len(units) < len(sets):
        units = [unit.view(rows.shape) for unit, rows in zip(units[0].split(counts), sets, strict=True)]
    found = []
    for unit, norm in zip(units, _beside(sets, norms), strict=True):
        found.append(WideRows(unit, (augment / norm).to(accumulation) if augment else None, norm))
    return found, norms


def _size(dtype: torch.dtype) -> int:
    return dtype.itemsize


def _beside(rows: Sequence[Tensor], numbers: Tensor) -> list[Tensor]:
    """A number for each row of sets of rows (*, D), as (*, 1) for each set."""
    counts = [math.prod(one.shape[:-1]) for one in rows]
    parts = zip(numbers.split(counts), rows, strict=True)
    return [part.view(*one.shape[:-1], 1) for part, one in parts]


def _memory(
    sets: Sequence[Tensor], counts: list[int], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Memory for rows of these shapes: what a launch may work on, and the part for each set.

    Rows of one length stand in one tensor, so that it takes one launch for all.
    """
    if len({rows.shape[-1] for rows in sets}) > 1:
        parts = [torch.empty_like(rows, dtype=dtype) for rows in sets]
        return parts, parts
    together = sets[0].new_empty(sum(counts), sets[0].shape[-1], dtype=dtype)
    if len(sets) == 1:
        together = together.view(sets[0].shape)
        return [together], [together]
    return [together], [
        part.view(rows.shape) for part, rows in zip(together.split(counts), sets, strict=True)
    ]
