"""`__torch_function__` for public functions: tracers with stand-ins for tensors see one call."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from torch.overrides import handle_torch_function, has_torch_function

_Function = TypeVar("_Function", bound=Callable[..., Any])


def overridable(function: _Function) -> _Function:
    """Let arguments with a `__torch_function__`, and modes, take the call before anything is checked."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        given = (*arguments, *options.values())
        if has_torch_function(given):
            return handle_torch_function(call, given, *arguments, **options)
        return function(*arguments, **options)

    return cast(_Function, call)
