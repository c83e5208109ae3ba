"""Training steps as CUDA graphs: a GPU is told hundreds of small operations more slowly than it does them."""

from collections.abc import Callable

import torch
from lightning_fabric import Fabric

_EAGER_STEPS = 3  # libraries choose their algorithms and take their memory in the first ones


def captured(step: Callable[[], None], random: torch.Generator, fabric: Fabric) -> Callable[[], None]:
    """The same step, one launch each time on a GPU of one process; elsewhere the step itself.

    Args:
        step: reads and writes the same tensors each time, waits for nothing, and decides nothing by them.
        random: the generator that it draws from; its seed may be set between steps.
        fabric: devices and precision. Automatic mixed precision keeps casts between operations, and with
            float16 the loss scale waits for the host, so only the precisions "…-true" are captured.
    """
    if fabric.device.type != "cuda" or fabric.world_size > 1:
        return step
    if not str(fabric.strategy.precision.precision).endswith("-true"):
        return step
    return _Captured(step, random)


class _Captured:
    def __init__(self, step: Callable[[], None], random: torch.Generator) -> None:
        self.step, self.random = step, random
        self.eager_steps = 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.eager_steps < _EAGER_STEPS:
            self.eager_steps += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step()
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.random)  # type: ignore[no-untyped-call, unused-ignore]
            with torch.cuda.graph(graph):
                self.step()  # only written down: the replay does it
            self.graph = graph
        self.graph.replay()
