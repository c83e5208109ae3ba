"""Unit vectors with their closed-form gradient, for sums of cosines that are no matrix."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.norms import UnitRows, finish_gradient, normalized, project_out_, split_exponent
from cosnorm.functional.once import first_derivative_only


def unit_vectors(x: Tensor) -> Tensor:
    """Unit vectors x / |x| of the rows (N, D), exact at every scale; zero rows stay zero, gradient 0.

    float32 for half types. The gradient, (u − x̂ (x̂·u)) / |x|, cannot be differentiated again.
    """
    unit: Tensor = _Unit.apply(x)[0]
    return unit


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        with without_autocast(x.device):
            unit = normalized(x)
        return unit.values, unit.inverse_norm, unit.exponent

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dtype = inputs[0].dtype
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        _, values, inverse_norm, exponent = ctx.saved_tensors
        unit = UnitRows(values, None, inverse_norm, exponent)
        scaled, shift = split_exponent(cotangent)
        projected = project_out_(scaled.clone(), unit)
        return (finish_gradient(projected, inverse_norm, shift - exponent, ctx.dtype),)
