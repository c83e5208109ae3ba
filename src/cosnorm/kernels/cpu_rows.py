"""The compiled passes over rows on tensors: float32, contiguous, on a CPU; nothing is checked here.

What looks at the data returns None where the plain form could be wrong: where a norm is out of its window,
and may not be taken for that of a zero row. `cosnorm.functional.row_passes` has the same by torch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.kernels.compiled import CONSTANT, COTANGENT_LIMIT, LIMIT, library

# So many rows of x are too few for a matrix product to hide a second reading of the weight: one pass takes
# norms and products, and one both gradients (LOG, 2026-11-26).
FEW, FEW_GRADIENTS = 16, 8


def cosine_rows(
    x: Tensor, weight: Tensor, extra: float, folded: bool, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines (x·w + extra) f_x f_w (N, M), the products x·w, and the factors f.

    f = 1/√(|row|² + extra), 0 for zero rows: of the weight (M), then of x (N). Folded, the rows of the weight
    are unit vectors already. Unless they are to be kept, the products are overwritten by the cosines.
    """
    rows, columns = len(x), len(weight)
    factors = torch.empty(rows + columns)
    few = rows <= FEW
    products = torch.empty(rows, columns) if few else F.linear(x, weight)
    output = torch.empty_like(products) if keep else products
    if few:
        fine = library().cosnorm_cosine_few(
            x.data_ptr(),
            weight.data_ptr(),
            rows,
            columns,
            x.shape[1],
            extra,
            LIMIT,
            folded,
            products.data_ptr(),
            factors.data_ptr(),
            output.data_ptr(),
            torch.get_num_threads(),
        )
    else:
        fine = library().cosnorm_cosine_rows(
            products.data_ptr(),
            x.data_ptr(),
            0 if folded else weight.data_ptr(),
            rows,
            columns,
            x.shape[1],
            extra,
            LIMIT,
            factors.data_ptr(),
            output.data_ptr(),
            torch.get_num_threads(),
        )
    return (output, products, factors) if fine else None


def prepare_rows(x: Tensor, weight: Tensor, extra: float, folded: bool) -> tuple[Tensor, Tensor] | None:
    """The rows of x less their means, and the factors as of `cosine_rows`, but of what is centered.

    Behind the factors stand the means of the weight (M). None, too, where a row of x could count as constant,
    or where the means of the weight are so large that they would eat the digits.
    """
    rows, size = x.shape
    columns = weight.shape[0]
    factors, values = torch.empty(rows + 2 * columns), torch.empty_like(x)
    fine = library().cosnorm_prepare_rows(
        x.data_ptr(),
        0 if folded else weight.data_ptr(),
        rows,
        columns,
        size,
        extra,
        LIMIT,
        size * CONSTANT,
        values.data_ptr(),
        factors.data_ptr(),
        torch.get_num_threads(),
    )
    return (values, factors) if fine else None


def center_rows(x: Tensor) -> Tensor:
    """The rows less their means."""
    values = torch.empty_like(x)
    library().cosnorm_center_rows(x.data_ptr(), values.data_ptr(), *x.shape, torch.get_num_threads())
    return values


def finish_rows(products: Tensor, factors: Tensor, extra: float, output: Tensor) -> Tensor:
    """The cosines from products of what `prepare_rows` gave, into `output`, also in place."""
    rows, columns = products.shape
    address = factors.data_ptr()
    library().cosnorm_finish_rows(
        products.data_ptr(),
        extra,
        address + 4 * columns,
        address,
        output.data_ptr(),
        rows,
        columns,
        torch.get_num_threads(),
    )
    return output


def row_gradients(
    cotangent: Tensor,
    products: Tensor,
    factors: Tensor,
    x: Tensor,
    weight: Tensor,
    centered: bool,
    extra: float,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None] | None:
    """The gradients in x and in the weight, by h = g f_x f_w and its products with both."""
    few = len(x) <= FEW_GRADIENTS
    h = torch.empty_like(products)
    into_x = torch.empty_like(x) if needs[0] else None
    into_w = torch.empty_like(weight) if needs[1] else None
    fine = library().cosnorm_weigh_rows(
        cotangent.data_ptr(),
        products.data_ptr(),
        factors.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        *products.shape,
        x.shape[1],
        extra,
        COTANGENT_LIMIT,
        centered,
        few,
        h.data_ptr(),
        0 if into_x is None else into_x.data_ptr(),
        0 if into_w is None else into_w.data_ptr(),
        torch.get_num_threads(),
    )
    if not fine:
        return None
    if not few:
        if into_x is not None:
            into_x.addmm_(h, weight)
        if into_w is not None:
            into_w.addmm_(h.t(), x)
    return into_x, into_w
