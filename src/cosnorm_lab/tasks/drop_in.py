"""A network as people have it, trained as they train it; converted or not."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from cosnorm.convert import to_cosine
from cosnorm_lab import usual_networks
from cosnorm_lab.config import DropInConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import CONVERSIONS
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import batches, generator, mean_loss, over_all, split


class DropInTask:
    """See `cosnorm_lab.tasks.Task`. With several processes batch norm sees the share of each."""

    def __init__(self, config: DropInConfig, dataset: Dataset, fabric: Fabric) -> None:
        self.config, self.fabric = config, fabric
        self._text = config.network == "gpt"
        images, labels, test_images, test_labels = split(config, dataset, fabric.device)
        inputs: tuple[int, ...]
        if self._text:
            self.images, self.labels = images, labels
            self.test_images, self.test_labels = (
                part.unfold(0, config.length, config.length) for part in (test_images, test_labels)
            )
            inputs = (config.length,)
        else:
            kept = slice(config.samples or None)
            self.images, self.labels = _pixels(images[kept], config), labels[kept]
            self.test_images, self.test_labels = _pixels(test_images, config), test_labels
            inputs = tuple(self.images.shape[1:])
        self.network = network(config, inputs, dataset.num_classes)
        optimizer: Any = (
            torch.optim.SGD(self.network.parameters(), config.learning_rate, momentum=0.9)
            if config.optimizer == "sgd"
            else torch.optim.AdamW(
                self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
            )
        )
        self.model, self.optimizer = fabric.setup(self.network, optimizer)

    def epoch(self, number: int) -> float:
        """One pass, or so many steps, at a constant learning rate."""
        self.model.train()
        total, count = torch.zeros((), device=self.fabric.device), 0
        for inputs, targets, size in self._batches(number):
            self.optimizer.zero_grad()
            logits = self.model(inputs)
            loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")
            # Fabric averages gradients over processes; this weight makes them the whole batch's.
            self.fabric.backward(loss * (self.fabric.world_size / size))
            self.optimizer.step()
            total += loss.detach()
            count += size
        return mean_loss(total, count, self.fabric)

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """This process's inputs and targets, and the number of targets of the whole batch."""
        config = self.config
        if not self._text:
            for part, size in batches(config, len(self.images), number, self.fabric):
                if size > 1 or config.batch_size == 1:  # batch norm refuses a single sample
                    yield self.images[part], self.labels[part], size
            return
        random, places = generator(config, number), torch.arange(config.length)
        for _ in range(config.steps or len(self.images) // (config.length * config.batch_size)):
            starts = torch.randint(len(self.images) - config.length, (config.batch_size,), generator=random)
            mine = starts.tensor_split(self.fabric.world_size)[self.fabric.global_rank]
            part = (mine.unsqueeze(1) + places).to(self.fabric.device)
            yield self.images[part], self.labels[part], config.batch_size * config.length

    def evaluate(self, last: bool) -> Line:
        """Errors and the mean loss of the test samples; of text every character is one."""
        self.model.eval()

        def errors_and_loss(part: Tensor) -> Tensor:
            logits, labels = self.model(self.test_images[part]).float(), self.test_labels[part]
            losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
            wrong = (logits.argmax(-1) != labels).reshape(len(part), -1).sum(1)
            return torch.stack([wrong.float(), losses.reshape(len(part), -1).sum(1)], dim=1)

        errors, loss = over_all(errors_and_loss, len(self.test_labels), 2, self.fabric).double().sum(0)
        count = self.test_labels.numel()
        return {"errors": int(errors), "count": count, "test_loss": float(loss) / count}


def network(config: DropInConfig, inputs: tuple[int, ...], outputs: int) -> nn.Module:
    """The network of a configuration, at its first weights; all methods begin with the same."""
    made: nn.Module = CONVERSIONS[config.method].make(config, inputs, outputs)
    return made


def plain(config: DropInConfig, inputs: tuple[int, ...], outputs: int) -> nn.Module:
    """The network without norms."""
    return usual_networks.build(config.network, inputs, outputs, norms=False, seed=config.seed)


def norm(config: DropInConfig, inputs: tuple[int, ...], outputs: int) -> nn.Module:
    """The network with its norms."""
    return usual_networks.build(config.network, inputs, outputs, norms=True, seed=config.seed)


def converted(
    config: DropInConfig,
    inputs: tuple[int, ...],
    outputs: int,
    *,
    keep_norms: bool = False,
    all_: bool = False,
) -> nn.Module:
    """`cosnorm.convert.to_cosine` of the network with norms, which takes out those that it makes needless.

    Args:
        config: of the run.
        inputs: shape of a sample.
        outputs: number of classes.
        keep_norms: take none out.
        all_: convert attention and patches, too: all but the last layer.
    """
    made = norm(config, inputs, outputs)
    last = [name for name, layer in made.named_modules() if isinstance(layer, nn.Linear)][-1]
    return to_cosine(
        made,
        filter_fn=(lambda _, name: name != last) if all_ else None,
        centered=config.centered,
        scale=config.scale,
        augment=config.augment,
        remove_norm=not keep_norms,
        inplace=True,
    )


converted_norm = functools.partial(converted, keep_norms=True)
converted_all = functools.partial(converted, all_=True)


def _pixels(images: Any, config: DropInConfig) -> Tensor:
    """Bytes as (N, channels, height, width) with numbers from -1 to 1, squares of pixels averaged."""
    if not isinstance(images, Tensor) or images.ndim not in (3, 4):
        raise LabError(f"the network {config.network} wants images; the samples of {config.dataset} are none")
    images = images.unsqueeze(1) if images.ndim == 3 else images
    images = images / 255 if images.dtype == torch.uint8 else images
    return F.avg_pool2d(images, config.pooling) * 2 - 1
