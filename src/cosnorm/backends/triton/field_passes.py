"""Kernels of the cosines of receptive fields; `fields.py` says what is computed, and launches them."""

import triton
import triton.language as tl

from cosnorm.backends.triton.units import (
    beyond,
    clamp,
    deviations,
    factor_of,
    inverse_of,
    norm_of,
    reciprocal,
    row_norms,
    store_rows,
)


@triton.jit
def unit_filters(
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
def prepare_fields(
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
        unit_filters(
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
def place_of(output, kd, kh, kw, D, H, W, OUT_H, OUT_W, STRIDE, PAD, DILATION):
    """The place of a tap of each field, and whether it is on the image."""
    d = output // (OUT_H * OUT_W) * STRIDE[0] - PAD[0] + kd * DILATION[0]
    h = output // OUT_W % OUT_H * STRIDE[1] - PAD[1] + kh * DILATION[1]
    w = output % OUT_W * STRIDE[2] - PAD[2] + kw * DILATION[2]
    inside = (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    return (d * H + h) * W + w, inside


@triton.jit
def field_norms(
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
                place, inside = place_of(output, kd, kh, kw, D, H, W, OUT_H, OUT_W, STRIDE, PAD, DILATION)
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
def finish_fields(
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
def rare_fields(
    norm, output, row, rows, outputs, numbers_pointer, CENTERED: tl.constexpr, LIMIT: tl.constexpr
):
    """Whether norms of fields are beyond the window; centered, whether their means are above it, too."""
    rare = beyond(norm, LIMIT)
    if CENTERED:
        place = rows.to(tl.int64) * outputs + row * outputs + output
        mean = tl.abs(tl.load(numbers_pointer + place, mask=output < outputs, other=0.0))
        rare = rare | ((mean > LIMIT) & (mean < float("inf")) & (tl.abs(norm) < float("inf")))
    return rare & (output < outputs)
