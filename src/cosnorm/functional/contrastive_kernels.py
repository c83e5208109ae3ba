"""Blocked softmaxes by the Triton kernels: what stands between the losses and `cosnorm.kernels.softmax`.

Unit rows stay in float32 here; the kernels take them in the dtype of the embeddings, in which matrix units
are fast.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.norms import UnitRows
from cosnorm.functional.positives import PairPositives


@dataclass(frozen=True)
class KernelProblem:
    """What the kernels leave out of the sums, a `cosnorm.kernels.softmax.Exclusion`, and their dtype."""

    exclusion: Any
    dtype: torch.dtype


def kernel_problem(dtype: torch.dtype, **left_out: Any) -> KernelProblem:
    """A problem for kernels; `left_out` are the fields of an `Exclusion`."""
    from cosnorm.kernels.softmax import Exclusion

    return KernelProblem(Exclusion(**left_out), dtype)


def partners(where: str, positives: PairPositives) -> Tensor:
    """The one positive of each query, −1 for none."""
    if bool((positives.counts > 1).any()):
        raise RuntimeError(
            f'{where}: impl="triton" takes one positive for each query where decoupled, got '
            f'{int(positives.counts.max())}; use impl="torch", or labels'
        )
    partner = positives.columns.new_full(positives.counts.shape, -1)
    partner[positives.rows] = positives.columns
    return partner


def kernel_normalized(x: Tensor) -> UnitRows:
    """`norms.normalized` by a kernel."""
    from cosnorm.kernels.rows import unit_rows

    rows = unit_rows(x, dtype=torch.float32)
    assert rows.values is not None
    return UnitRows(rows.values, None, rows.inverse_norm.unsqueeze(1), rows.exponent.unsqueeze(1).long())


def kernel_log_sums(
    x: Tensor, y: Tensor, scale: float, problem: KernelProblem, *, columns: bool
) -> tuple[Tensor, Tensor | None]:
    """`tiles.log_sums` by kernels."""
    from cosnorm.kernels.softmax import log_sums

    x, y = x.to(problem.dtype), y.to(problem.dtype)
    rows = log_sums(x, y, scale, problem.exclusion)
    return rows, log_sums(y, x, scale, problem.exclusion.transposed(len(y))) if columns else None


def kernel_gradients(
    x: Tensor,
    y: Tensor,
    scale: float,
    problem: KernelProblem,
    *weights_and_sums: Tensor,
    into_y: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor | None]:
    """`tiles.gradients` by kernels; in the symmetric case with the rows' weights and sums given twice."""
    from cosnorm.kernels.softmax import gradients

    x, y = x.to(problem.dtype), y.to(problem.dtype)
    return gradients(x, y, scale, problem.exclusion, *weights_and_sums, into_y=into_y, chunk=chunk)
