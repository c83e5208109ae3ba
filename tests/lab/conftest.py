import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lab_data import made_dataset, write_files

from cosnorm_lab.data import Dataset


@pytest.fixture
def write_idx(tmp_path: Path) -> Callable[..., Path]:
    """Writes small official-format files into a folder of the test's own."""
    return functools.partial(write_files, tmp_path / "data")


@pytest.fixture
def small_dataset() -> Dataset:
    """The made images as a data set."""
    return made_dataset()


@pytest.fixture
def one_thread():
    """Bit-for-bit results need one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def colours() -> Dataset:
    """Noise whose left, right, upper or lower half is brighter in one channel: four classes."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (96, 48):
        labels = torch.arange(count) % 4
        images = torch.randint(0, 120, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        images[labels == 0, 0, :, :16] += 110
        images[labels == 1, 0, :, 16:] += 110
        images[labels == 2, 1, :16] += 110
        images[labels == 3, 1, 16:] += 110
        parts += [images, labels]
    return Dataset("cifar10", *parts, num_classes=4, checksums={}, exact=False)
