"""The softmax over class weights as an operator: `class_softmax`.

With unit embeddings x̂_i, unit class weights ŵ_c and the scale s, the logits are s x̂_i·ŵ_c but for the class
y of the embedding itself, where a value ψ takes the place of the cosine: s ψ(θ). A margin makes it above the
wall, with its slope −dψ/dθ. A first pass over the classes gives the log sums, a second one the gradients; no
more than a block of the weights is ever normalized.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.torch.unit_rows import project_
from cosnorm.distributed import gather, number_of_processes
from cosnorm.norms import accumulation_dtype, saturate
from cosnorm.operators.class_problem import ClassOptions, softmax_of
from cosnorm.operators.counted import counts_of
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.options import arguments_of, flags_of, results_of
from cosnorm.operators.pairs import divide, pack, split_factor
from cosnorm.operators.targets import precise_dtype


class Results(NamedTuple):
    """The loss, what its embeddings count together, and what is kept for the backward pass.

    Attributes:
        loss: (), or (N,) if separate.
        number: ().
        projected: where gradients are made in the forward pass: in the unit embeddings, projected.
        divisors: what divides them, (N, 2).
        projected_weight: the same in unit weights, (C·K, D), if these learn.
        divisors_weight: (C·K, 2).
        into_value: the gradient in ψ, (N,).
        log_sums: elsewhere: the logs of the sums of this process's embeddings, (N,).
    """

    loss: Tensor
    number: Tensor
    projected: Tensor
    divisors: Tensor
    projected_weight: Tensor
    divisors_weight: Tensor
    into_value: Tensor
    log_sums: Tensor


def _compute(
    embeddings: Tensor, weight: Tensor, value: Tensor, penalty: Tensor | None, *rest: Any
) -> Results:
    options, keep = ClassOptions(*rest[:-1]), flags_of(rest[-1], 4)
    softmax = softmax_of(embeddings, weight, value, penalty, options)
    kept: list[Any] | None = [] if options.keeps(embeddings, weight, keep) else None
    sums = softmax.log_sums(kept)
    losses = softmax.losses(sums)
    own = softmax.rows.batch.shares.own
    loss = losses[own] if options.separate else losses.sum()
    into_x, divisors, into_w, divisors_w, into_value, log_sums = (losses.new_empty(0) for _ in range(6))
    if kept is not None:
        pulls = softmax.pulls(sums)
        into_x, divisors = torch.zeros_like(softmax.rows.unit.values), pack(softmax.rows.unit)
        if keep[1]:
            into_w, divisors_w = (
                weight.new_zeros(weight.shape, dtype=losses.dtype),
                softmax.rows.weights.divisors,
            )
        for rows, gradient in softmax.gradients(sums, 1.0, pulls, into_x, kept, keep[1]):
            into_w[rows] = gradient
        project_(into_x, softmax.rows.unit.values)
        into_value = pulls * softmax.scale
    elif any(keep):
        log_sums = sums[own].clone()
    number = softmax.counted.number
    return Results(loss, number, into_x, divisors, into_w, divisors_w, into_value, log_sums)


def _shapes(embeddings: Tensor, weight: Tensor, value: Tensor, penalty: Tensor | None, *rest: Any) -> Results:
    options, keep = ClassOptions(*rest[:-1]), flags_of(rest[-1], 4)
    number, size = embeddings.shape

    def empty(*shape: int) -> Tensor:
        return embeddings.new_empty(shape, dtype=accumulation_dtype(embeddings.dtype))

    kept = options.keeps(embeddings, weight, keep)
    kept_weight = kept and keep[1]
    return Results(
        empty(number) if options.separate else empty(),
        embeddings.new_empty((), dtype=precise_dtype(embeddings.device)),
        empty(number, size) if kept else empty(0),
        empty(number, 2) if kept else empty(0),
        empty(*weight.shape) if kept_weight else empty(0),
        empty(weight.shape[0], 2) if kept_weight else empty(0),
        empty(number) if kept else empty(0),
        empty(number) if any(keep) and not kept else empty(0),
    )


def _gradients(
    cotangent: Tensor,
    embeddings: Tensor,
    weight: Tensor,
    value: Tensor,
    penalty: Tensor | None,
    *rest: Any,
) -> tuple[Tensor | None, ...]:
    number = len(ClassOptions._fields)
    options, needs = ClassOptions(*rest[:number]), rest[-1]
    kept = Results(cotangent, *rest[number:-1])
    into_penalty = None
    if penalty is not None and needs[3]:
        counts = counts_of(options.labels, options.class_weights, options.ignore_index, cotangent.dtype)
        into_penalty = saturate(counts * cotangent * _times(options), penalty.dtype)
    if not kept.divisors.numel():
        found = _made_again(cotangent, kept.log_sums, embeddings, weight, value, options, needs)
        return *found, into_penalty
    into_x = divide(kept.projected, kept.divisors, cotangent, embeddings, options.impl) if needs[0] else None
    into_w = None
    if needs[1]:
        into_w = divide(kept.projected_weight, kept.divisors_weight, cotangent, weight, options.impl)
    return into_x, into_w, saturate(kept.into_value * cotangent, value.dtype), into_penalty


def _times(options: ClassOptions) -> int:
    """How often a gradient counts in what each process has of its own: the law of cosnorm.distributed."""
    return 1 if options.separate else number_of_processes(options.group)


def _made_again(
    cotangent: Tensor,
    log_sums: Tensor,
    embeddings: Tensor,
    weight: Tensor,
    value: Tensor,
    options: ClassOptions,
    needs: list[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients by a second pass over the classes."""
    softmax = softmax_of(embeddings, weight, value, None, options)
    shares = softmax.rows.batch.shares
    factors, factor = split_factor(gather(cotangent, shares) if options.separate else cotangent)
    sums = gather(log_sums, shares)
    factors = factors.expand(len(sums))
    pulls = factors * softmax.pulls(sums)
    gradient_x = torch.zeros_like(softmax.rows.unit.values)
    to_all = factor * _times(options)
    into_x, into_w = softmax.rows.finish(
        softmax.gradients(sums, factors, pulls, gradient_x, None, needs[1]),
        gradient_x,
        factor,
        to_all,
        embeddings,
        weight,
        into_weight=needs[1],
        impl=options.impl,
    )
    return into_x, into_w, saturate(pulls[shares.own] * softmax.scale * to_all, value.dtype)


def _flops(passes: int, options: ClassOptions, embeddings: torch.Size, weight: torch.Size) -> int:
    classes = weight[0] if options.classes is None else options.classes[0] * options.sub_centers
    return int(2 * passes * embeddings[0] * classes * embeddings[1])


def _forward_flops(
    embeddings: torch.Size, weight: torch.Size, value: torch.Size, penalty: Any, *rest: Any
) -> int:
    return _flops(1, ClassOptions(*rest[:-1]), embeddings, weight)


def _backward_flops(
    cotangent: torch.Size,
    embeddings: torch.Size,
    weight: torch.Size,
    value: torch.Size,
    penalty: Any,
    *rest: Any,
) -> int:
    options = ClassOptions(*rest[: len(ClassOptions._fields)])
    return _flops(1 + sum(rest[-1][:2]), options, embeddings, weight)


class_softmax = define(
    f"class_softmax(Tensor embeddings, Tensor weight, Tensor value, Tensor? penalty, "
    f"{arguments_of(ClassOptions)}, int keep) "
    f"-> {results_of(Results)}",
    _compute,
    _shapes,
    flops=_forward_flops,
    backward=Backward(_gradients, learns=4, flops=_backward_flops),
)
