"""CIFAR-10 and CIFAR-100 in their official binary layout: label bytes, then 3,072 bytes of pixels."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosnorm_lab.data.archive import checksums, read_members
from cosnorm_lab.data.catalog import CIFAR10, CIFAR100, Archive
from cosnorm_lab.data.dataset import COARSE, Dataset
from cosnorm_lab.errors import LabError

SHAPE = (3, 32, 32)
COARSE_CLASSES = 20


def load_cifar10(folder: Path, *, allow_checksum_mismatch: bool = False) -> Dataset:
    """Reads CIFAR-10: five training batches and a test batch; a record is one label byte and the image.

    Raises:
        LabError: a file is missing, damaged, holds a wrong label, or is not the official one.
    """
    return _load(CIFAR10, folder, label_bytes=1, classes=10, allow=allow_checksum_mismatch)


def load_cifar100(folder: Path, *, coarse: bool = False, allow_checksum_mismatch: bool = False) -> Dataset:
    """Reads CIFAR-100: a record is the coarse label's byte, the fine label's, and the image.

    Args:
        folder: where the files are.
        coarse: take the 20 coarse classes in place of the 100 fine ones.
        allow_checksum_mismatch: accept files other than the official ones.

    Raises:
        LabError: as for CIFAR-10.
    """
    classes = COARSE_CLASSES if coarse else 100
    return _load(
        CIFAR100,
        folder,
        label_bytes=2,
        classes=classes,
        allow=allow_checksum_mismatch,
        label=0 if coarse else 1,
        name=COARSE if coarse else None,
    )


def _load(
    archive: Archive,
    folder: Path,
    *,
    label_bytes: int,
    classes: int,
    allow: bool,
    label: int = 0,
    name: str | None = None,
) -> Dataset:
    contents = read_members(archive, folder)
    md5, exact = checksums(archive, contents, folder, allow)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "test": []}
    for file, data in contents.items():
        images, labels = parse(data, label_bytes, folder / file)
        wrong = (labels[:, label] >= classes).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise LabError(
                f"{folder / file}, image {place + 1}: expected a label from 0 to {classes - 1}, "
                f"got {int(labels[place, label])}"
            )
        parts["test" if file.startswith("test") else "train"].append((images, labels[:, label]))
    (train_images, train_labels), (test_images, test_labels) = (
        tuple(torch.cat(tensors) for tensors in zip(*parts[part], strict=True)) for part in ("train", "test")
    )
    return Dataset(
        name=name or archive.name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=classes,
        checksums=md5,
        exact=exact,
    )


def parse(data: bytes, label_bytes: int, path: Path) -> tuple[Tensor, Tensor]:
    """Bytes of a file → uint8 images (N, 3, 32, 32) and labels (N, label_bytes).

    Raises:
        LabError: the size is no multiple of a record's, or nothing is there.
    """
    size = label_bytes + 3 * 32 * 32
    if not data or len(data) % size:
        raise LabError(
            f"{path} has {len(data)} bytes; expected a multiple of {size}: {label_bytes} of labels and "
            "3,072 of pixels an image. The file is truncated or of another data set"
        )
    records = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(-1, size).copy())
    return records[:, label_bytes:].reshape(-1, *SHAPE), records[:, :label_bytes].long()
