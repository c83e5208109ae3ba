"""Cosine softmax over class weights, a block of classes at a time: one autograd function.

With unit embeddings x̂_i, unit class weights ŵ_c and the scale s, the logits are s x̂_i·ŵ_c but for the class
y of the embedding itself, where the margin ψ replaces the cosine: s ψ(θ). A first pass over the classes gives
the log sums, a second one the gradients; no more than a block of the weights is ever normalized, and only the
weights, the embeddings and the log sums are saved.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cosnorm.distributed import log_sum_over
from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.heads_blocks import Classes, finish_weight
from cosnorm.functional.heads_kernels import passes_for
from cosnorm.functional.heads_target import Head, find_target
from cosnorm.functional.norms import finish_gradient, normalized, project_out_, split_exponent
from cosnorm.functional.once import first_derivative_only


def margin_softmax(embeddings: Tensor, weight: Tensor, labels: Tensor, head: Head) -> Tensor:
    """The loss. Arguments must be valid; labels count among the classes that take part."""
    loss: Tensor = _MarginSoftmax.apply(embeddings, weight, labels, head)[0]
    return loss


class _MarginSoftmax(torch.autograd.Function):
    """The loss, and what the backward pass needs: the log sums; or finished gradients, but for the norms."""

    @staticmethod
    def forward(embeddings: Tensor, weight: Tensor, labels: Tensor, head: Head) -> tuple[Tensor, ...]:
        with without_autocast(embeddings.device):
            unit = normalized(embeddings)
            x = unit.values
            target = find_target(embeddings, weight, labels, head, x.dtype)
            passes = passes_for(x, weight, labels, head)
            kept: list[Any] | None = [] if head.keeps(embeddings, weight) else None
            sums = torch.logaddexp(passes.log_sums(kept), target.logits)
            own = target.logits
            if head.group is not None:
                sums, own = log_sum_over(sums, head.group), log_sum_over(own, head.group)
            losses = sums - own
            if kept is None:
                return losses if head.separate else losses.sum(), sums
            projected = torch.zeros_like(weight, dtype=x.dtype) if weight.requires_grad else x.new_empty(0)

            def finish(gradient: Tensor, rows: Any) -> None:
                projected[rows] = gradient

            ones = torch.ones_like(sums)
            gradient = passes.gradients(target, sums, ones, finish if weight.requires_grad else None, kept)
            classes = passes.classes
            exponents = sums.new_empty(0) if classes.exponent is None else classes.exponent
            return (
                losses.sum(),
                project_out_(gradient, unit),
                unit.inverse_norm,
                unit.exponent,
                projected,
                classes.inverse_norm,
                exponents,
            )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        embeddings, weight, labels, ctx.head = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.kept = len(output) > 2
        ctx.dtypes = embeddings.dtype, weight.dtype
        ctx.save_for_backward(embeddings, weight, *(output[1:] if ctx.kept else (labels, output[1])))

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        cotangent, exponent = split_exponent(cotangent)
        if ctx.kept:
            return *_finish_kept(ctx, cotangent, exponent), None, None
        embeddings, weight, labels, sums = ctx.saved_tensors
        head: Head = ctx.head
        with without_autocast(embeddings.device):
            unit = normalized(embeddings)
            x = unit.values
            target = find_target(embeddings, weight, labels, head, x.dtype)
            passes = passes_for(x, weight, labels, head)
            into_w = None
            finish = None
            if ctx.needs_input_grad[1]:
                # Classes that do not take part receive 0.
                into_w = torch.empty_like(weight) if head.classes is None else torch.zeros_like(weight)
                finish = partial(_finish_rows, passes.classes, exponent, into_w)
            gradient = passes.gradients(target, sums, cotangent.expand(len(x)), finish)
            project_out_(gradient, unit)
            into_x = finish_gradient(gradient, unit.inverse_norm, exponent - unit.exponent, ctx.dtypes[0])
        return into_x, into_w, None, None


def _finish_rows(
    classes: Classes, exponent: Tensor, into_w: Tensor, projected: Tensor, rows: slice | Tensor
) -> None:
    exponents = None if classes.exponent is None else classes.exponent[rows]
    if isinstance(rows, slice):
        finish_weight(projected, classes.inverse_norm[rows], exponents, exponent, into_w[rows])
    else:
        finished = torch.empty_like(projected, dtype=into_w.dtype)
        finish_weight(projected, classes.inverse_norm[rows], exponents, exponent, finished)
        into_w[rows] = finished


def _finish_kept(ctx: Any, cotangent: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor | None]:
    gradient, inverse_norm, exponents, projected, weight_inverse, weight_exponents = ctx.saved_tensors[2:]
    into_x = finish_gradient(gradient * cotangent, inverse_norm, exponent - exponents, ctx.dtypes[0])
    if not ctx.needs_input_grad[1]:
        return into_x, None
    into_w = torch.empty_like(projected, dtype=ctx.dtypes[1])
    by_row = weight_exponents if weight_exponents.numel() else None
    finish_weight(projected, weight_inverse * cotangent, by_row, exponent, into_w)
    return into_x, into_w
