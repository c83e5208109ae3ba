"""The cosine of receptive fields with filters as operators: a convolution, and one that no longer learns."""

import math
from typing import Any

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.geometry import Geometry, empty_output, memory_format
from cosnorm.backends.torch import fields as torch_fields
from cosnorm.backends.torch.windows import dtypes_of
from cosnorm.norms import check_one_dtype
from cosnorm.operators.define import Backward, define, one_by_one
from cosnorm.operators.rows import lower_under_autocast


def _compute(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    check_one_dtype(x, weight)
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    options: Any = {"centered": centered, "augment": augment, "keep": keep}
    backend = choose.backend("fields", impl, x, weight, geometry, centered)
    found = backend.cosines(x, weight, geometry, **options)
    if found is None:
        found = torch_fields.cosines(x, weight, geometry, **options)
        if keep:
            # What the backend would have saved, marked: its backward pass declines, too.
            products, statistics = backend.saved(x, weight, geometry, centered, augment)
            found = found[0], products.zero_(), statistics.fill_(torch.inf)
    output, *rest = found
    return output.contiguous(memory_format=memory_format(x, weight)), *rest


def _shapes(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    check_one_dtype(x, weight)
    output = empty_output(x, weight, geometry, x.dtype)
    backend = choose.backend("fields", impl, x, weight, geometry, centered)
    if not keep:
        return output, x.new_empty(0), x.new_empty(0)
    return output, *backend.saved(x, weight, geometry, centered, augment)


def _gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
    products: Tensor,
    statistics: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    options: Any = {"centered": centered, "augment": augment, "needs": needs}
    backend = choose.backend("fields", impl, x, weight, geometry, centered)
    found: tuple[Tensor, Tensor] | None
    found = backend.gradients(cotangent, x, weight, products, statistics, geometry, **options)
    if found is None:
        found = torch_fields.gradients(cotangent, x, weight, None, None, geometry, **options)
    return found


def _gradient_formula(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    options: Any = {"centered": centered, "augment": augment}
    return torch_fields.gradient_formula(cotangent, x, weight, geometry, needs=needs, **options)


def _formula(x: Tensor, weight: Tensor, *options: Any) -> Tensor:
    *places, centered, augment, _ = options
    geometry = Geometry.of(weight, *places)
    return torch_fields.cosine_formula(x, weight, geometry, centered=centered, augment=augment)


def _tangent(
    tangents: tuple[Tensor | None, Tensor | None],
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
) -> Tensor:
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    options: Any = {"centered": centered, "augment": augment}
    return torch_fields.tangent_formula(tangents, x, weight, geometry, **options)


def _compute_folded(
    x: Tensor,
    weight: Tensor,
    constant: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
    keep: bool,
) -> Tensor:
    check_one_dtype(x, weight)
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    options: Any = {"centered": centered, "augment": augment}
    backend = choose.backend("fields", impl, x, weight, geometry, centered)
    found: Tensor | None = backend.folded(x, weight, constant, geometry, **options)
    if found is None:
        found = torch_fields.folded(x, weight, constant, geometry, **options)
    return found.contiguous(memory_format=memory_format(x, weight))


def _shapes_folded(x: Tensor, weight: Tensor, constant: Tensor | None, *options: Any) -> Tensor:
    return empty_output(x, weight, Geometry.of(weight, *options[:4]), x.dtype)


def _formula_folded(x: Tensor, weight: Tensor, constant: Tensor | None, *options: Any) -> Tensor:
    *places, centered, augment, _ = options
    geometry = Geometry.of(weight, *places)
    unit = torch_fields.unit_filters(weight, constant, dtypes_of(x)[0])
    return torch_fields.cosine_formula(x, weight, geometry, centered=centered, augment=augment, unit=unit)


def _gradient_folded(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    constant: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
    needs: list[bool],
) -> tuple[Tensor]:
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    unit = torch_fields.unit_filters(weight, constant, dtypes_of(x)[0])
    options: Any = {"centered": centered, "augment": augment, "unit": unit, "needs": (True, False)}
    return torch_fields.gradient_formula(cotangent, x, weight, geometry, **options)[:1]


def _tangent_folded(
    tangents: tuple[Tensor | None, ...],
    x: Tensor,
    weight: Tensor,
    constant: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
) -> Tensor:
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    unit = torch_fields.unit_filters(weight, constant, dtypes_of(x)[0])
    options: Any = {"centered": centered, "augment": augment, "unit": unit}
    return torch_fields.tangent_formula((tangents[0], None), x, weight, geometry, **options)


def _batched(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, *options: Any
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """More samples, where x alone is mapped; else one call after the other."""
    if in_dims[1] is not None:
        found: Any = one_by_one(cosine_fields)(info, in_dims, x, weight, *options)
        return found
    samples = x.movedim(in_dims[0] or 0, 0)
    output, *saved = cosine_fields(samples.flatten(0, 1), weight, *options)
    return (output.unflatten(0, samples.shape[:2]), *saved), (0, None, None)


def _batched_folded(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, *options: Any
) -> tuple[Tensor, int]:
    if in_dims[1] is not None or in_dims[2] is not None:
        found: Any = one_by_one(cosine_folded_fields)(info, in_dims, x, weight, *options)
        return found
    samples = x.movedim(in_dims[0] or 0, 0)
    output = cosine_folded_fields(samples.flatten(0, 1), weight, *options)
    return output.unflatten(0, samples.shape[:2]), 0


def _flops(x: torch.Size, weight: torch.Size, *options: Any) -> int:
    """Those of the convolution, as `FlopCounterMode` counts them."""
    outputs = Geometry.of(weight, *options[:4]).shape(x, weight)
    return 2 * math.prod(outputs) * math.prod(weight[1:])


def _flops_folded(x: torch.Size, weight: torch.Size, constant: Any, *options: Any) -> int:
    return _flops(x, weight, *options)


def _backward_flops(cotangent: torch.Size, x: torch.Size, weight: torch.Size, *arguments: Any) -> int:
    return 2 * sum(arguments[-1]) * math.prod(cotangent) * math.prod(weight[1:])


_OPTIONS = (
    "int[] stride, int[] padding, int[] dilation, int groups, bool centered, float augment, str impl, "
    "bool keep"
)

cosine_fields = define(
    f"cosine_fields(Tensor x, Tensor weight, {_OPTIONS}) "
    "-> (Tensor output, Tensor products, Tensor statistics)",
    _compute,
    _shapes,
    flops=_flops,
    batch=_batched,
    autocast=lower_under_autocast,
    formula=_formula,
    backward=Backward(
        _gradients, learns=2, gradients=_gradient_formula, tangent=_tangent, flops=_backward_flops
    ),
)

cosine_folded_fields = define(
    f"cosine_folded_fields(Tensor x, Tensor weight, Tensor? constant, {_OPTIONS}) -> Tensor",
    _compute_folded,
    _shapes_folded,
    flops=_flops_folded,
    batch=_batched_folded,
    autocast=lower_under_autocast,
    formula=_formula_folded,
    backward=Backward(
        _gradient_folded,
        learns=1,
        gradients=_gradient_folded,
        tangent=_tangent_folded,
        flops=_backward_flops,
    ),
)
