"""Small data that the laboratory's tests make."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import torch

from cosnorm_lab.config import RunConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.data.catalog import MNIST

SIDE = 8


def idx_bytes(array: np.ndarray) -> bytes:
    """The official layout of an idx file of bytes."""
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def made_arrays(train: int = 64, test: int = 32) -> dict[str, np.ndarray]:
    """Small images that can be learned: a bright column tells the class."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", train), ("test", test)):
        labels = random.integers(0, 4, count).astype(np.uint8)
        images = random.integers(0, 100, (count, SIDE, SIDE)).astype(np.uint8)
        images[np.arange(count), :, labels] += 120
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    return arrays


def made_dataset(train: int = 64, test: int = 32) -> Dataset:
    """The made images as a data set."""
    arrays = made_arrays(train, test)
    tensors = {
        part: torch.from_numpy(array).long() if part.endswith("labels") else torch.from_numpy(array) / 255
        for part, array in arrays.items()
    }
    checksums = {part: hashlib.md5(array.tobytes()).hexdigest() for part, array in arrays.items()}
    return Dataset(name="mnist", num_classes=10, checksums=checksums, exact=False, **tensors)


def write_files(
    folder: Path, packed: bool = False, train: int = 64, test: int = 32, **replaced: np.ndarray
) -> Path:
    """Writes small files under MNIST's official names, gzipped or not; some parts can be replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in {**made_arrays(train, test), **replaced}.items():
        data = idx_bytes(array)
        name = MNIST.parts[part].name
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


def record_of(out: Path, config: RunConfig) -> Path:
    """The one record of a configuration, whatever its data; before it is there a file that is not."""
    found = list((out / config.recipe).glob(f"{config.name()}*.jsonl"))
    assert len(found) <= 1, found
    return found[0] if found else out / config.recipe / f"{config.name()}.jsonl"
