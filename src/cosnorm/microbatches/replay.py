"""What an encoder must find the second time as it was the first time: random states, buffers that change."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

Restore = Callable[[], None]


def randomness() -> Restore:
    """What brings back the present states of torch's generators (CPU and accelerator), Python's and NumPy's.

    All devices of the accelerator are asked, not those of the inputs: encoders move their inputs themselves.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    devices = _devices()
    states = [get() for get, _ in devices]

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        for (_, put), state in zip(devices, states, strict=True):
            put(state)

    return restore


@contextmanager
def as_now() -> Iterator[None]:
    """In the end the generators are as they are now."""
    restore = randomness()
    try:
        yield
    finally:
        restore()


def _devices() -> list[tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
    """For each device of the accelerator: what gets the state of its generator, and what sets it."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return []
    module = torch.get_device_module(accelerator)
    if accelerator.type == "mps":  # has one device, and names none
        return [(module.get_rng_state, module.set_rng_state)]
    if not module.is_initialized():
        return []

    def of(index: int) -> tuple[Callable[[], Tensor], Callable[[Tensor], None]]:
        return (lambda: module.get_rng_state(index)), (lambda state: module.set_rng_state(state, index))

    return [of(index) for index in range(module.device_count())]


class Buffers:
    """The buffers of modules, each once: statistics of batch norm, vectors of spectral norm.

    Their values are compared: batch norm writes past torch's version counters.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        found = {id(buffer): buffer for module in modules for buffer in module.buffers()}
        self._buffers = list(found.values())

    def copies(self) -> list[Tensor]:
        """Their values."""
        return [buffer.clone() for buffer in self._buffers]

    def put(self, values: Sequence[Tensor]) -> None:
        """Set their values."""
        with torch.no_grad():
            for buffer, value in zip(self._buffers, values, strict=True):
                buffer.copy_(value)

    def only_changed(self, before: Sequence[Tensor]) -> list[Tensor]:
        """Forget those whose values are as they were before; return what the others were.

        This waits for an accelerator, once for all buffers.
        """
        if not self._buffers:
            return []
        pairs = list(zip(self._buffers, before, strict=True))
        flags = [(buffer != value).any() for buffer, value in pairs]
        differ = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
        kept = [pair for pair, differs in zip(pairs, differ, strict=True) if differs]
        self._buffers = [buffer for buffer, _ in kept]
        return [value for _, value in kept]
