"""The contrastive cross-entropy and its gradient over tiles of similarities: one autograd function.

With cosines s_ij = x̂_i·ŷ_j, weights a_i of the queries' losses and the mean positive p_i = (A ŷ)_i,

    loss_i = log Σ_j exp(s_ij/τ) − x̂_i·p_i/τ
    ∂/∂x̂_i = (1/τ) a_i (Σ_j P_ij ŷ_j − p_i),    ∂/∂ŷ = (1/τ) (Pᵀ − Aᵀ) a x̂,    P_ij = exp(s_ij/τ) / Σ

and ∂/∂τ = −(1/τ) Σ_i x̂_i·∂/∂x̂_i, so that a learned temperature needs no second look at the tiles. What
comes back through a unit vector is projected on the plane orthogonal to it and divided by the norm (eqs.
9-12).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.contrastive_kernels import (
    KernelProblem,
    kernel_gradients,
    kernel_log_sums,
    kernel_normalized,
)
from cosnorm.functional.norms import (
    UnitRows,
    finish_gradient,
    normalized,
    project_out_,
    scale_by_exponent,
    split_exponent,
)
from cosnorm.functional.once import first_derivative_only
from cosnorm.functional.positives import Positives
from cosnorm.functional.tiles import gradients, log_sums, rows_with_gradients, whole_rows_fit


class Mask(Protocol):
    """Puts −inf at the logits of a tile that leave the sums."""

    def __call__(self, logits: Tensor, rows: slice, columns: slice) -> None:
        """Change a tile in place."""


@dataclass(frozen=True)
class Problem:
    """What a contrastive loss is, apart from the embeddings and the temperature.

    Attributes:
        positives: the positives of each query.
        masks: what leaves the sums.
        own: the positive is among what `masks` takes out and comes back by itself; no query has two.
        symmetric: the keys are the queries, and so is what leaves the sums.
        bidirectional: keys look for their query, too; query i and key i belong together.
        separate: a loss for each query, not their sum.
        tile: rows of a block; None chooses.
        unit_keys: the keys are unit rows, or zero, already; their gradient is that in the unit rows.
        keep_gradients: make the gradients in the forward pass where that saves a pass over the tiles.
        kernels: the same masks for the Triton kernels, which then compute; None: torch computes.
    """

    positives: Positives
    masks: tuple[Mask, ...]
    own: bool = False
    symmetric: bool = False
    bidirectional: bool = False
    separate: bool = False
    tile: int | None = None
    unit_keys: bool = False
    keep_gradients: bool = False
    kernels: KernelProblem | None = None

    def exclude(self, logits: Tensor, rows: slice, columns: slice) -> None:
        """Put −inf at the logits that take no part in the sums."""
        for mask in self.masks:
            mask(logits, rows, columns)

    def keeps(self, num_keys: int) -> bool:
        """Whether the forward pass makes the gradients, too."""
        fits = self.symmetric or self.bidirectional or whole_rows_fit(num_keys)
        return self.keep_gradients and not self.separate and fits and self.kernels is None


def contrastive(
    queries: Tensor, keys: Tensor, temperature: Tensor, problem: Problem
) -> tuple[Tensor, Tensor]:
    """The loss, and the number of queries that take part. Arguments must be valid.

    `keys` is `queries` where the problem is symmetric.
    """
    loss, count, *_ = _Contrastive.apply(queries, keys, temperature, problem)
    return loss, count


def _units(queries: Tensor, keys: Tensor, problem: Problem) -> tuple[UnitRows, UnitRows]:
    normalize = normalized if problem.kernels is None else kernel_normalized
    unit_x = normalize(queries)
    if problem.symmetric:
        return unit_x, unit_x
    if problem.unit_keys:
        nothing = keys.new_zeros(1, 1)
        return unit_x, UnitRows(keys, None, nothing + 1, nothing.long())
    return unit_x, normalize(keys)


def _without_extra(unit: UnitRows) -> tuple[Tensor, Tensor, Tensor]:
    return unit.values, unit.inverse_norm, unit.exponent


def _project(gradient: Tensor, unit: UnitRows, is_unit: bool) -> Tensor:
    return gradient if is_unit else project_out_(gradient, unit)


def _losses(positive: Tensor, sums: list[Tensor], problem: Problem) -> tuple[Tensor, Tensor]:
    """Losses of the queries from the logits of their positives and the log sums; and who takes part."""
    taking_part = problem.positives.counts > 0
    for one in sums:
        taking_part = taking_part.logical_and(one != -torch.inf)
    losses = torch.stack([one - positive for one in sums]).mean(0)
    return losses.masked_fill(~taking_part, 0), taking_part


def _sums(
    x: Tensor, y: Tensor, positive: Tensor, scale: float, kept: list[Tensor] | None, problem: Problem
) -> list[Tensor]:
    """Log sums of the rows and, if bidirectional, of the columns."""
    if problem.kernels is None:
        rows, columns = log_sums(
            x,
            y,
            scale,
            problem.exclude,
            symmetric=problem.symmetric,
            columns=problem.bidirectional,
            tile=problem.tile,
            kept=kept,
        )
    else:
        rows, columns = kernel_log_sums(x, y, scale, problem.kernels, columns=problem.bidirectional)
    sums = [rows] if columns is None else [rows, columns]
    return [torch.logaddexp(one, positive) for one in sums] if problem.own else sums


def _pull(
    gradient_x: Tensor,
    gradient_y: Tensor | None,
    x: Tensor,
    means: Tensor,
    weights: Tensor,
    problem: Problem,
) -> None:
    """Add what the logits of the positives, each with its weight, give to the gradients."""
    weights = weights.unsqueeze(1)
    gradient_x.addcmul_(means, weights)
    if gradient_y is not None:
        problem.positives.spread_(gradient_y, x * weights)


def _gradients(
    unit_x: UnitRows,
    unit_y: UnitRows,
    scale: float,
    weights: Tensor,
    sums: list[Tensor],
    into_keys: bool,
    kept: list[Tensor] | None,
    problem: Problem,
) -> tuple[Tensor, Tensor | None]:
    """Gradients in the unit rows, from the weights of the queries' losses and the log sums."""
    x, y = unit_x.values, unit_y.values
    weights = weights / len(sums)
    second = (weights, sums[1]) if len(sums) == 2 else ()
    if problem.kernels is None:
        gradient_x, gradient_y = gradients(
            x,
            y,
            scale,
            problem.exclude,
            weights,
            sums[0],
            *second,
            symmetric=problem.symmetric,
            into_y=into_keys,
            tile=problem.tile,
            kept=kept,
        )
    else:
        if problem.symmetric:
            second = (weights, sums[0])
        gradient_x, gradient_y = kernel_gradients(
            x, y, scale, problem.kernels, weights, sums[0], *second, into_y=into_keys, chunk=problem.tile
        )
    means = problem.positives.means(y)
    pulls = -weights * len(sums)
    if problem.own:
        positive = (x * means).sum(1) * scale
        softmax = sum((positive - one).exp() for one in sums)
        pulls = torch.where(weights == 0, 0, weights * (softmax - len(sums)))
    into_y = gradient_x if problem.symmetric else gradient_y
    _pull(gradient_x, into_y, x, means, pulls * scale, problem)
    return gradient_x, gradient_y


def _at_once(
    unit_x: UnitRows, unit_y: UnitRows, positive: Tensor, scale: float, into_keys: bool, problem: Problem
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Losses of the queries, who takes part, and the gradients of the sum of the losses in the unit rows."""
    x, y = unit_x.values, unit_y.values
    if problem.symmetric or problem.bidirectional:
        tiles: list[Tensor] = []
        sums = _sums(x, y, positive, scale, tiles, problem)
        losses, taking_part = _losses(positive, sums, problem)
        weights = taking_part.to(x.dtype)
        return (
            losses,
            taking_part,
            *_gradients(unit_x, unit_y, scale, weights, sums, into_keys, tiles, problem),
        )
    row_sums, gradient_x, gradient_y = rows_with_gradients(
        x,
        y,
        scale,
        problem.exclude,
        (problem.positives.counts > 0).to(x.dtype),
        positive if problem.own else None,
        into_y=into_keys,
        rows_at_once=problem.tile,
    )
    losses, taking_part = _losses(positive, [row_sums], problem)
    pulls = -taking_part.to(x.dtype)
    if problem.own:
        pulls *= 1 - (positive - row_sums).exp().masked_fill(~taking_part, 0)
    _pull(gradient_x, gradient_y, x, problem.positives.means(y), pulls * scale, problem)
    return losses, taking_part, gradient_x, gradient_y


class _Contrastive(torch.autograd.Function):
    """The loss, and what the backward pass needs.

    That is who takes part, the log sums and the unit rows, of which the tiles are made again; or, where the
    gradients were kept, for queries and keys the projected gradient, 1/norm and exponent, and the gradient in
    the temperature.
    """

    @staticmethod
    def forward(queries: Tensor, keys: Tensor, temperature: Tensor, problem: Problem) -> tuple[Tensor, ...]:
        scale = 1 / float(temperature)
        with without_autocast(queries.device):
            unit_x, unit_y = _units(queries, keys, problem)
            x, y = unit_x.values, unit_y.values
            positive = (x * problem.positives.means(y)).sum(1) * scale
            if not problem.keeps(len(y)):
                sums = _sums(x, y, positive, scale, None, problem)
                losses, taking_part = _losses(positive, sums, problem)
                loss = losses if problem.separate else losses.sum()
                units = list(_without_extra(unit_x))
                if not problem.symmetric:
                    units += _without_extra(unit_y)
                if problem.unit_keys:
                    units[3] = keys.new_empty(0)  # an input cannot be an output; setup_context has it
                return loss, taking_part.sum(), taking_part, *sums, *units
            into_keys = keys.requires_grad and not problem.symmetric
            losses, taking_part, gradient_x, gradient_y = _at_once(
                unit_x, unit_y, positive, scale, into_keys, problem
            )
            # In the symmetric case each similarity stands in both gradients.
            along = (x * gradient_x).sum() if temperature.requires_grad else x.new_zeros(())
            into_temperature = along * (-scale / (2 if problem.symmetric else 1))
            parts = [project_out_(gradient_x, unit_x), unit_x.inverse_norm, unit_x.exponent]
            if gradient_y is not None:
                projected = _project(gradient_y, unit_y, problem.unit_keys)
                parts += [projected, unit_y.inverse_norm, unit_y.exponent]
            return losses.sum(), taking_part.sum(), *parts, into_temperature

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        queries, keys, temperature, ctx.problem = inputs
        ctx.dtypes = queries.dtype, keys.dtype
        ctx.mark_non_differentiable(*output[1:])
        ctx.kept = ctx.problem.keeps(len(keys))
        saved = list(output[2:])
        if ctx.problem.unit_keys and not ctx.kept:
            saved[-3] = keys
        ctx.save_for_backward(queries, keys, temperature, *saved)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        _, _, temperature, *saved = ctx.saved_tensors
        cotangent, exponent = split_exponent(cotangent)
        if ctx.kept:
            *rows, along = saved
            found: list[Tensor | None] = [
                finish_gradient(projected, inverse_norm * cotangent, exponent - row_exponent, dtype)
                for (projected, inverse_norm, row_exponent), dtype in zip(
                    (rows[:3], rows[3:])[: len(rows) // 3], ctx.dtypes, strict=False
                )
            ]
            found += [None] * (2 - len(found))
            return *found, scale_by_exponent(along * cotangent, exponent).to(temperature.dtype), None
        problem: Problem = ctx.problem
        scale = 1 / float(temperature)
        directions = 2 if problem.bidirectional else 1
        taking_part, sums, units = saved[0], saved[1 : 1 + directions], saved[1 + directions :]
        with without_autocast(taking_part.device):
            unit_x = UnitRows(units[0], None, *units[1:3])
            unit_y = unit_x if problem.symmetric else UnitRows(units[3], None, *units[4:6])
            weights = taking_part.to(unit_x.values.dtype) * cotangent
            into_keys = ctx.needs_input_grad[1] and not problem.symmetric
            gradient_x, gradient_y = _gradients(
                unit_x, unit_y, scale, weights, sums, into_keys, None, problem
            )
            # In the symmetric case each similarity stands in both gradients.
            into_temperature = None
            if ctx.needs_input_grad[2]:
                along = (unit_x.values * gradient_x).sum() * (-scale / (2 if problem.symmetric else 1))
                into_temperature = scale_by_exponent(along, exponent).to(temperature.dtype)
            into = [
                None
                if gradient is None
                else finish_gradient(
                    _project(gradient, unit, is_unit), unit.inverse_norm, exponent - unit.exponent, dtype
                )
                for gradient, unit, is_unit, dtype in (
                    (gradient_x, unit_x, False, ctx.dtypes[0]),
                    (gradient_y, unit_y, problem.unit_keys, ctx.dtypes[1]),
                )
            ]
        return *into, into_temperature, None
