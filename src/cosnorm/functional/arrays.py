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
    """Let a function of tensors take NumPy arrays; it then returns NumPy, unless one argument is a tensor.

    A tensor may learn, and what learns must have its gradient.
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        values = [*arguments, *options.values()]
        if not any(_has(np.ndarray, value) for value in values):
            return function(*arguments, **options)
        arguments = tuple(map(_tensor, arguments))
        options = {name: _tensor(one) for name, one in options.items()}
        if any(_has(Tensor, value) for value in values):
            return function(*arguments, **options)
        with torch.no_grad():
            result = function(*arguments, **options)
        return _array(result)

    return cast(_Function, call)


def _array(result: Any) -> Any:
    """The same in NumPy; named tuples and dictionaries of tensors as such of arrays."""
    if isinstance(result, dict):
        return {name: _array(one) for name, one in result.items()}
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*map(_array, result))
    return result.numpy()[()] if isinstance(result, Tensor) else result


def _has(kind: type, value: Any) -> bool:
    """Whether a value is of that type, or holds one that is."""
    return (
        any(_has(kind, one) for one in value) if isinstance(value, (tuple, list)) else isinstance(value, kind)
    )


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
