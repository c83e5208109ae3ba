"""Pairs of rows that are not the same, drawn so that a look at them takes O(S·N·D)."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.checks import check_count, check_tensors
from cosnorm.functional.similarity import cosine_similarity
from cosnorm.norms import accumulation_dtype


def check_rows(where: str, least: int = 1, **tensors: Any) -> None:
    """Raise unless all are rows (N, D) of one shape, at least so many."""
    check_tensors(where, **tensors)
    shapes = [tuple(one.shape) for one in tensors.values()]
    if len(shapes[0]) != 2 or len(set(shapes)) > 1 or shapes[0][0] < least:
        raise ValueError(
            f"{where}: {' and '.join(tensors)} must have one shape (N, D), N ≥ {least}, got "
            f"{' and '.join(map(str, shapes))}; flatten(1) makes one vector of each sample"
        )


def shifts(where: str, number: int, sample: int, generator: torch.Generator | None) -> list[int]:
    """Different shifts s: with each of them row i is beside row i + s mod N. All of them if there are few."""
    check_count(where, "sample", sample)
    device = None if generator is None else generator.device
    drawn = torch.randperm(number - 1, generator=generator, device=device)[:sample]
    return [1 + int(shift) for shift in drawn.tolist()]


def cosines_beside(queries: Tensor, keys: Tensor, drawn: list[int]) -> Tensor:
    """Cosines of query i with key i + s, (S, N)."""
    dtype = accumulation_dtype(queries.dtype)
    queries, keys = queries.to(dtype), keys.to(dtype)
    return torch.stack([cosine_similarity(queries, keys.roll(-shift, 0)) for shift in drawn])
