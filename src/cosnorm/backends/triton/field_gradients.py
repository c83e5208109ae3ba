"""Kernels of the gradients of receptive fields; `fields.py` says what is computed, and launches them."""

import triton
import triton.language as tl

from cosnorm.backends.triton.field_passes import rare_fields, unit_filters
from cosnorm.backends.triton.units import (
    clamp,
    inverse_of,
)


@triton.jit
def prepare_field_gradients(
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
        rare = rare_fields(norm, output, row, rows, outputs, numbers_pointer, CENTERED, LIMIT)
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
            unit_filters(
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
def field_of(place, kd, kh, kw, H, W, OUT_D, OUT_H, OUT_W, STRIDE, PAD, DILATION):
    """The field of which each place is a tap, and whether there is one."""
    d = place // (H * W) + PAD[0] - kd * DILATION[0]
    h = place // W % H + PAD[1] - kh * DILATION[1]
    w = place % W + PAD[2] - kw * DILATION[2]
    there = (d >= 0) & (h >= 0) & (w >= 0)
    there = there & (d % STRIDE[0] == 0) & (h % STRIDE[1] == 0) & (w % STRIDE[2] == 0)
    d, h, w = d // STRIDE[0], h // STRIDE[1], w // STRIDE[2]
    return (d * OUT_H + h) * OUT_W + w, there & (d < OUT_D) & (h < OUT_H) & (w < OUT_W)


@triton.jit
def finish_images(
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
                field, there = field_of(place, kd, kh, kw, H, W, OUT_D, OUT_H, OUT_W, STRIDE, PAD, DILATION)
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
