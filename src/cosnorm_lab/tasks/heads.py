"""Classification of images by a small embedding and a loss over class weights or centers."""

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cosnorm.functional import cosine_linear
from cosnorm.losses import CosineDistanceLoss
from cosnorm_lab.config import HeadsConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.heads import Softmax
from cosnorm_lab.methods import HEADS
from cosnorm_lab.networks import build
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import batches, mean_loss, over_all, split

DRAWN = 1000  # embeddings that a record keeps for the picture


class Classifier(nn.Module):
    """The embedding network and the head; called, it gives the loss, so that all weights learn together."""

    def __init__(self, config: HeadsConfig, image_size: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.embedding = build(config.network, image_size, config.embedding_size, config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.head: nn.Module = HEADS[config.method].make(config, classes)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of images (N, 1, height, width) of the classes `labels` (N,)."""
        loss: Tensor = self.head(self.embedding(images), labels)
        return loss

    def predict(self, embeddings: Tensor) -> Tensor:
        """The class of each embedding: the largest logit, or the largest cosine with a class weight."""
        head = self.head
        if isinstance(head, Softmax):
            return head.linear(embeddings).argmax(dim=1)
        if isinstance(head, CosineDistanceLoss):
            head = head.softmax
        return cosine_linear(embeddings, head.get_parameter("weight")).argmax(dim=1)


class HeadsTask:
    """See `cosnorm_lab.tasks.Task`."""

    def __init__(self, config: HeadsConfig, dataset: Dataset, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self.images, self.labels, self.test_images, self.test_labels = split(config, dataset, fabric.device)
        self.images, self.test_images = self.images.unsqueeze(1), self.test_images.unsqueeze(1)
        height, width = self.images.shape[2:]
        self.network = Classifier(config, (height, width), dataset.num_classes)
        optimizer: Any = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.model, self.optimizer = fabric.setup(self.network, optimizer)

    def epoch(self, number: int) -> float:
        """One pass over the images."""
        self.model.train()
        total = torch.zeros((), device=self.fabric.device)
        for part, size in batches(self.config, len(self.images), number, self.fabric):
            self.optimizer.zero_grad()
            loss = self.model(self.images[part], self.labels[part]) * len(part)
            # Fabric averages gradients over processes; this weight makes them the whole batch's.
            self.fabric.backward(loss * (self.fabric.world_size / size))
            self.optimizer.step()
            total += loss.detach()
        return mean_loss(total, len(self.images), self.fabric)

    def evaluate(self, last: bool) -> Line:
        """Errors; after the last epoch the first embeddings too, where they can be drawn."""
        self.model.eval()
        network, size = self.network, self.config.embedding_size
        embeddings = over_all(
            lambda part: network.embedding(self.test_images[part]), len(self.test_labels), size, self.fabric
        )
        with torch.no_grad():
            errors = int((network.predict(embeddings) != self.test_labels).sum())
        line: Line = {"errors": errors, "count": len(self.test_labels)}
        if last and size <= 3:
            points = [[float(f"{value:.4g}") for value in point] for point in embeddings[:DRAWN].tolist()]
            line["embeddings"] = {"labels": self.test_labels[:DRAWN].tolist(), "points": points}
        return line
