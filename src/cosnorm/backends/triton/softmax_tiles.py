"""Kernels of softmaxes over the products of two sets of rows; `softmax.py` says what is computed."""

import triton
import triton.language as tl

# Which keys are a query's positives, to the kernels: nobody knows here; key i + start for query i; one that
# is given for each, or none; those of its label, but for itself.
NO_POSITIVES, OWN_KEY, GIVEN, BY_LABEL = 0, 1, 2, 3
_OWN_KEY, _GIVEN, _BY_LABEL = tl.constexpr(OWN_KEY), tl.constexpr(GIVEN), tl.constexpr(BY_LABEL)


@triton.jit
def _tile_of_logits(
    x_pointer,
    y_pointer,
    top,
    left,
    rows,
    columns,
    size,
    scale_pointer,
    number,
    offset,
    partner_pointer,
    row_label_pointer,
    column_label_pointer,
    mask_pointer,
    mask_stride,
    mask_stride_column,
    positive_pointer,
    positive_column_pointer,
    positive_offset,
    POINTER: tl.constexpr,
    SELF: tl.constexpr,
    PARTNER: tl.constexpr,
    LABELS: tl.constexpr,
    MASK: tl.constexpr,
    POSITIVE: tl.constexpr,
    NOT_SELF: tl.constexpr,
    OWN: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The logits of the tile at (top, left), which of them the sums hold, and which are of positives."""
    # Within a tile 32 bits reach: half the registers of an address for each element.
    own_i, own_j = tl.arange(0, TILE_I), tl.arange(0, TILE_J)
    i, j = top + own_i, left + own_j
    x_pointer += top * size
    y_pointer += left * size
    products = tl.zeros([TILE_I, TILE_J], tl.float32)
    for start in range(0, size, DEPTH):
        d = start + tl.arange(0, DEPTH)
        x = tl.load(
            x_pointer + own_i[:, None] * size + d[None, :],
            mask=(i < rows)[:, None] & (d < size)[None, :],
            other=0.0,
        )
        y = tl.load(
            y_pointer + own_j[None, :] * size + d[:, None],
            mask=(j < columns)[None, :] & (d < size)[:, None],
            other=0.0,
        )
        products = tl.dot(x, y, products, input_precision=PRECISION)
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    positive = inside
    if POSITIVE == _OWN_KEY:
        positive = positive & ((i + positive_offset)[:, None] == j[None, :])
    if POSITIVE == _GIVEN:
        given = tl.load(positive_pointer + i, mask=i < rows, other=-1)
        positive = positive & (given[:, None] == j[None, :])
    if POSITIVE == _BY_LABEL:
        own = tl.load(positive_pointer + i, mask=i < rows, other=0)
        other = tl.load(positive_column_pointer + j, mask=j < columns, other=0)
        positive = positive & (own[:, None] == other[None, :])
        if NOT_SELF:
            positive = positive & ((i + positive_offset)[:, None] != j[None, :])
    kept = inside
    if LABELS:
        own = tl.load(row_label_pointer + i, mask=i < rows, other=-1)
        other = tl.load(column_label_pointer + j, mask=j < columns, other=-2)
        kept = kept & (own[:, None] != other[None, :])
    if OWN:
        kept = kept | positive
    if SELF:
        kept = kept & ((i + offset)[:, None] != j[None, :])
    if PARTNER:
        partner = tl.load(partner_pointer + i, mask=i < rows, other=-1)
        kept = kept & (partner[:, None] != j[None, :])
    if MASK:
        mask_pointer += top * mask_stride + left * mask_stride_column
        place = own_i[:, None] * mask_stride + own_j[None, :] * mask_stride_column
        kept = kept & (tl.load(mask_pointer + place, mask=kept, other=1) == 0)
    scale = number
    if POINTER:
        scale = tl.load(scale_pointer)
    return products * scale, kept, positive


@triton.jit
def _log_sums(
    x_pointer,
    y_pointer,
    sums_pointer,
    others_pointer,
    losses_pointer,
    weights_pointer,
    quotients_pointer,
    rows,
    columns,
    size,
    scale_pointer,
    number,
    offset,
    partner_pointer,
    row_label_pointer,
    column_label_pointer,
    mask_pointer,
    mask_stride,
    mask_stride_column,
    positive_pointer,
    positive_column_pointer,
    positive_offset,
    POINTER: tl.constexpr,
    SELF: tl.constexpr,
    PARTNER: tl.constexpr,
    LABELS: tl.constexpr,
    MASK: tl.constexpr,
    POSITIVE: tl.constexpr,
    NOT_SELF: tl.constexpr,
    OWN: tl.constexpr,
    LOSSES: tl.constexpr,
    SOUGHT: tl.constexpr,
    OTHERS: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Log sums of the rows; if `LOSSES`, the losses too, 1 for each row that takes part, and 1/|P|.

    `SOUGHT` are the positives that are sought in the tiles: where there may be many, or the sums hold them.
    """
    top = tl.program_id(0).to(tl.int64) * TILE_I
    i = top + tl.arange(0, TILE_I)
    largest = tl.full([TILE_I], float("-inf"), tl.float32)
    total = tl.zeros([TILE_I], tl.float32)
    pulling, count = tl.zeros([TILE_I], tl.float32), tl.zeros([TILE_I], tl.float32)
    for start in range(0, columns, TILE_J):
        left = tl.cast(start, tl.int64)
        every, kept, positive = _tile_of_logits(
            x_pointer,
            y_pointer,
            top,
            left,
            rows,
            columns,
            size,
            scale_pointer,
            number,
            offset,
            partner_pointer,
            row_label_pointer,
            column_label_pointer,
            mask_pointer,
            mask_stride,
            mask_stride_column,
            positive_pointer,
            positive_column_pointer,
            positive_offset,
            POINTER,
            SELF,
            PARTNER,
            LABELS,
            MASK,
            SOUGHT,
            NOT_SELF,
            OWN,
            PRECISION,
            TILE_I,
            TILE_J,
            DEPTH,
        )
        if LOSSES and SOUGHT == _BY_LABEL:
            pulling += tl.sum(tl.where(positive, every, 0.0), 1)
            count += tl.sum(positive.to(tl.float32), 1)
        logits = tl.where(kept, every, float("-inf"))
        before = largest
        largest = tl.maximum(largest, tl.max(logits, 1))
        # Rows of which all is excluded so far: exp(−inf − 0) is 0, exp(−inf + inf) is not.
        shift = tl.where(largest == float("-inf"), 0.0, largest)
        total = total * tl.exp(before - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    empty = total == 0
    sums = tl.where(empty, float("-inf"), shift + tl.log(tl.where(empty, 1.0, total)))
    tl.store(sums_pointer + i, sums, mask=i < rows)
    if LOSSES:
        if POSITIVE != _BY_LABEL:
            scale = number
            if POINTER:
                scale = tl.load(scale_pointer)
            one = i + positive_offset
            if POSITIVE == _GIVEN:
                one = tl.load(positive_pointer + i, mask=i < rows, other=-1)
            there = (i < rows) & (one >= 0) & (one < columns)
            for start in range(0, size, DEPTH):
                d = start + tl.arange(0, DEPTH)
                inside = there[:, None] & (d < size)[None, :]
                x = tl.load(x_pointer + i[:, None] * size + d[None, :], mask=inside, other=0.0)
                y = tl.load(y_pointer + one[:, None] * size + d[None, :], mask=inside, other=0.0)
                pulling += tl.sum(x.to(tl.float32) * y.to(tl.float32), 1)
            pulling *= scale
            count = there.to(tl.float32)
        part = (count > 0) & (sums != float("-inf"))
        quotient = tl.where(count > 0, 1.0 / tl.where(count > 0, count, 1.0), 0.0)
        if OTHERS:
            others = tl.load(others_pointer + i, mask=i < rows, other=0.0)
            part = part & (others != float("-inf"))
            sums = (sums + others) * 0.5
        tl.store(losses_pointer + i, tl.where(part, sums - pulling * quotient, 0.0), mask=i < rows)
        tl.store(weights_pointer + i, part.to(tl.float32), mask=i < rows)
        tl.store(quotients_pointer + i, quotient, mask=i < rows)


@triton.jit
def sum_up(losses_pointer, weights_pointer, loss_pointer, count_pointer, rows, BLOCK: tl.constexpr):
    """The sum of the losses, and how many rows take part."""
    loss, count = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.int64)
    for start in range(0, rows, BLOCK):
        at = start + tl.arange(0, BLOCK)
        loss += tl.load(losses_pointer + at, mask=at < rows, other=0.0).to(tl.float64)
        count += tl.load(weights_pointer + at, mask=at < rows, other=0.0).to(tl.int64)
    tl.store(loss_pointer, tl.sum(loss, 0).to(tl.float32))
    tl.store(count_pointer, tl.sum(count, 0))


@triton.jit
def _weights(
    x_pointer,
    y_pointer,
    into_pointer,
    row_weight_pointer,
    row_sum_pointer,
    row_quotient_pointer,
    column_weight_pointer,
    column_sum_pointer,
    column_quotient_pointer,
    column_positive_pointer,
    share,
    begin,
    rows,
    columns,
    size,
    scale_pointer,
    number,
    offset,
    partner_pointer,
    row_label_pointer,
    column_label_pointer,
    mask_pointer,
    mask_stride,
    mask_stride_column,
    positive_pointer,
    positive_column_pointer,
    positive_offset,
    POINTER: tl.constexpr,
    SELF: tl.constexpr,
    PARTNER: tl.constexpr,
    LABELS: tl.constexpr,
    MASK: tl.constexpr,
    POSITIVE: tl.constexpr,
    NOT_SELF: tl.constexpr,
    OWN: tl.constexpr,
    BOTH: tl.constexpr,
    BACK: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_I: tl.constexpr,
    TILE_J: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """What each pair weighs; `BOTH`: to its column, too; `BACK`: positives of columns pull, too."""
    top, left = tl.program_id(0).to(tl.int64) * TILE_I, tl.program_id(1).to(tl.int64) * TILE_J
    i, j = top + tl.arange(0, TILE_I), left + tl.arange(0, TILE_J)
    every, kept, positive = _tile_of_logits(
        x_pointer,
        y_pointer,
        top,
        left,
        rows,
        columns,
        size,
        scale_pointer,
        number,
        offset,
        partner_pointer,
        row_label_pointer,
        column_label_pointer,
        mask_pointer,
        mask_stride,
        mask_stride_column,
        positive_pointer,
        positive_column_pointer,
        positive_offset,
        POINTER,
        SELF,
        PARTNER,
        LABELS,
        MASK,
        POSITIVE,
        NOT_SELF,
        OWN,
        PRECISION,
        TILE_I,
        TILE_J,
        DEPTH,
    )
    logits = tl.where(kept, every, float("-inf"))
    weight = tl.load(row_weight_pointer + i, mask=i < rows, other=0.0)
    sums = tl.load(row_sum_pointer + i, mask=i < rows, other=0.0)
    # A row that does not take part weighs nothing, whatever its sum.
    sums = tl.where(weight == 0, float("inf"), sums)
    found = (share * weight)[:, None] * tl.exp(logits - sums[:, None])
    if POSITIVE > 0:
        quotient = tl.load(row_quotient_pointer + i, mask=i < rows, other=0.0)
        found -= tl.where(positive, (weight * quotient)[:, None], 0.0)
    if BOTH:
        weight = tl.load(column_weight_pointer + j, mask=j < columns, other=0.0)
        sums = tl.load(column_sum_pointer + j, mask=j < columns, other=0.0)
        sums = tl.where(weight == 0, float("inf"), sums)
        found += (share * weight)[None, :] * tl.exp(logits - sums[None, :])
        if BACK:
            quotient = tl.load(column_quotient_pointer + j, mask=j < columns, other=0.0)
            if POSITIVE == _GIVEN:
                given = tl.load(column_positive_pointer + j, mask=j < columns, other=-1)
                positive = given[None, :] == (i + begin)[:, None]
            found -= tl.where(positive, (weight * quotient)[None, :], 0.0)
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    into_pointer += top * columns + left
    place = tl.arange(0, TILE_I)[:, None] * columns + tl.arange(0, TILE_J)[None, :]
    tl.store(into_pointer + place, found, mask=inside)
