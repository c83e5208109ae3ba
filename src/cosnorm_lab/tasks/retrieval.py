"""An embedding of colour images by a loss over seen classes, judged by the neighbours of unseen ones."""

from itertools import pairwise
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cosnorm.metrics import retrieval_metrics
from cosnorm_lab.augmentation import whitened
from cosnorm_lab.config import RetrievalConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.heads import SupCon
from cosnorm_lab.methods import RETRIEVAL
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import batches, generator, mean_loss, over_all, split

SHIFT = 4  # pixels by which training images move at most


class Embedding(nn.Module):
    """The embedding network and the loss; called, it gives the loss, so that all weights learn together."""

    def __init__(self, config: RetrievalConfig, channels: int, classes: int) -> None:
        super().__init__()
        method = RETRIEVAL[config.method]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.embedding = network(channels, config.filters, config.embedding_size)
            options = {name: getattr(config, name) for name in method.takes}
            self.head: nn.Module = method.make(classes, config.embedding_size, **options)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of images (N, channels, height, width) of the classes `labels` (N,)."""
        loss: Tensor = self.head(self.embedding(images), labels)
        return loss


def network(channels: int, filters: tuple[int, ...], features: int) -> nn.Sequential:
    """Convolutions of stride 2, each with batch normalization and ReLU, means over places, a linear layer."""
    layers: list[nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(pairwise((channels, *filters))):
        size = 3 if number else 5
        layers += [
            nn.Conv2d(fan_in, fan_out, size, stride=2, padding=size // 2, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * filters[-1], features))


def moved(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image mirrored or not and moved by up to four pixels, zeros behind it; whitened."""
    count, height, width = len(images), *images.shape[2:]
    device = images.device
    padded = nn.functional.pad(whitened(images.float()), (SHIFT,) * 4)
    top, left = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=random, device=device)
    mirrored = torch.rand(count, 1, generator=random, device=device) < 0.5
    along = torch.arange(width, device=device)
    columns = left + torch.where(mirrored, width - 1 - along, along)
    rows = top + torch.arange(height, device=device)
    image = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(images.shape[1], device=device).view(1, -1, 1, 1)
    return padded[image, channel, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)]


class RetrievalTask:
    """See `cosnorm_lab.tasks.Task`."""

    def __init__(self, config: RetrievalConfig, dataset: Dataset, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self.images, self.labels, self.test_images, self.test_labels = split(config, dataset, fabric.device)
        classes = int(self.labels.max()) + 1
        self.network = Embedding(config, self.images.shape[1], classes)
        # What sees the batches of all processes gives the whole batch's gradient by itself.
        self.whole = isinstance(self.network.head, SupCon)
        optimizer: Any = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.model, self.optimizer = fabric.setup(self.network, optimizer)

    def epoch(self, number: int) -> float:
        """One pass over the images of the seen classes."""
        self.model.train()
        total = torch.zeros((), device=self.fabric.device)
        random = generator(self.config, number * 1000 + self.fabric.global_rank, self.fabric.device)
        for part, size in batches(self.config, len(self.images), number, self.fabric):
            self.optimizer.zero_grad()
            loss = self.model(moved(self.images[part], random), self.labels[part])
            # Fabric averages gradients over processes; this weight makes them the whole batch's.
            weight = 1.0 if self.whole else len(part) * self.fabric.world_size / size
            self.fabric.backward(loss * weight)
            self.optimizer.step()
            total += loss.detach() * len(part)
        return mean_loss(total, len(self.images), self.fabric)

    def evaluate(self, last: bool) -> Line:
        """Errors of the nearest neighbour among images of unseen classes, and MAP@R."""
        self.model.eval()
        embeddings = over_all(
            lambda part: self.network.embedding(whitened(self.test_images[part].float())),
            len(self.test_labels),
            self.config.embedding_size,
            self.fabric,
        )
        count = len(self.test_labels)
        if not embeddings.isfinite().all():
            return {"errors": count, "count": count, "map_at_r": float("nan")}
        found = retrieval_metrics(embeddings, self.test_labels, recall=(1,), ndcg=())
        right = round(count * found["recall@1"].item())
        return {"errors": count - right, "count": count, "map_at_r": found["map@r"].item()}
