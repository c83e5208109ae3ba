"""Plain text as numbers, a character each: Karpathy's small Shakespeare."""

from pathlib import Path

import numpy as np
import torch

from cosnorm_lab.data.archive import checksums, read_members
from cosnorm_lab.data.catalog import SHAKESPEARE
from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.errors import LabError

TRAINING = 0.9  # of the text, its beginning


def load_shakespeare(folder: Path, *, allow_checksum_mismatch: bool = False) -> Dataset:
    """Reads the text; "images" are its characters (N,), "labels" those that follow them.

    Raises:
        LabError: the file is missing, too short, or not the official one.
    """
    contents = read_members(SHAKESPEARE, folder)
    md5, exact = checksums(SHAKESPEARE, contents, folder, allow_checksum_mismatch)
    data = np.frombuffer(contents["input.txt"], dtype=np.uint8)
    if len(data) < 20:
        raise LabError(f"{folder / 'input.txt'} has {len(data)} characters; expected a text")
    characters, numbers = np.unique(data, return_inverse=True)
    text = torch.from_numpy(numbers.astype(np.int64))
    train, test = text.tensor_split([int(TRAINING * len(text))])
    return Dataset(
        name=SHAKESPEARE.name,
        train_images=train[:-1],
        train_labels=train[1:],
        test_images=test[:-1],
        test_labels=test[1:],
        num_classes=len(characters),
        checksums=md5,
        exact=exact,
        classes=tuple(map(chr, characters)),
    )
