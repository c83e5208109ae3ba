"""Unit vectors as an operator, for sums of cosines that are no matrix: `unit_vectors`."""

from torch import Tensor

from cosnorm.backends.torch.unit_rows import project_
from cosnorm.backends.torch.units import largest_of
from cosnorm.backends.torch.units import unit_rows as unit_rows_of_torch
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.define import Backward, define
from cosnorm.operators.pairs import divide, pack, split_factor, unit_rows


def _compute(x: Tensor, keep: bool) -> Tensor:
    return unit_rows(x).values


def _shapes(x: Tensor, keep: bool) -> Tensor:
    return x.new_empty(x.shape, dtype=accumulation_dtype(x.dtype))


def _gradients(cotangent: Tensor, x: Tensor, needs: list[bool]) -> tuple[Tensor]:
    unit = unit_rows(x)
    u, largest = split_factor(cotangent)
    u = u.clone()
    project_(u, unit.values)
    return (divide(u, pack(unit), largest, x),)


def _formula(cotangent: Tensor, x: Tensor, needs: list[bool]) -> Tensor:
    unit = unit_rows_of_torch(x)
    largest = largest_of(cotangent)
    u = cotangent / largest
    u = u - unit.values * (unit.values * u).sum(-1, keepdim=True)
    return unit.divide(u, largest, x.dtype)


unit_vectors = define(
    "unit_vectors(Tensor x, bool keep) -> Tensor",
    _compute,
    _shapes,
    flops=lambda x, keep: 2 * x.numel(),
    backward=Backward(
        _gradients, learns=1, gradients=_formula, flops=lambda cotangent, x, needs: 4 * x.numel()
    ),
)
"""x / |x| of rows (N, D), exact at every scale, float32 for half types; zero rows stay zero, gradient 0."""
