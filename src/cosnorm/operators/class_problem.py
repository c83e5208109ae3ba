"""A softmax over class weights, ready for its passes: options, batch, targets and blocks."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.classes import Negatives
from cosnorm.backends.torch import classes as torch_classes
from cosnorm.devices import is_accelerator
from cosnorm.distributed import gather, log_sum_over
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.class_batch import ClassBatch, class_batch
from cosnorm.operators.counted import Counted, count
from cosnorm.operators.indices import assert_all
from cosnorm.operators.targets import WHERE


class ClassOptions(NamedTuple):
    """What the loss is, apart from what learns; `margin_cross_entropy` says more of each.

    Attributes:
        labels: the class of each embedding, (N,).
        slope: −dψ/dθ of each embedding, (N,).
        classes: sorted numbers of the classes that take part; None: all.
        class_weights: what each class counts, those of all processes; None: 1.
        hard: of each embedding, (N,): cosines with other classes above it count as c (t + c); None: none do.
        ease: t, ().
        tensor_scale: s, if it is a tensor.
        scale: s, if it is a number.
        above: other classes whose cosine is above this take no part.
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
    hard: Tensor | None
    ease: Tensor | None
    tensor_scale: Tensor | None
    scale: float
    above: float
    sub_centers: int
    label_smoothing: float
    ignore_index: int
    separate: bool
    chunk_size: int | None
    group: str
    impl: str

    @property
    def is_plain(self) -> bool:
        """Whether the logits of other classes are their cosines times a number."""
        return self.hard is None and self.tensor_scale is None and self.above >= 1

    def scale_for(self, embeddings: Tensor) -> float | Tensor:
        """The scale, a number where it can be looked at."""
        if self.tensor_scale is None:
            return self.scale
        message = f"{WHERE}: scale must be positive (at most 1e6)"
        if is_accelerator(embeddings.device):
            scale = self.tensor_scale.reshape(()).to(accumulation_dtype(embeddings.dtype))
            assert_all((scale > 0).logical_and_(scale <= 1e6), message)
            return scale
        found = float(self.tensor_scale)
        if not 0 < found <= 1e6:
            raise ValueError(f"{message}, got {found}")
        return found

    def backend(self, embeddings: Tensor) -> ModuleType:
        """What computes."""
        for backend in choose.backends("classes", self.impl, embeddings):
            if backend.takes(self.sub_centers, plain=self.is_plain):
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
        rows = rows if self.hard is None else 2 * rows  # their slopes beside them
        backend = self.backend(embeddings)
        kept: bool = backend.keeps(embeddings.shape[0], rows, *_place(backend, embeddings))
        return kept


def _place(backend: ModuleType, tensor: Tensor) -> tuple[torch.device, ...]:
    """Where tensors are, for the form that runs on more than one kind of device."""
    return (tensor.device,) if backend is torch_classes else ()


class Softmax(NamedTuple):
    """A batch, ready for the passes over the classes."""

    options: ClassOptions
    scale: float | Tensor
    negatives: Negatives
    rows: ClassBatch
    logits: Tensor  # of the own classes
    slopes: Tensor
    penalties: Tensor | None
    counted: Counted
    backend: ModuleType

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What both passes take."""
        batch, unit, _, weights = self.rows
        return unit.values, weights, batch.places, self.scale, self.negatives, batch.embeddings.dtype

    def log_sums(self, kept: list[Any] | None) -> Tensor:
        """Logs of the sums over the classes of all processes, (N,)."""
        sums = self.backend.log_sums(*self.inputs, kept)
        sums = torch.logaddexp(sums, self.logits.masked_fill(~self.rows.here, -torch.inf))
        sums = log_sum_over(sums, self.options.group)
        if self.options.above < 1:  # of an ignored embedding all classes may be left out
            sums.masked_fill_(sums == -torch.inf, 0)
        return sums

    def losses(self, sums: Tensor) -> Tensor:
        """Of the embeddings of all processes, (N,)."""
        losses = self.counted.losses(sums, self.logits, self.rows.unit.values)
        if self.penalties is not None:
            losses = torch.addcmul(losses, self.counted.counts, self.penalties)
        return losses

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
        smoothing, change = self.counted.smoothing, None
        turns = self.scale * self.slopes * pulls
        if smoothing is not None:
            turns = turns + self.rows.target.sine * smoothing.own * factors
            each = smoothing.rows * factors
            into_x.addr_(each, smoothing.sum, alpha=-1)
            classes, classes_sum = smoothing.classes, each @ self.rows.unit.values

            def change(block: slice, gradient: Tensor) -> None:
                gradient.addr_(classes[block], classes_sum, alpha=-1)

        weighed = self.counted.factors * factors
        found = self.backend.gradients(*self.inputs, sums, weighed, into_x, kept, into_weight=into_weight)
        return self.rows.with_own(found, turns, into_x, into_weight=into_weight, change=change)


def softmax_of(
    embeddings: Tensor, weight: Tensor, value: Tensor, penalty: Tensor | None, options: ClassOptions
) -> Softmax:
    """Bring together what the passes need; `value` is ψ, `penalty` what is added to each loss."""
    scale, backend = options.scale_for(embeddings), options.backend(embeddings)
    rows = class_batch(
        embeddings,
        weight,
        options.labels,
        options.classes,
        sub_centers=options.sub_centers,
        ignore=options.ignore_index,
        group=options.group,
        size=options.chunk_size,
        impl=options.impl,
        block_size=lambda number: backend.block_size(
            number, options.sub_centers, *_place(backend, embeddings)
        ),
    )
    shares = rows.batch.shares
    counted = count(
        options.labels,
        shares,
        rows.weights,
        rows.target.cosine,
        scale=scale,
        class_weights=options.class_weights,
        smoothing=options.label_smoothing,
        ignore=options.ignore_index,
    )
    hard, dtype = options.hard, rows.unit.values.dtype
    return Softmax(
        options=options,
        scale=scale,
        negatives=Negatives(
            None if hard is None else gather(hard, shares).to(dtype),
            None if options.ease is None else options.ease.to(dtype),
            options.above,
        ),
        rows=rows,
        logits=(scale * gather(value, shares)).to(dtype),
        slopes=gather(options.slope, shares),
        penalties=None if penalty is None else gather(penalty, shares).to(dtype),
        counted=counted,
        backend=backend,
    )
