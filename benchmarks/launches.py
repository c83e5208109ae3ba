"""`python -m benchmarks.launches`: what a step launches on an accelerator and what it moves, without one.

Counted are torch's operators that compute, called on tensors without data, with the bytes of their operands
and results. Ours are looked into, as far as torch's operators; nothing in them may wait for the device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cosnorm.operators.differentiate import COMPUTE

ROOT = Path(__file__).parents[1]
PAGE = "docs/speed.md"

# Operators that wait for a GPU: for a number, or for how large their result is. `bincount` does so for any
# `minlength`, and what Python has must be copied there.
_WAITS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "lift_fresh",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
_MEMORY = {
    "_reshape_alias",
    "_unsafe_view",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}
_METHODS = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}


class WaitError(AssertionError):
    """Something waited for the device."""


class NoMethodThatWaits(TorchFunctionMode):
    """Methods that the dispatcher does not see."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _METHODS:
            raise WaitError(f"{function.__name__} waits for the device")
        return function(*args, **(kwargs or {}))


class Launches(TorchDispatchMode):
    """Counts torch's operators that compute; one that waits for the device raises."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "cosnorm":
            with self:
                return COMPUTE[function._schema.name](*args, **kwargs)
        name = function._overloadpacket.__name__
        if _waits(name, args, kwargs):
            raise WaitError(f"{name} waits for the device")
        with self:
            output = function.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output
        output = function(*args, **kwargs)
        if not function.is_view and name not in _MEMORY:
            self.names.append(name)
            kwargs.pop("out", None)  # it is the output
            tensors = [one for one in tree_leaves((args, kwargs, output)) if isinstance(one, Tensor)]
            self.bytes += sum(one.nbytes for one in tensors)
        return output


def _waits(name: str, args: Any, kwargs: Any) -> bool:
    if name.startswith("index") or name == "_index_put_impl_":
        return any(isinstance(one, Tensor) and one.dtype == torch.bool for one in tree_leaves(args[1:2]))
    if name == "repeat_interleave":  # of a tensor, without how long the result is
        return isinstance(args[-1], Tensor) and kwargs.get("output_size") is None
    return name in _WAITS


@contextmanager
def counting() -> Iterator[Launches]:
    """What is launched here."""
    with NoMethodThatWaits(), Launches() as counted:
        yield counted


def launches(call: Callable[[], object]) -> Launches:
    """What a call launches."""
    with counting() as counted:
        call()
    return counted


class Step(NamedTuple):
    """A call of tensors of such shapes, which learn; by hand and by us."""

    shapes: tuple[tuple[int, ...], ...]
    plain: dict[str, Callable[..., Tensor]]
    ours: dict[str, Callable[..., Tensor]]


class Cost(NamedTuple):
    """Of a step."""

    forward: Launches
    backward: Launches


def cost(call: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> Cost:
    """What a call and its backward pass launch."""
    given = [torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape in shapes]
    with counting() as forward:
        output = call(*given)
    cotangent = torch.empty_like(output)
    with counting() as backward:
        torch.autograd.grad(output, given, cotangent)
    return Cost(forward, backward)
