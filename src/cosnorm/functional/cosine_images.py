"""`cosine_fields` of float32 images on a CPU, by the compiled passes around torch's convolution.

The formulas are those of `cosine_fields`, in the plain form: with h = g f_x f_w,

    ∂/∂w_o = Σ h x − f_o² A_o w_o,   A_o = Σ h p over the fields of the filter,
    ∂/∂x   = Σ h w − x Σ f² A        over the windows that a position is in,   A = Σ h p over the filters.

Both convolutions of the backward pass are one call, and each correction is added to what it gave. Centered,
w_o stands for the filter less its mean and x for the field less its own, which such a filter does not see:
the images themselves enter the convolutions, and what is left of the means is taken off behind them.
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
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    augment: float,
    *,
    centered: bool = False,
    folded: bool = False,
) -> Tensor | None:
    """Cosine of each field of x (N, C, *S) with each filter (O, C/G, *K); None where another form must do it.

    It takes float32 of one or two dimensions on a CPU, contiguous or with the channels last, outside of
    compiled code, autocast, function transforms and forward mode. Folded, the filters are unit vectors
    already (of mean 0, if centered), and nothing learns.
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
    prepare = cpu_fields.prepare_centered if centered else cpu_fields.prepare_fields
    prepared = prepare(x, weight, windows, augment * augment, folded=folded)
    if prepared is None:
        return None
    if learns:
        output: Tensor = _ImageCosine.apply(x, weight, prepared, geometry, windows, augment)
        return output
    products = _products(x, prepared, geometry, windows, augment)
    return cpu_fields.finish_fields(products, prepared.factors, windows, augment * augment, products)


def _is_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _in_order(image: Tensor, windows: cpu_fields.Windows) -> Tensor:
    """The image in the order of memory that the passes read."""
    return image.contiguous(memory_format=torch.channels_last) if windows.last else image.contiguous()


def _products(
    x: Tensor,
    prepared: cpu_fields.Prepared,
    geometry: Geometry,
    windows: cpu_fields.Windows,
    augment: float,
) -> Tensor:
    products = _in_order(geometry.convolve(x, prepared.filters), windows)
    if prepared.constant is not None and augment:  # without it their factors are 0
        cpu_fields.clear_fields(products, prepared.constant, windows)
    return products


def _gradients(
    h: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needs: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Those of the plain convolution."""
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
    return into_x, into_w


class _ImageCosine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        prepared: cpu_fields.Prepared,
        geometry: Geometry,
        windows: cpu_fields.Windows,
        augment: float,
    ) -> Tensor:
        products = _products(x, prepared, geometry, windows, augment)
        ctx.save_for_backward(x, weight, products, *prepared[1:])
        ctx.options = geometry, windows, augment
        output = torch.empty_like(products)
        return cpu_fields.finish_fields(products, prepared.factors, windows, augment * augment, output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, products, factors, mean, constant = ctx.saved_tensors
        geometry, windows, augment = ctx.options
        needs = ctx.needs_input_grad[:2]
        centered = mean is not None
        weighed = None
        if not torch.is_grad_enabled():  # else a second derivative may follow
            cotangent = _in_order(cotangent, windows)
            weighed = cpu_fields.weigh_fields(cotangent, products, factors, windows, augment * augment)
        if weighed is None:
            found = wide_gradients(cotangent, x, weight, geometry, centered, augment, *needs)
            into_x, into_w = (one if needed else None for one, needed in zip(found, needs, strict=True))
            return into_x, into_w, None, None, None, None
        h, along = weighed
        along_w, along_x = along[: len(weight)], along[len(weight) :]
        # Computed again rather than kept.
        filters = cpu_fields.center_filters(weight, torch.empty_like(weight)) if centered else weight
        cleared = constant is not None and bool(augment)
        into_x, into_w = _gradients(h, x, filters, geometry, (needs[0], needs[1] and not cleared))
        if cleared:
            # What passes through a field that counts as zero reaches x, and the filters not at all.
            cpu_fields.clear_fields(along_x, constant, windows)
            cpu_fields.clear_fields(h, constant, windows)
            if needs[1]:
                into_w = _gradients(h, x, filters, geometry, (False, True))[1]
        if needs[0]:
            into_x = cpu_fields.correct_fields(_in_order(into_x, windows), x, along_x, mean, windows)
        if needs[1]:
            if centered:
                if not (into_w.is_contiguous() or _is_last(into_w)):
                    into_w = into_w.contiguous()
                cpu_fields.center_filters(into_w, into_w)
            into_w.addcmul_(filters, along_w.reshape(-1, *[1] * (geometry.rank + 1)))
        return into_x, into_w, None, None, None, None
