"""The cosine of rows with 8-bit products, as an operator; its gradient is that of the rows as they are."""

from functools import partial
from typing import Any

from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.torch import fp8
from cosnorm.backends.torch import rows as torch_rows
from cosnorm.backends.torch.contraction import MATRIX
from cosnorm.norms import check_one_dtype
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.rows import (
    backward_flops,
    flops,
    gradient_formula,
    lower_under_autocast,
    tangent_formula,
)


def _compute(x: Tensor, y: Tensor, centered: bool, augment: float, impl: str, keep: bool) -> Tensor:
    check_one_dtype(x, y)
    backend: Any = choose.backend("fp8", impl, x)
    rows = [fp8.Quantized(*backend.quantize(one, centered=centered, augment=augment)) for one in (x, y)]
    return fp8.scaled_product(rows[0], rows[1], x.dtype)


def _shapes(x: Tensor, y: Tensor, centered: bool, augment: float, impl: str, keep: bool) -> Tensor:
    return x.new_empty(x.shape[0], y.shape[0])


def _gradients(
    cotangent: Tensor, x: Tensor, y: Tensor, centered: bool, augment: float, impl: str, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    nothing = x.new_empty(0)
    options: Any = {"centered": centered, "augment": augment, "needs": needs}
    return torch_rows.gradients(cotangent, x, y, nothing, nothing, MATRIX, **options)


cosine_fp8 = define(
    "cosine_fp8(Tensor x, Tensor y, bool centered, float augment, str impl, bool keep) -> Tensor",
    _compute,
    _shapes,
    flops=partial(flops, MATRIX),
    autocast=lower_under_autocast,
    backward=Backward(
        _gradients,
        learns=2,
        gradients=partial(gradient_formula, MATRIX),
        tangent=partial(tangent_formula, MATRIX),
        flops=partial(backward_flops, MATRIX),
    ),
)
