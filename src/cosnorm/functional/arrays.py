"""NumPy arrays in, NumPy out: functions of tensors take arrays too, without a copy where layouts allow."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_arrays(function: _Function) -> _Function:
    """Let a function of tensors take NumPy arrays; it then returns NumPy and records no gradient."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        values = [*arguments, *options.values()]
        if not any(_has_array(value) for value in values):
            return function(*arguments, **options)
        with torch.no_grad():
            result = function(
                *map(_tensor, arguments), **{name: _tensor(value) for name, value in options.items()}
            )
        return result.numpy()[()] if isinstance(result, Tensor) else result

    return cast(_Function, call)


def _has_array(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_has_array, value))
    return isinstance(value, np.ndarray)


def _tensor(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_tensor, value))
    if not isinstance(value, np.ndarray):
        return value
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    if any(stride < 0 for stride in value.strides):
        value = value.copy()  # torch has no negative strides
    with warnings.catch_warnings():
        # Nothing is written into the arguments, so that a read-only array is welcome.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(value)
