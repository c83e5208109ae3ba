"""A sigmoid for each class instead of a softmax over all, as an operator: `class_sigmoid`.

The target's logit is r ψ(θ) + b with a value ψ from above the wall, and its slope −dψ/dθ; the others are
made below it. Nothing is kept between the passes: the gradient makes the cosines again.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cosnorm.backends import choose
from cosnorm.backends.torch.class_sigmoid import Law
from cosnorm.backends.torch.classes import block_size
from cosnorm.distributed import gather, number_of_processes, sum_over
from cosnorm.norms import accumulation_dtype, saturate
from cosnorm.operators.class_batch import ClassBatch, class_batch
from cosnorm.operators.counted import counts_of
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.options import arguments_of, results_of
from cosnorm.operators.pairs import split_factor
from cosnorm.operators.targets import precise_dtype


class ClassSigmoidOptions(NamedTuple):
    """What the loss is, apart from what learns; `class_sigmoid_loss` says more of each.

    Attributes:
        labels: the class of each embedding, (N,).
        slope: −dψ/dθ of each embedding, (N,).
        classes: sorted numbers of the classes that take part; None: all.
        class_weights: what each class counts; None: 1.
        scale: r.
        margin: m.
        power: t.
        balance: λ.
        sub_centers: rows of the weight for each class; the nearest one counts.
        ignore_index: a label that does not count.
        separate: a loss for each embedding, not their sum.
        chunk_size: classes of a block; None chooses.
        group: name of the processes over which batch and classes are spread; "" for one.
    """

    labels: Tensor
    slope: Tensor
    classes: Tensor | None
    class_weights: Tensor | None
    scale: float
    margin: float
    power: float
    balance: float
    sub_centers: int
    ignore_index: int
    separate: bool
    chunk_size: int | None
    group: str


class Results(NamedTuple):
    """The loss, () or (N,) if separate, and what its embeddings count together, ()."""

    loss: Tensor
    number: Tensor


class _Sigmoids(NamedTuple):
    rows: ClassBatch
    law: Law
    logits: Tensor  # of the own classes
    counts: Tensor
    backend: Any

    @property
    def inputs(self) -> tuple[Any, ...]:
        return self.rows.unit.values, self.rows.weights, self.rows.batch.places, self.law


def _sigmoids(
    embeddings: Tensor, weight: Tensor, value: Tensor, bias: Tensor, options: ClassSigmoidOptions
) -> _Sigmoids:
    rows = class_batch(
        embeddings,
        weight,
        options.labels,
        options.classes,
        sub_centers=options.sub_centers,
        ignore=options.ignore_index,
        group=options.group,
        size=options.chunk_size,
        impl="auto",
        block_size=lambda number: block_size(number, options.sub_centers, embeddings.device),
    )
    shares, dtype = rows.batch.shares, rows.unit.values.dtype
    offset = bias.reshape(()).to(dtype)
    counts = counts_of(gather(options.labels, shares), options.class_weights, options.ignore_index, dtype)
    return _Sigmoids(
        rows,
        Law(options.scale, options.margin, options.power, offset),
        (options.scale * gather(value, shares)).to(dtype) + offset,
        counts,
        choose.backends("class_sigmoid", "torch", embeddings)[0],
    )


def _compute(embeddings: Tensor, weight: Tensor, value: Tensor, bias: Tensor, *rest: Any) -> Results:
    options = ClassSigmoidOptions(*rest[:-1])
    found = _sigmoids(embeddings, weight, value, bias, options)
    others = sum_over(found.backend.losses(*found.inputs), options.group)
    losses = (1 - options.balance) * others - options.balance * logsigmoid(found.logits)
    losses = losses * found.counts / options.scale
    own = found.rows.batch.shares.own
    loss = losses[own].clone() if options.separate else losses.sum()
    return Results(loss, found.counts.sum(dtype=precise_dtype(embeddings.device)))


def _shapes(embeddings: Tensor, weight: Tensor, value: Tensor, bias: Tensor, *rest: Any) -> Results:
    shape = embeddings.shape[:1] if ClassSigmoidOptions(*rest[:-1]).separate else ()
    dtype = accumulation_dtype(embeddings.dtype)
    number = embeddings.new_empty((), dtype=precise_dtype(embeddings.device))
    return Results(embeddings.new_empty(shape, dtype=dtype), number)


def _gradients(
    cotangent: Tensor, embeddings: Tensor, weight: Tensor, value: Tensor, bias: Tensor, *rest: Any
) -> tuple[Tensor | None, ...]:
    options, needs = ClassSigmoidOptions(*rest[: len(ClassSigmoidOptions._fields)]), rest[-1]
    found = _sigmoids(embeddings, weight, value, bias, options)
    rows, shares = found.rows, found.rows.batch.shares
    factors, factor = split_factor(gather(cotangent, shares) if options.separate else cotangent)
    factors = factors * found.counts
    # In the logits of the own classes, where r meets 1/r.
    pulls = -options.balance * (-found.logits).sigmoid() * factors
    gradient_x, into_bias = torch.zeros_like(rows.unit.values), torch.zeros_like(found.law.bias)
    others = found.backend.gradients(
        *found.inputs,
        (1 - options.balance) / options.scale * factors,
        gradient_x,
        into_bias,
        into_weight=needs[1],
    )
    turns = gather(options.slope, shares) * pulls
    to_all = factor if options.separate else factor * number_of_processes(options.group)
    into_x, into_w = rows.finish(
        rows.with_own(others, turns, gradient_x, into_weight=needs[1]),
        gradient_x,
        factor,
        to_all,
        embeddings,
        weight,
        into_weight=needs[1],
        impl="auto",
    )
    into_bias = (sum_over(into_bias, options.group) + pulls.sum() / options.scale) * factor
    return (
        into_x,
        into_w,
        saturate(pulls[shares.own] * to_all, value.dtype),
        saturate(into_bias, bias.dtype).reshape(bias.shape),
    )


def _flops(passes: int, embeddings: torch.Size, weight: torch.Size) -> int:
    return int(2 * passes * embeddings[0] * weight[0] * embeddings[1])


class_sigmoid = define(
    "class_sigmoid(Tensor embeddings, Tensor weight, Tensor value, Tensor bias, "
    f"{arguments_of(ClassSigmoidOptions)}, int keep) -> {results_of(Results)}",
    _compute,
    _shapes,
    flops=lambda embeddings, weight, *_: _flops(1, embeddings, weight),
    backward=Backward(
        _gradients,
        learns=4,
        flops=lambda cotangent, embeddings, weight, *_: _flops(3, embeddings, weight),
    ),
)
