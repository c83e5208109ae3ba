"""Softmax over class weights by the Triton kernels, which write no logits; without sub-centers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cosnorm.backends.classes import ClassRows, Negatives
from cosnorm.backends.pairs import Exclusion, direction
from cosnorm.backends.triton.launch import product
from cosnorm.backends.triton.softmax import log_sums as log_sums_of_pairs
from cosnorm.backends.triton.softmax import softmax_weights

# Softmax values of a block between two kernels, 128 MiB of bfloat16.
_BLOCK = 2**26


def block_size(embeddings: int, sub_centers: int) -> int:
    """Classes of a block."""
    return max(64, _BLOCK // max(1, embeddings))


def keeps(embeddings: int, weights: int) -> bool:
    """Whether logits may be kept between the two passes: none is ever written."""
    return False


def takes(sub_centers: int, *, plain: bool) -> bool:
    """Whether there can be so many rows for each class, and other logits than cosines times a number."""
    return sub_centers == 1 and plain


def log_sums(
    x: Tensor,
    weights: ClassRows,
    labels: Tensor,
    scale: float,
    negatives: Negatives,
    dtype: torch.dtype,
    kept: Any = None,
) -> Tensor:
    """As `cosnorm.backends.torch.classes.log_sums`; nothing is kept."""
    sums = x.new_full((len(x),), -torch.inf)
    for block in weights.blocks.parts():
        _, rows, values, exclusion = _inputs(x, weights, labels, dtype, block)
        sums = torch.logaddexp(sums, log_sums_of_pairs(rows, values, scale, exclusion)[0])
    return sums


def gradients(
    x: Tensor,
    weights: ClassRows,
    labels: Tensor,
    scale: float,
    negatives: Negatives,
    dtype: torch.dtype,
    sums: Tensor,
    factors: Tensor,
    into_x: Tensor,
    kept: Any = None,
    *,
    into_weight: bool,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """As `cosnorm.backends.torch.classes.gradients`."""
    along = direction(factors * scale, sums)
    for block in weights.blocks.parts():
        unit, rows, values, exclusion = _inputs(x, weights, labels, dtype, block)
        softmax = softmax_weights(rows, values, scale, exclusion, along)
        into_x.add_(product(softmax, values))
        yield block, unit, product(softmax.mT, rows).float() if into_weight else unit


def _inputs(
    x: Tensor, weights: ClassRows, labels: Tensor, dtype: torch.dtype, block: slice
) -> tuple[Tensor, Tensor, Tensor, Exclusion]:
    """Unit weights of a block; embeddings and these in the kernels' dtype; and the targets, left out."""
    unit = weights.unit(block)
    dtype = min(dtype, weights.weight.dtype, key=lambda one: one.itemsize)
    numbers = torch.arange(block.start, block.stop, device=unit.device)
    return unit, x.to(dtype), unit.to(dtype), Exclusion(labels=(labels, numbers))
