"""Classification of colour images by a convolutional network: the paper's experiments on CIFAR and SVHN."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from cosnorm_lab.augmentation import augmented, middle
from cosnorm_lab.config import CNNConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.models import CNN, cnn
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import generator, seed, split
from cosnorm_lab.tasks.captured import captured
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
        self.network = nn.ModuleDict({"trained": trained, "averaged": copy.deepcopy(trained)})
        self.constraint = NORMALIZATIONS[config.method].constrained(trained, max_norm=config.max_norm)
        # What a step reads, and the sum of losses that it adds to, at the same places each time.
        self._indices = self._batch(0).clone()
        self._share = torch.zeros((), device=fabric.device)
        self._random = generator(config, 0, fabric.device)
        self._total = torch.zeros((), device=fabric.device)
        self._step = captured(self._train, self._random, fabric)

    @property
    def _trained(self) -> CNN:
        return self.network["trained"]  # type: ignore[return-value]

    def epoch(self, number: int) -> float:
        """So many steps of plain gradient descent, each with its update of the moving average."""
        config = self.config
        self.model.train()
        self._total.zero_()
        for step in range((number - 1) * config.steps, number * config.steps):
            self._indices.copy_(self._batch(step))
            self._random.manual_seed(seed(config, step * 1009 + self.fabric.global_rank + 1))
            # The first step's parameters are the first average.
            decay = min(config.average_decay, (1 + step) / (10 + step)) if step else 0.0
            self._share.fill_(1 - decay)
            self._step()
        total = float(self.fabric.all_reduce(self._total, reduce_op="sum"))  # type: ignore[arg-type]
        return total / (config.steps * self._batch_size)

    def _train(self) -> None:
        """One step, on the images `_indices`; `_share` of the new parameters goes into the average."""
        self.optimizer.zero_grad()
        logits = self.model(self._training_images(self._indices))
        loss = F.cross_entropy(logits, self.labels[self._indices], reduction="sum")
        # Fabric averages gradients over processes; this weight makes them the whole batch's.
        self.fabric.backward(loss * (self.fabric.world_size / self._batch_size))
        self.optimizer.step()
        if self.constraint:
            self.constraint.project()
        self._average()
        self._total += loss.detach()

    @torch.no_grad()
    def _average(self) -> None:
        """Buffers, such as batch normalization's, are averaged with the parameters they belong to."""
        averaged, trained = (self.network[name].state_dict().values() for name in ("averaged", "trained"))
        for old, new in zip(averaged, trained, strict=True):
            if old.is_floating_point():
                old.lerp_(new, self._share.to(old.dtype))
            else:
                old.copy_(new)

    @property
    def _batch_size(self) -> int:
        return min(self.config.batch_size, len(self.images))

    def _batch(self, step: int) -> Tensor:
        """Indices of this process's images: every pass takes all in an order of its own, batches even."""
        size = self._batch_size
        a_pass = len(self.images) // size
        order = getattr(self, "_order", None)
        if order is None or order[0] != step // a_pass:
            random = generator(self.config, step // a_pass)
            indices = torch.randperm(len(self.images), generator=random)
            order = (step // a_pass, indices.to(self.fabric.device))
            self._order = order
        place = step % a_pass * size
        batch = order[1][place : place + size]
        return batch.tensor_split(self.fabric.world_size)[self.fabric.global_rank]

    def _training_images(self, part: Tensor) -> Tensor:
        if not self.config.augmentation:
            return middle(self.images[part], self.config.crop)
        return augmented(self.images[part], self._random, self.config.crop)

    def evaluate(self, last: bool) -> Line:
        """Errors and a unit's pre-activations, of the averaged parameters; the layers of the trained ones."""
        network: Any = self.network["averaged"] if self.config.average_decay else self._trained
        network.eval()
        line = errors_and_unit(
            network,
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
