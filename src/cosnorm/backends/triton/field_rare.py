"""Kernels that compute fields again, in float64: those whose norms or cotangents float32 could not hold.

Their programs look at many fields, and end at once where there is nothing to do.
"""

import triton
import triton.language as tl

from cosnorm.backends.triton.field_gradients import field_of
from cosnorm.backends.triton.field_passes import place_of, rare_fields
from cosnorm.backends.triton.units import clamp, reciprocal


@triton.jit
def fields_again(
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
        tl.max(rare_fields(norms, every, row, rows, outputs, numbers_pointer, CENTERED, LIMIT).to(tl.int32))
        > 0
    ):
        taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
        image = (
            x_pointer
            + row // groups * groups * channels * (D * H * W)
            + row % groups * channels * stride_channel
        )
        for begin in range(0, tl.minimum(LOOK, outputs - top), TILE):
            output = top + begin + tl.arange(0, TILE)
            norm = tl.load(numbers_pointer + row * outputs + output, mask=output < outputs, other=1.0)
            rare = rare_fields(norm, output, row, rows, outputs, numbers_pointer, CENTERED, LIMIT)
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
                        place, inside = place_of(
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
def images_again(
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
        top = program % blocks * LOOK
        for begin in range(0, tl.minimum(LOOK, places - top), TILE):
            place = top + begin + tl.arange(0, TILE)
            touched = tl.zeros([TILE], tl.int32)
            for tap in range(0, taps):
                kd, kh, kw = tap // (KERNEL[1] * KERNEL[2]), tap // KERNEL[2] % KERNEL[1], tap % KERNEL[2]
                field, there = field_of(place, kd, kh, kw, H, W, OUT_D, OUT_H, OUT_W, STRIDE, PAD, DILATION)
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
                        field, there = field_of(
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
def filters_again(
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
                        place, inside = place_of(
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
