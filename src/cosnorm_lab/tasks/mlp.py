"""Classification by a fully connected network: the paper's experiments on MNIST."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

import cosnorm.nn
from cosnorm_lab.config import MLPConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.models import MLP, mlp, trained_weights
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import batches, mean_loss, over_all, split

PERCENTILES = (0.15, 0.5, 0.85)


class MLPTask:
    """See `cosnorm_lab.tasks.Task`."""

    def __init__(self, config: MLPConfig, dataset: Dataset, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self.images, self.labels, self.test_images, self.test_labels = split(config, dataset, fabric.device)
        self.images, self.test_images = self.images.flatten(1), self.test_images.flatten(1)
        self.network = mlp(
            (self.images.shape[1], *config.hidden, dataset.num_classes),
            config.method,
            init_std=config.init_std,
            augment=config.augment,
            hidden_bias=config.hidden_bias,
            seed=config.seed,
        )
        optimizer: Any = torch.optim.SGD(self.network.parameters(), lr=config.learning_rate)
        self.model, self.optimizer = fabric.setup(self.network, optimizer)
        self.max_norm = (
            cosnorm.nn.MaxNorm(self.network, max_norm=config.max_norm) if config.method == "max" else None
        )

    def epoch(self, number: int) -> float:
        """Plain gradient descent; after each step max normalization, if that is the method."""
        self.model.train()
        total = torch.zeros((), device=self.fabric.device)
        for part, size in batches(self.config, len(self.images), number, self.fabric):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(self.images[part]), self.labels[part], reduction="sum")
            # Fabric averages gradients over processes; this weight makes them the whole batch's.
            self.fabric.backward(loss * (self.fabric.world_size / size))
            self.optimizer.step()
            if self.max_norm:
                self.max_norm.project()
            total += loss.detach()
        return mean_loss(total, len(self.images), self.fabric)

    def evaluate(self, last: bool) -> Line:
        """Errors; percentiles of what enters the ReLU of the last hidden layer's first unit; the layers."""
        self.model.eval()
        seen: list[Tensor] = []
        hook = self.network.hidden[-1].register_forward_hook(
            lambda _, __, output: seen.append(output[:, 0].float())
        )

        def wrong_and_unit(part: Tensor) -> Tensor:
            wrong = self.model(self.test_images[part]).argmax(dim=1) != self.test_labels[part]
            return torch.stack([wrong.float(), seen.pop()], dim=1)

        try:
            wrong, unit = over_all(wrong_and_unit, len(self.test_labels), 2, self.fabric).unbind(1)
        finally:
            hook.remove()
        percentiles = torch.quantile(unit, torch.tensor(PERCENTILES, device=unit.device))
        return {
            "errors": int(wrong.count_nonzero()),
            "count": len(self.test_labels),
            "pre_activation": percentiles.tolist(),
            "layers": _layers(self.network, self.config.learning_rate),
        }


@torch.no_grad()
def _layers(network: MLP, learning_rate: float) -> list[dict[str, Any]]:
    """|w| of each linear layer, and lr/|w|², the step in angle of a weight whose length does not matter."""
    layers = []
    for name, weight in trained_weights(network).items():
        norms = torch.linalg.vector_norm(weight.cpu().double(), dim=1)
        rates = learning_rate / norms[norms != 0].square()
        layers.append(
            {
                "name": name,
                "weight_norm": float(norms.mean()),
                "effective_learning_rate": float(rates.mean()) if len(rates) else 0.0,
            }
        )
    return layers
