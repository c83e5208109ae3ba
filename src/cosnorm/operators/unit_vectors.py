"""Unit vectors as an operator, for sums of cosines that are no matrix: `unit_vectors`."""

from torch import Tensor

from cosnorm.backends.torch.unit_rows import project_
from cosnorm.backends.torch.units import largest_of
from cosnorm.backends.torch.units import unit_rows as unit_rows_of_torch
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.pairs import divide, pack, split_factor, unit_rows


def _compute(x: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    unit = unit_rows(x)
    return unit.values, pack(unit) if keep else unit.values.new_empty(0)


def _shapes(x: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x.dtype)
    return x.new_empty(x.shape, dtype=dtype), x.new_empty((x.shape[0], 2) if keep else 0, dtype=dtype)


def _gradients(cotangent: Tensor, x: Tensor, divisors: Tensor, needs: list[bool]) -> tuple[Tensor]:
    values = (x / divisors[:, 1:]).mul_(divisors[:, :1])
    u, largest = split_factor(cotangent)
    project_(u, values)
    return (divide(u, divisors, largest, x),)


def _formula(cotangent: Tensor, x: Tensor, needs: list[bool]) -> Tensor:
    unit = unit_rows_of_torch(x)
    largest = largest_of(cotangent)
    u = cotangent / largest
    u = u - unit.values * (unit.values * u).sum(-1, keepdim=True)
    return unit.divide(u, largest, x.dtype)


_unit_vectors = define(
    "unit_vectors(Tensor x, bool keep) -> (Tensor output, Tensor divisors)",
    _compute,
    _shapes,
    flops=lambda x, keep: 2 * x.numel(),
    backward=Backward(
        _gradients, learns=1, gradients=_formula, flops=lambda cotangent, x, divisors, needs: 4 * x.numel()
    ),
)


def unit_vectors(x: Tensor) -> Tensor:
    """Rows x / |x| of x (N, D), exact at every scale, float32 for half types; zero rows stay 0."""
    output: Tensor = _unit_vectors(x, False)[0]
    return output
