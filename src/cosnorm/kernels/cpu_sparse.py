"""The compiled passes over sparse rows: float32 on a CPU, and a weight that lies a feature at a time.

Each returns None where it cannot serve: nothing is compiled, another dtype or device or order of the weight,
an index outside of it, or norms that do not allow the plain form. `cosnorm.functional.sparse_products` and
`sparse_rows` do it by torch's operators then. x is given as where its rows begin (N + 1,), its columns and
its values.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.kernels.compiled import LIMIT, library


def sparse_products(x: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> Tensor | None:
    """x·w for all pairs, (N, M)."""
    found = _rows(x, weight)
    if found is None:
        return None
    output = weight.new_empty(len(x[0]) - 1, weight.shape[0])
    fine = library().cosnorm_sparse_products(
        *found.addresses, weight.data_ptr(), *weight.t().shape, output.data_ptr(), torch.get_num_threads()
    )
    return output if fine else None


def sparse_cosine(
    x: tuple[Tensor, Tensor, Tensor], weight: Tensor, extra: float, centered: bool, share: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """X·w for all pairs (N, M), the factors 1/√(|w|² + extra) (M,), and the means of the weight's rows.

    Centered, the norms are those of w − μ, from |w|² − D·μ², and the third is μ (M,); otherwise it is empty.
    None, too, where a mean makes up more than half of |w|² or more than `share` of |w|.
    """
    found = _rows(x, weight)
    if found is None:
        return None
    output = weight.new_empty(len(x[0]) - 1, weight.shape[0])
    factors = weight.new_empty(2 if centered else 1, weight.shape[0])
    fine = library().cosnorm_sparse_cosine(
        *found.addresses,
        weight.data_ptr(),
        *weight.t().shape,
        extra,
        LIMIT,
        centered,
        share,
        factors.data_ptr(),
        output.data_ptr(),
        torch.get_num_threads(),
    )
    return (output, factors[0], factors[1] if centered else weight.new_empty(0)) if fine else None


def sparse_gradient(
    x: tuple[Tensor, Tensor, Tensor],
    h: Tensor,
    weight: Tensor,
    along: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor | None:
    """w·along + offset + hᵀx in the order of the weight (M, D): h (N, M), along and offset (M,) or 0."""
    found = _rows(x, weight)
    if found is None or h.dtype != weight.dtype:
        return None
    h = h.contiguous()
    offset = weight.new_zeros(weight.shape[0]) if offset is None else offset.contiguous()
    along = None if along is None else along.contiguous()
    gradient = torch.empty_like(weight)  # keeps the order in memory
    fine = library().cosnorm_sparse_gradient(
        *found.addresses,
        h.data_ptr(),
        0 if along is None else weight.data_ptr(),
        0 if along is None else along.data_ptr(),
        offset.data_ptr(),
        *weight.t().shape,
        gradient.data_ptr(),
        torch.get_num_threads(),
    )
    return gradient if fine else None


class _Rows(NamedTuple):
    """Tensors with indices of 64 bits, and their addresses and number of rows, valid while those live."""

    tensors: tuple[Tensor, Tensor, Tensor]
    addresses: tuple[int, int, int, int]


def _rows(x: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> _Rows | None:
    starts, columns, values = x
    fits = (
        values.dtype == weight.dtype == torch.float32
        and values.device.type == weight.device.type == "cpu"
        and weight.numel()
        and weight.t().is_contiguous()
        and len(starts) > 1
    )
    if not fits or library() is None:
        return None
    tensors = (starts.long().contiguous(), columns.long().contiguous(), values.contiguous())
    if int(tensors[0][-1]) > min(len(columns), len(values)):
        return None
    first, second, third = (one.data_ptr() for one in tensors)
    return _Rows(tensors, (first, second, third, len(starts) - 1))
