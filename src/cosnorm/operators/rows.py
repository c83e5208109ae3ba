"""The cosine of rows as operators: `cosine_matrix`, every row with every other, and `cosine_pairs`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.torch import rows as formula
from cosnorm.backends.torch.contraction import MATRIX, PAIRS, Contraction
from cosnorm.norms import check_one_dtype
from cosnorm.operators.define import Backward, define


def _compute(
    contraction: Contraction, x: Tensor, y: Tensor, centered: bool, augment: float, impl: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    check_one_dtype(x, y)
    first = None
    for backend in choose.backends("rows", impl, x):
        first = first or backend
        found = backend.cosines(x, y, contraction, centered=centered, augment=augment, keep=keep)
        if found is not None:
            break
    if keep and backend is not first:
        # Another form than the first has computed: what it would have saved is marked, so that all agree.
        products, statistics = first.saved(x, y, contraction, centered)
        return found[0], products.zero_(), statistics.fill_(torch.inf)
    return found


def _shapes(
    contraction: Contraction, x: Tensor, y: Tensor, centered: bool, augment: float, impl: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    check_one_dtype(x, y)
    first = next(choose.backends("rows", impl, x))
    saved = first.saved(x, y, contraction, centered) if keep else (x.new_empty(0), x.new_empty(0))
    return x.new_empty(contraction.shape(x.shape, y.shape)), *saved


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
    options: Any = {"centered": centered, "augment": augment, "needs": needs}
    for backend in choose.backends("rows", impl, x):
        found = backend.gradients(cotangent, x, y, products, statistics, contraction, **options)
        if found is not None:
            return found
    raise AssertionError("the torch form declines nothing")


def _formula(
    contraction: Contraction,
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    centered: bool,
    augment: float,
    impl: str,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    options: Any = {"centered": centered, "augment": augment}
    return formula.gradient_formula(cotangent, x, y, contraction, needs=needs, **options)


def _tangent(
    contraction: Contraction,
    tangents: tuple[Tensor | None, ...],
    x: Tensor,
    y: Tensor,
    centered: bool,
    augment: float,
    impl: str,
) -> Tensor:
    return formula.tangent_formula(tangents, x, y, contraction, centered=centered, augment=augment)


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


def _flops(products: int, contraction: Contraction, x: torch.Size, y: torch.Size, *_: Any) -> int:
    return 2 * products * contraction.shape(x, y).numel() * x[-1]


def _backward_flops(contraction: Contraction, cotangent: torch.Size, x: torch.Size, *arguments: Any) -> int:
    return 2 * sum(arguments[-1]) * cotangent.numel() * x[-1]


def _lower(tensor: Tensor, device: str, dtype: torch.dtype) -> Tensor:
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
        flops=partial(_flops, 1, contraction),
        batch=partial(_batched, contraction),
        autocast=autocast,
        backward=Backward(
            partial(_gradients, contraction),
            learns=2,
            gradients=partial(_formula, contraction),
            tangent=partial(_tangent, contraction),
            flops=partial(_backward_flops, contraction),
        ),
    )


cosine_matrix = _define("cosine_matrix", MATRIX, _lower)
cosine_pairs = _define("cosine_pairs", PAIRS, _float32_on_cuda)
_OPERATORS = {MATRIX: cosine_matrix, PAIRS: cosine_pairs}
