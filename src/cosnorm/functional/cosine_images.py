"""`cosine_fields` of float32 images on a CPU, by the compiled passes around torch's convolution.

The formulas are those of `cosine_fields`, in the plain form: with h = g f_x f_w,

    ∂/∂w_o = Σ h x − f_o² A_o w_o,   A_o = Σ h p over the fields of the filter,
    ∂/∂x   = Σ h w − x Σ f² A        over the windows that a position is in,   A = Σ h p over the filters.

Both convolutions of the backward pass are one call, and each correction is added to what it gave.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from cosnorm.functional.cosine_fields import wide_gradients
from cosnorm.functional.fields import Geometry
from cosnorm.kernels import cpu_fields
from cosnorm.kernels.compiled import library

_PLAIN = (Tensor, nn.Parameter)


def image_cosine(
    x: Tensor, weight: Tensor, geometry: Geometry, augment: float, *, folded: bool = False
) -> Tensor | None:
    """Cosine of each field of x (N, C, *S) with each filter (O, C/G, *K); None where another form must do it.

    It takes float32 of one or two dimensions on a CPU, contiguous or with the channels last, outside of
    compiled code, autocast, function transforms and forward mode. Folded, the filters are unit vectors
    already, and nothing learns.
    """
    if (
        torch.compiler.is_dynamo_compiling()  # first, so that it sees no more; other tracers have own types
        or type(x) not in _PLAIN
        or type(weight) not in _PLAIN
        or x.dtype is not torch.float32
        or weight.dtype is not torch.float32
        or not x.is_cpu
        or not weight.is_cpu
        or geometry.rank > 2
        or not x.numel()
        or library() is None
        or torch._C._is_any_autocast_enabled()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    ):
        return None
    last = not x.is_contiguous()
    if last and (geometry.groups > 1 or geometry.rank == 1 or not _is_last(x)):
        return None
    if not weight.is_contiguous() and not (geometry.rank == 2 and _is_last(weight)):
        return None
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if learns and folded:
        return None
    sizes = x.shape[2:]
    fields = tuple(
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(
            sizes, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    )
    windows = cpu_fields.Windows(
        sizes,
        fields,
        geometry.kernel,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
        last,
    )
    factors = cpu_fields.prepare_fields(x, weight, windows, augment * augment, folded=folded)
    if factors is None:
        return None
    if learns:
        output: Tensor = _ImageCosine.apply(x, weight, factors, geometry, windows, augment)
        return output
    products = _in_order(geometry.convolve(x, weight), windows)
    return cpu_fields.finish_fields(products, factors, windows, augment * augment, products)


def _is_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _in_order(image: Tensor, windows: cpu_fields.Windows) -> Tensor:
    """The image in the order of memory that the passes read."""
    return image.contiguous(memory_format=torch.channels_last) if windows.last else image.contiguous()


class _ImageCosine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        factors: Tensor,
        geometry: Geometry,
        windows: cpu_fields.Windows,
        augment: float,
    ) -> Tensor:
        products = _in_order(geometry.convolve(x, weight), windows)
        ctx.save_for_backward(x, weight, products, factors)
        ctx.options = geometry, windows, augment
        output = torch.empty_like(products)
        return cpu_fields.finish_fields(products, factors, windows, augment * augment, output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, products, factors = ctx.saved_tensors
        geometry, windows, augment = ctx.options
        needs = ctx.needs_input_grad[:2]
        weighed = None
        if not torch.is_grad_enabled():  # else a second derivative may follow
            cotangent = _in_order(cotangent, windows)
            weighed = cpu_fields.weigh_fields(cotangent, products, factors, windows, augment * augment)
        if weighed is None:
            found = wide_gradients(cotangent, x, weight, geometry, False, augment, *needs)
            into_x, into_w = (one if needed else None for one, needed in zip(found, needs, strict=True))
            return into_x, into_w, None, None, None, None
        h, along = weighed
        into_x, into_w, _ = torch.ops.aten.convolution_backward(
            h,
            x,
            weight,
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            False,
            (0,) * geometry.rank,
            geometry.groups,
            (*needs, False),
        )
        filters = len(weight)
        if needs[0]:
            into_x = cpu_fields.correct_fields(_in_order(into_x, windows), x, along[filters:], windows)
        if needs[1]:
            into_w.addcmul_(weight, along[:filters].reshape(-1, *[1] * (geometry.rank + 1)))
        return into_x, into_w, None, None, None, None
