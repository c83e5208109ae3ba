"""Each class as an anchor of the batch, as an operator: `class_anchors` (Proxy-Anchor).

With u_i = −α (c_i − δ) of an embedding and its own class, and l_ic = α (c_ic + δ) of other classes, the loss
is Σ_c log(1 + Σ_{i of c} exp u_i) / C⁺ + Σ_c log(1 + Σ_{i not of c} exp l_ic) / C, where C⁺ classes have an
embedding. Nothing is kept between the passes: the gradient makes the cosines again.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.torch.classes import block_size
from cosnorm.distributed import gather, number_of_processes, sum_over
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.class_batch import ClassBatch, class_batch
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.options import arguments_of


class AnchorOptions(NamedTuple):
    """What the loss is; `proxy_anchor_loss` says more of each.

    Attributes:
        labels: the class of each embedding, (N,).
        scale: α.
        margin: δ.
        ignore_index: a label that does not count.
        chunk_size: classes of a block; None chooses.
        group: name of the processes over which batch and classes are spread; "" for one.
    """

    labels: Tensor
    scale: float
    margin: float
    ignore_index: int
    chunk_size: int | None
    group: str


class _Anchors(NamedTuple):
    rows: ClassBatch
    inputs: tuple[Any, ...]
    own: Tensor  # u, −inf of classes of other processes
    logs: Tensor  # log(1 + Σ exp u) of this process's classes
    counts: Tensor  # C⁺ and C
    backend: Any


def _anchors(embeddings: Tensor, weight: Tensor, options: AnchorOptions, check: str = "") -> _Anchors:
    rows = class_batch(
        embeddings,
        weight,
        options.labels,
        None,
        sub_centers=1,
        ignore=options.ignore_index,
        group=options.group,
        size=options.chunk_size,
        impl="auto",
        block_size=lambda number: block_size(number, 1, embeddings.device),
        check=check,
    )
    places, shares = rows.batch.places, rows.batch.shares
    ignored = gather(options.labels, shares) == options.ignore_index
    own = (-options.scale * (rows.target.cosine - options.margin)).masked_fill_(~rows.here, -torch.inf)
    # Exp relative to the largest of each class, or to 0, which is the 1 of the sum.
    at = places.where(rows.here, 0)
    largest = own.new_zeros(max(1, len(weight))).scatter_reduce_(0, at, own, "amax")
    sums = (-largest).exp_().index_add_(0, at, (own - largest[at]).exp_())
    present = torch.zeros_like(sums).scatter_reduce_(0, at, rows.here.to(sums), "amax")
    counts = torch.stack([present.sum(), present.new_full((), len(weight))])
    return _Anchors(
        rows,
        (rows.unit.values, rows.weights, places, ignored, options.scale, options.margin),
        own,
        sums.log_().add_(largest),
        sum_over(counts, options.group).clamp(min=1),
        choose.backends("class_anchors", "torch", embeddings)[0],
    )


def _compute(embeddings: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    options = AnchorOptions(*rest[:-1])
    found = _anchors(embeddings, weight, options, "proxy_anchor_loss")
    parts = torch.stack([found.logs.sum(), found.backend.losses(*found.inputs).to(found.logs.dtype)])
    total = (sum_over(parts, options.group) / found.counts).sum()
    return total.to(accumulation_dtype(embeddings.dtype))


def _shapes(embeddings: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return embeddings.new_empty((), dtype=accumulation_dtype(embeddings.dtype))


def _gradients(
    cotangent: Tensor, embeddings: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor | None, ...]:
    options, needs = AnchorOptions(*rest[: len(AnchorOptions._fields)]), rest[-1]
    found = _anchors(embeddings, weight, options)
    rows = found.rows
    at = rows.batch.places.where(rows.here, 0)
    pulls = -options.scale * (found.own - found.logs[at]).exp_() / found.counts[0]
    gradient_x = torch.zeros_like(rows.unit.values)
    each = (1 / found.counts[1]).to(gradient_x.dtype)
    others = found.backend.gradients(*found.inputs, each, gradient_x, into_weight=needs[1])
    return rows.finish(
        rows.with_own(others, rows.target.sine * pulls, gradient_x, into_weight=needs[1]),
        gradient_x,
        cotangent,
        cotangent * number_of_processes(options.group),
        embeddings,
        weight,
        into_weight=needs[1],
        impl="auto",
    )


def _flops(passes: int, embeddings: torch.Size, weight: torch.Size) -> int:
    return int(2 * passes * embeddings[0] * weight[0] * embeddings[1])


class_anchors = define(
    f"class_anchors(Tensor embeddings, Tensor weight, {arguments_of(AnchorOptions)}, int keep) -> Tensor",
    _compute,
    _shapes,
    flops=lambda embeddings, weight, *_: _flops(1, embeddings, weight),
    backward=Backward(
        _gradients,
        learns=2,
        flops=lambda cotangent, embeddings, weight, *_: _flops(3, embeddings, weight),
    ),
)
