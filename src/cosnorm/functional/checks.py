"""Errors for wrong arguments: what was expected, what came, and how to mend it."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

from cosnorm.backends.choose import IMPLEMENTATIONS, check_impl
from cosnorm.norms import accumulation_dtype

Reduction = Literal["none", "mean", "sum"]
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_number(value: Any) -> bool:
    """Whether it is a real number, NumPy's among them, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, NumPy's among them, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_tensors(where: str, **tensors: Any) -> None:
    """Raise unless all are dense floating-point tensors of one dtype on one device."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{where}: {name} must be a torch.Tensor, got {type(tensor).__name__}; "
                f"convert it with torch.as_tensor({name})"
            )
        if tensor.dtype not in _DTYPES:
            raise TypeError(
                f"{where}: {name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}; "
                f"convert it with {name}.float()"
            )
        if tensor.layout != torch.strided:
            raise TypeError(f"{where}: {name} must be dense, got {tensor.layout}; use {name}.to_dense()")
        if tensor.dtype != first.dtype and not _is_autocast_on(tensor.device.type):
            raise TypeError(
                f"{where}: {first_name} and {name} must have one dtype, got {first.dtype} and "
                f"{tensor.dtype}; convert one of them, for instance {name}.to({first_name}.dtype)"
            )
        if tensor.device != first.device:
            raise ValueError(
                f"{where}: {first_name} and {name} must be on one device, got {first.device} and "
                f"{tensor.device}; move one of them, for instance {name}.to({first_name}.device)"
            )


def _is_autocast_on(device: str) -> bool:
    """Whether operators will cast; asked only where dtypes differ, as some devices know no autocast."""
    return device in ("cpu", "cuda", "xpu", "mps") and torch.is_autocast_enabled(device)


def check_augment(where: str, augment: float) -> float:
    """Return `augment` as a float, or raise unless it is a number in [0, 1e18]."""
    if not is_number(augment):
        raise TypeError(f"{where}: augment must be a number, got {type(augment).__name__}")
    # Comparisons, because torch.compile(dynamic=True) knows no math.isfinite of a symbolic number.
    if not 0 <= augment <= 1e18:  # its square is a float32
        raise ValueError(
            f"{where}: augment must be finite and not negative (at most 1e18), got {augment}; "
            "the paper uses 1e-4"
        )
    return float(augment)


def check_options(where: str, centered: bool, augment: float, impl: str) -> float:
    """Return `augment` as a float, or raise unless these are the options of a layer.

    What is right is seen at one glance: every call of a layer comes by here.
    """
    if type(centered) is bool and type(augment) is float and 0 <= augment <= 1e18 and impl in IMPLEMENTATIONS:
        return augment
    check_impl(where, impl)
    check_flag(where, "centered", centered)
    return check_augment(where, augment)


def check_flag(where: str, name: str, value: bool) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be True or False, got {value!r}")


def check_count(where: str, name: str, value: int, least: int = 1) -> None:
    """Raise unless `value` is an int of at least `least`."""
    if not is_whole(value):
        raise TypeError(f"{where}: {name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {value}")


def check_bound(where: str, name: str, value: Any) -> None:
    """Raise unless `value` is a number; NaN bounds nothing."""
    if not is_number(value):
        raise TypeError(f"{where}: {name} must be a number, got {type(value).__name__}")
    if value != value:  # torch.compile(dynamic=True) knows no math.isnan of a symbolic number
        raise ValueError(f"{where}: {name} must be a number, got NaN, which nothing is above or below")


def check_numbers(
    where: str, name: str, value: int | Sequence[int], rank: int, least: int
) -> tuple[int, ...]:
    """One int of at least `least` for each dimension, or raise."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(values) == 1:
        values = values * rank
    if len(values) != rank or not all(map(is_whole, values)):
        raise TypeError(f"{where}: {name} must be an int or {rank} ints, got {value!r}")
    if min(values) < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {value!r}")
    return tuple(map(int, values))


def check_dtype(where: str, dtype: torch.dtype | None) -> None:
    """Raise unless parameters can have this dtype."""
    if dtype is not None and dtype not in _DTYPES:
        raise TypeError(f"{where}: dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")


def check_precision(where: str, precision: str | None) -> None:
    """Raise unless `precision` is one of products."""
    if precision is not None and not isinstance(precision, str):
        raise TypeError(f"{where}: precision must be None or a string, got {type(precision).__name__}")
    if precision not in (None, "fp8"):
        raise ValueError(f'{where}: precision must be None or "fp8", got {precision!r}')


def check_indices(where: str, name: str, value: Any, device: torch.device) -> None:
    """Raise unless `value` is a tensor of whole numbers on the device."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{where}: {name} must be a torch.Tensor, got {type(value).__name__}; convert it with "
            f"torch.as_tensor({name})"
        )
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        # Rows of classes are one-hot, or soft.
        mend = f"{name}.argmax(1)" if value.ndim == 2 else f"{name}.long()"
        raise TypeError(f"{where}: {name} must be whole numbers, got {value.dtype}; use {mend}")
    if value.device != device:
        raise ValueError(f"{where}: {name} must be on {device}, got {value.device}; use {name}.to({device})")


def check_number(where: str, name: str, value: float | Tensor) -> tuple[Tensor | None, float]:
    """A tensor of one floating-point number and 0, or None and a number; raise if it is neither.

    The number in a tensor is looked at below the wall.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{where}: {name} must have one element, a floating-point number; got shape "
                f"{tuple(value.shape)} and {value.dtype}"
            )
        return value, 0.0
    if not is_number(value):
        raise TypeError(f"{where}: {name} must be a number or a tensor, got {type(value).__name__}")
    # Comparisons, because torch.compile(dynamic=True) knows no math.isfinite of a symbolic number.
    if not -torch.inf < value < torch.inf:
        raise ValueError(f"{where}: {name} must be one finite number, got {value}")
    return None, float(value)


def check_reduction(where: str, reduction: str) -> None:
    """Raise unless `reduction` is one."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{where}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def reduced(loss: Tensor, count: Tensor, reduction: str) -> Tensor:
    """The mean of a loss that is a sum over `count` (0 of none); the loss itself for other reductions."""
    if reduction != "mean":
        return loss
    if count.is_floating_point():  # weights, whose sum may be below 1
        return loss / count.masked_fill(count == 0, 1).to(loss.dtype)
    return loss / count.clamp(min=1)


def averaged(losses: Tensor, reduction: str) -> Tensor:
    """The mean of losses (0 of none), their sum, or the losses themselves."""
    if reduction == "none":
        return losses
    return losses.sum() / max(1, losses.numel()) if reduction == "mean" else losses.sum()


def check_pair(where: str, **tensors: Any) -> None:
    """Raise unless all are tensors of one shape (N, D), dtype and device."""
    check_tensors(where, **tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    first = next(iter(shapes.values()))
    if len(first) != 2 or any(shape != first for shape in shapes.values()):
        found = " and ".join(map(str, shapes.values()))
        raise ValueError(
            f"{where}: {' and '.join(shapes)} must have one shape (N, D), got {found}; flatten(1) makes one "
            "vector of each sample"
        )


def check_rows_of_classes(where: str, **tensors: Any) -> None:
    """Raise unless two tensors, embeddings (N, D) and rows of classes (C, D), go together."""
    (_, embeddings), (name, rows) = tensors.items()
    check_tensors(where, embeddings=embeddings)
    check_tensors(where, **{name: rows})
    if accumulation_dtype(embeddings.dtype) != accumulation_dtype(rows.dtype):
        raise TypeError(
            f"{where}: embeddings and {name} must both be float64, or neither; got {embeddings.dtype} and "
            f"{rows.dtype}; convert one of them, for instance {name}.to(embeddings.dtype)"
        )
    if embeddings.device != rows.device:
        raise ValueError(
            f"{where}: embeddings and {name} must be on one device, got {embeddings.device} and "
            f"{rows.device}; move one of them, for instance {name}.to(embeddings.device)"
        )
    if embeddings.ndim != 2 or rows.ndim != 2 or embeddings.shape[1] != rows.shape[1]:
        raise ValueError(
            f"{where}: embeddings and {name} must have shapes (N, D) and (C, D), got "
            f"{tuple(embeddings.shape)} and {tuple(rows.shape)}; flatten(1) makes one vector of each sample"
        )


def check_labels(where: str, labels: Any, embeddings: Tensor) -> None:
    """Raise unless there is a whole number for each embedding."""
    check_indices(where, "labels", labels, embeddings.device)
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"{where}: labels must have shape ({len(embeddings)},), one class for each embedding, "
            f"got {tuple(labels.shape)}"
        )
