"""The cosine of rows as operators.

`cosine_matrix` is that of a linear layer, `cosine_all_pairs` the same where nothing as large as the result is
kept, and `cosine_pairs` takes each row with one other.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.torch import rows as torch_rows
from cosnorm.backends.torch.contraction import ALL_PAIRS, MATRIX, PAIRS, Contraction
from cosnorm.norms import check_one_dtype
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward


def _compute(
    contraction: Contraction, x: Tensor, y: Tensor, centered: bool, augment: float, impl: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    check_one_dtype(x, y)
    backend = choose.backend("rows", impl, x, y, contraction, keep)
    found: Any = backend.cosines(x, y, contraction, centered=centered, augment=augment, keep=keep)
    if found is None:
        found = torch_rows.cosines(x, y, contraction, centered=centered, augment=augment, keep=keep)
        if keep:
            # What the backend would have saved, marked: its backward pass declines, too.
            products, statistics = backend.saved(x, y, contraction, centered)
            found = found[0], products.zero_(), statistics.fill_(torch.inf)
    # Without `keep` the other two mean nothing, and a backend may give one tensor for both.
    return found if keep else (found[0], x.new_empty(0), x.new_empty(0))


def _shapes(
    contraction: Contraction, x: Tensor, y: Tensor, centered: bool, augment: float, impl: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    check_one_dtype(x, y)
    output, nothing = x.new_empty(contraction.shape(x.shape, y.shape)), (x.new_empty(0), x.new_empty(0))
    backend = choose.backend("rows", impl, x, y, contraction, keep)
    return output, *(backend.saved(x, y, contraction, centered) if keep else nothing)


def _gradients(
    contraction: Contraction,
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    centered: bool,
    augment: float,
    impl: str,
    products: Tensor,
    statistics: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    backend = choose.backend("rows", impl, x, y, contraction, True)
    for form in (backend, torch_rows):
        found: tuple[Tensor, Tensor] | None = form.gradients(
            cotangent,
            x,
            y,
            products,
            statistics,
            contraction,
            centered=centered,
            augment=augment,
            needs=needs,
        )
        if found is not None:
            return found
    raise AssertionError("the torch form handles everything")


def _formula(
    contraction: Contraction, x: Tensor, y: Tensor, centered: bool, augment: float, impl: str
) -> Tensor:
    return torch_rows.cosine_formula(x, y, contraction, centered=centered, augment=augment)


def gradient_formula(
    contraction: Contraction,
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    centered: bool,
    augment: float,
    impl: str,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients, differentiable, in the order of the operators' arguments."""
    options: Any = {"centered": centered, "augment": augment}
    return torch_rows.gradient_formula(cotangent, x, y, contraction, needs=needs, **options)


def tangent_formula(
    contraction: Contraction,
    tangents: tuple[Tensor | None, ...],
    x: Tensor,
    y: Tensor,
    centered: bool,
    augment: float,
    impl: str,
) -> Tensor:
    """The forward derivative, in the order of the operators' arguments."""
    return torch_rows.tangent_formula(tangents, x, y, contraction, centered=centered, augment=augment)


def _batched(
    contraction: Contraction, info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor, *options: Any
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Broadcasting does the rest, once the mapped dimension stands in front of all others."""
    rank = max(rows.ndim - (dim is not None) for rows, dim in zip((x, y), in_dims, strict=False))

    def to_front(rows: Tensor, dim: int | None) -> Tensor:
        if dim is None:
            return rows
        rows = rows.movedim(dim, 0)
        return rows.reshape(rows.shape[0], *[1] * (rank + 1 - rows.ndim), *rows.shape[1:])

    operator = _OPERATORS[contraction]
    output, *saved = operator(to_front(x, in_dims[0]), to_front(y, in_dims[1]), *options)
    return (output, *saved), (0, None, None)


def flops(contraction: Contraction, x: torch.Size, y: torch.Size, *_: Any) -> int:
    """Multiplications and additions of the products, as `FlopCounterMode` counts them."""
    return 2 * contraction.shape(x, y).numel() * x[-1]


def backward_flops(contraction: Contraction, cotangent: torch.Size, x: torch.Size, *arguments: Any) -> int:
    """Those of one product for each gradient that is needed."""
    return 2 * sum(arguments[-1]) * cotangent.numel() * x[-1]


def lower_under_autocast(tensor: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """As `torch.nn.functional.linear` under autocast."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


def _float32_on_cuda(tensor: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """As `torch.nn.functional.cosine_similarity` under autocast."""
    return tensor.float() if device == "cuda" and tensor.dtype != torch.float64 else tensor


def _define(name: str, contraction: Contraction, autocast: Any) -> Any:
    return define(
        f"{name}(Tensor x, Tensor y, bool centered, float augment, str impl, bool keep) "
        "-> (Tensor output, Tensor products, Tensor statistics)",
        partial(_compute, contraction),
        partial(_shapes, contraction),
        flops=partial(flops, contraction),
        batch=partial(_batched, contraction),
        autocast=autocast,
        formula=partial(_formula, contraction),
        backward=Backward(
            partial(_gradients, contraction),
            learns=2,
            gradients=partial(gradient_formula, contraction),
            tangent=partial(tangent_formula, contraction),
            flops=partial(backward_flops, contraction),
        ),
    )


cosine_matrix = _define("cosine_matrix", MATRIX, lower_under_autocast)
cosine_all_pairs = _define("cosine_all_pairs", ALL_PAIRS, lower_under_autocast)
cosine_pairs = _define("cosine_pairs", PAIRS, _float32_on_cuda)
_OPERATORS = {MATRIX: cosine_matrix, ALL_PAIRS: cosine_all_pairs, PAIRS: cosine_pairs}
