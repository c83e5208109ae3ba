"""Losses over an embedding of classes, by configuration: `cosnorm_lab.methods` names these functions."""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from cosnorm.losses import (
    AMSoftmaxLoss,
    ArcFaceLoss,
    CenterLoss,
    CosineDistanceLoss,
    IslandLoss,
    NormFaceLoss,
    SupConLoss,
)
from cosnorm_lab.config import HeadsConfig


class Softmax(nn.Module):
    """A linear layer and cross-entropy, alone or beside a loss that draws embeddings to centers."""

    def __init__(
        self, classes: int, size: int, centers: nn.Module | None = None, weight: float = 0.0
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(size, classes)
        self.centers, self.center_weight = centers, weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss."""
        loss = F.cross_entropy(self.linear(embeddings), labels)
        if self.centers is not None:
            loss = loss + self.center_weight * self.centers(embeddings, labels)
        return loss


class SupCon(SupConLoss):
    """The supervised contrastive loss, over the batches of all processes; it has no weights."""

    def __init__(self, classes: int, size: int, *, temperature: float) -> None:
        group = torch.distributed.group.WORLD if torch.distributed.is_initialized() else None
        super().__init__(temperature=temperature, group=group)


def softmax(config: HeadsConfig, classes: int) -> nn.Module:
    """A linear layer and cross-entropy."""
    return Softmax(classes, config.embedding_size)


def center(config: HeadsConfig, classes: int) -> nn.Module:
    """The same, and center loss."""
    centers = CenterLoss(classes, config.embedding_size)
    return Softmax(classes, config.embedding_size, centers, config.center_weight)


def island(config: HeadsConfig, classes: int) -> nn.Module:
    """The same, and island loss."""
    centers = IslandLoss(classes, config.embedding_size, island_weight=config.island_weight)
    return Softmax(classes, config.embedding_size, centers, config.center_weight)


def normface(config: HeadsConfig, classes: int) -> nn.Module:
    """Softmax over cosines."""
    return NormFaceLoss(classes, config.embedding_size, scale=config.scale)


def am_softmax(config: HeadsConfig, classes: int) -> nn.Module:
    """The same, with a margin between cosines."""
    return AMSoftmaxLoss(classes, config.embedding_size, margin=config.margin, scale=config.scale)


def arcface(config: HeadsConfig, classes: int) -> nn.Module:
    """The same, with a margin between angles."""
    return ArcFaceLoss(classes, config.embedding_size, margin=config.margin, scale=config.scale)


def cosine_distance(config: HeadsConfig, classes: int) -> nn.Module:
    """Cosine softmax with a margin, and centers by cosine distance."""
    return CosineDistanceLoss(
        classes,
        config.embedding_size,
        margin=config.margin,
        scale=config.scale,
        center_weight=config.center_weight,
        island_weight=config.island_weight,
    )
