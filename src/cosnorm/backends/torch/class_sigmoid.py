"""A sigmoid for each class instead of a softmax over all (SphereFace2): the part of the other classes."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cosnorm.backends.classes import ClassRows
from cosnorm.backends.pairs import leave_out_
from cosnorm.backends.torch.class_tiles import ClassTiles


class Law(NamedTuple):
    """What a cosine c with another class counts: log(1 + exp z) of z = r (g(c) + m) + b.

    With g(c) = 2 ((c + 1) / 2)^t − 1.

    Attributes:
        scale: r.
        margin: m.
        power: t.
        bias: b, ().
    """

    scale: float
    margin: float
    power: float
    bias: Tensor

    def logits_(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """z, and dg/dc; the cosines are overwritten."""
        base = cosines.add_(1).mul_(0.5).clamp_(min=0)
        slopes = self.power * base ** (self.power - 1)
        logits = base.mul_(slopes).mul_(2 * self.scale / self.power)
        return logits.add_(self.bias + self.scale * (self.margin - 1)), slopes


def losses(x: Tensor, weights: ClassRows, labels: Tensor, law: Law) -> Tensor:
    """Σ log(1 + exp z) over all classes but an embedding's own, (N,).

    Args:
        x: unit embeddings (N, D).
        weights: those of the classes.
        labels: among the classes that take part, (N,); of another process out of their range.
        law: of the others.
    """
    total = x.new_zeros(len(x))
    for tile in ClassTiles(x, weights):
        logits, _ = law.logits_(tile.cosines)
        leave_out_(logits, labels - tile.block.start, 0)
        total -= logsigmoid(logits.neg_()).sum(0)
    return total


def gradients(
    x: Tensor,
    weights: ClassRows,
    labels: Tensor,
    law: Law,
    factors: Tensor,
    into_x: Tensor,
    into_bias: Tensor,
    *,
    into_weight: bool,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The gradients of `losses` times `factors` (N,), added to `into_x` and to `into_bias`, ().

    For each block come its unit weights and, if wanted, the gradient in them.
    """
    tiles, each = ClassTiles(x, weights), x.new_zeros(len(x))
    for tile in tiles:
        logits, slopes = law.logits_(tile.cosines)
        leave_out_(logits, labels - tile.block.start, 0)
        pulls = logits.sigmoid_()
        each += pulls.sum(0)
        yield tiles.back(tile, pulls.mul_(slopes).mul_(factors * law.scale), into_x, into_weight)
    into_bias += torch.dot(each, factors)
