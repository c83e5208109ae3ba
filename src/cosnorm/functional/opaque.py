"""Losses as single operators of a compiled graph.

The blocked losses look at their data and loop in Python, which no graph can hold. Under `torch.compile` each
is one opaque operator that runs the eager code, and a second one that runs it again with its gradient: the
graph stays whole, the memory is the same, and a step costs one forward pass more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def opaque(
    name: str,
    arguments: str,
    function: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    differentiable: int,
) -> Callable[..., Tensor]:
    """`function` as one operator.

    Args:
        name: of the operator.
        arguments: its schema, such as "Tensor x, Tensor? y, float scale".
        function: the eager function; its arguments are positional.
        fake: an empty result of the right shape and dtype.
        differentiable: how many of the first arguments are tensors (or None) that get gradients.

    Returns:
        The function for compiled code.
    """

    def gradients(cotangent: Tensor, needs: list[bool], *values: Any) -> list[Tensor]:
        leaves = [
            value.detach().requires_grad_() if needed else value
            for value, needed in zip(values, needs, strict=False)
        ]
        wanted = [leaf for leaf, needed in zip(leaves, needs, strict=True) if needed]
        with _recording():
            result = function(*leaves, *values[differentiable:])
            found = iter(torch.autograd.grad(result, wanted, cotangent, allow_unused=True))
        empty = cotangent.new_empty(0)
        return [
            _or_zeros(next(found), leaf) if n else empty.clone()
            for leaf, n in zip(leaves, needs, strict=True)
        ]

    def forward(*values: Any) -> Tensor:
        with torch.no_grad():
            return function(*values)

    forward_op: Any = torch.library.custom_op(
        f"cosnorm::{name}", forward, mutates_args=(), schema=f"({arguments}) -> Tensor"
    )
    backward_op: Any = torch.library.custom_op(
        f"cosnorm::{name}_backward",
        gradients,
        mutates_args=(),
        schema=f"(Tensor cotangent, bool[] needs, {arguments}) -> Tensor[]",
    )
    forward_op.register_fake(fake)

    def fake_gradients(cotangent: Tensor, needs: list[bool], *values: Any) -> list[Tensor]:
        return [
            torch.empty_like(value, memory_format=torch.contiguous_format)
            if needed
            else cotangent.new_empty(0)
            for value, needed in zip(values, needs, strict=False)
        ]

    backward_op.register_fake(fake_gradients)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.places = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.values = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(inputs[place] for place in ctx.places))

    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        values = list(ctx.values)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            values[place] = tensor
        needs = list(ctx.needs_input_grad[:differentiable])
        found = backward_op(cotangent, needs, *values)
        into = [gradient if needed else None for gradient, needed in zip(found, needs, strict=True)]
        return *into, *([None] * (len(values) - differentiable))

    forward_op.register_autograd(backward, setup_context=keep)
    operator: Callable[..., Tensor] = forward_op
    return operator


@contextmanager
def _recording() -> Iterator[None]:
    """Autograd records again, which torch switches off inside of an operator."""
    include, exclude = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    for key in ("CPU", "CUDA", "MPS", "XPU", "Other"):
        exclude = exclude.remove(getattr(torch._C.DispatchKey, f"Autograd{key}"))
    exclude = exclude.remove(torch._C.DispatchKey.ADInplaceOrView)
    with torch._C._ForceDispatchKeyGuard(include, exclude), torch.enable_grad():
        yield


def _or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient.contiguous()
