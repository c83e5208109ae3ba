"""Numbers that must be looked at before they are used: operators that give them back, or raise."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.devices import is_accelerator
from cosnorm.operators.define import define


def check_range(what: str, indices: Tensor, size: int) -> None:
    """Raise unless indices are in [0, size); `what` is the beginning of the error.

    An accelerator asserts it when it comes by, as for torch's own losses: nobody waits for it.
    """
    if not indices.numel():
        return
    if is_accelerator(indices.device):
        assert_all((indices >= 0).logical_and_(indices < size), f"{what} in [0, {size})")
    else:
        low, high = (int(bound) for bound in torch.aminmax(indices))
        if low < 0 or high >= size:
            raise ValueError(f"{what} in [0, {size}), got {low} to {high}")


def check_finite(what: str, rows: Tensor) -> None:
    """Raise unless all numbers are finite; `what` is the beginning of the error."""
    held = rows.isfinite()
    if is_accelerator(rows.device):
        assert_all(held, f"{what} must be finite")
    elif not bool(held.all()):
        raise ValueError(f"{what} must be finite, got {float(rows[~held][0])}; leave such samples out")


def check_no_nan(message: str, numbers: Tensor) -> None:
    """Raise if one of them is NaN; an accelerator asserts it, as in `check_range`."""
    if is_accelerator(numbers.device):
        assert_all(~numbers.isnan(), message)
    elif bool(numbers.isnan().any()):
        raise ValueError(message)


def assert_all(held: Tensor, message: str) -> None:
    """Stop what an accelerator does unless all is True; it is not waited for."""
    torch._assert_async(held.all(), message)


def _indices(indices: Tensor, size: int, what: str) -> Tensor:
    check_range(what, indices, size)
    return indices.to(torch.int64, copy=True)


def _signs(labels: Tensor, where: str) -> Tensor:
    together = labels == 1
    known = together | (labels == -1)
    if is_accelerator(labels.device):
        assert_all(known, f"{where}: labels must be 1 or -1")
    elif not bool(known.all()):
        other = labels[~known].flatten()[0].item()
        raise ValueError(
            f"{where}: labels must be 1 or -1, got {other}; 2 * labels - 1 makes them of 0 and 1"
        )
    return together


def _like(dtype: torch.dtype) -> Any:
    return lambda given, *_: torch.empty_like(given, dtype=dtype)


indices_in = define("indices_in(Tensor indices, int size, str what) -> Tensor", _indices, _like(torch.int64))
"""Indices in [0, size) as int64; `what` is the beginning of the error: "where: labels must be"."""

signs_of = define("signs_of(Tensor labels, str where) -> Tensor", _signs, _like(torch.bool))
"""Where labels of ±1 are 1."""
