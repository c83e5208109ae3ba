"""What a call costs on an accelerator: its launches and its traffic, counted without one."""

import math
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LOOKS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "item")
_MEMORY = (
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "lift_fresh",
    "_unsafe_view",
)


class Launches(TorchDispatchMode):
    """Counts torch's operators that compute; one that waits for the device raises."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._overloadpacket.__name__
        if name in _LOOKS:
            raise AssertionError(f"{name} looks at the data")
        output = function(*args, **(kwargs or {}))
        if not function.is_view and name not in _MEMORY:
            self.names.append(name)
            tensors = [one for one in tree_leaves((args, kwargs, output)) if isinstance(one, torch.Tensor)]
            self.bytes += sum(math.prod(one.shape) * one.element_size() for one in tensors)
        return output


def launches(call: Callable[[], object]) -> Launches:
    """What a call of a backend's function launches."""
    with Launches() as counted:
        call()
    return counted
