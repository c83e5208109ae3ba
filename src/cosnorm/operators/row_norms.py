"""Norms of rows as an operator, for losses that look at them: `row_norms`."""

import torch
from torch import Tensor

from cosnorm.backends.torch.units import unit_rows
from cosnorm.norms import saturate
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.targets import precise_dtype, precise_unit


def _compute(x: Tensor, keep: bool) -> Tensor:
    precise = precise_dtype(x.device)
    if precise == torch.float64 and x.dtype != precise:  # it holds every square of the narrower types
        return torch.linalg.vector_norm(x.to(precise), dim=-1)
    unit = unit_rows(x.to(precise))
    zero = unit.inverse_norm == 0
    return (unit.scale / unit.inverse_norm.masked_fill(zero, 1)).masked_fill_(zero, 0).squeeze(-1)


def _shapes(x: Tensor, keep: bool) -> Tensor:
    return x.new_empty(x.shape[:1], dtype=precise_dtype(x.device))


def _gradients(cotangent: Tensor, x: Tensor, needs: list[bool]) -> tuple[Tensor]:
    return (saturate(precise_unit(x, cotangent.dtype) * cotangent.unsqueeze(1), x.dtype),)


def _formula(cotangent: Tensor, x: Tensor, needs: list[bool]) -> Tensor:
    return saturate(unit_rows(x.to(cotangent.dtype)).values * cotangent.unsqueeze(1), x.dtype)


_row_norms = define(
    "row_norms(Tensor x, bool keep) -> Tensor",
    _compute,
    _shapes,
    flops=lambda x, keep: x.numel(),
    backward=Backward(
        _gradients, learns=1, gradients=_formula, flops=lambda cotangent, x, needs: 2 * x.numel()
    ),
)


def row_norms(x: Tensor) -> Tensor:
    """|x| of the rows x (N, D), exact at every scale, in float64; the gradient of a zero row is 0."""
    norms: Tensor = _row_norms(x, False)
    return norms
