"""Cos, Sin, Tan, Acos, Asin, Atan and their gradients, element by element."""

from collections.abc import Callable

import torch
from torch import Tensor

from cosnorm.caffe2.registry import gradient_of, operator


def _register(
    name: str, value: Callable[[Tensor], Tensor], gradient: Callable[[Tensor, Tensor], Tensor]
) -> None:
    operator(name, dispatched=True, gradient=gradient_of(f"{name}Gradient", "X0 dY0", "dX0"))(lambda _: value)

    def kernel(x: Tensor, cotangent: Tensor) -> Tensor:
        _check_sizes(name, x, cotangent)
        return gradient(x, cotangent.reshape(x.shape))

    operator(f"{name}Gradient", inputs=2, dispatched=True)(lambda _: kernel)


def _check_sizes(name: str, x: Tensor, cotangent: Tensor) -> None:
    """The original broadcasts the shapes but not the values, and reads beyond the end of a short dY."""
    if x.numel() != cotangent.numel():
        raise RuntimeError(
            f"{name}Gradient: dY must have the elements of X, which has shape {tuple(x.shape)}, got "
            f"{tuple(cotangent.shape)}"
        )


_register("Cos", torch.cos, lambda x, dy: -dy * x.sin())
_register("Sin", torch.sin, lambda x, dy: dy * x.cos())
_register("Tan", torch.tan, lambda x, dy: dy / x.cos().square())
_register("Acos", torch.acos, lambda x, dy: -dy * (1 - x.square()).rsqrt())
_register("Asin", torch.asin, lambda x, dy: dy * (1 - x.square()).rsqrt())
_register("Atan", torch.atan, lambda x, dy: dy / (1 + x.square()))
