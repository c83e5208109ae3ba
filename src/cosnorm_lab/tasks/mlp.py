"""Classification by a fully connected network: the paper's experiments on MNIST."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.data.sparse import SparseRows
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.models import mlp
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import batches, mean_loss, split
from cosnorm_lab.tasks.measures import errors_and_unit, layers


class MLPTask:
    """See `cosnorm_lab.tasks.Task`."""

    def __init__(self, config: MLPConfig, dataset: Dataset, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self.images, self.labels, self.test_images, self.test_labels = split(config, dataset, fabric.device)
        self.images, self.test_images = _features(self.images), _features(self.test_images)
        if config.input_dropout and isinstance(self.images, SparseRows):
            raise LabError("sparse input knows no dropout; set input_dropout to 0, or give dense data")
        torch.manual_seed(config.seed * 1009 + fabric.global_rank)  # what dropout draws from
        self.network = mlp(
            (self.images.shape[1], *config.hidden, dataset.num_classes),
            config.method,
            init_std=config.init_std,
            augment=config.augment,
            hidden_bias=config.hidden_bias,
            dropout=(config.input_dropout, config.dropout),
            sparse=isinstance(self.images, SparseRows),
            seed=config.seed,
        )
        optimizer: Any = torch.optim.SGD(self.network.parameters(), lr=config.learning_rate)
        self.model, self.optimizer = fabric.setup(self.network, optimizer)
        self.constraint = NORMALIZATIONS[config.method].constrained(self.network, max_norm=config.max_norm)

    def epoch(self, number: int) -> float:
        """Plain gradient descent; after each step the method's constraint, if it has one."""
        self.model.train()
        total = torch.zeros((), device=self.fabric.device)
        for part, size in batches(self.config, len(self.images), number, self.fabric):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(self.images[part]), self.labels[part], reduction="sum")
            # Fabric averages gradients over processes; this weight makes them the whole batch's.
            self.fabric.backward(loss * (self.fabric.world_size / size))
            self.optimizer.step()
            if self.constraint:
                self.constraint.project()
            total += loss.detach()
        return mean_loss(total, len(self.images), self.fabric)

    def evaluate(self, last: bool) -> Line:
        """Errors, a unit's pre-activations, and the layers' weights."""
        self.model.eval()
        line = errors_and_unit(
            self.model, self.network, lambda part: self.test_images[part], self.test_labels, self.fabric
        )
        line["layers"] = layers(self.network, self.config.learning_rate)
        if last and self.config.factors:
            line["errors_by_factor"] = [[factor, self._errors(factor)] for factor in self.config.factors]
        return line

    def _errors(self, factor: float) -> int:
        """Errors when the test input is multiplied by a number."""

        def scaled(part: Tensor) -> Tensor:
            return self.test_images[part] * factor

        line = errors_and_unit(self.model, self.network, scaled, self.test_labels, self.fabric)
        return int(line["errors"])


def _features(images: Any) -> Any:
    """Samples as rows (N, features); bytes of pixels in [0, 1]."""
    rows = images.flatten(1)
    return rows.float() / 255 if getattr(rows, "dtype", None) == torch.uint8 else rows
