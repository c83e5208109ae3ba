"""Autocast at the dispatcher's Autocast keys: a product in the lower dtype, and our formulas as they are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]

DEVICES = {"AutocastCPU": "cpu", "AutocastCUDA": "cuda", "AutocastXPU": "xpu", "AutocastMPS": "mps"}
_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
for _key in DEVICES:
    _KEYS = _KEYS | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key))


def without_autocast() -> Any:
    """A context in which our formulas keep the dtypes that they choose."""
    return torch._C._ExcludeDispatchKeyGuard(_KEYS)


def autocasting(operator: Any, key: str, autocast: Function | None) -> Function:
    """The kernel of an operator at one key; `autocast` gives a floating-point argument its dtype."""
    device = DEVICES[key]

    def kernel(*arguments: Any) -> Any:
        if autocast is not None:
            dtype = torch.get_autocast_dtype(device)
            arguments = tuple(
                autocast(one, device, dtype) if isinstance(one, Tensor) and one.is_floating_point() else one
                for one in arguments
            )
        with without_autocast():
            return operator(*arguments)

    return kernel
