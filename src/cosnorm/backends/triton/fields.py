"""Norms of receptive fields, and the epilogue of a cosine convolution, around the vendor's convolution.

A map Σ_c x² is made in one pass over the input, in float64, which holds every square of float32; a field's
squared norm is a sum of the map over its window. The epilogue multiplies the convolution of the input as it
is by both norms. Fields whose norms it cannot hold are computed again, scaled, in the tiles that they touch:
each field is exact for itself. One, two and three dimensions are the same kernel; missing ones have size 1.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.geometry import Geometry
from cosnorm.backends.triton.launch import ROW_WINDOW, launch, readable, writable
from cosnorm.backends.triton.units import clamp

_BLOCK, _PLACES, _FILTERS, _DEPTH = 256, 64, 32, 16


@triton.jit
def _square_maps(x_pointer, maps_pointer, channels, places, BLOCK: tl.constexpr):
    """Σ_c x² at each place, of one sample and group a row of programs."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for channel in range(0, channels):
        pointer = x_pointer + (row * channels + channel) * places + place
        values = tl.load(pointer, mask=place < places, other=0.0).to(tl.float64)
        total += values * values
    tl.store(maps_pointer + row * places + place, total, mask=place < places)


@triton.jit
def _field_norms(
    maps_pointer,
    inverse_pointer,
    exponent_pointer,
    extra_pointer,
    augment,
    D,
    H,
    W,
    OUT_H,
    OUT_W,
    outputs,
    KERNEL_D: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_D: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_D: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    DILATION_D: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Exponent and 1/norm (of the field times 2^-exponent) of each field, and its appended component."""
    row = tl.program_id(0).to(tl.int64)
    output = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    d = output // (OUT_H * OUT_W) * STRIDE_D - PAD_D
    h = output // OUT_W % OUT_H * STRIDE_H - PAD_H
    w = output % OUT_W * STRIDE_W - PAD_W
    squared = tl.zeros([BLOCK], tl.float64)
    for kd in range(0, KERNEL_D):
        for kh in range(0, KERNEL_H):
            for kw in range(0, KERNEL_W):
                at_d, at_h, at_w = d + kd * DILATION_D, h + kh * DILATION_H, w + kw * DILATION_W
                inside = (at_d >= 0) & (at_d < D) & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
                place = (at_d * H + at_h) * W + at_w
                pointer = maps_pointer + row * (D * H * W) + place
                squared += tl.load(pointer, mask=inside & (output < outputs), other=0.0)
    wide = tl.zeros([BLOCK], tl.float64) + augment
    squared += wide * wide
    zero = squared == 0
    norm = tl.sqrt(tl.where(zero, 1.0, squared))
    exponent = ((norm.to(tl.int64, bitcast=True) >> 52) - 1023).to(tl.int32)
    exponent = tl.where(zero, 0, tl.minimum(tl.maximum(exponent, -126), 126))
    inverse = tl.where(zero, 0.0, (power_of_two(exponent).to(tl.float64) / norm).to(tl.float32))
    tl.store(inverse_pointer + row * outputs + output, inverse, mask=output < outputs)
    tl.store(exponent_pointer + row * outputs + output, exponent, mask=output < outputs)
    extra = augment * power_of_two(-exponent) * inverse
    tl.store(extra_pointer + row * outputs + output, extra, mask=output < outputs)


@triton.jit
def _finish_fields(
    products_pointer,
    output_pointer,
    x_pointer,
    weight_pointer,
    inverse_x_pointer,
    exponent_x_pointer,
    extra_x_pointer,
    inverse_w_pointer,
    exponent_w_pointer,
    extra_w_pointer,
    groups,
    channels,
    filters,
    D,
    H,
    W,
    OUT_H,
    OUT_W,
    outputs,
    KERNEL_D: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_D: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_D: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    DILATION_D: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    WINDOW: tl.constexpr,
    PLACES: tl.constexpr,
    FILTERS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # a sample and a group
    output = tl.program_id(1) * PLACES + tl.arange(0, PLACES)
    own = tl.program_id(2) * FILTERS + tl.arange(0, FILTERS)
    number = row % groups * filters + own
    is_field, is_filter = output < outputs, own < filters
    field = row * outputs + output
    exponent_x = tl.load(exponent_x_pointer + field, mask=is_field, other=0)
    exponent_w = tl.load(exponent_w_pointer + number, mask=is_filter, other=0)
    scale_x, scale_w = power_of_two(-exponent_x), power_of_two(-exponent_w)
    widest = tl.maximum(tl.max(tl.abs(exponent_x)), tl.max(tl.abs(exponent_w)))
    places = (row * filters + own.to(tl.int64))[None, :] * outputs + output[:, None]
    inside = is_field[:, None] & is_filter[None, :]
    if widest > WINDOW:
        products = tl.zeros([PLACES, FILTERS], tl.float32)
        d = output // (OUT_H * OUT_W) * STRIDE_D - PAD_D
        h = output // OUT_W % OUT_H * STRIDE_H - PAD_H
        w = output % OUT_W * STRIDE_W - PAD_W
        for kd in range(0, KERNEL_D):
            for kh in range(0, KERNEL_H):
                for kw in range(0, KERNEL_W):
                    at_d, at_h, at_w = d + kd * DILATION_D, h + kh * DILATION_H, w + kw * DILATION_W
                    there = (at_d >= 0) & (at_d < D) & (at_h >= 0) & (at_h < H) & (at_w >= 0) & (at_w < W)
                    place = (at_d * H + at_h) * W + at_w
                    tap = (kd * KERNEL_H + kh) * KERNEL_W + kw
                    for start in range(0, channels, DEPTH):
                        c = start + tl.arange(0, DEPTH)
                        x = tl.load(
                            x_pointer + (row * channels + c)[None, :] * (D * H * W) + place[:, None],
                            mask=(there & is_field)[:, None] & (c < channels)[None, :],
                            other=0.0,
                        ).to(tl.float32)
                        taps = KERNEL_D * KERNEL_H * KERNEL_W
                        y = tl.load(
                            weight_pointer + (number[None, :] * channels + c[:, None]) * taps + tap,
                            mask=(c < channels)[:, None] & is_filter[None, :],
                            other=0.0,
                        ).to(tl.float32)
                        products += tl.dot(x * scale_x[:, None], y * scale_w[None, :], input_precision="ieee")
    else:
        products = tl.load(products_pointer + places, mask=inside, other=0.0).to(tl.float32)
        products = products * scale_x[:, None] * scale_w[None, :]
    inverse_x = tl.load(inverse_x_pointer + field, mask=is_field, other=0.0)
    inverse_w = tl.load(inverse_w_pointer + number, mask=is_filter, other=0.0)
    extra_x = tl.load(extra_x_pointer + field, mask=is_field, other=0.0)
    extra_w = tl.load(extra_w_pointer + number, mask=is_filter, other=0.0)
    cosines = products * inverse_x[:, None] * inverse_w[None, :] + extra_x[:, None] * extra_w[None, :]
    tl.store(output_pointer + places, clamp(cosines, 1.0), mask=inside)


def _three(numbers: tuple[int, ...], missing: int) -> tuple[int, int, int]:
    first, second, third = (missing,) * (3 - len(numbers)) + tuple(numbers)
    return first, second, third


def handles(x: Tensor, weight: Tensor, geometry: Geometry, centered: bool) -> bool:
    """Whether the kernels have these shapes and this layout: they have no means."""
    return not centered


def saved(
    x: Tensor, weight: Tensor, geometry: Geometry, centered: bool, augment: float
) -> tuple[Tensor, Tensor]:
    """Empty products and statistics: nothing is kept."""
    return x.new_empty(0), x.new_empty(0)


def folded(x: Tensor, weight: Tensor, constant: Tensor | None, geometry: Geometry, **options: Any) -> None:
    """There is no kernel for filters that are unit vectors: torch's operators compute."""


def gradients(*given: Any, **options: Any) -> None:
    """There is no kernel for the gradient: torch's operators compute it."""


def cosines(
    x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine of each receptive field with each filter, (N, O, *T), and nothing else."""
    nothing = saved(x, weight, geometry, centered, augment)
    dtype = x.dtype
    x, weight = x.detach().contiguous(), weight.detach().contiguous()
    # A sum of float16 products may leave its range; what it holds is exact in TF32, too.
    wide = dtype == torch.float16
    products = geometry.convolve(x.float(), weight.float()) if wide else geometry.convolve(x, weight)
    output = writable(tuple(products.shape), dtype, x.device)
    if not output.numel():
        return output.to(dtype), *nothing
    groups = geometry.groups
    samples, channels, filters = x.shape[0], weight.shape[1], weight.shape[0] // groups
    rows, outputs = samples * groups, products[0, 0].numel()
    sizes, out_sizes = _three(tuple(x.shape[2:]), 1), _three(tuple(products.shape[2:]), 1)
    names = ("KERNEL", "STRIDE", "PAD", "DILATION")
    numbers_of = (geometry.kernel, 1), (geometry.stride, 1), (geometry.padding, 0), (geometry.dilation, 1)
    places_of = {
        f"{name}_{axis}": number
        for name, (own, missing) in zip(names, numbers_of, strict=True)
        for axis, number in zip("DHW", _three(own, missing), strict=True)
    }
    norms = unit_rows(weight.flatten(1), augment=augment)
    x, places = readable(x), x[0, 0].numel()
    maps = torch.empty((rows, places), dtype=torch.float64, device=x.device)
    launch(_square_maps, (rows, triton.cdiv(places, _BLOCK)), x, maps, channels, places, BLOCK=_BLOCK)
    inverse, extra = (torch.empty((rows, outputs), dtype=torch.float32, device=x.device) for _ in range(2))
    exponent = torch.empty((rows, outputs), dtype=torch.int32, device=x.device)
    launch(
        _field_norms,
        (rows, triton.cdiv(outputs, _BLOCK)),
        maps,
        inverse,
        exponent,
        extra,
        float(augment),
        *sizes,
        *out_sizes[1:],
        outputs,
        **places_of,
        BLOCK=_BLOCK,
    )
    launch(
        _finish_fields,
        (rows, triton.cdiv(outputs, _PLACES), triton.cdiv(filters, _FILTERS)),
        readable(products),
        output,
        x,
        readable(weight),
        inverse,
        exponent,
        extra,
        norms.inverse_norm,
        norms.exponent,
        norms.extra,
        groups,
        channels,
        filters,
        *sizes,
        *out_sizes[1:],
        outputs,
        **places_of,
        WINDOW=ROW_WINDOW,
        PLACES=_PLACES,
        FILTERS=_FILTERS,
        DEPTH=_DEPTH,
    )
    return output.to(dtype), *nothing
