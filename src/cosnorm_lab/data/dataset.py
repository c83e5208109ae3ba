"""What a data set is, and where the laboratory keeps it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

COARSE = "cifar100-coarse"
MOST_NAMED = 200  # classes whose names a record holds


@dataclass(frozen=True)
class Dataset:
    """A data set, whole, as tensors.

    Attributes:
        name: name of the data set.
        train_images: what is classified, (N, ...): float32 in [0, 1], or uint8 pixels for the convolutional
            networks of colour images, or features, of float64 where they came so, or sparse rows.
        train_labels: int64, (N,), from 0 to num_classes - 1.
        test_images: like train_images.
        test_labels: like train_labels.
        num_classes: number of classes.
        checksums: hash of each part; they go into the record.
        exact: whether the checksums are the official ones.
        classes: names of the classes, where they have any.
        drawn: whether the pictures were drawn by the laboratory, as a stand-in; the record says so.
        file: name of the file or folder of a user's own data.
        pixels: whether the numbers are pixels, which are not standardized.
        notes: what the user should know of how the data were read.
        options: how own data were read, where the user said so, such as the column of the classes.
        held_back: how many of the last training samples a search should hold back; 0: the recipe says it.
    """

    name: str
    train_images: Any
    train_labels: Tensor
    test_images: Any
    test_labels: Tensor
    num_classes: int
    checksums: dict[str, str]
    exact: bool
    classes: tuple[str, ...] = ()
    drawn: bool = False
    file: str = ""
    pixels: bool = True
    notes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    held_back: int = 0

    def described(self) -> dict[str, Any]:
        """What a record's start line says of its data."""
        described: dict[str, Any] = {
            "name": self.name,
            "checksums": self.checksums,
            "exact": self.exact,
            "train": len(self.train_labels),
            "test": len(self.test_labels),
        }
        if self.file:  # a user's classes have names that nobody else knows
            described |= {"file": self.file, "classes": list(self.classes[:MOST_NAMED]), **self.options}
        return {**described, **({"drawn": True} if self.drawn else {})}


def default_folder(dataset: str) -> Path:
    """Where `cosnorm fetch` puts a data set: the user's cache folder of this platform."""
    import pooch

    return Path(pooch.os_cache("cosnorm")) / dataset
