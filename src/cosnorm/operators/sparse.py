"""Sparse rows and a dense weight as operators: `cosine_sparse`, and the plain `sparse_product`.

Only the weight has a gradient: that in sparse rows would be dense.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.torch import sparse
from cosnorm.backends.torch.sparse import SparseRows
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.rows import lower_under_autocast


def _first(
    operation: str, impl: str, rows: SparseRows, weight: Tensor, *arguments: Any, **options: Any
) -> Any:
    """What the first backend finds that does not decline; None if all do."""
    for backend in choose.backends("sparse", impl, weight):
        if backend.handles(rows, weight) and hasattr(backend, operation):
            found = getattr(backend, operation)(*arguments, **options)
            if found is not None:
                return found
    return None


class SparseOptions(NamedTuple):
    """What is taken of the rows of a CSR matrix."""

    centered: bool
    augment: float
    impl: str

    @property
    def center(self) -> dict[str, Any]:
        """What the forms take by name."""
        return {"centered": self.centered, "augment": self.augment}


def _compute(weight: Tensor, starts: Tensor, columns: Tensor, values: Tensor, *rest: Any) -> Any:
    """The output; unit values and appended components of x; the cosines; 1/|w|; the means of the weight."""
    options, keep = SparseOptions(*rest[:-1]), rest[-1]
    rows = sparse.sparse_unit_rows(starts, columns, values, weight.shape[1], **options.center)
    rows = rows._replace(values=rows.values.to(accumulation_dtype(weight.dtype)))
    wide = weight.to(rows.values.dtype)
    cosines, factor, means = _first("cosines", options.impl, rows, wide, rows, wide, **options.center)
    output = cosines.clamp(-1, 1).to(weight.dtype)
    nothing = (weight.new_empty(0) for _ in range(5))
    return output, *((rows.values, rows.constant, cosines, factor, means) if keep else nothing)


def _shapes(weight: Tensor, starts: Tensor, columns: Tensor, values: Tensor, *rest: Any) -> Any:
    options, keep = SparseOptions(*rest[:-1]), rest[-1]
    number, dtype = starts.shape[0] - 1, accumulation_dtype(weight.dtype)
    shape = (number, weight.shape[0])
    means = weight.shape[0] if options.centered else 0
    shapes: Any = [values.shape, (number, 1), shape, weight.shape[:1], means]
    saved = [weight.new_empty(one, dtype=dtype) if keep else weight.new_empty(0) for one in shapes]
    return weight.new_empty(shape), *saved


def _gradient(
    cotangent: Tensor, weight: Tensor, starts: Tensor, columns: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor]:
    options, (unit_values, constant, cosines, factor, means, _) = SparseOptions(*rest[:3]), rest[3:]
    rows = SparseRows(starts, columns, unit_values, constant)
    wide, cotangent = weight.to(unit_values.dtype), cotangent.to(unit_values.dtype)
    given = cotangent, rows, cosines, wide, factor, means
    found = _first("gradient", options.impl, rows, wide, *given, centered=options.centered)
    if found is None:
        found = sparse.gradient_formula(cotangent, rows, weight, **options.center)
    return (found.to(weight.dtype),)


def _formula(
    cotangent: Tensor, weight: Tensor, starts: Tensor, columns: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor]:
    options = SparseOptions(*rest[:-1])
    rows = sparse.sparse_unit_rows(starts, columns, values, weight.shape[1], **options.center)
    return (sparse.gradient_formula(cotangent.to(rows.values.dtype), rows, weight, **options.center),)


def _flops(weight: torch.Size, starts: torch.Size, columns: torch.Size, *_: Any) -> int:
    return 2 * columns[0] * weight[0]


def _backward_flops(
    cotangent: torch.Size, weight: torch.Size, starts: torch.Size, columns: torch.Size, *_: Any
) -> int:
    return 2 * columns[0] * weight[0]


cosine_sparse = define(
    "cosine_sparse(Tensor weight, Tensor starts, Tensor columns, Tensor values, bool centered, "
    "float augment, str impl, bool keep) -> (Tensor output, Tensor unit_values, Tensor constant, "
    "Tensor cosines, Tensor factor, Tensor means)",
    _compute,
    _shapes,
    flops=_flops,
    autocast=lower_under_autocast,
    backward=Backward(_gradient, learns=1, gradients=_formula, flops=_backward_flops),
)


def _rows(starts: Tensor, columns: Tensor, values: Tensor) -> SparseRows:
    return SparseRows(starts, columns, values, values.new_zeros((len(starts) - 1, 1)))


def _product(
    weight: Tensor, starts: Tensor, columns: Tensor, values: Tensor, impl: str, keep: bool
) -> Tensor:
    rows = _rows(starts, columns, values)
    found: Tensor = _first("product", impl, rows, weight, rows, weight)
    return found


def _product_shapes(
    weight: Tensor, starts: Tensor, columns: Tensor, values: Tensor, impl: str, keep: bool
) -> Tensor:
    return weight.new_empty(starts.shape[0] - 1, weight.shape[0])


def _adjoint(
    cotangent: Tensor,
    weight: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    impl: str,
    needs: list[bool],
) -> tuple[Tensor]:
    rows = _rows(starts, columns, values)
    return (_first("adjoint", impl, rows, weight, weight, cotangent, rows),)


sparse_product = define(
    "sparse_product(Tensor weight, Tensor starts, Tensor columns, Tensor values, str impl, bool keep) "
    "-> Tensor",
    _product,
    _product_shapes,
    flops=_flops,
    backward=Backward(_adjoint, learns=1, flops=_backward_flops),
)
