"""Contrastive training as in SimCLR: an encoder without labels, judged by a linear probe of its features."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from cosnorm.losses import nt_xent_loss
from cosnorm_lab.config import ContrastiveConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.methods import CONTRASTIVE
from cosnorm_lab.networks import build
from cosnorm_lab.probe import probe_errors
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import batches, generator, over_all, split
from cosnorm_lab.views import random_view

FEATURES = 128


def nt_xent() -> Callable[..., Tensor]:
    """The loss of "nt-xent"."""
    return nt_xent_loss


def decoupled() -> Callable[..., Tensor]:
    """The loss of "decoupled"."""
    return functools.partial(nt_xent_loss, decoupled=True)


def untrained() -> None:
    """No loss: the encoder stays as it began."""


class Projected(nn.Module):
    """The encoder, whose features the probe sees, and the projection that only the loss sees."""

    def __init__(self, config: ContrastiveConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = build("small-cnn", image_size, FEATURES, config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.projection = nn.Linear(FEATURES, config.embedding_size, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, height, width) → (N, embedding_size)."""
        embeddings: Tensor = self.projection(F.relu(self.encoder(images)))
        return embeddings


class ContrastiveTask:
    """See `cosnorm_lab.tasks.Task`.

    With several processes each draws the views of its own share, the negatives are those of all, and batch
    normalization sees the share.
    """

    def __init__(self, config: ContrastiveConfig, dataset: Dataset, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self.images, self.labels, self.test_images, self.test_labels = split(config, dataset, fabric.device)
        self.images, self.test_images = self.images.unsqueeze(1), self.test_images.unsqueeze(1)
        height, width = self.images.shape[2:]
        self.network = Projected(config, (height, width))
        optimizer: Any = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.model, self.optimizer = fabric.setup(self.network, optimizer)

    def epoch(self, number: int) -> float:
        """Two views of each image, NT-Xent between them. A last batch that is not full is left out."""
        objective = CONTRASTIVE[self.config.method].make()
        if objective is None:
            return 0.0
        self.model.train()
        random = generator(self.config, number * 1000 + self.fabric.global_rank, self.fabric.device)
        group = torch.distributed.group.WORLD if self.fabric.world_size > 1 else None
        losses = []
        full = min(self.config.batch_size, len(self.images))
        for part, size in batches(self.config, len(self.images), number, self.fabric):
            if size < full:
                continue
            images = self.images[part]
            views = torch.cat([random_view(images, random), random_view(images, random)])
            view1, view2 = self.model(views).chunk(2)
            self.optimizer.zero_grad()
            loss = objective(view1, view2, temperature=self.config.temperature, group=group)
            self.fabric.backward(loss)
            self.optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def evaluate(self, last: bool) -> Line:
        """Errors of a linear probe that was trained on the labelled training images."""
        self.model.eval()

        def features(images: Tensor) -> Tensor:
            return over_all(
                lambda part: self.network.encoder(images[part]), len(images), FEATURES, self.fabric
            )

        errors = probe_errors(
            features(self.images), self.labels, features(self.test_images), self.test_labels
        )
        return {"errors": errors, "count": len(self.test_labels)}
