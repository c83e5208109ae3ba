"""`cosine_fields` by the Triton kernels: norms and epilogue around torch's convolution.

The gradient is that of `cosine_fields`, by torch's operators.
"""

from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.cosine_fields import wide_gradients
from cosnorm.functional.fields import Geometry
from cosnorm.functional.norms import contiguous_results


def kernel_fields(x: Tensor, weight: Tensor, geometry: Geometry, *, augment: float) -> Tensor:
    """Cosine of each field of x with each filter. `implementation.choose` must have agreed."""
    places = list(geometry.stride), list(geometry.padding), list(geometry.dilation), geometry.groups
    output: Tensor = _KernelFields.apply(x, weight, *places, augment)
    return output


def _geometry(weight: Tensor, places: Any) -> Geometry:
    stride, padding, dilation, groups = places
    return Geometry(tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation), groups)


def _forward(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    augment: float,
) -> Tensor:
    from cosnorm.kernels.conv import cosine_fields

    geometry = _geometry(weight, (stride, padding, dilation, groups))
    with without_autocast(x.device):
        return cosine_fields(
            x,
            weight,
            geometry.convolve,
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            groups=groups,
            augment=augment,
        )


def _backward(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    augment: float,
    needs_x: bool,
    needs_w: bool,
) -> tuple[Tensor, Tensor]:
    geometry = _geometry(weight, (stride, padding, dilation, groups))
    with without_autocast(x.device):
        return wide_gradients(cotangent, x, weight, geometry, False, augment, needs_x, needs_w)


# Opaque to torch.compile, as the operators of `cosine_fields` are.
_forward_op = torch.library.custom_op("cosnorm::cosine_fields_kernels", _forward, mutates_args=())
_backward_op = torch.library.custom_op(
    "cosnorm::cosine_fields_kernels_backward", contiguous_results(_backward), mutates_args=()
)


@_forward_op.register_fake
def _(x: Tensor, weight: Tensor, *options: Any) -> Tensor:
    products = _geometry(weight, options[:4]).convolve(x, weight)
    return products.new_empty(products.shape)


@_backward_op.register_fake
def _(cotangent: Tensor, x: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    needs_x, needs_w = options[-2:]
    return x.new_empty(x.shape if needs_x else 0), weight.new_empty(weight.shape if needs_w else 0)


class _KernelFields(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, *options: Any) -> Tensor:
        operator: Any = _forward_op if torch.compiler.is_compiling() else _forward
        return operator(x, weight, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.options = inputs[2:]
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        operator: Any = _backward_op if torch.compiler.is_compiling() else _backward
        gradients = operator(cotangent, x, weight, *ctx.options, *needs)
        found = [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
        return *found, None, None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, *options: Any
    ) -> tuple[Tensor, int]:
        xs, weights = (
            [one] * info.batch_size if dim is None else one.unbind(dim)
            for one, dim in ((x, in_dims[0]), (weight, in_dims[1]))
        )
        each = [_KernelFields.apply(*pair, *options) for pair in zip(xs, weights, strict=True)]
        return torch.stack(each), 0
