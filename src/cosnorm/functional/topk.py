"""The nearest keys of each query by cosine, a tile at a time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.distributed import Group, name_of
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import (
    check_bound,
    check_count,
    check_flag,
    check_indices,
    check_tensors,
    is_number,
)
from cosnorm.functional.overrides import overridable
from cosnorm.norms import accumulation_dtype
from cosnorm.operators import topk
from cosnorm.operators.topk import WHERE, SearchOptions, check_k, check_mask_shape


class TopK(NamedTuple):
    """Cosines and the keys that they belong to, nearest first: what `torch.topk` gives for a row.

    Attributes:
        values: cosines, shape (N, k), falling along a row.
        indices: numbers of keys, int64, shape (N, k).

    Example:
        >>> import torch
        >>> cosine_topk(torch.eye(2), torch.tensor([[0.0, 3.0], [5.0, 0.0]]), 1).indices.tolist()
        [[1], [0]]
    """

    values: Tensor
    indices: Tensor


@overridable
@takes_arrays
def cosine_topk(
    queries: Tensor,
    keys: Tensor | None = None,
    k: int = 1,
    *,
    exclude_self: bool | None = None,
    labels: Tensor | tuple[Tensor, Tensor] | None = None,
    exclude: Tensor | None = None,
    below: float | Tensor | None = None,
    chunk_size: int | None = None,
    group: Group | None = None,
) -> TopK:
    r"""The k keys with the largest cosine for each query, a tile of cosines at a time.

    .. math:: c_{ij} = \frac{x_i \cdot y_j}{|x_i|\,|y_j|}

    No matrix of N×M numbers is ever made: the memory is that of unit rows, O((N + M)·D), and of a tile.

    Args:
        queries: shape (N, D), of any length: they are normalized here; float16, bfloat16, float32 or float64.
        keys: shape (M, D), of the dtype and on the device of the queries. None: the queries themselves.
        k: how many, at most the number of keys.
        exclude_self: key i stays out for query i. None: only where `keys` is None.
        labels: keys of the query's label stay out; whole numbers, shape (N,), or with `keys` those of both,
            ((N,), (M,)).
        exclude: further keys that stay out. bool: where it is True, broadcasts to (N, M). Whole numbers: a
            key of each query, (N,), −1 for none, or pairs (query, key), (P, 2).
        below: keys whose cosine is not below this stay out; a number, or one for each query, (N,).
        chunk_size: rows and columns of a tile. None: chosen by itself.
        group: a `torch.distributed` group over whose processes the keys are spread. Each process gives its
            own queries and keys, any number of both, and finds the nearest among the keys of all, which come
            by one process's after the other. Numbers of keys, in results and in `exclude`, count over all
            processes in the order of ranks. The gradient in a process's keys is the sum over all processes.

    Returns:
        `TopK`: cosines (N, k) of the dtype of the queries, falling, and the keys' numbers (N, k), int64. Of
        equal cosines any come first. NumPy arrays give NumPy.

    A zero row has cosine 0 with everything and receives gradient 0. Where fewer than k keys are left the
    value is −inf and the number −1. A query with NaN or inf gets NaN and −1; a key with NaN or inf is never
    found. Sums are taken in float32 for half types, under autocast too. The cosines are differentiable in
    both operands, twice and in forward mode (over a group once); the choice of the keys is constant.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, two devices, more keys asked for than there are, a bound of NaN.

    Source: the cosine of Luo et al., arXiv 1702.05870, eq. 3; the search is exact, as faiss's
        `IndexFlatIP` of normalized rows.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0]])
        >>> found = cosine_topk(rows, k=1)
        >>> found.indices.tolist()
        [[1], [0], [1]]
        >>> cosine_topk(rows, torch.tensor([[1.0, 1.0]])).values.squeeze(1)
        tensor([0.7071, 0.7415, 0.7071])
    """
    check_tensors(WHERE, queries=queries)
    if keys is not None:
        check_tensors(WHERE, queries=queries, keys=keys)
    rows = queries if keys is None else keys
    for name, one in (("queries", queries), ("keys", rows)):
        if one.ndim != 2 or one.shape[1] != queries.shape[-1]:
            raise ValueError(
                f"{WHERE}: queries and keys must have shapes (N, D) and (M, D), got {name} of shape "
                f"{tuple(one.shape)} beside {tuple(queries.shape)}; flatten(1) makes one vector "
                "of each sample"
            )
    check_count(WHERE, "k", k)
    if group is None:  # how many keys all processes have is known below the wall
        check_k(k, rows.shape[0])
    exclude_self = keys is None if exclude_self is None else exclude_self
    check_flag(WHERE, "exclude_self", exclude_self)
    if chunk_size is not None:
        check_count(WHERE, "chunk_size", chunk_size)
    query_labels, key_labels = _check_labels(labels, queries, keys)
    options = SearchOptions(
        exclude=None if exclude is None else _check_exclude(exclude, queries, rows, group),
        labels=query_labels,
        key_labels=key_labels,
        below=None if below is None else _check_below(below, queries),
        k=k,
        exclude_self=exclude_self,
        chunk_size=chunk_size,
        group=name_of(WHERE, group),
    )
    if queries.shape[1] == 0:  # empty vectors are zero vectors
        queries = torch.nn.functional.pad(queries, (0, 1))
        keys = None if keys is None else torch.nn.functional.pad(keys, (0, 1))
    return TopK(*topk.cosine_topk(queries, keys, *options, 0))


def _check_labels(labels: Any, queries: Tensor, keys: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The labels of the queries, and those of the keys if these are others."""
    if labels is None:
        return None, None
    if (keys is None) != isinstance(labels, Tensor):
        raise ValueError(
            f"{WHERE}: labels must be one tensor without keys, and with keys a pair, "
            f"labels=(query_labels, key_labels); got {type(labels).__name__}"
        )
    pair = (labels, None) if keys is None else labels
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{WHERE}: labels must be a pair of tensors, got {type(labels).__name__}")
    for name, one, rows in zip(("labels", "labels of the keys"), pair, (queries, keys), strict=True):
        if rows is None:
            continue
        check_indices(WHERE, name, one, rows.device)
        if one.shape != rows.shape[:1]:
            raise ValueError(
                f"{WHERE}: {name} must have shape ({len(rows)},), a number for each row, got "
                f"{tuple(one.shape)}"
            )
    return pair[0], pair[1]


def _check_exclude(exclude: Any, queries: Tensor, keys: Tensor, group: Group | None) -> Tensor:
    if isinstance(exclude, Tensor) and exclude.dtype == torch.bool and exclude.device == queries.device:
        if group is None:
            check_mask_shape(exclude, queries.shape[0], keys.shape[0])
        return exclude
    check_indices(WHERE, "exclude", exclude, queries.device)
    if exclude.shape != queries.shape[:1] and not (exclude.ndim == 2 and exclude.shape[1] == 2):
        raise ValueError(
            f"{WHERE}: exclude must have shape ({len(queries)},), a key for each query, or (P, 2), pairs of "
            f"query and key, or be a bool mask; got {tuple(exclude.shape)}"
        )
    return exclude


def _check_below(below: Any, queries: Tensor) -> Tensor:
    if not isinstance(below, Tensor):
        if not is_number(below):
            raise TypeError(f"{WHERE}: below must be a number or a tensor, got {type(below).__name__}")
        check_bound(WHERE, "below", below)
        return queries.new_full(queries.shape[:1], float(below), dtype=accumulation_dtype(queries.dtype))
    if not below.is_floating_point() or below.shape != queries.shape[:1]:
        raise ValueError(
            f"{WHERE}: below must be a number, or floating-point numbers of shape ({len(queries)},); got "
            f"{tuple(below.shape)} and {below.dtype}"
        )
    if below.device != queries.device:
        raise ValueError(
            f"{WHERE}: below must be on {queries.device}, got {below.device}; use below.to({queries.device})"
        )
    return below.detach()
