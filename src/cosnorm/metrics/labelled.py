"""Embeddings with labels as the metrics take them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.distributed import Group, gather, name_of, share_rows, sum_over
from cosnorm.functional.checks import check_labels, check_tensors
from cosnorm.functional.topk import cosine_topk


class Labelled(NamedTuple):
    """Queries and keys with labels.

    Attributes:
        where: who asks.
        queries: (N, D).
        labels: (N,).
        keys: (M, D); None: the queries, none of which finds itself.
        all_labels: those of the keys of all processes.
        group: over which the keys are spread.
    """

    where: str
    queries: Tensor
    labels: Tensor
    keys: Tensor | None
    all_labels: Tensor
    group: Group | None

    def nearest(self, k: int, chunk_size: int | None) -> tuple[Tensor, Tensor]:
        """Cosines of the k nearest keys and their labels, (N, k); −inf and any label where there is none."""
        found = cosine_topk(self.queries, self.keys, k, chunk_size=chunk_size, group=self.group)
        return found.values, self.all_labels[found.indices.clamp(min=0)]

    @property
    def number(self) -> int:
        """How many keys a query can find."""
        return len(self.all_labels) - (self.keys is None)

    def check_keys(self) -> None:
        """Raise unless there is a key on any process."""
        if not len(self.all_labels):
            raise ValueError(f"{self.where}: there must be at least one key, got none")

    def mean(self, values: Tensor, counted: Tensor) -> Tensor:
        """The mean of values (N,) of the queries that count, over all processes; NaN of none."""
        group = name_of(self.where, self.group)
        total, number = sum_over(
            torch.stack([values.double().masked_fill(~counted, 0).sum(), counted.sum().double()]), group
        )
        return total / number


def labelled(
    where: str, queries: Any, labels: Any, keys: Any, key_labels: Any, group: Group | None
) -> Labelled:
    """Checked arguments; raises where they do not go together. Queries may have no labels: None."""
    check_tensors(where, queries=queries)
    if queries.ndim != 2:
        raise ValueError(
            f"{where}: queries must have shape (N, D), got {tuple(queries.shape)}; flatten(1) makes one "
            "vector of each sample"
        )
    if labels is None:
        labels = queries.new_zeros(len(queries), dtype=torch.int64)
    check_labels(where, labels, queries)
    if (keys is None) != (key_labels is None):
        raise ValueError(f"{where}: keys and key_labels belong together; pass both, or leave both out")
    if keys is not None:
        check_tensors(where, queries=queries, keys=keys)
        if keys.ndim != 2 or keys.shape[1] != queries.shape[1]:
            raise ValueError(
                f"{where}: queries and keys must have shapes (N, D) and (M, D), got {tuple(queries.shape)} "
                f"and {tuple(keys.shape)}"
            )
        check_labels(where, key_labels, keys)
    own = labels if keys is None else key_labels
    everything = gather(own, share_rows(len(own), own.device, name_of(where, group)))
    return Labelled(
        where, queries.detach(), labels, None if keys is None else keys.detach(), everything, group
    )
