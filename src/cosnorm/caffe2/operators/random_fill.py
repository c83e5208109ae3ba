"""Fills of random numbers: UniformFill, GaussianFill, XavierFill, MSRAFill.

They are drawn by torch: another sequence than the original's, the same distribution.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.operators.common import no_gradient
from cosnorm.caffe2.operators.fill import device, shape_of
from cosnorm.caffe2.registry import FLOAT, Kernel, operator

# Draws the numbers of a tensor; the inputs behind the first, which is for the shape, are passed on to it.
Draw = Callable[..., Tensor]


def _random(name: str, draw_of: Callable[[Arguments], Draw], inputs: tuple[int, int] = (0, 1)) -> None:
    def make(arguments: Arguments) -> Kernel:
        shape, place, draw = shape_of(arguments), device(arguments), draw_of(arguments)
        option = arguments.operator.device_option
        generator = None  # torch's own, unless the operator has a seed
        if option.HasField("random_seed") and place.type != "meta":
            generator = torch.Generator(place).manual_seed(option.random_seed)

        def kernel(*inputs: Tensor) -> Tensor:
            filled = torch.empty(shape(inputs), dtype=torch.float32, device=place)
            return draw(filled, generator, *inputs[1:])

        return kernel

    operator(name, inputs=inputs, dtypes=(None, FLOAT), in_place=[(0, 0)], gradient=no_gradient)(make)


def _uniform(arguments: Arguments) -> Draw:
    """Between `min` and `max`, or between what a second and a third input hold."""
    count = len(arguments.operator.input)
    if count == 2:
        raise RuntimeError("Operator def did not pass schema checking: UniformFill takes 0, 1 or 3 inputs")
    low, high = arguments.number("min", 0.0), arguments.number("max", 1.0)
    if count < 3:
        if not low < high:
            raise RuntimeError(f"min_ < max_. {low} vs {high}. Max value should be bigger than min value.")
        return lambda filled, generator: filled.uniform_(low, high, generator=generator)
    for name in ("min", "max"):
        if arguments.has(name, "f"):
            raise RuntimeError(f"Cannot set both {name} arg and {name} input blob")
    return _between


def _between(filled: Tensor, generator: torch.Generator | None, low: Tensor, high: Tensor) -> Tensor:
    for name, bound in (("min", low), ("max", high)):
        if bound.numel() != 1:
            raise RuntimeError(f"{name} blob must be scalar, got {bound.numel()} elements")
    if filled.is_meta:
        return filled
    least, most = low.item(), high.item()
    if least <= most:
        return filled.uniform_(least, most, generator=generator)
    if not filled.dim():
        raise RuntimeError("UniformFill: min is above max, and a single number cannot be empty")
    return filled[:0]


def _gaussian(arguments: Arguments) -> Draw:
    mean, deviation = arguments.number("mean", 0.0), arguments.number("std", 1.0)
    return lambda filled, generator: filled.normal_(mean, deviation, generator=generator)


def _xavier(_: Arguments) -> Draw:
    """Uniform up to sqrt(3 / fan-in), the fan-in being the elements of a row."""

    def draw(filled: Tensor, generator: torch.Generator | None) -> Tensor:
        if not filled.dim():
            raise RuntimeError("dimension specified as 0 but tensor has no dimensions")
        bound = math.sqrt(3 * filled.shape[0] / max(filled.numel(), 1))
        return filled.uniform_(-bound, bound, generator=generator)

    return draw


def _msra(_: Arguments) -> Draw:
    """Normal with variance 2 / fan-out, the fan-out being the elements with one index of dimension 1."""

    def draw(filled: Tensor, generator: torch.Generator | None) -> Tensor:
        if filled.dim() < 2:
            raise RuntimeError("Dimension out of range: MSRAFill wants at least two dimensions")
        deviation = math.sqrt(2 * filled.shape[1] / max(filled.numel(), 1))
        return filled.normal_(0.0, deviation, generator=generator)

    return draw


_random("UniformFill", _uniform, inputs=(0, 3))
_random("GaussianFill", _gaussian)
_random("XavierFill", _xavier)
_random("MSRAFill", _msra)
