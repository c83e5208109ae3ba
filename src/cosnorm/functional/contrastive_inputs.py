"""What a contrastive loss is given: queries, keys and labels, positives, and masks over tiles of logits."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.distributed import Group, gather_rows
from cosnorm.functional.checks import check_indices, check_tensors
from cosnorm.functional.positives import PairPositives
from cosnorm.functional.unit import unit_vectors

WHERE = "contrastive_cross_entropy"


class Batch:
    """Queries, the keys that they look at, and the labels of both.

    Attributes:
        queries: (N, D).
        keys: (M, D); the same object as the queries where they look at each other.
        labels: of the queries and of the keys, or None.
        offset: where this process's keys begin among those of all.
        own_keys: number of this process's keys.
        unit: whether the keys are unit rows: those of all processes travel so, and their gradients need not.
    """

    def __init__(
        self, queries: Tensor, keys: Tensor | None, labels: Any, extra_keys: Tensor | None, extra_labels: Any
    ) -> None:
        check_tensors(WHERE, queries=queries)
        given = {"keys": keys, "extra_keys": extra_keys}
        check_tensors(WHERE, queries=queries, **{name: one for name, one in given.items() if one is not None})
        for name, one in (("queries", queries), *given.items()):
            if one is not None and (one.ndim != 2 or one.shape[1] != queries.shape[-1]):
                raise ValueError(
                    f"{WHERE}: queries and keys must have shapes (N, D) and (M, D), got {name} of shape "
                    f"{tuple(one.shape)} beside {tuple(queries.shape)}; flatten(1) makes one vector "
                    "of each sample"
                )
        self.queries, self.keys, self.offset = queries, queries if keys is None else keys, 0
        self.own_keys, self.unit = len(self.keys), False
        self.labels = self._check_labels(labels, keys is None)
        if (extra_labels is not None) != (extra_keys is not None and self.labels is not None):
            raise ValueError(
                f"{WHERE}: extra_labels belong to extra_keys and labels; pass all three, or leave them out"
            )
        self._extra_keys, self._extra_labels = extra_keys, extra_labels
        if extra_labels is not None:
            _check_label("extra_labels", extra_labels, extra_keys)

    def _check_labels(self, labels: Any, own_keys: bool) -> tuple[Tensor, Tensor] | None:
        if labels is None:
            return None
        if own_keys != isinstance(labels, Tensor):
            raise ValueError(
                f"{WHERE}: labels must be one tensor without keys, and with keys a pair, "
                f"labels=(query_labels, key_labels); got {type(labels).__name__}"
            )
        if own_keys:
            labels = (labels, labels)
        if not isinstance(labels, (tuple, list)) or len(labels) != 2:
            raise TypeError(f"{WHERE}: labels must be a pair of tensors, got {type(labels).__name__}")
        _check_label("labels", labels[0], self.queries)
        _check_label("labels of the keys", labels[1], self.keys)
        return labels[0], labels[1]

    def gather(self, group: Group) -> None:
        """Look at the keys of all processes, as unit rows."""
        self.unit = True
        self.keys, self.offset = gather_rows(unit_vectors(self.keys), group)
        if self.labels is not None:
            self.labels = self.labels[0], gather_rows(self.labels[1], group).rows

    def append_extra(self) -> None:
        """Put the extra keys behind the others."""
        if self._extra_keys is not None:
            extra = unit_vectors(self._extra_keys) if self.unit else self._extra_keys
            self.keys = torch.cat([self.keys, extra])
            if self.labels is not None:
                self.labels = self.labels[0], torch.cat([self.labels[1], self._extra_labels])


def _check_label(name: str, labels: Any, rows: Any) -> None:
    check_indices(WHERE, name, labels, rows.device)
    if labels.shape != (len(rows),):
        raise ValueError(f"{WHERE}: {name} must have shape ({len(rows)},), got {tuple(labels.shape)}")


def pair_positives(
    positives: Tensor | None, queries: Tensor, batch: Batch, same_number: bool
) -> PairPositives:
    """Positives given as an index or as pairs; by default key i belongs to query i."""
    count, own = len(queries), batch.own_keys
    if positives is None:
        if own < count or (same_number and own != count):
            raise ValueError(
                f"{WHERE}: key i belongs to query i unless positives= says otherwise, but there are {count} "
                f"queries and {own} keys"
            )
        rows = torch.arange(count, device=queries.device)
        return PairPositives(rows, rows + batch.offset, count)
    check_indices(WHERE, "positives", positives, queries.device)
    if positives.shape == (count,):
        rows = (positives != -1).nonzero().squeeze(1)
        columns = positives[rows]
    elif positives.ndim == 2 and positives.shape[1] == 2:
        rows, columns = positives.unbind(1)
    else:
        raise ValueError(
            f"{WHERE}: positives must have shape ({count},), a key for each query, or (P, 2), pairs of "
            f"query and key; got {tuple(positives.shape)}"
        )
    for name, found, size in (("query", rows, count), ("key", columns, own)):
        if found.numel() and not (int(found.min()) >= 0 and int(found.max()) < size):
            raise ValueError(
                f"{WHERE}: positives must name a {name} between 0 and {size - 1}, got "
                f"{int(found.min())} to {int(found.max())}"
            )
    return PairPositives(rows.long(), columns.long() + batch.offset, count)


def check_exclude(exclude: Any, queries: Tensor, keys: Tensor) -> Tensor:
    """The mask as a view of shape (N, M), or an error."""
    if not isinstance(exclude, Tensor) or exclude.dtype != torch.bool or exclude.device != queries.device:
        found = (
            f"{exclude.dtype} on {exclude.device}" if isinstance(exclude, Tensor) else type(exclude).__name__
        )
        raise TypeError(f"{WHERE}: exclude must be a bool tensor on {queries.device}, got {found}")
    shape = (len(queries), len(keys))
    try:
        return exclude.expand(shape)
    except RuntimeError:
        raise ValueError(f"{WHERE}: exclude must broadcast to {shape}, got {tuple(exclude.shape)}") from None


def mask_given(mask: Tensor, logits: Tensor, rows: slice, columns: slice) -> None:
    """Put −inf where the user's mask says so."""
    logits.masked_fill_(mask[rows, columns], -torch.inf)


def mask_self(offset: int, logits: Tensor, rows: slice, columns: slice) -> None:
    """Put −inf where query i meets key i + offset."""
    top = rows.start + offset
    first, last = max(top, columns.start), min(rows.stop + offset, columns.stop)
    if first < last:
        block = logits[first - top : last - top, first - columns.start : last - columns.start]
        block.fill_diagonal_(-torch.inf)


def is_involution(positives: Tensor | None) -> bool:
    """Whether the positive of each query's positive is the query itself."""
    if positives is None or positives.ndim != 1 or not len(positives) or int(positives.min()) < 0:
        return False
    back = positives.long()[positives.long()]
    return bool((back == torch.arange(len(back), device=back.device)).all())
