"""Modules that send gradients to other processes: each is to send them once, with its last part."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import nn


def modules_of(encoder: Callable[..., Any]) -> list[nn.Module]:
    """The modules that an encoder is known to use.

    It is one, or a method of one, or `functools.partial` over such, or a function that names them.
    """
    if isinstance(encoder, nn.Module):
        return [encoder]
    if isinstance(encoder, functools.partial):
        given = [*encoder.args, *encoder.keywords.values()]
        return [*modules_of(encoder.func), *(one for one in given if isinstance(one, nn.Module))]
    if inspect.ismethod(encoder):
        return [encoder.__self__] if isinstance(encoder.__self__, nn.Module) else []
    if inspect.isfunction(encoder):
        return [one for one in _named(inspect.unwrap(encoder)) if isinstance(one, nn.Module)]
    return []


def senders(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The outermost of them, and of those in them, that DistributedDataParallel or FSDP made: each once."""
    found: dict[nn.Module, None] = {}
    for module in modules:
        if _is_sharded(module) or hasattr(module, "no_sync"):
            found[module] = None
        else:
            found.update(dict.fromkeys(senders(module.children())))
    return list(found)


def sending(encoders: Sequence[Callable[..., Any]]) -> list[list[nn.Module]]:
    """For each encoder, those of its modules that send their gradients with its last backward pass.

    Backward passes go from the last encoder to the first. A module that is itself an encoder of an earlier
    place is surely called there, and waits for it; one that a function or another module calls may not be.
    """
    return [
        [one for one in senders(modules_of(encoder)) if all(one is not other for other in encoders[:place])]
        for place, encoder in enumerate(encoders)
    ]


@contextmanager
def held(modules: Sequence[nn.Module], but: Sequence[nn.Module] = ()) -> Iterator[None]:
    """Forward and backward passes inside send no gradients of these modules, `but` of those."""
    with ExitStack() as stack:
        for module in modules:
            sends = any(module is one for one in but)
            if _is_sharded(module):
                _send(module, sends)
            elif not sends:
                stack.enter_context(module.no_sync())  # type: ignore[operator]
        yield


@contextmanager
def held_for_loss(modules: Sequence[nn.Module]) -> Iterator[None]:
    """The same for the backward pass of the loss, but that FSDP2 sends: what learns in it may be among them.

    DistributedDataParallel does not begin here, as trainers have it do with every backward pass.
    """
    with held(modules, [module for module in modules if _is_sharded(module)]):
        yield


def release(modules: Sequence[nn.Module]) -> None:
    """Leave FSDP2's modules as they are by default: sending."""
    for module in modules:
        if _is_sharded(module):
            _send(module, True)


def _named(function: Any) -> Iterator[Any]:
    """What a function names that is not its own."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not bound yet
            yield cell.cell_contents
    for name in function.__code__.co_names:
        yield function.__globals__.get(name)


def _is_sharded(module: nn.Module) -> bool:
    """Whether it is one of FSDP2's, which holds gradients back by flags where others have `no_sync`."""
    return hasattr(module, "set_requires_gradient_sync")


def _send(module: Any, sends: bool) -> None:
    module.set_requires_gradient_sync(sends)
    module.set_is_last_backward(sends)
