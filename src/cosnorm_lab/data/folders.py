"""Grey images in folders, a folder for each class: facial expressions and whatever is laid out like them."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.errors import LabError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SIZE = 48
TEST_SHARE = 5  # without folders "train" and "test", every fifth image of a class is for the test


def load_folders(name: str, folder: Path, *, size: int = SIZE) -> Dataset:
    """Reads `folder`/class/image, or `folder`/train/class/image and `folder`/test/class/image.

    Images become grey and, if they have another size, are resized to `size` by `size` pixels. Without
    "train" and "test", each fifth image of a class, in the order of their names, is for the test. Other
    files are ignored.

    Args:
        name: name of the data set, for the record.
        folder: the folder.
        size: height and width.

    Raises:
        LabError: the folder or a class holds nothing, there are fewer than two classes, train and test have
            other classes, or an image cannot be read (the message names it).
    """
    if not folder.is_dir():
        raise LabError(f"{folder} is not a folder; expected one with a folder of images for each class")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, test = _classes(folder / "train"), _classes(folder / "test")
        if list(train) != list(test):
            raise LabError(
                f"{folder}: train holds the classes {', '.join(train)}, test holds {', '.join(test)}; "
                "expected the same"
            )
    else:
        everything = _classes(folder)
        for label, paths in everything.items():
            if len(paths) < TEST_SHARE:
                raise LabError(
                    f"{folder / label} holds {len(paths)} images; expected at least {TEST_SHARE}, "
                    "of which every fifth is for the test"
                )
        train = {label: _without(paths, TEST_SHARE) for label, paths in everything.items()}
        test = {label: paths[TEST_SHARE - 1 :: TEST_SHARE] for label, paths in everything.items()}
    train_images, train_labels = _read(train, size)
    test_images, test_labels = _read(test, size)
    parts = {"train_images": train_images, "test_images": test_images}
    return Dataset(
        name=name,
        train_images=train_images.float() / 255,
        train_labels=train_labels,
        test_images=test_images.float() / 255,
        test_labels=test_labels,
        num_classes=len(train),
        checksums={
            part: hashlib.sha256(images.numpy().tobytes()).hexdigest() for part, images in parts.items()
        },
        exact=False,
        classes=tuple(train),
    )


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Image files by class, both in the order of their names."""
    found = {
        place.name: sorted(path for path in place.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        for place in sorted(folder.iterdir())
        if place.is_dir() and not place.name.startswith(".")
    }
    if len(found) < 2:
        raise LabError(
            f"{folder} holds {len(found)} folders; expected one for each class, such as {folder / 'happy'}, "
            "and at least two"
        )
    for label, paths in found.items():
        if not paths:
            raise LabError(f"{folder / label} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _without(paths: list[Path], every: int) -> list[Path]:
    return [path for number, path in enumerate(paths, start=1) if number % every]


def _read(classes: dict[str, list[Path]], size: int) -> tuple[Tensor, Tensor]:
    """uint8 images (N, size, size) and labels (N,), class after class."""
    from PIL import Image, UnidentifiedImageError

    images, labels = [], []
    for label, paths in enumerate(classes.values()):
        for path in paths:
            try:
                with Image.open(path) as image:
                    grey = image.convert("L")
            except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                raise LabError(f"{path} cannot be read as an image ({error}); mend or remove it") from error
            if grey.size != (size, size):
                grey = grey.resize((size, size), Image.Resampling.LANCZOS)
            images.append(np.asarray(grey))
            labels.append(label)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)
