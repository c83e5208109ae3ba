"""The cosine of rows with unit vectors, as an operator: a layer that no longer learns; its input may."""

from functools import partial
from typing import Any

from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.torch import rows as torch_rows
from cosnorm.backends.torch.contraction import MATRIX
from cosnorm.norms import check_one_dtype
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.rows import backward_flops, flops, lower_under_autocast


def _compute(
    x: Tensor, weight: Tensor, constant: Tensor | None, centered: bool, augment: float, impl: str, keep: bool
) -> Tensor:
    check_one_dtype(x, weight)
    options: Any = {"centered": centered, "augment": augment}
    found: Tensor | None = choose.backend("rows", impl, x, weight, MATRIX, False).folded(
        x, weight, constant, **options
    )
    return torch_rows.folded(x, weight, constant, **options) if found is None else found


def _shapes(
    x: Tensor, weight: Tensor, constant: Tensor | None, centered: bool, augment: float, impl: str, keep: bool
) -> Tensor:
    check_one_dtype(x, weight)
    return x.new_empty(x.shape[0], weight.shape[0])


def _formula(
    x: Tensor, weight: Tensor, constant: Tensor | None, centered: bool, augment: float, impl: str
) -> Tensor:
    unit_y = torch_rows.as_unit(weight, constant)
    return torch_rows.cosine_formula(x, weight, MATRIX, centered=centered, augment=augment, unit_y=unit_y)


def _gradient(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    constant: Tensor | None,
    centered: bool,
    augment: float,
    impl: str,
    needs: list[bool],
) -> tuple[Tensor]:
    options: Any = {"centered": centered, "augment": augment, "unit_y": torch_rows.as_unit(weight, constant)}
    gradient, _ = torch_rows.gradient_formula(cotangent, x, weight, MATRIX, needs=[True, False], **options)
    return (gradient,)


def _tangent(
    tangents: tuple[Tensor | None, ...],
    x: Tensor,
    weight: Tensor,
    constant: Tensor | None,
    centered: bool,
    augment: float,
    impl: str,
) -> Tensor:
    options: Any = {"centered": centered, "augment": augment, "unit_y": torch_rows.as_unit(weight, constant)}
    return torch_rows.tangent_formula((tangents[0], None), x, weight, MATRIX, **options)


cosine_folded = define(
    "cosine_folded(Tensor x, Tensor weight, Tensor? constant, bool centered, float augment, str impl, "
    "bool keep) -> Tensor",
    _compute,
    _shapes,
    flops=partial(flops, MATRIX),
    autocast=lower_under_autocast,
    formula=_formula,
    backward=Backward(
        _gradient, learns=1, gradients=_gradient, tangent=_tangent, flops=partial(backward_flops, MATRIX)
    ),
)
