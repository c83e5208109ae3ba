"""Which images a process takes: the parts of a data set, the batches of an epoch, its share of a test."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from cosnorm_lab.config import RetrievalConfig, RunConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.errors import LabError

EVALUATION_BATCH = 500  # larger ones are slower: their activations are fresh memory each time


def split(config: RunConfig, dataset: Dataset, device: torch.device) -> tuple[Any, ...]:
    """Images and labels to train on, then those to count errors on, on the device.

    The latter are the test images, or the held-back training images of a search; of a retrieval those of
    classes that are not trained on. Where the configuration
    wants it, and the samples are no pixels, they are standardized; then they are float32.

    Raises:
        LabError: numbers that float32 does not hold.
    """
    if isinstance(config, RetrievalConfig):
        return tuple(tensor.to(device) for tensor in _by_class(config, dataset))
    train = len(dataset.train_images) - config.validation
    images, labels = dataset.train_images[:train], dataset.train_labels[:train]
    test_images, test_labels = dataset.test_images, dataset.test_labels
    if config.validation:
        test_images, test_labels = dataset.train_images[train:], dataset.train_labels[train:]
    if standardizes(config, dataset):
        images, test_images = standardized(images, test_images)
    images, test_images = _float32(images), _float32(test_images)
    return tuple(tensor.to(device) for tensor in (images, labels, test_images, test_labels))


def _by_class(config: RetrievalConfig, dataset: Dataset) -> tuple[Tensor, ...]:
    """Images and labels of the classes to train on, then those of other classes."""
    if not config.seen < dataset.num_classes:
        raise LabError(
            f"seen must leave classes to look for: got {config.seen} of {dataset.num_classes} classes"
        )
    images, labels = dataset.train_images, dataset.train_labels
    first = config.seen
    if config.validation:
        sizes = torch.bincount(labels, minlength=first)[:first]
        fits = sizes.flip(0).cumsum(0) <= config.validation
        first -= int(fits.sum())
        if not 0 < first < config.seen:
            raise LabError(
                f"validation must hold back some of the {config.seen} classes that are seen, whole: got "
                f"{config.validation}; the last one has {int(sizes[-1])} images"
            )
        judged = (labels >= first) & (labels < config.seen)
        return images[labels < first], labels[labels < first], images[judged], labels[judged]
    unseen = dataset.test_labels >= first
    return (
        images[labels < first],
        labels[labels < first],
        dataset.test_images[unseen],
        dataset.test_labels[unseen],
    )


def standardizes(config: RunConfig, dataset: Dataset) -> bool:
    """Whether samples are standardized: the configuration says so, and they are neither pixels nor sparse."""
    wanted = getattr(config, "standardize", False)
    return wanted and not dataset.pixels and isinstance(dataset.train_images, Tensor)


def standardized(images: Tensor, test_images: Tensor) -> tuple[Tensor, Tensor]:
    """Samples less the mean and by the deviation of those to train on; what is constant there becomes 0.

    Rows (N, D) have a mean for each feature, (N, channels, height, width) for each channel, others one for
    all.
    """
    dims = {2: [0], 4: [0, 2, 3]}.get(images.ndim, list(range(images.ndim)))
    wide = images.double()
    deviation, mean = torch.std_mean(wide, dim=dims, correction=0, keepdim=True)
    # Of a constant feature rounding leaves a deviation of some units in the last place of its value.
    constant = deviation <= 1e-12 * mean.abs()
    scale = torch.where(constant, 0.0, 1 / deviation.where(~constant, torch.ones_like(deviation)))
    first, second = ((part.double() - mean) * scale for part in (images, test_images))
    return first, second


def _float32(images: Any) -> Any:
    """Numbers of float64 as float32; others as they are."""
    if getattr(images, "dtype", None) != torch.float64:
        return images
    found = images.float()
    if not found.isfinite().all():
        raise LabError("samples hold numbers beyond float32's range, 3e38; standardize them (--standardize)")
    return found


def chance(config: RunConfig, dataset: Dataset) -> int:
    """Errors of who always answers with the class that is most frequent in training."""
    _, labels, _, test_labels = split(config, dataset, torch.device("cpu"))
    return int((test_labels != labels.mode().values).count_nonzero())


def batches(config: RunConfig, count: int, epoch: int, fabric: Fabric) -> Iterator[tuple[Tensor, int]]:
    """An epoch's batches: the indices this process takes of each, and the size of the whole batch.

    The order follows from seed and epoch alone, so it is the same in every process and after a resume.
    """
    order = torch.randperm(count, generator=generator(config, epoch)).to(fabric.device)
    for batch in order.split(config.batch_size):
        yield batch.tensor_split(fabric.world_size)[fabric.global_rank], len(batch)


def generator(config: RunConfig, epoch: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Random numbers that follow from seed and epoch alone."""
    return torch.Generator(device).manual_seed(seed(config, epoch))


def seed(config: RunConfig, epoch: int) -> int:
    """The seed of an epoch's random numbers."""
    return config.seed * 1_000_003 + epoch


@torch.no_grad()
def over_all(function: Callable[[Tensor], Tensor], count: int, width: int, fabric: Fabric) -> Tensor:
    """Rows that `function` makes of indices, for all indices below `count`, shared among the processes.

    Args:
        function: gets a part of the indices (n,) and returns (n, width).
        count: number of rows.
        width: numbers in a row.
        fabric: the processes; all get the whole result.

    Returns:
        float32 of shape (count, width).
    """
    rows = torch.zeros(count, width, device=fabric.device)  # each process fills its own part of it
    mine = torch.arange(count, device=fabric.device).tensor_split(fabric.world_size)[fabric.global_rank]
    # All processes make the same number of calls: a model over several processes may wait in each.
    for part in mine.tensor_split(math.ceil(count / (EVALUATION_BATCH * fabric.world_size))):
        rows[part] = function(part).float()
    return fabric.all_reduce(rows, reduce_op="sum")  # type: ignore[return-value]


def mean_loss(total: Tensor, count: int, fabric: Fabric) -> float:
    """The mean over all images of an epoch, from the sum over this process's."""
    return float(fabric.all_reduce(total, reduce_op="sum")) / count  # type: ignore[arg-type]
