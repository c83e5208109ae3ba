"""Softmax over the products of embeddings with class weights, a block of classes at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cosnorm.backends.classes import ClassRows, Negatives
from cosnorm.backends.pairs import leave_out_
from cosnorm.backends.torch.softmax import LOG2_E, is_bounded
from cosnorm.devices import at_once

# Logits of a block, 2 MiB of float32; and of all blocks together where they are kept, 32 MiB.
_BLOCK, _KEPT = 2**19, 2**23

# Of each block its unit weights, exp of its logits (or these, if that could overflow), the nearest
# sub-centers, and the derivatives of what cosines count, where these are not 1.
Kept = list[tuple[Tensor, Tensor, Tensor, Tensor | None]]


def block_size(embeddings: int, sub_centers: int, device: torch.device) -> int:
    """Classes of a block."""
    return max(64, at_once(device, _BLOCK) // max(1, embeddings * sub_centers))


def keeps(embeddings: int, weights: int, device: torch.device) -> bool:
    """Whether all logits may be kept between the two passes."""
    return embeddings * weights <= at_once(device, _KEPT)


def takes(sub_centers: int, *, plain: bool) -> bool:
    """Whether there can be so many rows for each class, and logits that are not plain: always."""
    return True


def log_sums(
    x: Tensor,
    weights: ClassRows,
    labels: Tensor,
    scale: float | Tensor,
    negatives: Negatives,
    dtype: torch.dtype,
    kept: Kept | None = None,
) -> Tensor:
    """Log of the sum of exp of the logits over all classes but an embedding's own, (N,).

    Args:
        x: unit embeddings (N, D).
        weights: those of the classes.
        labels: among the classes that take part, (N,); of another process out of their range.
        scale: what the products are multiplied by.
        negatives: what becomes of them before.
        dtype: of the embeddings.
        kept: an empty list, for all blocks, which `gradients` then need not make again.
    """
    passes = _Passes(x, weights, labels, scale, negatives)
    sums = x.new_full((len(x),), 0.0 if passes.bounded else -torch.inf)
    buffer = passes.buffer(keep=kept is not None)
    for block in weights.blocks.parts():
        found = passes.block(block, buffer)
        if passes.bounded:
            sums += found[1].sum(0)
        else:
            sums = torch.logaddexp(sums, found[1].logsumexp(0))
        if kept is not None:
            kept.append(found)
    return sums.log_() if passes.bounded else sums


def gradients(
    x: Tensor,
    weights: ClassRows,
    labels: Tensor,
    scale: float | Tensor,
    negatives: Negatives,
    dtype: torch.dtype,
    sums: Tensor,
    factors: Tensor,
    into_x: Tensor,
    kept: Kept | None = None,
    *,
    into_weight: bool,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """What the logits of all classes but the own give, each with its softmax times `factors`.

    It is added to `into_x`; for each block come its unit weights and, if wanted, the gradient in them, in
    memory that the next block overwrites. Arguments as of `log_sums`; `sums` are over all classes.
    """
    passes = _Passes(x, weights, labels, scale, negatives)
    factors = factors * scale
    # Finite where an embedding meets no class, and its own counts next to nothing.
    quotients = factors * (-sums).exp().clamp(max=torch.finfo(sums.dtype).max)
    buffer = passes.buffer() if kept is None else None
    into_unit = Buffer(x, passes.rows_of_a_block() * x.shape[1])
    for number, block in enumerate(weights.blocks.parts()):
        unit, softmax, nearest, slopes = passes.block(block, buffer) if kept is None else kept[number]
        if passes.bounded:
            softmax.mul_(quotients)
        else:
            softmax.sub_(sums).exp_().mul_(factors)
        if slopes is not None:
            softmax.mul_(slopes)
        softmax = spread(softmax, nearest, weights.blocks.sub_centers)
        into_x.addmm_(softmax.t(), unit)
        yield block, unit, into_unit.product(softmax, x) if into_weight else unit


def nearest_of(cosines: Tensor, centers: int) -> tuple[Tensor, Tensor]:
    """Of sub-centers (classes · centers, N) the largest of each class, (classes, N), and which it is."""
    if centers == 1:
        return cosines, cosines.new_empty(0, dtype=torch.int64)
    values, nearest = cosines.unflatten(0, (-1, centers)).max(1)
    return values, nearest


def spread(values: Tensor, nearest: Tensor, centers: int) -> Tensor:
    """The way back: values (classes, N) at the nearest sub-centers, 0 at the others."""
    if centers == 1:
        return values
    room = values.new_zeros(len(values), centers, values.shape[1])
    return room.scatter_(1, nearest.unsqueeze(1), values.unsqueeze(1)).flatten(0, 1)


class Buffer:
    """Memory for the products of one block after another: fresh memory costs more than a small product."""

    def __init__(self, like: Tensor, numbers: int, *, keep: bool = False) -> None:
        """`keep`: the products stand beside each other, and none overwrites the last."""
        self._values = like.new_empty(numbers)
        self._keep, self._used = keep, 0

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """A @ bᵀ for b (N, D), or a @ b: (rows of a, columns of b)."""
        start = self._used if self._keep else 0
        self._used = start + len(a) * b.shape[1]
        return torch.mm(a, b, out=self._values[start : self._used].view(len(a), b.shape[1]))


class _Passes:
    """What both passes do with a block."""

    def __init__(
        self, x: Tensor, weights: ClassRows, labels: Tensor, scale: float | Tensor, negatives: Negatives
    ) -> None:
        self._x, self._weights, self._labels, self._negatives = x, weights, labels, negatives
        self.bounded = is_bounded(scale * negatives.largest)
        # In units of log 2 where no maximum is looked for: exp2 takes less than half the time of exp.
        self._scale = scale * LOG2_E if self.bounded else scale
        self._changes = negatives.hard is not None or negatives.above < 1
        self._scaled = x if self._changes else x * self._scale

    def rows_of_a_block(self) -> int:
        """Rows of the weight of the largest block."""
        blocks = self._weights.blocks
        return min(blocks.size, blocks.number) * blocks.sub_centers

    def buffer(self, *, keep: bool = False) -> Buffer:
        """Room for the logits of a block, or of all blocks."""
        blocks = self._weights.blocks
        rows = blocks.number * blocks.sub_centers if keep else self.rows_of_a_block()
        return Buffer(self._x, rows * len(self._x), keep=keep)

    def block(self, block: slice, buffer: Buffer | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """An entry of `Kept`: logits are (classes, N), −inf at the targets."""
        assert buffer is not None
        unit, labels = self._weights.unit(block), self._labels
        logits = buffer.product(unit, self._scaled.t())
        logits, nearest = nearest_of(logits, self._weights.blocks.sub_centers)
        slopes = None
        if self._changes:
            slopes = self._negatives.change_(logits)
            logits.mul_(self._scale)
        leave_out_(logits, labels - block.start, 0)
        return unit, logits.exp2_() if self.bounded else logits, nearest, slopes
