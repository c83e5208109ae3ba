"""Classification of colour images by a convolutional network: the paper's experiments on CIFAR and SVHN."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import cosnorm.nn
from cosnorm_lab.augmentation import augmented, middle
from cosnorm_lab.config import CNNConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.errors import LabError
from cosnorm_lab.models import CNN, cnn
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import generator, split
from cosnorm_lab.tasks.measures import errors_and_unit, layers


class CNNTask:
    """See `cosnorm_lab.tasks.Task`. What is evaluated is the moving average of the parameters."""

    def __init__(self, config: CNNConfig, dataset: Dataset, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        images, self.labels, test_images, self.test_labels = split(config, dataset, fabric.device)
        self.images, self.test_images = _with_channels(images, config), _with_channels(test_images, config)
        channels, height, width = middle(self.images[:1], config.crop).shape[1:]
        trained = cnn(
            (channels, height, width),
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
            return middle(self.images[part], self.config.crop)
        random = generator(self.config, step * 1009 + self.fabric.global_rank + 1, self.fabric.device)
        return augmented(self.images[part], random, self.config.crop)

    def evaluate(self, last: bool) -> Line:
        """Errors and a unit's pre-activations, of the averaged parameters; the layers of the trained ones."""
        averaged = self.network["averaged"] if self.config.average_decay else self._trained
        network: Any = averaged.module if isinstance(averaged, AveragedModel) else averaged
        averaged.eval()
        line = errors_and_unit(
            averaged,
            network,
            lambda part: middle(self.test_images[part], self.config.crop),
            self.test_labels,
            self.fabric,
        )
        return {**line, "layers": layers(self._trained, self.config.learning_rate)}


def _with_channels(images: Any, config: CNNConfig) -> Tensor:
    """Images (N, channels, height, width); those of (N, height, width) have one channel.

    Raises:
        LabError: they are no images, too small to crop, or none that the augmentation is meant for.
    """
    if not isinstance(images, Tensor) or images.ndim not in (3, 4):
        shape = "sparse rows" if not isinstance(images, Tensor) else f"the shape {tuple(images.shape)}"
        raise LabError(
            "a convolutional network wants images of (N, height, width) or (N, channels, height, width), "
            f"but these samples have {shape}; an MLP takes them"
        )
    images = images.unsqueeze(1) if images.ndim == 3 else images
    channels, height, width = images.shape[1:]
    if width in (1, 3, 4) and channels > width:
        raise LabError(
            f"these images have the shape {tuple(images.shape)}, as if channels came last; give them as "
            "(N, channels, height, width): x.transpose(0, 3, 1, 2)"
        )
    if config.augmentation and not config.crop and height != width:
        raise LabError(
            f"augmentation mirrors and crops squares, but these images have {height}×{width} pixels; give a "
            "crop (--set crop=…), or leave augmentation out"
        )
    if min(images.shape[2:]) < config.crop:
        raise LabError(
            f"images of {height}×{width} pixels cannot be cropped to {config.crop}; "
            "choose a smaller crop (--set crop=…; 0: all pixels)"
        )
    if config.augmentation and images.dtype != torch.uint8:
        raise LabError(
            f"augmentation is meant for bytes of colour, but these images are {str(images.dtype)[6:]}; "
            "leave it out (--set augmentation=false), or give x as uint8"
        )
    return images
