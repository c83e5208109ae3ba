"""Modules that send gradients to other processes: each is to send them once, with its last part."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any

from torch import Tensor, nn

# From a method to its object, its attributes, containers of these, and functions and objects in those.
_DEPTH = 5
# A longer container is data.
_MANY = 1000
# So many things are looked into: it takes milliseconds, whatever an object holds.
_AT_MOST = 10000


def modules_of(encoder: Callable[..., Any]) -> list[nn.Module]:
    """The modules that an encoder is known to use.

    It is one, or a method, a function, `functools.partial` or an object that has them: as what it names, in
    attributes of that, and in lists and dictionaries of these.
    """
    found: dict[nn.Module, None] = {}
    _look_into(encoder, _DEPTH, found, {})
    return list(found)


def _look_into(one: Any, depth: int, found: dict[nn.Module, None], seen: dict[int, int]) -> None:
    """Find the modules that something is or holds; `seen`: how deep was looked into what already."""
    if isinstance(one, nn.Module):
        found[one] = None
    elif depth and seen.get(id(one), 0) < depth and len(seen) < _AT_MOST:
        seen[id(one)] = depth
        for other in _held_by(one):
            _look_into(other, depth - 1, found, seen)


def _held_by(one: Any) -> Iterable[Any]:
    """What a function, an object or a container holds that may be a module or hold one."""
    if inspect.ismethod(one):
        return [one.__self__] if isinstance(one.__self__, nn.Module) else [one.__self__, one.__func__]
    if inspect.isfunction(one):
        return list(_named(inspect.unwrap(one)))
    if isinstance(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    if isinstance(one, Mapping | list | tuple | set | frozenset):
        if len(one) > _MANY:
            return []
        return list(one.values()) if isinstance(one, Mapping) else list(one)
    if isinstance(one, type | ModuleType | Tensor):
        return []
    slots = [getattr(one, name, None) for kind in type(one).__mro__ for name in _slots(kind)]
    call = type(one).__dict__.get("__call__")
    return [*getattr(one, "__dict__", {}).values(), *slots, *([call] if inspect.isfunction(call) else [])]


def _slots(kind: type) -> Iterable[str]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


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
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for name in function.__code__.co_names:
        yield function.__globals__.get(name)


def _is_sharded(module: nn.Module) -> bool:
    """Whether it is one of FSDP2's, which holds gradients back by flags where others have `no_sync`."""
    return hasattr(module, "set_requires_gradient_sync")


def _send(module: Any, sends: bool) -> None:
    module.set_requires_gradient_sync(sends)
    module.set_is_last_backward(sends)
