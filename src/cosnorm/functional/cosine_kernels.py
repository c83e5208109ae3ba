"""`cosine_rows` of two matrices by the Triton kernels: the same cosine and closed-form gradient."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.cosine_rows import unit_gradients
from cosnorm.functional.norms import contiguous_results


def kernel_cosine(x: Tensor, y: Tensor, *, centered: bool, augment: float) -> Tensor:
    """Cosine of each row of x (N, D) with each row of y (M, D). `implementation.choose` must have agreed."""
    output: Tensor = _KernelCosine.apply(x, y, centered, augment)
    return output


def _forward(x: Tensor, y: Tensor, centered: bool, augment: float) -> Tensor:
    from cosnorm.kernels.linear import cosine

    with without_autocast(x.device):
        return cosine(x, y, centered=centered, augment=augment)


def _backward(
    cotangent: Tensor, x: Tensor, y: Tensor, centered: bool, augment: float, needs_x: bool, needs_y: bool
) -> tuple[Tensor, Tensor]:
    """The gradients in x and in y (an empty tensor for one that is not needed)."""
    from cosnorm.kernels.linear import cosine_gradients

    with without_autocast(x.device):
        found = cosine_gradients(
            cotangent, x, y, centered=centered, augment=augment, needs_x=needs_x, needs_y=needs_y
        )
    gradient_x, gradient_y = (x.new_empty(0) if one is None else one for one in found)
    return gradient_x, gradient_y


# Opaque to torch.compile, as the operators of `cosine_rows` are.
_forward_op = torch.library.custom_op("cosnorm::cosine_kernels", _forward, mutates_args=())
_backward_op = torch.library.custom_op(
    "cosnorm::cosine_kernels_backward", contiguous_results(_backward), mutates_args=()
)


@_forward_op.register_fake
def _(x: Tensor, y: Tensor, centered: bool, augment: float) -> Tensor:
    return x.new_empty(x.shape[0], y.shape[0])


@_backward_op.register_fake
def _(
    cotangent: Tensor, x: Tensor, y: Tensor, centered: bool, augment: float, needs_x: bool, needs_y: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs_x else 0), y.new_empty(y.shape if needs_y else 0)


class _KernelCosine(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, centered: bool, augment: float) -> Tensor:
        operator = _forward_op if torch.compiler.is_compiling() else _forward
        return operator(x, y, centered, augment)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, ctx.centered, ctx.augment = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad[:2]
        options: Any = (ctx.centered, ctx.augment, needs_x, needs_y)
        if torch.compiler.is_compiling():
            gradients = _backward_op(cotangent, x, y, *options)
        elif torch.is_grad_enabled():
            # A second derivative, or a function transform, may follow.
            into_x, into_y = unit_gradients(cotangent, x.unsqueeze(1), y, *options)
            gradients = into_x.squeeze(1) if needs_x else into_x, into_y
        else:
            gradients = _backward(cotangent, x, y, *options)
        return gradients[0] if needs_x else None, gradients[1] if needs_y else None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor, centered: bool, augment: float
    ) -> tuple[Tensor, int]:
        xs, ys = (
            [rows] * info.batch_size if dim is None else rows.unbind(dim)
            for rows, dim in ((x, in_dims[0]), (y, in_dims[1]))
        )
        each = [_KernelCosine.apply(*pair, centered, augment) for pair in zip(xs, ys, strict=True)]
        return torch.stack(each), 0
