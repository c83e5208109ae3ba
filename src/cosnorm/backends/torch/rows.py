"""Cosines of rows by torch's operators, branch-free: right at every scale, on every device.

With unit vectors x̂ = x/|x| and ŷ = y/|y| and the cotangent g of cos = x̂·ŷ, the paper's eqs. 9-12 read

    ∂/∂x = (u − x̂ (x̂·u)) / |x|,   u = Σ g ŷ   (the sum goes over all that x meets),

the projection of u on the plane orthogonal to x. `cosines` and `gradients` compute, in few launches;
`gradient_formula` and `tangent_formula` are the same, differentiable.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cosnorm.backends.torch.contraction import MATRIX, Contraction, summed_dimensions
from cosnorm.backends.torch.units import UnitRows, WideRows, largest_of, unit_rows, wide_rows
from cosnorm.devices import is_accelerator
from cosnorm.norms import accumulation_dtype, product_dtype


def _is_wide(x: Tensor) -> bool:
    """Whether float64 holds every square of the rows, and the device has it."""
    return x.dtype != torch.float64 and x.device.type != "mps"


def _unit_dtype(x: Tensor, contraction: Contraction) -> torch.dtype:
    return product_dtype(x.dtype, x.device) if contraction.is_product else accumulation_dtype(x.dtype)


def handles(x: Tensor, y: Tensor, contraction: Contraction, keep: bool) -> bool:
    """Whether this form has these shapes and this layout: it has all."""
    return True


def saved(x: Tensor, y: Tensor, contraction: Contraction, centered: bool) -> tuple[Tensor, Tensor]:
    """Empty products and statistics of the shapes that `cosines` returns with `keep`."""
    number = x[..., 0].numel() + y[..., 0].numel() if _is_wide(x) else 0
    return x.new_empty(0), x.new_empty(number, dtype=torch.float64 if _is_wide(x) else x.dtype)


def cosines(
    x: Tensor, y: Tensor, contraction: Contraction, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines; nothing in place of the products x·y; and the norms in float64, of x and then of y."""
    products, statistics = x.new_empty(0), x.new_empty(0)
    if not _is_wide(x):
        output = cosine_formula(x, y, contraction, centered=centered, augment=augment)
        return output, products, statistics
    dtype = _unit_dtype(x, contraction)
    (unit_x, unit_y), statistics = wide_rows((x, y), dtype, centered=centered, augment=augment)
    return _dot(unit_x, unit_y, contraction).clamp_(-1, 1).to(x.dtype), products, statistics


def folded(x: Tensor, weight: Tensor, constant: Tensor | None, *, centered: bool, augment: float) -> Tensor:
    """The cosines with unit rows, whose appended components are `constant`, (M, 1)."""
    dtype = _unit_dtype(x, MATRIX)
    unit_x: UnitRows | WideRows
    if _is_wide(x):
        (unit_x,), _ = wide_rows((x,), dtype, centered=centered, augment=augment)
    else:
        unit_x = unit_rows(x, centered=centered, augment=augment)
    return _dot(unit_x, as_unit(weight.to(dtype), constant), MATRIX).clamp(-1, 1).to(x.dtype)


def as_unit(weight: Tensor, constant: Tensor | None) -> UnitRows:
    """Rows that are unit vectors already."""
    one = weight.new_ones((1, 1), dtype=accumulation_dtype(weight.dtype))
    return UnitRows(weight, None if constant is None else constant.to(one.dtype), one, one)


def gradients(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    products: Tensor,
    statistics: Tensor,
    contraction: Contraction,
    *,
    centered: bool,
    augment: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients in x and y; statistics other than ours are made again."""
    options: Any = {"centered": centered, "augment": augment}
    if not _is_wide(x):
        return gradient_formula(cotangent, x, y, contraction, needs=needs, **options)
    ours = statistics.dtype == torch.float64 and len(statistics) == x[..., 0].numel() + y[..., 0].numel()
    norms = statistics if ours else None
    (unit_x, unit_y), _ = wide_rows((x, y), _unit_dtype(x, contraction), norms=norms, **options)
    return _gradients(cotangent, x, y, unit_x, unit_y, contraction, centered, needs)


def cosine_formula(
    x: Tensor,
    y: Tensor,
    contraction: Contraction,
    *,
    centered: bool,
    augment: float,
    unit_y: UnitRows | None = None,
) -> Tensor:
    """The cosines; differentiable, in one dtype. Rows y may be unit vectors already."""
    dtype = _unit_dtype(x, contraction)
    unit_x = unit_rows(x, centered=centered, augment=augment)
    unit_y = unit_y or unit_rows(y, centered=centered, augment=augment)
    unit_x, unit_y = (unit._replace(values=unit.values.to(dtype)) for unit in (unit_x, unit_y))
    return _dot(unit_x, unit_y, contraction).clamp(-1, 1).to(x.dtype)


def gradient_formula(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    contraction: Contraction,
    *,
    centered: bool,
    augment: float,
    needs: list[bool],
    unit_y: UnitRows | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradients in x and y; differentiable, in one dtype. Rows y may be unit vectors already."""
    unit_x = unit_rows(x, centered=centered, augment=augment)
    unit_y = unit_y or unit_rows(y, centered=centered, augment=augment)
    return _gradients(cotangent, x, y, unit_x, unit_y, contraction, centered, needs)


def _dot(unit_x: UnitRows | WideRows, unit_y: UnitRows | WideRows, contraction: Contraction) -> Tensor:
    output = contraction.dot(unit_x.values, unit_y.values)
    if unit_x.constant is None or unit_y.constant is None:
        return output
    return output + contraction.dot(unit_x.constant, unit_y.constant)


def _gradients(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    unit_x: UnitRows | WideRows,
    unit_y: UnitRows | WideRows,
    contraction: Contraction,
    centered: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """Eqs. 9-12 for what is needed; an empty tensor for what is not."""
    if not cotangent.numel():
        return torch.zeros_like(x), torch.zeros_like(y)
    accumulation, dtype = accumulation_dtype(x.dtype), _unit_dtype(x, contraction)

    def scaled(beside: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        # The cotangents of each row are divided by the largest of them.
        shape = beside(rows[..., :1]).shape
        largest = largest_of(cotangent, summed_dimensions(cotangent.shape, shape))
        return cotangent / largest, largest.reshape(*rows.shape[:-1], 1)

    def finish(
        u: Tensor, appended: Tensor | None, unit: UnitRows | WideRows, largest: Tensor, like: Tensor
    ) -> Tensor:
        along = _dots(unit.values, u, accumulation)
        if appended is not None and unit.constant is not None:
            along = along + unit.constant * appended
        u = torch.addcmul(u, unit.values, along, value=-1)
        if centered:
            u = u - u.mean(-1, keepdim=True)
        return unit.divide(u, largest, like.dtype)

    into_x = into_y = x.new_empty(0)
    if needs[0]:
        h, largest = scaled(contraction.beside_x, x)
        u = contraction.into_x(h.to(dtype), x.shape, unit_y.values.to(dtype))
        appended = None
        if unit_y.constant is not None:
            appended = contraction.into_x(h.to(accumulation), (*x.shape[:-1], 1), unit_y.constant)
        into_x = finish(u, appended, unit_x, largest, x)
    if needs[1]:
        h, largest = scaled(contraction.beside_y, y)
        u = contraction.into_y(h.to(dtype), unit_x.values.to(dtype), y.shape)
        appended = None
        if unit_x.constant is not None:
            appended = contraction.into_y(h.to(accumulation), unit_x.constant, (*y.shape[:-1], 1))
        into_y = finish(u, appended, unit_y, largest, y)
    return into_x, into_y


def _dots(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of each row with its own other, (*, 1)."""
    if is_accelerator(x.device) and not torch.is_grad_enabled() and x.ndim == y.ndim == 2:
        # One launch, which writes no products; as exact as those that made y.
        return torch.bmm(x.unsqueeze(1), y.unsqueeze(2)).squeeze(2)
    return (x * y).sum(-1, keepdim=True, dtype=dtype)


def tangent_formula(
    tangents: tuple[Tensor | None, ...],
    x: Tensor,
    y: Tensor,
    contraction: Contraction,
    *,
    centered: bool,
    augment: float,
    unit_y: UnitRows | None = None,
) -> Tensor:
    """The derivative of the cosines along tangents of x and y (None: 0); differentiable."""
    unit_x = unit_rows(x, centered=centered, augment=augment)
    unit_y = unit_y or unit_rows(y, centered=centered, augment=augment)

    def move(unit: UnitRows, tangent: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        tangent = torch.zeros_like(rows) if tangent is None else tangent
        tangent = tangent.to(unit.values.dtype) / unit.scale * unit.inverse_norm
        if centered:
            tangent = tangent - tangent.mean(-1, keepdim=True)
        along = (unit.values * tangent).sum(-1, keepdim=True)
        constant = None if unit.constant is None else -unit.constant * along
        return tangent - unit.values * along, constant

    moved_x, moved_y = move(unit_x, tangents[0], x), move(unit_y, tangents[1], y)
    found = contraction.dot(moved_x[0], unit_y.values) + contraction.dot(unit_x.values, moved_y[0])
    if unit_x.constant is not None and unit_y.constant is not None:
        assert moved_x[1] is not None
        assert moved_y[1] is not None
        found = found + contraction.dot(moved_x[1], unit_y.constant)
        found = found + contraction.dot(unit_x.constant, moved_y[1])
    return found.to(x.dtype)
