"""What launches the kernels of softmaxes: their tiles, and what they are told of pairs."""

from typing import Any

import torch
import triton
from torch import Tensor

from cosnorm.backends.pairs import Exclusion, Places
from cosnorm.backends.triton.launch import MOST, launch, readable, writable
from cosnorm.backends.triton.launch import precision as precision_of
from cosnorm.backends.triton.softmax_tiles import (
    BY_LABEL,
    GIVEN,
    NO_POSITIVES,
    OWN_KEY,
    _log_sums,
    _weights,
)
from cosnorm.backends.triton.unit_rows import scale_arguments

# Bytes of W that are held at a time.
_CHUNK = 2**27
_EMPTY = float("-inf")


def _tiles(
    rows: int, columns: int, size: int, dtype: torch.dtype, *, sought: int = NO_POSITIVES, whole: bool = False
) -> dict[str, int]:
    """Tiles and warps: no larger than the compiler holds in registers, for each dtype on each GPU.

    Where positives are sought in it, a tile is there twice; `whole`: the losses are made, too.
    """
    most_i, most_j, depth = (64, 64, 32) if dtype == torch.float32 else (128, 128, 64)
    if whole or sought != NO_POSITIVES:
        most_j, depth = 64, 16 if dtype == torch.float32 else depth
    if whole and sought == BY_LABEL:
        most_i = 64

    def power(number: int, most: int) -> int:
        return max(16, min(most, triton.next_power_of_2(number)))

    tiles = {"TILE_I": power(rows, most_i), "TILE_J": power(columns, most_j), "DEPTH": power(size, depth)}
    full = tiles["TILE_I"] == most_i and tiles["TILE_J"] == most_j
    return {**tiles, "warps": 8 if full else 4}


def row_log_sums(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    positives: Places | None = None,
    *,
    own: bool = False,
    into: Tensor | None = None,
    others: Tensor | None = None,
) -> Tensor:
    """Log sums; with `into`, (3, N), losses, 1 for each row that takes part, and 1/|P| are written there."""
    dtype, precision = x.dtype, precision_of(x.dtype)
    x, y = readable(x), readable(y)
    sums = torch.empty(len(x), dtype=torch.float32, device=x.device)
    if not len(y):
        return sums.fill_(_EMPTY)
    if len(x):
        arguments = _positive_arguments(positives, 0, x)
        sought = arguments["POSITIVE"] if own or arguments["POSITIVE"] == BY_LABEL else NO_POSITIVES
        tiles = _tiles(len(x), len(y), x.shape[1], dtype, sought=sought, whole=into is not None)
        made = [sums] * 3 if into is None else into.unbind()
        launch(
            _log_sums,
            (triton.cdiv(len(x), tiles["TILE_I"]),),
            x,
            y,
            sums,
            sums if others is None else others,
            *made,
            len(x),
            len(y),
            x.shape[1],
            *scale_arguments(scale, x),
            registers=MOST,
            POINTER=isinstance(scale, Tensor),
            **_arguments(exclusion, 0, x),
            **arguments,
            OWN=own,
            LOSSES=into is not None,
            SOUGHT=sought,
            OTHERS=others is not None,
            PRECISION=precision,
            **tiles,
        )
    return sums


def chunks(x: Tensor, y: Tensor, tile: int | None) -> list[slice]:
    """Rows of W, in parts that are held at a time, each as many as given."""
    rows, columns = len(x), len(y)
    chunk = tile or max(128, _CHUNK // max(1, columns * x.element_size()))
    return [slice(start, min(start + chunk, rows)) for start in range(0, rows if columns else 0, chunk)]


def weights_of(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    exclusion: Exclusion,
    positives: Places | None,
    by_row: tuple[Tensor, ...],
    by_column: tuple[Tensor, ...],
    *,
    both: bool,
    back: bool,
    start: int,
    share: float = 1.0,
    own: bool = False,
) -> Tensor:
    """W; for each row and column its weight, log sum and 1/|P|."""
    dtype, precision = x.dtype, precision_of(x.dtype)
    x, y = readable(x), readable(y)
    weights = writable((len(x), len(y)), dtype, x.device)
    arguments = _positive_arguments(positives, start, x)
    tiles = _tiles(len(x), len(y), x.shape[1], dtype, sought=arguments["POSITIVE"])
    if weights.numel():
        given = None if positives is None else positives.given
        launch(
            _weights,
            (triton.cdiv(len(x), tiles["TILE_I"]), triton.cdiv(len(y), tiles["TILE_J"])),
            x,
            y,
            weights,
            *by_row,
            *by_column,
            x if given is None else given.contiguous(),
            share,
            start,
            len(x),
            len(y),
            x.shape[1],
            *scale_arguments(scale, x),
            registers=MOST,
            POINTER=isinstance(scale, Tensor),
            **_arguments(exclusion, start, x),
            **arguments,
            OWN=own,
            BOTH=both,
            BACK=back,
            PRECISION=precision,
            **tiles,
        )
    return weights.to(dtype)


def _arguments(exclusion: Exclusion, start: int, like: Tensor) -> dict[str, Any]:
    """An exclusion as the kernels take it, for rows from `start` on."""
    labels = exclusion.labels or (like, like)
    mask = like if exclusion.mask is None else exclusion.mask.view(torch.uint8)
    return {
        "offset": start + (exclusion.offset or 0),
        "partner_pointer": like if exclusion.partner is None else exclusion.partner[start:].contiguous(),
        "row_label_pointer": labels[0] if exclusion.labels is None else labels[0][start:].contiguous(),
        "column_label_pointer": labels[1].contiguous(),
        "mask_pointer": mask if exclusion.mask is None else mask[start:],
        "mask_stride": 0 if exclusion.mask is None else mask.stride(0),
        "mask_stride_column": 0 if exclusion.mask is None else mask.stride(1),
        "SELF": exclusion.offset is not None,
        "PARTNER": exclusion.partner is not None,
        "LABELS": exclusion.labels is not None,
        "MASK": exclusion.mask is not None,
    }


def _positive_arguments(positives: Places | None, start: int, like: Tensor) -> dict[str, Any]:
    """The same of the positives."""
    if positives is None:
        kind, row, column, offset = NO_POSITIVES, like, like, None
    elif positives.labels is not None:
        kind, (row, column), offset = BY_LABEL, positives.labels, positives.offset
        row = row[start:]
    elif positives.given is not None:
        kind, row, column, offset = GIVEN, positives.given[start:], like, None
    else:
        kind, row, column, offset = OWN_KEY, like, like, positives.offset or 0
    return {
        "positive_pointer": row.contiguous(),
        "positive_column_pointer": column.contiguous(),
        "positive_offset": start + (offset or 0),
        "POSITIVE": kind,
        "NOT_SELF": offset is not None,
    }
