"""Checks of what classes and embeddings count: class weights, label smoothing, ignored labels."""

from typing import Any

from torch import Tensor

from cosnorm.functional.checks import is_number, is_whole


def check_ignored(where: str, ignore_index: Any) -> None:
    """Raise unless it can be a label."""
    if not is_whole(ignore_index):
        raise TypeError(
            f"{where}: ignore_index must be an int, a label that does not count, got {ignore_index!r}"
        )


def check_counting(
    where: str,
    embeddings: Tensor,
    number: int | None,
    sub_centers: int,
    class_weights: Any,
    label_smoothing: Any,
    ignore_index: Any,
) -> None:
    """Raise unless these are such options, for `number` classes (None: not known here)."""
    check_ignored(where, ignore_index)
    if not is_number(label_smoothing):
        raise TypeError(f"{where}: label_smoothing must be a number, got {type(label_smoothing).__name__}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{where}: label_smoothing must be between 0 and 1, got {label_smoothing}")
    if label_smoothing and sub_centers > 1:
        raise ValueError(
            f"{where}: label_smoothing takes one center for each class, got sub_centers={sub_centers}; leave "
            "one of them out"
        )
    if class_weights is None:
        return
    if not isinstance(class_weights, Tensor) or not class_weights.is_floating_point():
        found = class_weights.dtype if isinstance(class_weights, Tensor) else type(class_weights).__name__
        raise TypeError(
            f"{where}: class_weights must be a tensor of floating-point numbers, got {found}; convert it by "
            "torch.as_tensor(class_weights, dtype=torch.float32)"
        )
    if class_weights.requires_grad:
        raise ValueError(f"{where}: class_weights do not learn; use class_weights.detach()")
    if class_weights.device != embeddings.device:
        raise ValueError(
            f"{where}: class_weights must be on {embeddings.device}, got {class_weights.device}; use "
            f"class_weights.to({embeddings.device})"
        )
    if class_weights.ndim != 1 or (number is not None and class_weights.shape[0] != number):
        raise ValueError(
            f"{where}: class_weights must have shape ({'C' if number is None else number},), a number for "
            f"each class, got {tuple(class_weights.shape)}"
        )
