"""Checks of what losses over pairs of queries and keys take: rows, positives, labels, negatives."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cosnorm.distributed import Group
from cosnorm.functional.checks import check_indices, check_tensors, is_number
from cosnorm.operators.pair_options import DIRECTIONS, check_mask_shape


def check_rows(where: str, queries: Any, keys: Any, extra_keys: Any) -> None:
    """Raise unless queries, keys and extra keys are rows of one length."""
    check_tensors(where, queries=queries)
    given = {"keys": keys, "extra_keys": extra_keys}
    check_tensors(where, queries=queries, **{name: one for name, one in given.items() if one is not None})
    for name, one in (("queries", queries), *given.items()):
        if one is not None and (one.ndim != 2 or one.shape[1] != queries.shape[-1]):
            raise ValueError(
                f"{where}: queries and keys must have shapes (N, D) and (M, D), got {name} of shape "
                f"{tuple(one.shape)} beside {tuple(queries.shape)}; flatten(1) makes one vector "
                "of each sample"
            )


def check_directions(where: str, directions: Any, keys: Tensor | None) -> int:
    """A bit for each of `DIRECTIONS`."""
    names = (directions,) if isinstance(directions, str) else directions
    if not isinstance(names, Sequence) or not names or any(one not in DIRECTIONS for one in names):
        raise ValueError(f"{where}: directions must be one or more of {DIRECTIONS}, got {directions!r}")
    if keys is None and set(names) != {DIRECTIONS[0]}:
        raise ValueError(f"{where}: directions {directions!r} take keys, which are other than the queries")
    return sum(1 << place for place, name in enumerate(DIRECTIONS) if name in names)


def check_positives(
    where: str, positives: Any, weights: Any, queries: Tensor, keys: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Positives as an index (N,) or pairs (P, 2), and the weights of pairs."""
    if isinstance(positives, Tensor) and positives.layout == torch.sparse_csr:
        return _of_matrix(where, positives, weights, queries, queries if keys is None else keys)
    if weights is not None and (not isinstance(positives, Tensor) or positives.ndim != 2):
        raise ValueError(f"{where}: positive_weights belong to positives of shape (P, 2), pairs; pass both")
    if positives is None:
        return None, None
    check_indices(where, "positives", positives, queries.device)
    if positives.shape != (len(queries),) and not (positives.ndim == 2 and positives.shape[1] == 2):
        raise ValueError(
            f"{where}: positives must have shape ({len(queries)},), a key for each query, or (P, 2), pairs "
            f"of query and key; got {tuple(positives.shape)}"
        )
    if weights is not None:
        check_tensors(where, positive_weights=weights)
        if weights.shape != positives.shape[:1] or weights.device != queries.device:
            raise ValueError(
                f"{where}: positive_weights must have shape ({len(positives)},), one for each pair, on "
                f"{queries.device}; got {tuple(weights.shape)} on {weights.device}"
            )
        _check_learns(where, "positive_weights", weights)
    return positives, weights


def _check_learns(where: str, name: str, tensor: Tensor) -> None:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{where}: {name} cannot learn; pass {name}.detach()")


def _of_matrix(
    where: str, matrix: Tensor, weights: Any, queries: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    if weights is not None:
        raise ValueError(f"{where}: a sparse matrix of positives has its weights in itself; leave out others")
    if matrix.shape != (len(queries), len(keys)) or matrix.device != queries.device:
        raise ValueError(
            f"{where}: a sparse matrix of positives must have shape {(len(queries), len(keys))} and be on "
            f"{queries.device}; got {tuple(matrix.shape)} on {matrix.device}"
        )
    _check_learns(where, "positives", matrix)
    rows, columns, values = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    counts = rows.diff()
    number = torch.arange(len(counts), device=rows.device)
    listed = number.repeat_interleave(counts, output_size=len(columns))
    if not values.is_floating_point():
        values = values.to(queries.dtype)
    return torch.stack([listed, columns.to(listed.dtype)], 1), values


def check_own_keys(where: str, queries: Tensor, keys: Tensor | None, directions: int) -> None:
    """Raise unless key i can belong to query i."""
    count, own = len(queries), len(queries if keys is None else keys)
    if own < count or (directions & 12 and own != count):
        raise ValueError(
            f"{where}: key i belongs to query i unless positives= says otherwise, but there are {count} "
            f"queries and {own} keys"
        )


def check_self(where: str, queries: Tensor, keys: Tensor, directions: int, group: Group | None) -> None:
    """Raise unless key i can be the query i itself."""
    count, own = len(queries), len(keys)
    if own < count or (own != count and (directions & 12 or group is not None)):
        raise ValueError(
            f"{where}: exclude_self takes as many keys as queries, got {count} queries and {own} keys; leave "
            "it out, or pass exclude="
        )


def check_labels(
    where: str,
    name: str,
    labels: Any,
    extra: Any,
    queries: Tensor,
    keys: Tensor | None,
    extra_keys: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """The labels (or groups) of the queries, and those of the keys if these are others."""
    if (extra is not None) != (extra_keys is not None and labels is not None):
        raise ValueError(
            f"{where}: extra_{name} belong to extra_keys and {name}; pass all three, or leave them out"
        )
    if extra is not None:
        _check_label(where, f"extra_{name}", extra, extra_keys)
    if labels is None:
        return None, None
    both = _both(where, name, labels, keys, "query_labels, key_labels")
    _check_label(where, name, both[0], queries)
    if both[1] is not None:
        _check_label(where, f"{name} of the keys", both[1], keys)
    return both


def _both(where: str, name: str, given: Any, keys: Tensor | None, example: str) -> tuple[Any, Any]:
    """What is given of the queries, and of the keys if these are others."""
    if (keys is None) != isinstance(given, Tensor):
        raise ValueError(
            f"{where}: {name} must be one tensor without keys, and with keys a pair, "
            f"{name}=({example}); got {type(given).__name__}"
        )
    if keys is None:
        return given, None
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"{where}: {name} must be a pair of tensors, got {type(given).__name__}")
    return given[0], given[1]


def _check_label(where: str, name: str, labels: Any, rows: Any) -> None:
    check_indices(where, name, labels, rows.device)
    if labels.shape != (len(rows),):
        raise ValueError(f"{where}: {name} must have shape ({len(rows)},), got {tuple(labels.shape)}")


def check_guide(
    where: str, guide: Any, extra: Any, queries: Tensor, keys: Tensor | None, extra_keys: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The guide's embeddings of the queries, and those of the keys if these are others."""
    if (extra is not None) != (extra_keys is not None and guide is not None):
        raise ValueError(
            f"{where}: extra_guide belongs to extra_keys and guide; pass all three, or leave them out"
        )
    if guide is None:
        return None, None
    both = _both(where, "guide", guide, keys, "of the queries, of the keys")
    check_tensors(where, guide=both[0])
    beside = ("guide", both[0], queries), ("key_guide", both[1], keys), ("extra_guide", extra, extra_keys)
    for name, one, rows in beside:
        if one is None or rows is None:
            continue
        if one is not both[0]:
            check_tensors(where, guide=both[0], **{name: one})
        _check_learns(where, name, one)
        if one.shape != (len(rows), both[0].shape[-1]) or one.device != queries.device:
            raise ValueError(
                f"{where}: {name} must have shape ({len(rows)}, G), beside the embeddings, on "
                f"{queries.device}; got {tuple(one.shape)} on {one.device}"
            )
    return both


def check_negatives(
    where: str, queries: Tensor, threshold: Any, margin: Any, hardness: Any, hard_negatives: Any
) -> None:
    """Raise unless what is asked of negatives can be."""
    for name, value in (("false_negative_threshold", threshold), ("false_negative_margin", margin)):
        if value is not None and not (is_number(value) and -2 <= value <= 2):
            raise ValueError(f"{where}: {name} must be None or a number between −2 and 2, got {value!r}")
    if not is_number(hardness) or not 0 <= hardness <= 1e4:
        raise ValueError(f"{where}: hardness must be a number that is not negative, got {hardness!r}")
    if hard_negatives is None:
        return
    check_tensors(where, queries=queries, hard_negatives=hard_negatives)
    shape = hard_negatives.shape
    if len(shape) != 3 or (shape[0], shape[2]) != tuple(queries.shape):
        raise ValueError(
            f"{where}: hard_negatives must have shape ({len(queries)}, K, {queries.shape[1]}), got "
            f"{tuple(shape)}"
        )


def check_exchange(where: str, exchange: Any) -> str:
    """How rows of other processes come."""
    if exchange not in ("auto", "gather", "ring"):
        raise ValueError(f'{where}: exchange must be "auto", "gather" or "ring", got {exchange!r}')
    return str(exchange)


def check_exclude(
    where: str,
    exclude: Any,
    queries: Tensor,
    keys: Tensor,
    extra_keys: Tensor | None,
    group: Group | None,
) -> None:
    """Raise unless a mask says which pairs stay out."""
    if not isinstance(exclude, Tensor) or exclude.dtype != torch.bool or exclude.device != queries.device:
        found = (
            f"{exclude.dtype} on {exclude.device}" if isinstance(exclude, Tensor) else type(exclude).__name__
        )
        raise TypeError(f"{where}: exclude must be a bool tensor on {queries.device}, got {found}")
    if group is None:  # how many keys all processes have is known below the wall
        check_mask_shape(
            where, exclude, len(queries), len(keys) + (0 if extra_keys is None else len(extra_keys))
        )
