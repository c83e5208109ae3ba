"""The compiled passes over sparse rows: float32 on a CPU, and a weight that lies a feature at a time.

Each reads the weight, which is larger than the caches, once, and returns None where it cannot serve: an index
outside of the weight, or norms that do not allow the plain form.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.c.library import library
from cosnorm.backends.look.sparse import finish, gradient_terms, share_of_means
from cosnorm.backends.torch.sparse import SparseRows, by_feature
from cosnorm.norms import NORM_LIMIT


def handles(rows: SparseRows, weight: Tensor) -> bool:
    """Whether the passes have this layout."""
    return (
        rows.values.dtype == weight.dtype == torch.float32
        and rows.values.device.type == weight.device.type == "cpu"
        and weight.numel() > 0
        and by_feature(weight)
        and len(rows.starts) > 1
    )


def product(rows: SparseRows, weight: Tensor) -> Tensor | None:
    """x·w for all pairs, (N, M)."""
    found = _rows(rows)
    if found is None:
        return None
    output = weight.new_empty(len(rows.starts) - 1, weight.shape[0])
    fine = library().cosnorm_sparse_products(
        *found.addresses, weight.data_ptr(), *weight.t().shape, output.data_ptr(), torch.get_num_threads()
    )
    return output if fine else None


def adjoint(
    weight: Tensor,
    cotangent: Tensor,
    rows: SparseRows,
    along: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor | None:
    """w·along + offset + cotangentᵀ x in the order of the weight (M, D); along and offset are (M,), or 0."""
    found = _rows(rows)
    if found is None or cotangent.dtype != weight.dtype:
        return None
    cotangent = cotangent.contiguous()
    offset = weight.new_zeros(weight.shape[0]) if offset is None else offset.contiguous()
    along = None if along is None else along.contiguous()
    gradient = torch.empty_like(weight)  # keeps the order in memory
    fine = library().cosnorm_sparse_gradient(
        *found.addresses,
        cotangent.data_ptr(),
        0 if along is None else weight.data_ptr(),
        0 if along is None else along.data_ptr(),
        offset.data_ptr(),
        *weight.t().shape,
        gradient.data_ptr(),
        torch.get_num_threads(),
    )
    return gradient if fine else None


def products_and_factors(
    rows: SparseRows, weight: Tensor, augment: float, centered: bool, share: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """X·w for all pairs (N, M), the factors 1/√(|w|² + a²) (M,), and the means of the weight's rows.

    Centered, the norms are those of w − μ, from |w|² − D·μ², and the third is μ (M,); otherwise it is empty.
    None, too, where a mean makes up more than half of |w|² or more than `share` of |w|.
    """
    found = _rows(rows)
    if found is None:
        return None
    output = weight.new_empty(len(rows.starts) - 1, weight.shape[0])
    factors = weight.new_empty(2 if centered else 1, weight.shape[0])
    fine = library().cosnorm_sparse_cosine(
        *found.addresses,
        weight.data_ptr(),
        *weight.t().shape,
        augment**2,
        NORM_LIMIT[torch.float32],
        centered,
        share,
        factors.data_ptr(),
        output.data_ptr(),
        torch.get_num_threads(),
    )
    return (output, factors[0], factors[1] if centered else weight.new_empty(0)) if fine else None


def cosines(
    rows: SparseRows, weight: Tensor, *, centered: bool, augment: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines before they are clamped, 1/|w|, and the means of the weight's rows (M,), if centered."""
    share = share_of_means(rows, centered)
    found = products_and_factors(rows, weight, augment, centered, share)
    if found is None:
        return None
    products, factor, means = found
    return finish(products, factor.clone(), means.clone(), rows, augment)


def gradient(
    cotangent: Tensor,
    rows: SparseRows,
    found: Tensor,
    weight: Tensor,
    factor: Tensor,
    means: Tensor,
    *,
    centered: bool,
) -> Tensor | None:
    """The gradient in the weight; the means must not have been taken off."""
    terms = gradient_terms(cotangent, rows, found, weight, factor, means)
    if terms is None or (centered and terms[2] is None):
        return None
    cotangent, along, offset = terms
    return adjoint(weight, cotangent, rows, along, offset)


class _Rows(NamedTuple):
    """Tensors with indices of 64 bits, and their addresses and number of rows, valid while those live."""

    tensors: tuple[Tensor, Tensor, Tensor]
    addresses: tuple[int, int, int, int]


def _rows(rows: SparseRows) -> _Rows | None:
    tensors = (rows.starts.long().contiguous(), rows.columns.long().contiguous(), rows.values.contiguous())
    if int(tensors[0][-1]) > min(len(rows.columns), len(rows.values)):
        return None
    first, second, third = (one.data_ptr() for one in tensors)
    return _Rows(tensors, (first, second, third, len(rows.starts) - 1))
