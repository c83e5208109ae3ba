"""Cos, Sin, Tan, Acos, Asin, Atan and their gradients, element by element."""

from collections.abc import Callable

import torch
from torch import Tensor

from cosnorm.caffe2.operators.common import shaped
from cosnorm.caffe2.registry import gradient_of, operator


def _register(
    name: str, value: Callable[[Tensor], Tensor], gradient: Callable[[Tensor, Tensor], Tensor]
) -> None:
    operator(name, dispatched=True, gradient=gradient_of(f"{name}Gradient", "X0 dY0", "dX0"))(lambda _: value)

    def kernel(x: Tensor, cotangent: Tensor) -> Tensor:
        return gradient(x, shaped(cotangent, x.shape, f"{name}Gradient"))

    operator(f"{name}Gradient", inputs=2, dispatched=True)(lambda _: kernel)


_register("Cos", torch.cos, lambda x, dy: -dy * x.sin())
_register("Sin", torch.sin, lambda x, dy: dy * x.cos())
_register("Tan", torch.tan, lambda x, dy: dy / x.cos().square())
_register("Acos", torch.acos, lambda x, dy: -dy * (1 - x.square()).rsqrt())
_register("Asin", torch.asin, lambda x, dy: dy * (1 - x.square()).rsqrt())
_register("Atan", torch.atan, lambda x, dy: dy / (1 + x.square()))
