"""The softmax over class weights as an operator: `class_softmax`.

With unit embeddings x̂_i, unit class weights ŵ_c and the scale s, the logits are s x̂_i·ŵ_c but for the class
y of the embedding itself, where a value ψ takes the place of the cosine: s ψ(θ). A margin makes it above the
wall, with its slope −dψ/dθ. A first pass over the classes gives the log sums, a second one the gradients; no
more than a block of the weights is ever normalized.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.classes import Blocks, ClassRows
from cosnorm.backends.torch import classes as torch_classes
from cosnorm.backends.torch.unit_rows import project_
from cosnorm.backends.torch.units import UnitRows
from cosnorm.devices import is_accelerator
from cosnorm.distributed import gather, log_sum_over, number_of_processes, reduce_rows
from cosnorm.norms import accumulation_dtype, saturate
from cosnorm.operators.counted import Counted, count
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.options import arguments_of, flags_of, results_of
from cosnorm.operators.pairs import divide, inverse_norms, pack, quotients_of, split_factor, unit_rows
from cosnorm.operators.targets import Batch, Target, find_targets, gather_batch, precise_dtype


class ClassOptions(NamedTuple):
    """What the loss is, apart from what learns; `margin_cross_entropy` says more of each.

    Attributes:
        labels: the class of each embedding, (N,).
        slope: −dψ/dθ of each embedding, (N,).
        classes: sorted numbers of the classes that take part; None: all.
        class_weights: what each class counts, those of all processes; None: 1.
        scale: s.
        sub_centers: rows of the weight for each class; the nearest one counts.
        label_smoothing: ε.
        ignore_index: a label that does not count.
        separate: a loss for each embedding, not their sum.
        chunk_size: classes of a block; None chooses.
        group: name of the processes over which batch and classes are spread; "" for one.
        impl: as the user named it.
    """

    labels: Tensor
    slope: Tensor
    classes: Tensor | None
    class_weights: Tensor | None
    scale: float
    sub_centers: int
    label_smoothing: float
    ignore_index: int
    separate: bool
    chunk_size: int | None
    group: str
    impl: str

    def backend(self, embeddings: Tensor) -> ModuleType:
        """What computes."""
        for backend in choose.backends("classes", self.impl, embeddings):
            if backend.takes(self.sub_centers):
                return backend
        raise AssertionError("the torch form takes everything")

    def number(self, weight: Tensor) -> int:
        """How many classes take part."""
        return weight.shape[0] // self.sub_centers if self.classes is None else self.classes.shape[0]

    def keeps(self, embeddings: Tensor, weight: Tensor, keep: list[bool]) -> bool:
        """Whether the gradients are made in the forward pass: where all logits may be kept for that."""
        if self.separate or self.group or not any(keep):
            return False
        rows = self.number(weight) * self.sub_centers
        backend = self.backend(embeddings)
        kept: bool = backend.keeps(embeddings.shape[0], rows, *_place(backend, embeddings))
        return kept


def _place(backend: ModuleType, tensor: Tensor) -> tuple[torch.device, ...]:
    """Where tensors are, for the form that runs on more than one kind of device."""
    return (tensor.device,) if backend is torch_classes else ()


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


class _Softmax(NamedTuple):
    """A batch, ready for the passes over the classes."""

    options: ClassOptions
    batch: Batch
    unit: UnitRows
    target: Target
    logits: Tensor  # of the own classes
    slopes: Tensor
    weights: ClassRows
    counted: Counted
    backend: ModuleType

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What both passes take."""
        batch = self.batch
        return self.unit.values, self.weights, batch.places, self.options.scale, batch.embeddings.dtype

    def log_sums(self, kept: list[Any] | None) -> Tensor:
        """Logs of the sums over the classes of all processes, (N,)."""
        sums = self.backend.log_sums(*self.inputs, kept)
        places, number = self.batch.places, self.weights.blocks.number
        here = (places >= 0) & (places < number)
        sums = torch.logaddexp(sums, self.logits.masked_fill(~here, -torch.inf))
        return log_sum_over(sums, self.options.group)

    def losses(self, sums: Tensor) -> Tensor:
        """Of the embeddings of all processes, (N,)."""
        return self.counted.losses(sums, self.logits, self.unit.values)

    def pulls(self, sums: Tensor) -> Tensor:
        """The gradients of the losses in the logits of the own classes, (N,)."""
        return self.counted.pulls(sums, self.logits)

    def gradients(
        self,
        sums: Tensor,
        factors: Tensor | float,
        pulls: Tensor,
        into_x: Tensor,
        kept: list[Any] | None,
        into_weight: bool,
    ) -> Iterator[tuple[slice | Tensor, Tensor]]:
        """Add the gradients in the unit embeddings to `into_x`, all but projected, times `factors`.

        If `into_weight`, rows of the weight and the projected gradients in them come, block by block.
        """
        places, blocks, target = self.batch.places, self.weights.blocks, self.target
        smoothing, classes_sum = self.counted.smoothing, None
        turns = self.options.scale * self.slopes * pulls
        if smoothing is not None:
            turns = turns + target.sine * smoothing.own * factors
            each = smoothing.rows * factors
            into_x.addr_(each, smoothing.sum, alpha=-1)
            classes_sum = each @ self.unit.values
        into_x.add_(target.toward_w * turns.unsqueeze(1))
        toward = (target.toward_x * turns.unsqueeze(1)).to(self.unit.values.dtype)
        own_of = _own_embeddings(places, blocks)
        weighed = self.counted.factors * factors
        found = self.backend.gradients(*self.inputs, sums, weighed, into_x, kept, into_weight=into_weight)
        for number, (block, unit, gradient) in enumerate(found):
            if not into_weight:
                continue
            if smoothing is not None and classes_sum is not None:
                gradient.addr_(smoothing.classes[block], classes_sum, alpha=-1)
            rows = blocks.rows(block)
            own = slice(None) if own_of is None else own_of[number]
            at = target.rows[own]
            at = at - rows.start if isinstance(rows, slice) else torch.searchsorted(rows, at)
            pulled = toward[own]
            if own_of is None:  # those of other blocks count 0
                inside = (places >= block.start) & (places < block.stop)
                at, pulled = at.where(inside, 0), pulled.where(inside.unsqueeze(1), 0)
            gradient.index_add_(0, at, pulled)
            project_(gradient, unit)
            yield rows, gradient


def _own_embeddings(places: Tensor, blocks: Blocks) -> list[Tensor] | None:
    """The embeddings whose class is in each block; None where nobody waits for how many."""
    if is_accelerator(places.device):
        return None
    order = places.argsort()
    ends = [block.start for block in blocks.parts()] + [blocks.number]
    bounds = torch.searchsorted(places[order], torch.tensor(ends, dtype=places.dtype)).tolist()
    return [order[start:end] for start, end in itertools.pairwise(bounds)]


def _softmax(embeddings: Tensor, weight: Tensor, value: Tensor, options: ClassOptions) -> _Softmax:
    classes, centers = options.classes, options.sub_centers
    batch = gather_batch(
        embeddings, weight, options.labels, classes, centers, options.ignore_index, options.group
    )
    unit = unit_rows(batch.embeddings, options.impl)
    backend = options.backend(embeddings)
    size = options.chunk_size or backend.block_size(
        len(batch.embeddings), centers, *_place(backend, embeddings)
    )
    blocks = Blocks(options.number(weight), centers, classes, size)
    make = partial(unit_rows, impl=options.impl)
    weights = ClassRows(weight, blocks, inverse_norms(weight, options.impl), make)
    target = find_targets(
        batch.embeddings, weight, batch.places, classes, centers, options.impl, directions=True
    )
    counted = count(
        options.labels,
        batch.shares,
        weights,
        target.cosine,
        scale=options.scale,
        class_weights=options.class_weights,
        smoothing=options.label_smoothing,
        ignore=options.ignore_index,
    )
    return _Softmax(
        options=options,
        batch=batch,
        unit=unit,
        target=target,
        logits=(options.scale * gather(value, batch.shares)).to(unit.values.dtype),
        slopes=gather(options.slope, batch.shares),
        weights=weights,
        counted=counted,
        backend=backend,
    )


def _compute(embeddings: Tensor, weight: Tensor, value: Tensor, *rest: Any) -> Results:
    options, keep = ClassOptions(*rest[:-1]), flags_of(rest[-1], 3)
    softmax = _softmax(embeddings, weight, value, options)
    kept: list[Any] | None = [] if options.keeps(embeddings, weight, keep) else None
    sums = softmax.log_sums(kept)
    losses = softmax.losses(sums)
    own = softmax.batch.shares.own
    loss = losses[own] if options.separate else losses.sum()
    into_x, divisors, into_w, divisors_w, into_value, log_sums = (losses.new_empty(0) for _ in range(6))
    if kept is not None:
        pulls = softmax.pulls(sums)
        into_x, divisors = torch.zeros_like(softmax.unit.values), pack(softmax.unit)
        if keep[1]:
            into_w, divisors_w = weight.new_zeros(weight.shape, dtype=losses.dtype), softmax.weights.divisors
        for rows, gradient in softmax.gradients(sums, 1.0, pulls, into_x, kept, keep[1]):
            into_w[rows] = gradient
        project_(into_x, softmax.unit.values)
        into_value = pulls * options.scale
    elif any(keep):
        log_sums = sums[own].clone()
    number = softmax.counted.number
    return Results(loss, number, into_x, divisors, into_w, divisors_w, into_value, log_sums)


def _shapes(embeddings: Tensor, weight: Tensor, value: Tensor, *rest: Any) -> Results:
    options, keep = ClassOptions(*rest[:-1]), flags_of(rest[-1], 3)
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
    cotangent: Tensor, embeddings: Tensor, weight: Tensor, value: Tensor, *rest: Any
) -> tuple[Tensor | None, ...]:
    number = len(ClassOptions._fields)
    options, needs = ClassOptions(*rest[:number]), rest[-1]
    kept = Results(cotangent, *rest[number:-1])
    if not kept.divisors.numel():
        return _made_again(cotangent, kept.log_sums, embeddings, weight, value, options, needs)
    into_x = divide(kept.projected, kept.divisors, cotangent, embeddings, options.impl) if needs[0] else None
    into_w = None
    if needs[1]:
        into_w = divide(kept.projected_weight, kept.divisors_weight, cotangent, weight, options.impl)
    return into_x, into_w, saturate(kept.into_value * cotangent, value.dtype)


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
    softmax = _softmax(embeddings, weight, value, options)
    shares = softmax.batch.shares
    factors, factor = split_factor(gather(cotangent, shares) if options.separate else cotangent)
    sums = gather(log_sums, shares)
    factors = factors.expand(len(sums))
    pulls = factors * softmax.pulls(sums)
    gradient_x, into_w = torch.zeros_like(softmax.unit.values), None
    if needs[1]:  # classes that take no part receive 0
        into_w = torch.empty_like(weight) if options.classes is None else torch.zeros_like(weight)
    weights = softmax.weights
    quotients = quotients_of(weights.divisors, factor, options.impl) if weights.known else None
    for rows, gradient in softmax.gradients(sums, factors, pulls, gradient_x, None, needs[1]):
        assert into_w is not None
        if quotients is not None and isinstance(rows, slice):
            torch.mul(gradient, quotients[rows], out=into_w[rows])
        else:
            into_w[rows] = divide(gradient, weights.divisors[rows], factor, weight, options.impl)
    # The law of cosnorm.distributed, for what all processes have.
    to_all = factor if options.separate else factor * number_of_processes(options.group)
    gradient_x = reduce_rows(gradient_x, shares)
    project_(gradient_x, softmax.unit.values[shares.own])
    into_x = divide(gradient_x, pack(softmax.unit)[shares.own], to_all, embeddings, options.impl)
    return into_x, into_w, saturate(pulls[shares.own] * options.scale * to_all, value.dtype)


def _flops(passes: int, options: ClassOptions, embeddings: torch.Size, weight: torch.Size) -> int:
    classes = weight[0] if options.classes is None else options.classes[0] * options.sub_centers
    return int(2 * passes * embeddings[0] * classes * embeddings[1])


def _forward_flops(embeddings: torch.Size, weight: torch.Size, value: torch.Size, *rest: Any) -> int:
    return _flops(1, ClassOptions(*rest[:-1]), embeddings, weight)


def _backward_flops(
    cotangent: torch.Size, embeddings: torch.Size, weight: torch.Size, value: torch.Size, *rest: Any
) -> int:
    options = ClassOptions(*rest[: len(ClassOptions._fields)])
    return _flops(1 + sum(rest[-1][:2]), options, embeddings, weight)


class_softmax = define(
    f"class_softmax(Tensor embeddings, Tensor weight, Tensor value, {arguments_of(ClassOptions)}, int keep) "
    f"-> {results_of(Results)}",
    _compute,
    _shapes,
    flops=_forward_flops,
    backward=Backward(_gradients, learns=3, flops=_backward_flops),
)
