"""Cosines with weights that are unit vectors already: what is left of a layer that no longer learns."""

import torch
from torch import Tensor

from cosnorm.backends.torch.units import unit_rows
from cosnorm.functional.checks import check_tensors
from cosnorm.operators.fields import cosine_folded_fields
from cosnorm.operators.folded import cosine_folded


def unit_weight(weight: Tensor, *, centered: bool, augment: float) -> tuple[Tensor, Tensor | None]:
    """Each filter or row as a unit vector, centered first, and its appended component (O,) or None."""
    unit = unit_rows(weight.detach().flatten(1), centered=centered, augment=augment)
    extra = None if unit.constant is None else unit.constant.squeeze(1)
    values = torch.empty_like(weight, requires_grad=False)  # in the order of the weight
    return values.copy_(unit.values.reshape(weight.shape)), extra


def unit_inputs(x: Tensor, *, centered: bool, augment: float) -> Tensor:
    """Rows (*, D) as unit vectors in their dtype; with `augment` the appended component is their last."""
    check_tensors("UnitRows", x=x)
    unit = unit_rows(x, centered=centered, augment=augment)
    values = unit.values if unit.constant is None else torch.cat([unit.values, unit.constant], -1)
    return values.to(x.dtype)


def folded_linear(
    x: Tensor, weight: Tensor, extra: Tensor | None, *, centered: bool, augment: float
) -> Tensor:
    """`cosine_linear` with the unit rows that `unit_weight` gave."""
    where = "FoldedCosineLinear"
    check_tensors(where, x=x, weight=weight)
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{where}: the last dimension of x must be in_features = {weight.shape[1]}, got x of shape "
            f"{tuple(x.shape)}"
        )
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    constant = None if extra is None else extra.unsqueeze(1)
    output: Tensor = cosine_folded(rows, weight, constant, centered, augment, "auto", False)
    return output if x.ndim == 2 else output.reshape(*x.shape[:-1], weight.shape[0])


def folded_conv(
    x: Tensor,
    weight: Tensor,
    extra: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    *,
    centered: bool,
    augment: float,
) -> Tensor:
    """`cosine_conv` of (N, C, *S) with the unit filters that `unit_weight` gave."""
    where, channels, rank = "FoldedCosineConv", weight.shape[1] * groups, weight.ndim - 2
    check_tensors(where, x=x, weight=weight)
    if x.ndim != rank + 2 or x.shape[1] != channels:
        raise ValueError(
            f"{where}: x must have shape (N, {channels}, …) or ({channels}, …) with {rank} spatial "
            f"dimensions, got {tuple(x.shape)}"
        )
    constant = None if extra is None else extra.unsqueeze(1)
    places = stride, padding, dilation, groups
    output: Tensor = cosine_folded_fields(x, weight, constant, *places, centered, augment, "auto", False)
    return output
