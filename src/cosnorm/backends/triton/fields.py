"""Cosines of receptive fields, and their gradients, around the vendor's convolutions.

Forward: one launch makes unit filters ŵ and, in one pass over the images, maps of Σ_c x² (centered: of Σ_c x
and of the extremes, too) in float64; a field's norm and mean are sums of the maps over its window; the
images as they are enter the convolution with ŵ; an epilogue divides by the norms. A centered filter does not
see the mean of a field but by its own rounding, which the epilogue takes off: ŵ·(x − μ) = ŵ·x − μ Σŵ.

Backward: with h = g / |x| and c the cosines, k = Σ h c / |x| over the filters of a group,

    ∂/∂x = Σ h ŵ − Σ k (x − μ)   over the windows that a place is in,     u = Σ h (x − μ),

and a filter receives the projection of u as any row does (`_project` of the rows). h, k and ŵ are one launch.

Fields whose norms, or whose cotangents, float32 could not hold are computed again in float64, in kernels of
their own whose programs end at once where there are none: each field is exact for itself. One, two and three
dimensions are the same kernels (missing ones have size 1), and images with the channels last are read as they
lie.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cosnorm.backends.geometry import Geometry, empty_output, memory_format
from cosnorm.backends.triton.launch import COTANGENT_LIMIT, MOST, interpreting, launch, writable
from cosnorm.backends.triton.rows import project_more
from cosnorm.backends.triton.units import (
    FILTER_TILE,
    beyond,
    clamp,
    deviations,
    factor_of,
    inverse_of,
    norm_of,
    reciprocal,
    row_norms,
    store_rows,
    tile,
)
from cosnorm.norms import CONSTANT_EPS, NORM_LIMIT

_LIMIT = NORM_LIMIT[torch.float32]
# Places and channels of a tile of images, by whether the channels are last; fields of a tile; fields and
# filters of a tile of the epilogue; and what the rare kernels look at and compute at once.
_MAP_TILE = {False: (128, 4), True: (32, 32)}
_FIELDS, _FINISH_TILE, _GRADIENT_TILE = (
    128,
    {False: (128, 8), True: (32, 32)},
    {False: (128, 4), True: (32, 32)},
)
_LOOKED_AT, _AGAIN = 512, 16


@triton.jit
def _filters(
    weight_pointer,
    unit_pointer,
    numbers_pointer,
    sums_pointer,
    row,
    filters,
    size,
    augment,
    bound,
    CENTERED: tl.constexpr,
    KNOWN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Unit filters, their norms and means (unless these are known), and Σ of each unit filter as rounded."""
    if KNOWN:
        norm = tl.load(numbers_pointer + row, mask=row < filters, other=1.0)
        mean = tl.zeros([ROWS], tl.float64)
        if CENTERED:
            mean = tl.load(numbers_pointer + filters + row, mask=row < filters, other=0.0)
    else:
        norm, mean = row_norms(weight_pointer, row, filters, size, augment, bound, CENTERED, ROWS, BLOCK)
        tl.store(numbers_pointer + row, norm, mask=row < filters)
        if CENTERED:
            tl.store(numbers_pointer + filters + row, mean, mask=row < filters)
    factor = factor_of(norm)
    sums = tl.zeros([ROWS], tl.float32)
    for start in range(0, size, BLOCK):
        values = deviations(weight_pointer, row, start, filters, size, mean, BLOCK) * factor[:, None]
        values = values.to(tl.float32).to(unit_pointer.dtype.element_ty)
        sums += tl.sum(values.to(tl.float32), 1)
        store_rows(unit_pointer, values, row, start, filters, size, BLOCK)
    tl.store(sums_pointer + row, sums, mask=row < filters)


@triton.jit
def _prepare(
    x_pointer,
    wide_pointer,
    maps_pointer,
    extremes_pointer,
    weight_pointer,
    unit_pointer,
    numbers_pointer,
    sums_pointer,
    rows,
    groups,
    channels,
    places,
    stride_channel,
    stride_place,
    filters,
    size,
    augment,
    bound,
    CENTERED: tl.constexpr,
    WIDE: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Maps of Σ_c x² (centered: Σ_c x, and the extremes, too) of each sample and group; and unit filters."""
    program, blocks = tl.program_id(0), tl.cdiv(places, PLACES)
    if program < rows * blocks:
        row = (program // blocks).to(tl.int64)
        place = program % blocks * PLACES + tl.arange(0, PLACES)
        base = row // groups * groups * channels * places + row % groups * channels * stride_channel
        squares, sums = tl.zeros([PLACES], tl.float64), tl.zeros([PLACES], tl.float64)
        highest = tl.zeros([PLACES], tl.float32) - float("inf")
        lowest = tl.zeros([PLACES], tl.float32) + float("inf")
        for start in range(0, channels, CHANNELS):
            channel = start + tl.arange(0, CHANNELS)
            inside = (place < places)[:, None] & (channel < channels)[None, :]
            offset = base + place[:, None] * stride_place + channel[None, :] * stride_channel
            values = tl.load(x_pointer + offset, mask=inside, other=0.0).to(tl.float32)
            if WIDE:
                tl.store(wide_pointer + offset, values, mask=inside)
            double = values.to(tl.float64)
            squares += tl.sum(double * double, 1)
            if CENTERED:
                sums += tl.sum(double, 1)
                highest = tl.maximum(highest, tl.max(tl.where(inside, values, float("-inf")), 1))
                lowest = tl.minimum(lowest, tl.min(tl.where(inside, values, float("inf")), 1))
        at, there = row * places + place, place < places
        tl.store(maps_pointer + at, squares, mask=there)
        if CENTERED:
            after = rows.to(tl.int64) * places
            tl.store(maps_pointer + after + at, sums, mask=there)
            tl.store(extremes_pointer + at, highest, mask=there)
            tl.store(extremes_pointer + after + at, lowest, mask=there)
    else:
        filter_rows = (program - rows * blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        _filters(
            weight_pointer,
            unit_pointer,
            numbers_pointer,
            sums_pointer,
            filter_rows,
            filters,
            size,
            augment,
            bound,
            CENTERED,
            False,
            ROWS,
            BLOCK,
        )


@triton.jit
def _place(output, kd, kh, kw, D, H, W, OUT_H, OUT_W, STRIDE, PAD, DILATION):
    """The place of a tap of each field, and whether it is on the image."""
    d = output // (OUT_H * OUT_W) * STRIDE[0] - PAD[0] + kd * DILATION[0]
    h = output // OUT_W % OUT_H * STRIDE[1] - PAD[1] + kh * DILATION[1]
    w = output % OUT_W * STRIDE[2] - PAD[2] + kw * DILATION[2]
    inside = (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    return (d * H + h) * W + w, inside


@triton.jit
def _field(place, kd, kh, kw, H, W, OUT_D, OUT_H, OUT_W, STRIDE, PAD, DILATION):
    """The field of which each place is a tap, and whether there is one."""
    d = place // (H * W) + PAD[0] - kd * DILATION[0]
    h = place // W % H + PAD[1] - kh * DILATION[1]
    w = place % W + PAD[2] - kw * DILATION[2]
    there = (d >= 0) & (h >= 0) & (w >= 0)
    there = there & (d % STRIDE[0] == 0) & (h % STRIDE[1] == 0) & (w % STRIDE[2] == 0)
    d, h, w = d // STRIDE[0], h // STRIDE[1], w // STRIDE[2]
    return (d * OUT_H + h) * OUT_W + w, there & (d < OUT_D) & (h < OUT_H) & (w < OUT_W)


@triton.jit
def _field_norms(
    maps_pointer,
    extremes_pointer,
    numbers_pointer,
    rows,
    size,
    augment,
    bound,
    D,
    H,
    W,
    OUT_H,
    OUT_W,
    outputs,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    DILATION: tl.constexpr,
    CENTERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Norm of each field, and its mean if centered."""
    program, blocks = tl.program_id(0), tl.cdiv(outputs, BLOCK)
    row = (program // blocks).to(tl.int64)
    output = program % blocks * BLOCK + tl.arange(0, BLOCK)
    places, is_field = D * H * W, output < outputs
    after = rows.to(tl.int64) * places
    squared, sums = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    highest = tl.zeros([BLOCK], tl.float32) - float("inf")
    lowest = tl.zeros([BLOCK], tl.float32) + float("inf")
    for kd in range(0, KERNEL[0]):
        for kh in range(0, KERNEL[1]):
            for kw in range(0, KERNEL[2]):
                place, inside = _place(output, kd, kh, kw, D, H, W, OUT_H, OUT_W, STRIDE, PAD, DILATION)
                at, inside = row * places + place, inside & is_field
                squared += tl.load(maps_pointer + at, mask=inside, other=0.0)
                if CENTERED:
                    sums += tl.load(maps_pointer + after + at, mask=inside, other=0.0)
                    # Padding counts as zeros.
                    highest = tl.maximum(highest, tl.load(extremes_pointer + at, mask=inside, other=0.0))
                    lowest = tl.minimum(
                        lowest, tl.load(extremes_pointer + after + at, mask=inside, other=0.0)
                    )
    constant = squared < 0
    at = row * outputs + output
    if CENTERED:
        mean = sums * reciprocal(tl.zeros_like(sums) + size)
        largest = tl.maximum(highest.to(tl.float64) - mean, mean - lowest.to(tl.float64))
        constant = largest <= bound * tl.abs(mean)
        # The largest deviation stands in for what rounding has eaten; what is not finite stays so.
        squared -= sums * mean
        squared = tl.where(squared < largest * largest, largest * largest, squared)
        tl.store(numbers_pointer + rows.to(tl.int64) * outputs + at, mean, mask=is_field)
    tl.store(numbers_pointer + at, norm_of(squared, augment, constant), mask=is_field)


@triton.jit
def _finish_fields(
    products_pointer,
    output_pointer,
    numbers_pointer,
    filter_numbers_pointer,
    sums_pointer,
    rows,
    groups,
    filters,
    outputs,
    stride_filter,
    stride_field,
    augment,
    CENTERED: tl.constexpr,
    AUGMENTED: tl.constexpr,
    KEEP: tl.constexpr,
    FIELDS: tl.constexpr,
    FILTERS: tl.constexpr,
):
    """Products of fields with unit filters to cosines; with KEEP in place of the products, too."""
    program, blocks = tl.program_id(0), tl.cdiv(outputs, FIELDS)
    row = (program // blocks).to(tl.int64)
    output = program % blocks * FIELDS + tl.arange(0, FIELDS)
    own = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    is_field, is_filter = output < outputs, own < filters
    number = row % groups * filters + own
    norm = tl.load(numbers_pointer + row * outputs + output, mask=is_field, other=1.0)
    inverse = inverse_of(norm)
    base = row // groups * groups * filters * outputs
    at = base + output[:, None] * stride_field + number[None, :] * stride_filter
    inside = is_field[:, None] & is_filter[None, :]
    cosines = tl.load(products_pointer + at, mask=inside, other=0.0).to(tl.float32)
    if CENTERED:
        # What the rounding of a filter lets it see of the mean.
        place = rows.to(tl.int64) * outputs + row * outputs + output
        mean = tl.load(numbers_pointer + place, mask=is_field, other=0.0).to(tl.float32)
        sums = tl.load(sums_pointer + number, mask=is_filter, other=0.0)[None, :]
        cosines = (cosines - mean[:, None] * sums) * inverse[:, None]
        # Constant fields count as zero, whatever their mean; a filter that is not finite stays so.
        counts = (norm > 0) & (norm < float("inf")) | (norm != norm)
        cosines = tl.where(counts[:, None], cosines, 0.0 * sums)
    else:
        cosines = cosines * inverse[:, None]
    if AUGMENTED:
        norm_w = tl.load(filter_numbers_pointer + number, mask=is_filter, other=1.0)
        cosines += (augment * inverse_of(norm))[:, None] * (augment * inverse_of(norm_w))[None, :]
    cosines = clamp(cosines, 1.0)
    tl.store(output_pointer + at, cosines, mask=inside)
    if KEEP:
        tl.store(products_pointer + at, cosines, mask=inside)


@triton.jit
def _fields_again(
    products_pointer,
    output_pointer,
    x_pointer,
    unit_pointer,
    numbers_pointer,
    filter_numbers_pointer,
    rows,
    groups,
    channels,
    filters,
    stride_channel,
    stride_place,
    stride_weight_channel,
    stride_tap,
    stride_filter,
    stride_field,
    augment,
    D,
    H,
    W,
    OUT_H,
    OUT_W,
    outputs,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    DILATION: tl.constexpr,
    CENTERED: tl.constexpr,
    KEEP: tl.constexpr,
    LIMIT: tl.constexpr,
    LOOK: tl.constexpr,
    TILE: tl.constexpr,
):
    """Cosines of fields whose norm is beyond the window, in float64."""
    program, blocks = tl.program_id(0), tl.cdiv(outputs, LOOK)
    row = (program // blocks).to(tl.int64)
    top = program % blocks * LOOK
    every = top + tl.arange(0, LOOK)
    norms = tl.load(numbers_pointer + row * outputs + every, mask=every < outputs, other=1.0)
    if (
        tl.max(_rare_fields(norms, every, row, rows, outputs, numbers_pointer, CENTERED, LIMIT).to(tl.int32))
        > 0
    ):
        taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
        image = (
            x_pointer
            + row // groups * groups * channels * (D * H * W)
            + row % groups * channels * stride_channel
        )
        for begin in range(0, LOOK, TILE):
            output = top + begin + tl.arange(0, TILE)
            norm = tl.load(numbers_pointer + row * outputs + output, mask=output < outputs, other=1.0)
            rare = _rare_fields(norm, output, row, rows, outputs, numbers_pointer, CENTERED, LIMIT)
            if tl.max(rare.to(tl.int32)) > 0:
                mean = tl.zeros([TILE], tl.float64)
                if CENTERED:
                    behind = rows.to(tl.int64) * outputs + row * outputs + output
                    mean = tl.load(numbers_pointer + behind, mask=output < outputs, other=0.0)
                inverse = reciprocal(tl.abs(norm))
                for first in range(0, filters, TILE):
                    own = first + tl.arange(0, TILE)
                    number = row % groups * filters + own
                    sums = tl.zeros([TILE, TILE], tl.float64)
                    for tap in range(0, taps):
                        kd, kh, kw = (
                            tap // (KERNEL[1] * KERNEL[2]),
                            tap // KERNEL[2] % KERNEL[1],
                            tap % KERNEL[2],
                        )
                        place, inside = _place(
                            output, kd, kh, kw, D, H, W, OUT_H, OUT_W, STRIDE, PAD, DILATION
                        )
                        for channel in range(0, channels):
                            x = tl.load(
                                image + place * stride_place + channel * stride_channel,
                                mask=inside & rare,
                                other=0.0,
                            )
                            w = tl.load(
                                unit_pointer
                                + number * (channels * taps)
                                + tap * stride_tap
                                + channel * stride_weight_channel,
                                mask=own < filters,
                                other=0.0,
                            )
                            x = x.to(tl.float32).to(tl.float64) - mean
                            sums += x[:, None] * w.to(tl.float32).to(tl.float64)[None, :]
                    if CENTERED:
                        sums = tl.where((norm < 0)[:, None], 0.0, sums)
                    norm_w = tl.load(filter_numbers_pointer + number, mask=own < filters, other=1.0)
                    wide = tl.zeros_like(inverse) + augment
                    cosines = sums * inverse[:, None]
                    cosines += (wide * inverse)[:, None] * (wide * reciprocal(tl.abs(norm_w)))[None, :]
                    cosines = clamp(cosines, 1.0).to(tl.float32)
                    base = row // groups * groups * filters * outputs
                    at = base + output[:, None] * stride_field + number[None, :] * stride_filter
                    there = rare[:, None] & (own < filters)[None, :]
                    tl.store(output_pointer + at, cosines, mask=there)
                    if KEEP:
                        tl.store(products_pointer + at, cosines, mask=there)


@triton.jit
def _rare_fields(
    norm, output, row, rows, outputs, numbers_pointer, CENTERED: tl.constexpr, LIMIT: tl.constexpr
):
    """Whether norms of fields are beyond the window; centered, whether their means are above it, too."""
    rare = beyond(norm, LIMIT)
    if CENTERED:
        place = rows.to(tl.int64) * outputs + row * outputs + output
        mean = tl.abs(tl.load(numbers_pointer + place, mask=output < outputs, other=0.0))
        rare = rare | ((mean > LIMIT) & (mean < float("inf")) & (tl.abs(norm) < float("inf")))
    return rare & (output < outputs)


@triton.jit
def _prepare_gradients(
    cotangent_pointer,
    cosines_pointer,
    numbers_pointer,
    h_pointer,
    along_pointer,
    rare_pointer,
    flags_pointer,
    x_pointer,
    wide_pointer,
    weight_pointer,
    unit_pointer,
    filter_numbers_pointer,
    sums_pointer,
    rows,
    groups,
    own_filters,
    outputs,
    stride_filter,
    stride_field,
    filters,
    size,
    elements,
    filter_programs,
    augment,
    CENTERED: tl.constexpr,
    WIDE: tl.constexpr,
    LIMIT: tl.constexpr,
    COTANGENT_LIMIT: tl.constexpr,
    FIELDS: tl.constexpr,
    FILTERS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of each field h = g/|x|, k = Σ h c / |x| and k μ; 0, and a mark, for rare ones. And unit filters."""
    program, blocks = tl.program_id(0), tl.cdiv(outputs, FIELDS)
    if program < rows * blocks:
        row = (program // blocks).to(tl.int64)
        output = program % blocks * FIELDS + tl.arange(0, FIELDS)
        is_field = output < outputs
        norm = tl.load(numbers_pointer + row * outputs + output, mask=is_field, other=1.0)
        base = row // groups * groups * own_filters * outputs + output[:, None] * stride_field
        most = tl.zeros([FIELDS], tl.float32)
        for first in range(0, own_filters, FILTERS):
            own = first + tl.arange(0, FILTERS)
            number = row % groups * own_filters + own
            inside = is_field[:, None] & (own < own_filters)[None, :]
            at = base + number[None, :] * stride_filter
            g = tl.load(cotangent_pointer + at, mask=inside, other=0.0).to(tl.float32)
            most = tl.maximum(most, tl.max(tl.abs(g), 1))
        rare = _rare_fields(norm, output, row, rows, outputs, numbers_pointer, CENTERED, LIMIT)
        rare = rare | ((most > 0) & (most < 1 / COTANGENT_LIMIT))
        rare = (rare | ((most > COTANGENT_LIMIT) & (most < float("inf")))) & is_field
        inverse = tl.where(rare, 0.0, inverse_of(norm))
        along = tl.zeros([FIELDS], tl.float32)
        for first in range(0, own_filters, FILTERS):
            own = first + tl.arange(0, FILTERS)
            number = row % groups * own_filters + own
            inside = is_field[:, None] & (own < own_filters)[None, :]
            at = base + number[None, :] * stride_filter
            g = tl.load(cotangent_pointer + at, mask=inside, other=0.0).to(tl.float32)
            c = tl.load(cosines_pointer + at, mask=inside, other=0.0).to(tl.float32)
            h = tl.where(rare[:, None], 0.0, g * inverse[:, None])
            tl.store(h_pointer + at, h, mask=inside)
            along += tl.sum(h * c, 1)
        # The values of a constant field beside an appended component count as zero.
        along = tl.where(norm < 0, 0.0, along * inverse)
        at = row * outputs + output
        tl.store(along_pointer + at, along, mask=is_field)
        if CENTERED:
            after = rows.to(tl.int64) * outputs
            mean = tl.load(numbers_pointer + after + at, mask=is_field, other=0.0).to(tl.float32)
            tl.store(along_pointer + after + at, tl.where(along == 0, 0.0, along * mean), mask=is_field)
        tl.store(rare_pointer + at, rare.to(tl.int8), mask=is_field)
        tl.store(flags_pointer + program, tl.max(rare.to(tl.int32)))
    else:
        program -= rows * blocks
        if program < filter_programs:
            filter_rows = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
            _filters(
                weight_pointer,
                unit_pointer,
                filter_numbers_pointer,
                sums_pointer,
                filter_rows,
                filters,
                size,
                augment,
                augment,
                CENTERED,
                True,
                ROWS,
                BLOCK,
            )
        elif WIDE:
            element = (program - filter_programs).to(tl.int64) * 1024 + tl.arange(0, 1024)
            copied = tl.load(x_pointer + element, mask=element < elements, other=0.0).to(tl.float32)
            tl.store(wide_pointer + element, copied, mask=element < elements)


@triton.jit
def _finish_images(
    through_pointer,
    x_pointer,
    gradient_pointer,
    along_pointer,
    rows,
    groups,
    channels,
    stride_channel,
    stride_place,
    limit,
    D,
    H,
    W,
    OUT_D,
    OUT_H,
    OUT_W,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    DILATION: tl.constexpr,
    CENTERED: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """What came through the convolution, less x Σ k − Σ k μ over the fields that a place is in."""
    places, outputs = D * H * W, OUT_D * OUT_H * OUT_W
    program, blocks = tl.program_id(0), tl.cdiv(places, PLACES)
    row = (program // blocks).to(tl.int64)
    place = program % blocks * PLACES + tl.arange(0, PLACES)
    along, means = tl.zeros([PLACES], tl.float32), tl.zeros([PLACES], tl.float32)
    for kd in range(0, KERNEL[0]):
        for kh in range(0, KERNEL[1]):
            for kw in range(0, KERNEL[2]):
                field, there = _field(place, kd, kh, kw, H, W, OUT_D, OUT_H, OUT_W, STRIDE, PAD, DILATION)
                at, there = row * outputs + field, there & (place < places)
                along += tl.load(along_pointer + at, mask=there, other=0.0)
                if CENTERED:
                    after = rows.to(tl.int64) * outputs
                    means += tl.load(along_pointer + after + at, mask=there, other=0.0)
    base = row // groups * groups * channels * places + row % groups * channels * stride_channel
    for start in range(0, channels, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        inside = (place < places)[:, None] & (channel < channels)[None, :]
        at = base + place[:, None] * stride_place + channel[None, :] * stride_channel
        through = tl.load(through_pointer + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_pointer + at, mask=inside, other=0.0).to(tl.float32)
        # A place in rare or zero fields alone takes no part here, whatever it holds.
        taken = tl.where((along == 0)[:, None], 0.0, x * along[:, None])
        gradient = through - taken
        if CENTERED:
            gradient += means[:, None]
        tl.store(gradient_pointer + at, clamp(gradient, limit), mask=inside)


@triton.jit
def _images_again(
    gradient_pointer,
    x_pointer,
    cotangent_pointer,
    cosines_pointer,
    unit_pointer,
    numbers_pointer,
    rare_pointer,
    flags_pointer,
    rows,
    groups,
    channels,
    filters,
    stride_channel,
    stride_place,
    stride_weight_channel,
    stride_tap,
    stride_filter,
    stride_field,
    flags,
    limit,
    D,
    H,
    W,
    OUT_D,
    OUT_H,
    OUT_W,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    DILATION: tl.constexpr,
    CENTERED: tl.constexpr,
    LOOK: tl.constexpr,
    TILE: tl.constexpr,
):
    """The gradient at places that are in a rare field, in float64."""
    places, outputs = D * H * W, OUT_D * OUT_H * OUT_W
    program, blocks = tl.program_id(0), tl.cdiv(places, LOOK)
    row = (program // blocks).to(tl.int64)
    if _any_flag(flags_pointer + row * flags, flags, LOOK) > 0:
        taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
        image = row // groups * groups * channels * places + row % groups * channels * stride_channel
        base = row // groups * groups * filters * outputs
        for begin in range(0, LOOK, TILE):
            place = program % blocks * LOOK + begin + tl.arange(0, TILE)
            touched = tl.zeros([TILE], tl.int32)
            for tap in range(0, taps):
                kd, kh, kw = tap // (KERNEL[1] * KERNEL[2]), tap // KERNEL[2] % KERNEL[1], tap % KERNEL[2]
                field, there = _field(place, kd, kh, kw, H, W, OUT_D, OUT_H, OUT_W, STRIDE, PAD, DILATION)
                mark = tl.load(rare_pointer + row * outputs + field, mask=there & (place < places), other=0)
                touched = tl.maximum(touched, mark.to(tl.int32))
            if tl.max(touched) > 0:
                for first in range(0, channels, TILE):
                    channel = first + tl.arange(0, TILE)
                    at = image + place[:, None] * stride_place + channel[None, :] * stride_channel
                    inside = (touched > 0)[:, None] & (channel < channels)[None, :]
                    x = tl.load(x_pointer + at, mask=inside, other=0.0).to(tl.float32).to(tl.float64)
                    sums = tl.zeros([TILE, TILE], tl.float64)
                    for tap in range(0, taps):
                        kd, kh, kw = (
                            tap // (KERNEL[1] * KERNEL[2]),
                            tap // KERNEL[2] % KERNEL[1],
                            tap % KERNEL[2],
                        )
                        field, there = _field(
                            place, kd, kh, kw, H, W, OUT_D, OUT_H, OUT_W, STRIDE, PAD, DILATION
                        )
                        there = there & (touched > 0)
                        norm = tl.load(numbers_pointer + row * outputs + field, mask=there, other=1.0)
                        inverse = reciprocal(tl.abs(norm))
                        along = tl.zeros([TILE], tl.float64)
                        for own in range(0, filters):
                            number = row % groups * filters + own
                            place_g = base + field * stride_field + number * stride_filter
                            g = tl.load(cotangent_pointer + place_g, mask=there, other=0.0).to(tl.float32)
                            c = tl.load(cosines_pointer + place_g, mask=there, other=0.0).to(tl.float32)
                            w = tl.load(
                                unit_pointer
                                + number * (channels * taps)
                                + tap * stride_tap
                                + channel * stride_weight_channel,
                                mask=channel < channels,
                                other=0.0,
                            )
                            h = g.to(tl.float64) * inverse
                            along += h * c.to(tl.float64)
                            sums += h[:, None] * w.to(tl.float32).to(tl.float64)[None, :]
                        along = tl.where(norm < 0, 0.0, along * inverse)
                        mean = tl.zeros([TILE], tl.float64)
                        if CENTERED:
                            after = rows.to(tl.int64) * outputs
                            mean = tl.load(
                                numbers_pointer + after + row * outputs + field, mask=there, other=0.0
                            )
                        sums -= along[:, None] * (x - mean[:, None])
                    tl.store(gradient_pointer + at, clamp(sums, limit).to(tl.float32), mask=inside)


@triton.jit
def _any_flag(pointer, number, LOOK: tl.constexpr):
    """The largest of so many flags."""
    found = tl.zeros([LOOK], tl.int32)
    for start in range(0, number, LOOK):
        at = start + tl.arange(0, LOOK)
        found = tl.maximum(found, tl.load(pointer + at, mask=at < number, other=0))
    return tl.max(found)


@triton.jit
def _filters_again(
    more_pointer,
    more_sums_pointer,
    x_pointer,
    cotangent_pointer,
    numbers_pointer,
    rare_pointer,
    flags_pointer,
    rows,
    groups,
    channels,
    filters,
    size,
    stride_channel,
    stride_place,
    stride_weight_channel,
    stride_tap,
    stride_filter,
    stride_field,
    flags,
    D,
    H,
    W,
    OUT_H,
    OUT_W,
    outputs,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    DILATION: tl.constexpr,
    CENTERED: tl.constexpr,
    LOOK: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Σ h (x − μ) over the rare fields, in float64: what the convolution left out of each filter's sum."""
    group, own = tl.program_id(2), tl.program_id(1) * TILE + tl.arange(0, TILE)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    number = group * filters + own
    sums, appended = tl.zeros([TILE, COLUMNS], tl.float64), tl.zeros([TILE], tl.float64)
    if _any_flag(flags_pointer, rows * flags, LOOK) > 0:
        # Where each column of a filter stands in its window: the order of its memory.
        if stride_weight_channel == 1:
            channel, tap = column % channels, column // channels
        else:
            tap, channel = (
                column % (KERNEL[0] * KERNEL[1] * KERNEL[2]),
                column // (KERNEL[0] * KERNEL[1] * KERNEL[2]),
            )
        kd, kh, kw = tap // (KERNEL[1] * KERNEL[2]), tap // KERNEL[2] % KERNEL[1], tap % KERNEL[2]
        places = D * H * W
        for sample in range(0, rows // groups):
            row = tl.zeros([1], tl.int64) + sample * groups + group
            if _any_flag(flags_pointer + (sample * groups + group) * flags, flags, LOOK) > 0:
                image = (row // groups * groups * channels * places) + group * channels * stride_channel
                base = row // groups * groups * filters * outputs
                for output in range(0, outputs):
                    at = row * outputs + output
                    if tl.max(tl.load(rare_pointer + at).to(tl.int32)) > 0:
                        inverse = reciprocal(tl.abs(tl.load(numbers_pointer + at)))
                        mean = tl.zeros([1], tl.float64)
                        if CENTERED:
                            mean = tl.load(numbers_pointer + rows.to(tl.int64) * outputs + at)
                        place, inside = _place(
                            output, kd, kh, kw, D, H, W, OUT_H, OUT_W, STRIDE, PAD, DILATION
                        )
                        x = tl.load(
                            x_pointer + image + place * stride_place + channel * stride_channel,
                            mask=inside & (column < size),
                            other=0.0,
                        )
                        g = tl.load(
                            cotangent_pointer + base + output * stride_field + number * stride_filter,
                            mask=own < filters,
                            other=0.0,
                        )
                        x = x.to(tl.float32).to(tl.float64) - mean
                        h = g.to(tl.float32).to(tl.float64) * inverse
                        sums += h[:, None] * x[None, :]
                        appended += h
    tl.store(more_sums_pointer + number, appended, mask=(own < filters) & (tl.program_id(0) == 0))
    there = (own < filters)[:, None] & (column < size)[None, :]
    tl.store(more_pointer + number.to(tl.int64)[:, None] * size + column[None, :], sums, mask=there)


def handles(x: Tensor, weight: Tensor, geometry: Geometry, centered: bool) -> bool:
    """Whether the kernels have these shapes and this layout: they have all that are not empty."""
    return x.numel() > 0


def _three(numbers: tuple[int, ...], missing: int) -> tuple[int, int, int]:
    first, second, third = (missing,) * (3 - len(numbers)) + tuple(numbers)
    return first, second, third


def _laid(x: Tensor) -> tuple[Tensor, bool]:
    """Images as they lie, or contiguous; and whether the channels are last."""
    x = x.detach()
    order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    last = order is not None and not x.is_contiguous() and x.is_contiguous(memory_format=order)
    x = x if last else x.contiguous()
    return x.float() if x.dtype == torch.bfloat16 and interpreting() else x, last


class _Images(NamedTuple):
    """Images and filters as the kernels read them, and what these are told of the places."""

    x: Tensor
    weight: Tensor
    geometry: Geometry
    order: torch.memory_format  # of products and output
    rows: int  # samples times groups
    outputs: int  # fields of a row
    sizes: tuple[int, int, int]
    out_sizes: tuple[int, int, int]
    image_strides: tuple[int, int]  # of a channel, of a place
    weight_strides: tuple[int, int]  # of a channel, of a tap
    output_strides: tuple[int, int]  # of a filter, of a field
    image_last: bool
    window: dict[str, tuple[int, int, int]]

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, geometry: Geometry) -> "_Images":
        order, shape = memory_format(x, weight), geometry.shape(x.shape, weight.shape)
        (x, image_last), (weight, weight_last) = _laid(x), _laid(weight)
        outputs, places, taps = (
            int(torch.Size(one).numel()) for one in (shape[2:], x.shape[2:], weight.shape[2:])
        )
        last = order != torch.contiguous_format
        return cls(
            x,
            weight,
            geometry,
            order,
            x.shape[0] * geometry.groups,
            outputs,
            _three(tuple(x.shape[2:]), 1),
            _three(tuple(shape[2:]), 1),
            (1, x.shape[1]) if image_last else (places, 1),
            (1, weight.shape[1]) if weight_last else (taps, 1),
            (1, shape[1]) if last else (outputs, 1),
            image_last,
            {
                "KERNEL": _three(geometry.kernel, 1),
                "STRIDE": _three(geometry.stride, 1),
                "PAD": _three(geometry.padding, 0),
                "DILATION": _three(geometry.dilation, 1),
            },
        )

    @property
    def size(self) -> int:
        """Numbers of a field, and of a filter."""
        return self.weight[0].numel()

    @property
    def filters(self) -> int:
        """Those of a group."""
        return len(self.weight) // self.geometry.groups

    @property
    def places(self) -> int:
        """Those of an image."""
        return self.x[0, 0].numel()

    def shape_of_filters(self) -> tuple[dict[str, int], int]:
        """Tiles of filters as rows, and how many programs they are."""
        shape = tile(len(self.weight), self.size, FILTER_TILE)
        return shape, triton.cdiv(len(self.weight), shape["ROWS"])

    def split(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Norms (and means) of the filters, and of the fields."""
        number = len(self.weight)
        both = len(statistics) // (number + self.rows * self.outputs)
        return statistics[: both * number], statistics[both * number :]

    def working(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Memory: images for the convolution (they themselves, if they serve), unit filters and their sums.

        A sum of float16 products may leave its range: they are taken in float32, where TF32 holds what
        enters them exactly.
        """
        wide = torch.empty_like(self.x, dtype=torch.float32) if dtype == torch.float16 else self.x
        unit = torch.empty_like(self.weight, dtype=wide.dtype)
        sums = torch.empty(len(self.weight), dtype=torch.float32, device=self.x.device)
        return wide, unit, sums


def saved(
    x: Tensor, weight: Tensor, geometry: Geometry, centered: bool, augment: float
) -> tuple[Tensor, Tensor]:
    """Memory for the cosines as exact as products are; and for norms (and means) of filters and fields."""
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    products = empty_output(x, weight, geometry, dtype)
    samples, _, *places = products.shape
    number = weight.shape[0]
    fields = samples * geometry.groups
    for length in places:
        fields = fields * length
    return products, x.new_empty((2 if centered else 1) * (number + fields), dtype=torch.float64)


def folded(x: Tensor, weight: Tensor, constant: Tensor | None, geometry: Geometry, **options: Any) -> None:
    """There is no kernel for filters that are unit vectors: torch's operators compute."""


def cosines(
    x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine of each receptive field with each filter, (N, O, *T); the same kept; and norms and means."""
    dtype, eps = x.dtype, torch.finfo(x.dtype).eps
    like = empty_output(x, weight, geometry, dtype)
    statistics = saved(x, weight, geometry, centered, augment)[1]
    images = _Images.of(x, weight, geometry)
    of_filters, of_fields = images.split(statistics)
    wide, unit, sums = images.working(dtype)
    rows, groups = images.rows, geometry.groups
    number = 2 if centered else 1
    maps = torch.empty((number, rows, images.places), dtype=torch.float64, device=x.device)
    extremes = (
        torch.empty((2, rows, images.places), dtype=torch.float32, device=x.device) if centered else maps
    )
    bound = CONSTANT_EPS * eps
    across, deep = _MAP_TILE[images.image_last]
    shape, programs = images.shape_of_filters()
    launch(
        _prepare,
        (rows * triton.cdiv(images.places, across) + programs,),
        images.x,
        wide,
        maps,
        extremes,
        images.weight,
        unit,
        of_filters,
        sums,
        rows,
        groups,
        weight.shape[1],
        images.places,
        *images.image_strides,
        len(weight),
        images.size,
        float(augment),
        bound,
        CENTERED=centered,
        WIDE=dtype == torch.float16,
        PLACES=across,
        CHANNELS=deep,
        **shape,
    )
    launch(
        _field_norms,
        (rows * triton.cdiv(images.outputs, _FIELDS),),
        maps,
        extremes,
        of_fields,
        rows,
        images.size,
        float(augment),
        bound,
        *images.sizes,
        *images.out_sizes[1:],
        images.outputs,
        **images.window,
        CENTERED=centered,
        BLOCK=_FIELDS,
    )
    products = geometry.convolve(wide, unit).contiguous(memory_format=images.order)
    output = torch.empty_like(like, dtype=writable((), dtype, x.device).dtype)
    across, deep = _FINISH_TILE[images.order != torch.contiguous_format]
    launch(
        _finish_fields,
        (rows * triton.cdiv(images.outputs, across), triton.cdiv(images.filters, deep)),
        products,
        output,
        of_fields,
        of_filters,
        sums,
        rows,
        groups,
        images.filters,
        images.outputs,
        *images.output_strides,
        float(augment),
        CENTERED=centered,
        AUGMENTED=bool(augment),
        KEEP=keep,
        FIELDS=across,
        FILTERS=deep,
    )
    launch(
        _fields_again,
        (rows * triton.cdiv(images.outputs, _LOOKED_AT),),
        products,
        output,
        images.x,
        unit,
        of_fields,
        of_filters,
        rows,
        groups,
        weight.shape[1],
        images.filters,
        *images.image_strides,
        *images.weight_strides,
        *images.output_strides,
        float(augment),
        *images.sizes,
        *images.out_sizes[1:],
        images.outputs,
        registers=MOST,
        **images.window,
        CENTERED=centered,
        KEEP=keep,
        LIMIT=_LIMIT,
        LOOK=_LOOKED_AT,
        TILE=_AGAIN,
    )
    kept = products.to(torch.float32 if dtype == torch.float16 else dtype) if keep else x.new_empty(0)
    return output.to(dtype), kept, statistics


def gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor,
    statistics: Tensor,
    geometry: Geometry,
    *,
    centered: bool,
    augment: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients in x and in the weight; an empty tensor for one that is not needed."""
    dtype = x.dtype
    shape = saved(x, weight, geometry, centered, augment)[1].shape
    if statistics.dtype != torch.float64 or statistics.shape != shape or products.shape != cotangent.shape:
        options: Any = {"centered": centered, "augment": augment, "keep": True}
        _, products, statistics = cosines(x, weight, geometry, **options)
    images = _Images.of(x, weight, geometry)
    of_filters, of_fields = images.split(statistics)
    rows, groups = images.rows, geometry.groups
    cotangent, products = (
        one.detach().contiguous(memory_format=images.order) for one in (cotangent, products)
    )
    if interpreting() and dtype == torch.bfloat16:
        cotangent, products = cotangent.float(), products.float()
    wide, unit, sums = images.working(dtype)
    h = torch.empty_like(cotangent, dtype=wide.dtype)
    number = 2 if centered else 1
    along = torch.empty((number, rows, images.outputs), dtype=torch.float32, device=x.device)
    rare = torch.empty((rows, images.outputs), dtype=torch.int8, device=x.device)
    across, deep = _GRADIENT_TILE[images.order != torch.contiguous_format]
    flags_of_row = triton.cdiv(images.outputs, across)
    flags = torch.empty((rows, flags_of_row), dtype=torch.int32, device=x.device)
    shape, programs = images.shape_of_filters()
    copies = triton.cdiv(x.numel(), 1024) if dtype == torch.float16 else 0
    launch(
        _prepare_gradients,
        (rows * flags_of_row + programs + copies,),
        cotangent,
        products,
        of_fields,
        h,
        along,
        rare,
        flags,
        images.x,
        wide,
        images.weight,
        unit,
        of_filters,
        sums,
        rows,
        groups,
        images.filters,
        images.outputs,
        *images.output_strides,
        len(weight),
        images.size,
        x.numel(),
        programs,
        float(augment),
        CENTERED=centered,
        WIDE=dtype == torch.float16,
        LIMIT=_LIMIT,
        COTANGENT_LIMIT=COTANGENT_LIMIT,
        FIELDS=across,
        FILTERS=deep,
        **shape,
    )
    through, sums_of_filters = geometry.adjoints(h, wide, unit, needs)
    # A scaler looks for inf in float16; the other types saturate.
    limit = torch.inf if dtype == torch.float16 else torch.finfo(dtype).max
    into_x = into_w = x.new_empty(0)
    working = writable((), dtype, x.device).dtype
    if through is not None:
        into_x = torch.empty_like(images.x, dtype=working)
        across, deep = _MAP_TILE[images.image_last]
        launch(
            _finish_images,
            (rows * triton.cdiv(images.places, across),),
            _in_order(through, images.x),
            images.x,
            into_x,
            along,
            rows,
            groups,
            weight.shape[1],
            *images.image_strides,
            limit,
            *images.sizes,
            *images.out_sizes,
            **images.window,
            CENTERED=centered,
            PLACES=across,
            CHANNELS=deep,
        )
        launch(
            _images_again,
            (rows * triton.cdiv(images.places, _LOOKED_AT),),
            into_x,
            images.x,
            cotangent,
            products,
            unit,
            of_fields,
            rare,
            flags,
            rows,
            groups,
            weight.shape[1],
            images.filters,
            *images.image_strides,
            *images.weight_strides,
            *images.output_strides,
            flags_of_row,
            limit,
            *images.sizes,
            *images.out_sizes,
            registers=MOST,
            **images.window,
            CENTERED=centered,
            LOOK=_LOOKED_AT,
            TILE=_AGAIN,
        )
    if sums_of_filters is not None:
        into_w = torch.empty_like(images.weight, dtype=working)
        more = torch.empty(images.weight.shape, dtype=torch.float64, device=x.device)
        more_appended = torch.empty(len(weight), dtype=torch.float64, device=x.device)
        columns = 4 * _AGAIN
        launch(
            _filters_again,
            (triton.cdiv(images.size, columns), triton.cdiv(images.filters, _AGAIN), groups),
            more,
            more_appended,
            images.x,
            cotangent,
            of_fields,
            rare,
            flags,
            rows,
            groups,
            weight.shape[1],
            images.filters,
            images.size,
            *images.image_strides,
            *images.weight_strides,
            *images.output_strides,
            flags_of_row,
            *images.sizes,
            *images.out_sizes[1:],
            images.outputs,
            registers=MOST,
            **images.window,
            CENTERED=centered,
            LOOK=_LOOKED_AT,
            TILE=_AGAIN,
            COLUMNS=columns,
        )
        appended = more_appended
        if augment:
            appended = h.sum((0, *range(2, h.ndim)), dtype=torch.float32)
        project_more(
            _in_order(sums_of_filters, images.weight),
            more,
            unit,
            into_w,
            of_filters,
            (appended, more_appended),
            centered=centered,
            augment=augment,
            limit=limit,
        )
    return into_x.to(dtype), into_w.to(dtype)


def _in_order(gradient: Tensor, like: Tensor) -> Tensor:
    """A gradient in the memory order of what it belongs to, as convolutions mostly give it."""
    if gradient.stride() == like.stride():
        return gradient
    return torch.empty_like(like, dtype=gradient.dtype).copy_(gradient)
