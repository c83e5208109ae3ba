"""Cosines with weights that are unit vectors already: what is left of a layer that no longer learns."""

import torch
from torch import Tensor

from cosnorm.functional.autocast import autocast_tensors, without_autocast
from cosnorm.functional.checks import check_tensors
from cosnorm.functional.cosine_images import image_cosine
from cosnorm.functional.fields import Geometry, in_order_of, plain_fields, wide_fields
from cosnorm.functional.norms import accumulation_dtype, unit_rows
from cosnorm.operators.folded import cosine_folded


def unit_weight(weight: Tensor, *, centered: bool, augment: float) -> tuple[Tensor, Tensor | None]:
    """Each filter or row as a unit vector, centered first, and its appended component (O,) or None."""
    unit = unit_rows(weight.detach().flatten(1), centered=centered, augment=augment)
    extra = None if unit.extra is None else unit.extra.squeeze(1)
    values = torch.empty_like(weight, requires_grad=False)  # in the order of the weight
    return values.copy_(unit.values.reshape(weight.shape)), extra


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
    return output if x.ndim == 2 else output.reshape(*x.shape[:-1], len(weight))


def folded_conv(
    x: Tensor, weight: Tensor, extra: Tensor | None, geometry: Geometry, *, centered: bool, augment: float
) -> Tensor:
    """`cosine_conv` of (N, C, *S) with the unit filters that `unit_weight` gave."""
    where, channels = "FoldedCosineConv", weight.shape[1] * geometry.groups
    check_tensors(where, x=x)
    x, weight = autocast_tensors(x, weight)
    check_tensors(where, x=x, weight=weight)
    if x.ndim != geometry.rank + 2 or x.shape[1] != channels:
        raise ValueError(
            f"{where}: x must have shape (N, {channels}, …) or ({channels}, …) with {geometry.rank} spatial "
            f"dimensions, got {tuple(x.shape)}"
        )
    x = in_order_of(weight, x)
    if not augment:
        found = image_cosine(x, weight, geometry, 0.0, centered=centered, folded=True)
        if found is not None:
            return found
    with without_autocast(x.device):
        looks = x.device.type == "cpu" and not torch.compiler.is_compiling() and not x.requires_grad
        fields = plain_fields(x, geometry, centered=centered, augment=augment) if looks else None
        if fields is None:
            fields = wide_fields(x, geometry, centered=centered, augment=augment)
        groups, accumulation = geometry.groups, accumulation_dtype(fields.values.dtype)
        products = fields.geometry.convolve(fields.values, weight.to(fields.values.dtype)).to(accumulation)
        by_filter = products.unflatten(1, (groups, products.shape[1] // groups))
        if fields.constant is not None:
            by_filter = by_filter.masked_fill(fields.constant.unsqueeze(2), 0)
        if extra is not None:
            # The appended component of a field, in the scale of the products.
            own = extra.to(accumulation).reshape(1, groups, -1, *[1] * geometry.rank)
            by_filter = by_filter + own * (
                fields.extra.unsqueeze(1) if isinstance(fields.extra, Tensor) else fields.extra
            )
        factor = fields.factor.unsqueeze(2)
        by_filter = by_filter * factor if x.requires_grad else by_filter.mul_(factor)
        return _bounded(by_filter.flatten(1, 2)).to(x.dtype)


def _bounded(cosines: Tensor) -> Tensor:
    return cosines.clamp(-1, 1) if cosines.requires_grad else cosines.clamp_(-1, 1)
