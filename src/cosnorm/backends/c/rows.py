"""The compiled passes over rows: cosines of the rows of two matrices, and their gradients.

Between the passes the products are torch's own. The matrices are of one floating dtype (float16 goes through
float32), contiguous, on a CPU, with at least one row, column and feature: nothing is checked here. None says
that the plain form could be wrong: a norm lies out of its window and is not that of a zero row (NaN and inf
end there, too), a centered row could count as constant, or the means of the weight would eat its digits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.backends.c.library import library
from cosnorm.backends.torch.contraction import MATRIX, Contraction
from cosnorm.norms import COTANGENT_LIMIT, NORM_LIMIT, accumulation_dtype

# So many rows of x are too few for a matrix product to hide a second reading of the weight: one pass takes
# norms and products, and one both gradients. The library's own products of bfloat16 are faster than that.
_FEW = {torch.float32: 12, torch.float16: 12, torch.float64: 8}
_FEW_GRADIENTS = {torch.float32: 8, torch.float16: 8, torch.float64: 8}


class _Passes:
    """The functions for one dtype, and what they are told of it."""

    def __init__(self, dtype: torch.dtype) -> None:
        computed = torch.float32 if dtype is torch.float16 else dtype
        self.center, self.cosines, self.few_cosines, self.gradients = (
            getattr(library(), f"cosnorm_{name}_{str(computed).removeprefix('torch.')}")
            for name in ("center", "cosines", "few_cosines", "gradients")
        )
        self.number = accumulation_dtype(dtype)
        self.limit, self.cotangent_limit = NORM_LIMIT[self.number], COTANGENT_LIMIT[self.number]
        self.few, self.few_gradients = _FEW.get(dtype, 0), _FEW_GRADIENTS.get(dtype, 0)
        self.eps, self.number_eps = torch.finfo(dtype).eps, torch.finfo(self.number).eps

    def constant(self, size: int) -> float:
        """So many times the mean must a centered norm be: far above that of what could be a constant row."""
        return float(max(64 * self.number_eps * size, 8 * self.eps * size**0.5))


_PASSES: dict[torch.dtype, Any] = {}


def _passes(dtype: torch.dtype) -> _Passes:
    found = _PASSES.get(dtype)
    if found is None:
        found = _PASSES[dtype] = _Passes(dtype)
    return found


def handles(x: Tensor, weight: Tensor, contraction: Contraction, keep: bool) -> bool:
    """Whether the passes have these shapes and this layout; for a gradient they want the products."""
    return (
        contraction.is_product
        and x.dtype is weight.dtype
        and weight.is_cpu
        and x.ndim == weight.ndim == 2
        and x.is_contiguous()
        and weight.is_contiguous()
        and x.numel() > 0
        and weight.numel() > 0
        and (contraction.keeps_products or not keep)
    )


def saved(x: Tensor, weight: Tensor, contraction: Contraction, centered: bool) -> tuple[Tensor, Tensor]:
    """Empty products and statistics of the shapes that `cosines` returns with `keep`."""
    rows, columns = x.shape[0], weight.shape[0]
    products = x.new_empty((rows, columns), dtype=torch.float32 if x.dtype is torch.float16 else x.dtype)
    number = rows + (2 if centered else 1) * columns
    return products, x.new_empty(number, dtype=accumulation_dtype(x.dtype))


def folded(
    x: Tensor, weight: Tensor, constant: Tensor | None, *, centered: bool, augment: float
) -> Tensor | None:
    """The cosines with unit rows, (of mean 0 if centered); none may have an appended component."""
    if constant is not None:
        return None
    options: Any = {"centered": centered, "augment": augment, "keep": False}
    found = cosines(x, weight, MATRIX, **options, unit_weight=True)
    return None if found is None else found[0]


def cosines(
    x: Tensor,
    weight: Tensor,
    contraction: Contraction,
    *,
    centered: bool,
    augment: float,
    keep: bool,
    unit_weight: bool = False,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines (x·w + augment²) f_x f_w (N, M), the products x·w, and the statistics, in one dimension.

    The statistics are the factors f = 1/√(|row|² + augment²), 0 for zero rows, of the weight (M), of x (N),
    and of centered rows the means of the weight (M), in the dtype of sums. The products of float16 are
    float32. Unless they are to be kept, both may be the cosines themselves. `unit_weight`: its rows are unit
    vectors.
    """
    passes, threads, dtype = _passes(x.dtype), torch.get_num_threads(), x.dtype
    if dtype is torch.float16:
        x, weight = x.float(), weight.float()
    (rows, size), columns = x.shape, weight.shape[0]
    sizes, augment_squared = (rows, columns, size), augment * augment
    statistics = values = None
    if keep or centered or rows <= passes.few:
        statistics = torch.empty(
            rows + (2 if centered else 1) * columns, dtype=passes.number, device=x.device
        )
    if centered:
        values = torch.empty_like(x)
    if rows <= passes.few:
        products = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
        output = torch.empty_like(products) if keep else products
        fine = passes.few_cosines(
            x.data_ptr(),
            weight.data_ptr(),
            *sizes,
            augment_squared,
            passes.limit,
            passes.constant(size) if centered else 0,
            unit_weight,
            _address(values),
            products.data_ptr(),
            _address(statistics),
            output.data_ptr(),
            threads,
        )
    else:
        if values is not None:
            fine = passes.center(
                x.data_ptr(),
                0 if unit_weight else weight.data_ptr(),
                *sizes,
                augment_squared,
                passes.limit,
                passes.constant(size),
                values.data_ptr(),
                _address(statistics),
                threads,
            )
            if not fine:
                return None
        products = F.linear(x if values is None else values, weight)
        output = torch.empty_like(products) if keep else products
        fine = passes.cosines(
            products.data_ptr(),
            x.data_ptr() if values is None else 0,
            0 if unit_weight else weight.data_ptr(),
            *sizes,
            augment_squared,
            passes.limit,
            _address(statistics),
            output.data_ptr(),
            threads,
        )
    if not fine:
        return None
    if dtype is torch.float16:
        output = output.to(dtype)
    return output, products, output if statistics is None else statistics


def gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor,
    statistics: Tensor,
    contraction: Contraction,
    *,
    centered: bool,
    augment: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor] | None:
    """The gradients in x and in the weight from what `cosines` kept, by h = g f_x f_w and its products.

    One that is not needed is empty.
    """
    needs_x, needs_w = needs
    passes, dtype = _passes(x.dtype), x.dtype
    few = x.shape[0] <= passes.few_gradients
    if dtype is torch.float16:
        cotangent, x, weight = cotangent.float(), x.float(), weight.float()
    cotangent = cotangent.contiguous()
    h = torch.empty_like(products)
    values = torch.empty_like(x) if centered else None
    into_x = torch.empty_like(x) if needs_x else None
    into_w = torch.empty_like(weight) if needs_w else None
    fine = passes.gradients(
        cotangent.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        products.data_ptr(),
        statistics.data_ptr(),
        *products.shape,
        x.shape[1],
        augment * augment,
        passes.cotangent_limit,
        few,
        _address(values),
        h.data_ptr(),
        _address(into_x),
        _address(into_w),
        torch.get_num_threads(),
    )
    if not fine:
        return None
    if not few:
        if into_x is not None:
            into_x.addmm_(h, weight)
        if into_w is not None:
            into_w.addmm_(h.t(), x if values is None else values)
    if into_x is None:
        into_x = x.new_empty(0)
    if into_w is None:
        into_w = x.new_empty(0)
    return (into_x.to(dtype), into_w.to(dtype)) if dtype is torch.float16 else (into_x, into_w)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
