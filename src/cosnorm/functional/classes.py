"""Checks of what losses over classes share: sub-centers, and the classes that take part."""

from typing import Any

from torch import Tensor

from cosnorm.functional.checks import check_count, check_indices


def check_sub_centers(where: str, weight: Tensor, sub_centers: int) -> None:
    """Raise unless each class has so many rows of the weight."""
    check_count(where, "sub_centers", sub_centers)
    if weight.shape[0] % sub_centers:
        raise ValueError(
            f"{where}: with {sub_centers} sub-centers the rows of weight must be a multiple of as many, "
            f"got {len(weight)}"
        )


def check_classes(where: str, classes: Any, labels: Tensor) -> Tensor | None:
    """The classes that take part, sorted; raise unless they are numbers."""
    if classes is None:
        return None
    check_indices(where, "classes", classes, labels.device)
    if classes.ndim != 1:
        raise ValueError(f"{where}: classes must have shape (S,), got {tuple(classes.shape)}")
    return classes.long().sort().values
