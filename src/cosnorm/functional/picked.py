"""Cosines of each query with keys of its own choice, gathered a few rows at a time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.once import first_derivative_only
from cosnorm.functional.unit import unit_vectors

GATHERED = 2**20  # elements of gathered keys at a time


def picked_cosines(queries: Tensor, keys: Tensor, picked: Tensor) -> Tensor:
    """cos(queries[i], keys[picked[i, k]]): (N, D), (M, D) and whole numbers (N, K) → (N, K).

    float32 for half types. N·K keys are never held, forward or backward: what is saved is O((N + M)·D) and
    the numbers. The gradient cannot be differentiated again. The arguments must be valid.
    """
    with without_autocast(queries.device):
        cosines: Tensor = _Picked.apply(unit_vectors(queries), unit_vectors(keys), picked)
    return cosines


def _parts(queries: Tensor, picked: Tensor) -> Iterator[slice]:
    step = max(1, GATHERED // max(1, picked.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        yield slice(start, start + step)


class _Picked(torch.autograd.Function):
    @staticmethod
    def forward(queries: Tensor, keys: Tensor, picked: Tensor) -> Tensor:
        cosines = queries.new_empty(picked.shape)
        for part in _parts(queries, picked):
            torch.bmm(keys[picked[part]], queries[part].unsqueeze(2), out=cosines[part].unsqueeze(2))
        return cosines.clamp_(-1, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, picked = ctx.saved_tensors
        gradient_queries, gradient_keys = torch.empty_like(queries), torch.zeros_like(keys)
        for part in _parts(queries, picked):
            own = cotangent[part].unsqueeze(1)
            gradient_queries[part] = torch.bmm(own, keys[picked[part]]).squeeze(1)
            spread = own.transpose(1, 2) * queries[part].unsqueeze(1)
            gradient_keys.index_add_(0, picked[part].flatten(), spread.flatten(0, 1))
        return gradient_queries, gradient_keys, None
