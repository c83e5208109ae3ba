"""First derivatives only: a second one raises, wherever it is taken, and is never silently zero."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_Backward = Callable[..., tuple[Tensor | None, ...]]


def first_derivative_only(backward: _Backward) -> _Backward:
    """A `backward` whose results raise when differentiated in the inputs that were saved.

    torch's `once_differentiable` raises only where the cotangent depends on something: a gradient penalty on
    a sum of this loss and another would silently leave this one out. The function must save its inputs.
    """

    @wraps(backward)
    def once(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():
            return gradients
        sources = [one for one in (*ctx.saved_tensors, *cotangents) if isinstance(one, Tensor)]
        return tuple(None if one is None else _Refuse.apply(one, *sources) for one in gradients)

    return once


def records_gradient(*tensors: Tensor) -> bool:
    """Whether anybody will ask for a gradient: if so it is worth making with the value."""
    return torch.is_grad_enabled() and any(one.requires_grad for one in tensors)


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> None:
        raise RuntimeError(
            "the gradient of a blocked loss cannot be differentiated again; for a gradient penalty or a "
            "second-order method write the loss with cosnorm.functional.pairwise_cosine, whose second "
            "derivatives are right"
        )
