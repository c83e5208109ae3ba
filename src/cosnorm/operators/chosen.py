"""Products of each query with keys of its own choice, gathered a few rows at a time: `chosen_products`."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cosnorm.devices import at_once
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.indices import check_range

GATHERED = 2**20  # elements of gathered keys at a time


def _parts(queries: Tensor, chosen: Tensor) -> Iterator[slice]:
    step = max(1, at_once(queries.device, GATHERED) // max(1, chosen.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        yield slice(start, start + step)


def _compute(queries: Tensor, keys: Tensor, chosen: Tensor, what: str, keep: bool) -> Tensor:
    check_range(what, chosen, len(keys))
    products = queries.new_empty(chosen.shape)
    for part in _parts(queries, chosen):
        torch.bmm(keys[chosen[part]], queries[part].unsqueeze(2), out=products[part].unsqueeze(2))
    return products.clamp_(-1, 1)


def _shapes(queries: Tensor, keys: Tensor, chosen: Tensor, what: str, keep: bool) -> Tensor:
    return queries.new_empty(chosen.shape)


def _gradients(
    cotangent: Tensor, queries: Tensor, keys: Tensor, chosen: Tensor, what: str, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    into_queries, into_keys = torch.zeros_like(queries), torch.zeros_like(keys)
    add_gradients_(cotangent, queries, keys, chosen, into_queries, into_keys)
    return into_queries, into_keys


def add_gradients_(
    cotangent: Tensor, queries: Tensor, keys: Tensor, chosen: Tensor, into_queries: Tensor, into_keys: Tensor
) -> None:
    """Add Σ_k g_ik y_k to row i of one, and g_ik x_i to the rows k of the other."""
    for part in _parts(queries, chosen):
        own = cotangent[part].unsqueeze(1)
        into_queries[part] += torch.bmm(own, keys[chosen[part]]).squeeze(1)
        spread = own.transpose(1, 2) * queries[part].unsqueeze(1)
        into_keys.index_add_(0, chosen[part].flatten(), spread.flatten(0, 1))


def _flops(chosen: torch.Size, queries: torch.Size, passes: int) -> int:
    return 2 * passes * chosen.numel() * queries[1]


chosen_products = define(
    "chosen_products(Tensor queries, Tensor keys, Tensor chosen, str what, bool keep) -> Tensor",
    _compute,
    _shapes,
    flops=lambda queries, keys, chosen, what, keep: _flops(chosen, queries, 1),
    backward=Backward(
        _gradients,
        learns=2,
        flops=lambda cotangent, queries, keys, chosen, what, needs: _flops(chosen, queries, sum(needs)),
    ),
)
"""x_i·y_k for unit rows x (N, D), y (M, D) and k = chosen[i, ·] (N, K) → (N, K), in [-1, 1].

N·K keys are never held, forward or backward. `what` is the beginning of the error for a choice out of range.
"""
