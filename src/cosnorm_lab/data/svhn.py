"""Street View House Numbers, cropped digits, in the official MATLAB files."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosnorm_lab.data.archive import checksums, read_members
from cosnorm_lab.data.catalog import SVHN
from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.errors import LabError


def load_svhn(folder: Path, *, allow_checksum_mismatch: bool = False) -> Dataset:
    """Reads SVHN: images (32, 32, 3, N) and labels 1 to 10, where 10 is the digit 0.

    Raises:
        LabError: a file is missing, damaged, holds other arrays or a wrong label, or is not the official one.
    """
    contents = read_members(SVHN, folder)
    md5, exact = checksums(SVHN, contents, folder, allow_checksum_mismatch)
    (train_images, train_labels), (test_images, test_labels) = (
        parse(contents[name], folder / name) for name in SVHN.members
    )
    return Dataset(
        name=SVHN.name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=10,
        checksums=md5,
        exact=exact,
    )


def parse(data: bytes, path: Path) -> tuple[Tensor, Tensor]:
    """A MATLAB file → uint8 images (N, 3, 32, 32) and labels (N,) from 0 to 9.

    Raises:
        LabError: it is damaged, or does not hold such arrays.
    """
    import scipy.io  # type: ignore[import-untyped, unused-ignore]

    try:
        arrays = scipy.io.loadmat(io.BytesIO(data), variable_names=["X", "y"])
    except Exception as error:  # damaged files raise whatever the reader stumbles over
        raise LabError(f"{path} is no MATLAB file, or damaged ({error}); fetch it again") from error
    images, labels = arrays.get("X"), arrays.get("y")
    if images is None or labels is None:
        raise LabError(f"{path} must hold the arrays X and y; is it a file of SVHN's cropped digits?")
    labels = labels.ravel()
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
        raise LabError(
            f"{path}: expected X of bytes and shape (32, 32, 3, {len(labels)}), as many as y has labels; "
            f"got {images.dtype} and {images.shape}"
        )
    wrong = np.flatnonzero((labels < 1) | (labels > 10))
    if len(wrong):
        raise LabError(f"{path}, image {wrong[0] + 1}: expected a label from 1 to 10, got {labels[wrong[0]]}")
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64) % 10)
