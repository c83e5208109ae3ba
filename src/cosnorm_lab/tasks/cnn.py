"""Classification of colour images by a convolutional network: the paper's experiments on CIFAR and SVHN."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import cosnorm.nn
from cosnorm_lab.augmentation import CROP, augmented, middle
from cosnorm_lab.config import CNNConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.models import CNN, cnn
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import generator, split
from cosnorm_lab.tasks.measures import errors_and_unit, layers


class CNNTask:
    """See `cosnorm_lab.tasks.Task`. What is evaluated is the moving average of the parameters."""

    def __init__(self, config: CNNConfig, dataset: Dataset, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self.images, self.labels, self.test_images, self.test_labels = split(config, dataset, fabric.device)
        trained = cnn(
            (self.images.shape[1], CROP, CROP),
            config.filters,
            config.hidden,
            dataset.num_classes,
            config.method,
            init_std=config.init_std,
            augment=config.augment,
            seed=config.seed,
        )
        optimizer: Any = torch.optim.SGD(trained.parameters(), lr=config.learning_rate)
        self.model, self.optimizer = fabric.setup(trained, optimizer)
        # Buffers, such as batch normalization's, are averaged with the parameters they belong to.
        averaged = AveragedModel(trained, multi_avg_fn=self._average, use_buffers=True)
        self.network = nn.ModuleDict({"trained": trained, "averaged": averaged})
        self.max_norm = (
            cosnorm.nn.MaxNorm(trained, max_norm=config.max_norm) if config.method == "max" else None
        )

    def _average(self, averaged: Any, current: Any, number: Tensor | int) -> None:
        decay = min(self.config.average_decay, (1 + int(number)) / (10 + int(number)))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new.to(old.dtype), 1 - decay)
            else:
                old.copy_(new)

    @property
    def _trained(self) -> CNN:
        return self.network["trained"]  # type: ignore[return-value]

    def epoch(self, number: int) -> float:
        """So many steps of plain gradient descent, each with its update of the moving average."""
        config, fabric = self.config, self.fabric
        self.model.train()
        total = torch.zeros((), device=fabric.device)
        seen = 0
        for step in range((number - 1) * config.steps, number * config.steps):
            batch = self._batch(step)
            part = batch.tensor_split(fabric.world_size)[fabric.global_rank]
            self.optimizer.zero_grad()
            loss = F.cross_entropy(
                self.model(self._training_images(part, step)), self.labels[part], reduction="sum"
            )
            # Fabric averages gradients over processes; this weight makes them the whole batch's.
            fabric.backward(loss * (fabric.world_size / len(batch)))
            self.optimizer.step()
            if self.max_norm:
                self.max_norm.project()
            self.network["averaged"].update_parameters(self._trained)  # type: ignore[operator]
            total += loss.detach()
            seen += len(batch)
        return float(fabric.all_reduce(total, reduce_op="sum")) / seen  # type: ignore[arg-type]

    def _batch(self, step: int) -> Tensor:
        """Indices of a step's images: every pass takes all images in an order of its own, batches even."""
        size = min(self.config.batch_size, len(self.images))
        a_pass = len(self.images) // size
        order = getattr(self, "_order", None)
        if order is None or order[0] != step // a_pass:
            random = generator(self.config, step // a_pass)
            order = (step // a_pass, torch.randperm(len(self.images), generator=random))
            self._order = order
        place = step % a_pass * size
        return order[1][place : place + size].to(self.fabric.device)

    def _training_images(self, part: Tensor, step: int) -> Tensor:
        if not self.config.augmentation:
            return middle(self.images[part])
        random = generator(self.config, step * 1009 + self.fabric.global_rank + 1, self.fabric.device)
        return augmented(self.images[part], random)

    def evaluate(self, last: bool) -> Line:
        """Errors and a unit's pre-activations, of the averaged parameters; the layers of the trained ones."""
        averaged = self.network["averaged"] if self.config.average_decay else self._trained
        network: Any = averaged.module if isinstance(averaged, AveragedModel) else averaged
        averaged.eval()
        line = errors_and_unit(
            averaged, network, lambda part: middle(self.test_images[part]), self.test_labels, self.fabric
        )
        return {**line, "layers": layers(self._trained, self.config.learning_rate)}
