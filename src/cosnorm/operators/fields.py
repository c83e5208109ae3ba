"""The cosine of receptive fields with filters as operators: a convolution, and one that no longer learns."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.geometry import Geometry, empty_output, memory_format
from cosnorm.backends.torch import fields as torch_fields
from cosnorm.backends.torch.windows import dtypes_of
from cosnorm.norms import check_one_dtype
from cosnorm.operators.define import define, one_by_one
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.options import arguments_of
from cosnorm.operators.rows import lower_under_autocast


class FieldOptions(NamedTuple):
    """Where the receptive fields lie, as in torch's convolution, and what is taken of them."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    centered: bool
    augment: float
    impl: str

    def geometry(self, weight: Any) -> Geometry:
        """The places of the fields for a weight, or for its shape."""
        return Geometry.of(weight, self.stride, self.padding, self.dilation, self.groups)

    @property
    def center(self) -> dict[str, Any]:
        """What the forms take by name."""
        return {"centered": self.centered, "augment": self.augment}


def _compute(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    check_one_dtype(x, weight)
    options, keep = FieldOptions(*rest[:-1]), rest[-1]
    geometry = options.geometry(weight)
    backend = choose.backend("fields", options.impl, x, weight, geometry, options.centered)
    found = backend.cosines(x, weight, geometry, **options.center, keep=keep)
    if found is None:
        found = torch_fields.cosines(x, weight, geometry, **options.center, keep=keep)
        if keep:
            # What the backend would have saved, marked: its backward pass declines, too.
            products, statistics = backend.saved(x, weight, geometry, **options.center)
            found = found[0], products.zero_(), statistics.fill_(torch.inf)
    # Without `keep` the other two mean nothing, and a backend may give one tensor for both.
    saved = found[1:] if keep else (x.new_empty(0), x.new_empty(0))
    return found[0].contiguous(memory_format=memory_format(x, weight)), *saved


def _shapes(x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    check_one_dtype(x, weight)
    options, keep = FieldOptions(*rest[:-1]), rest[-1]
    geometry = options.geometry(weight)
    output = empty_output(x, weight, geometry, x.dtype)
    backend = choose.backend("fields", options.impl, x, weight, geometry, options.centered)
    if not keep:
        return output, x.new_empty(0), x.new_empty(0)
    return output, *backend.saved(x, weight, geometry, **options.center)


def _gradients(cotangent: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    options, (products, statistics, needs) = FieldOptions(*rest[:-3]), rest[-3:]
    geometry = options.geometry(weight)
    given = cotangent, x, weight, products, statistics, geometry
    backend = choose.backend("fields", options.impl, x, weight, geometry, options.centered)
    found: tuple[Tensor, Tensor] | None = backend.gradients(*given, **options.center, needs=needs)
    if found is None:
        found = torch_fields.gradients(*given[:3], None, None, geometry, **options.center, needs=needs)
    return found


def _formula(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    options = FieldOptions(*rest)
    return torch_fields.cosine_formula(x, weight, options.geometry(weight), **options.center)


def _gradient_formula(cotangent: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    options, given = FieldOptions(*rest[:-1]), (cotangent, x, weight)
    return torch_fields.gradient_formula(*given, options.geometry(weight), **options.center, needs=rest[-1])


def _tangent(tangents: Any, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    options = FieldOptions(*rest)
    return torch_fields.tangent_formula(tangents, x, weight, options.geometry(weight), **options.center)


def _compute_folded(x: Tensor, weight: Tensor, constant: Tensor | None, *rest: Any) -> Tensor:
    check_one_dtype(x, weight)
    options = FieldOptions(*rest[:-1])
    geometry = options.geometry(weight)
    backend = choose.backend("fields", options.impl, x, weight, geometry, options.centered)
    found: Tensor | None = backend.folded(x, weight, constant, geometry, **options.center)
    if found is None:
        found = torch_fields.folded(x, weight, constant, geometry, **options.center)
    return found.contiguous(memory_format=memory_format(x, weight))


def _shapes_folded(x: Tensor, weight: Tensor, constant: Tensor | None, *rest: Any) -> Tensor:
    return empty_output(x, weight, FieldOptions(*rest[:-1]).geometry(weight), x.dtype)


def _folded(
    x: Tensor, weight: Tensor, constant: Tensor | None, *rest: Any, portable: bool = False
) -> dict[str, Any]:
    """What the formulas take for filters that are unit vectors."""
    options = FieldOptions(*rest)
    unit = torch_fields.unit_filters(weight, constant, dtypes_of(x, portable=portable)[0])
    return {"geometry": options.geometry(weight), "unit": unit, **options.center}


def _formula_folded(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return torch_fields.cosine_formula(x, weight, **_folded(x, weight, *rest, portable=True))


def _gradient_folded(cotangent: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor]:
    given: Any = {**_folded(x, weight, *rest[:-1]), "needs": (True, False)}
    return torch_fields.gradient_formula(cotangent, x, weight, **given)[:1]


def _tangent_folded(tangents: Any, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return torch_fields.tangent_formula((tangents[0], None), x, weight, **_folded(x, weight, *rest))


def _batched(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *rest: Any) -> Any:
    """More samples, where x alone is mapped; else one call after the other."""
    operator = cosine_fields if isinstance(rest[1], list) else cosine_folded_fields
    if any(isinstance(dim, int) for dim in in_dims[1:3]):
        return one_by_one(operator)(info, in_dims, x, *rest)
    samples = x.movedim(in_dims[0] or 0, 0)
    found = operator(samples.flatten(0, 1), *rest)
    if isinstance(found, Tensor):
        return found.unflatten(0, samples.shape[:2]), 0
    return (found[0].unflatten(0, samples.shape[:2]), *found[1:]), (0, None, None)


def _flops(x: torch.Size, weight: torch.Size, *rest: Any) -> int:
    """Those of the convolution, as `FlopCounterMode` counts them."""
    options = FieldOptions(*rest[-1 - len(FieldOptions._fields) : -1])
    return 2 * math.prod(options.geometry(weight).shape(x, weight)) * math.prod(weight[1:])


def _backward_flops(cotangent: torch.Size, x: torch.Size, weight: torch.Size, *rest: Any) -> int:
    return 2 * sum(rest[-1]) * math.prod(cotangent) * math.prod(weight[1:])


_OPTIONS = f"{arguments_of(FieldOptions)}, bool keep"

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
    flops=_flops,
    batch=_batched,
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
