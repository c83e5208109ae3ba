"""The handwritten digits that scikit-learn ships: 1,797 images of 8x8 pixels, nothing to download."""

import hashlib

import numpy
import torch

from cosnorm_lab.data.dataset import Dataset

TEST_IMAGES = 500
SPLIT_SEED = 0


def load_digits() -> Dataset:
    """Read the digits and split them, always in the same way, into 1,297 training and 500 test images.

    The split is stratified: each digit has the same share of both parts, within one image.

    Returns:
        The dataset; images are float32 in [0, 1] of shape (N, 64), labels are int64.
    """
    # scikit-learn takes a second to import, which only those who want its digits should pay.
    import sklearn.datasets
    import sklearn.model_selection

    pixels, digits = sklearn.datasets.load_digits(return_X_y=True)
    images = (pixels / 16.0).astype(numpy.float32)
    labels = digits.astype(numpy.int64)
    train, test = sklearn.model_selection.train_test_split(
        numpy.arange(len(labels)), test_size=TEST_IMAGES, random_state=SPLIT_SEED, stratify=labels
    )
    parts = {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }
    tensors = {part: torch.from_numpy(array.copy()) for part, array in parts.items()}
    return Dataset(
        name="digits",
        num_classes=10,
        checksums={part: hashlib.sha256(array.tobytes()).hexdigest() for part, array in parts.items()},
        exact=True,
        **tensors,  # type: ignore[arg-type]
    )
