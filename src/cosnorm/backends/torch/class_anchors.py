"""Each class as an anchor of the batch (Proxy-Anchor): the part of the embeddings of other classes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cosnorm.backends.classes import ClassRows
from cosnorm.backends.pairs import leave_out_
from cosnorm.backends.torch.class_tiles import ClassTiles, Tile


def losses(
    x: Tensor, weights: ClassRows, labels: Tensor, ignored: Tensor, scale: float, margin: float
) -> Tensor:
    """Σ over the classes of log(1 + Σ exp(α (c + δ))) over the embeddings of other classes, ().

    Args:
        x: unit embeddings (N, D).
        weights: those of the classes.
        labels: among the classes, (N,); of another process out of their range.
        ignored: which embeddings take no part, (N,).
        scale: α.
        margin: δ.
    """
    total = x.new_zeros(())
    for tile in ClassTiles(x, weights):
        total += _logs(_logits(tile, labels, ignored, scale, margin)).sum()
    return total


def gradients(
    x: Tensor,
    weights: ClassRows,
    labels: Tensor,
    ignored: Tensor,
    scale: float,
    margin: float,
    factor: Tensor,
    into_x: Tensor,
    *,
    into_weight: bool,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The gradients of `losses` times a factor (), added to `into_x`; those in unit weights come by block."""
    tiles = ClassTiles(x, weights)
    for tile in tiles:
        logits = _logits(tile, labels, ignored, scale, margin)
        pulls = logits.sub_(_logs(logits).unsqueeze(1)).exp_().mul_(scale * factor)
        yield tiles.back(tile, pulls, into_x, into_weight)


def _logits(tile: Tile, labels: Tensor, ignored: Tensor, scale: float, margin: float) -> Tensor:
    logits = tile.cosines.add_(margin).mul_(scale).masked_fill_(ignored, -torch.inf)
    leave_out_(logits, labels - tile.block.start, 0)
    return logits


def _logs(logits: Tensor) -> Tensor:
    """Log(1 + Σ exp) of each class, (classes,)."""
    if not logits.shape[1]:
        return logits.new_zeros(len(logits))
    sums = logits.logsumexp(1)
    return torch.logaddexp(sums, torch.zeros_like(sums))
