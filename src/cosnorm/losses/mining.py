"""Hard negatives: for each query the nearest keys that are not its own."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.distributed import Group
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_bound, check_count, check_indices, check_tensors
from cosnorm.functional.similarity import cosine_similarity
from cosnorm.functional.topk import TopK, cosine_topk
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.indices import check_range

WHERE = "mine_hard_negatives"


@takes_arrays
@torch.no_grad()
def mine_hard_negatives(
    queries: Tensor,
    keys: Tensor | None = None,
    k: int = 1,
    *,
    positives: Tensor | None = None,
    labels: Tensor | tuple[Tensor, Tensor] | None = None,
    margin: float | None = None,
    below: float | None = None,
    skip: int = 0,
    chunk_size: int | None = None,
    group: Group | None = None,
) -> TopK:
    r"""K keys for each query that are near and not its own: rows for `info_nce_loss(negatives=…)`.

    Of the keys that are not the query's, those with the largest cosines, less the `skip` first of them:

    .. math:: c_{ij} < \min(c_{i p(i)} - \text{margin}, \text{below})

    Args:
        queries: shape (N, D).
        keys: shape (M, D). None: the queries themselves; then `labels` say what belongs together.
        k: K.
        positives: the key p(i) of each query, whole numbers (N,); −1: the query has none, and `margin` bounds
            nothing for it. None: key i belongs to query i, unless there are `labels` and no `margin`.
        labels: no key of the query's label is taken; whole numbers (N,), or with `keys` those of both,
            ((N,), (M,)).
        margin: how far below the cosine of the positive a negative must be: what is nearer is likely to be
            another positive that nobody has marked. What differs by rounding alone is not below: with 0 a
            copy of the positive is never taken.
        below: a bound on all cosines, for the same end.
        skip: how many of the nearest are passed over, for the same end.
        chunk_size: as in `cosnorm.functional.cosine_topk`.
        group: processes over which keys are spread, as in `cosine_topk`; numbers count over all of them, and
            the positives are this process's own keys i.

    Returns:
        `TopK`: cosines and numbers of keys, (N, K), hardest first; −inf and −1 where no more are left, which
        a loss must not see. NumPy arrays give NumPy.

    A query with NaN or inf gets NaN and −1; with `margin`, one whose positive has NaN or inf gets no key.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, neither keys nor labels, a margin without positives, positives
            that are no keys, a bound of NaN, fewer than `k` + `skip` keys.

    Source: the positive-aware bound of Moreira et al., "NV-Retriever", arXiv 2407.15831, section 3 (TopK-
        MarginPos); `mine_hard_negatives` of sentence-transformers has the same options.

    Example:
        >>> import torch
        >>> queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> keys = torch.tensor([[1.0, 0.5], [0.1, 1.0], [1.0, 0.4], [0.5, 1.0]])
        >>> mine_hard_negatives(queries, keys, 1).indices.tolist()
        [[2], [3]]
        >>> mine_hard_negatives(queries, keys, 1, margin=0.2).indices.tolist()  # some are near as positives
        [[3], [0]]
    """
    check_count(WHERE, "k", k)
    check_count(WHERE, "skip", skip, least=0)
    for name, number in (("margin", margin), ("below", below)):
        if number is not None:
            check_bound(WHERE, name, number)
    check_tensors(WHERE, queries=queries)
    paired = keys is not None and (positives is not None or labels is None or margin is not None)
    if keys is None and labels is None:
        raise ValueError(f"{WHERE}: without keys the labels must be given; pass labels=, or keys=")
    bound: Any = below
    if paired:
        assert keys is not None
        own = _positives(queries, keys, positives, group)
        if margin is not None:
            bound = _bound(queries, keys, own, margin)
            bound = bound if below is None else bound.clamp(max=below)
    elif margin is not None or positives is not None:
        raise ValueError(
            f"{WHERE}: margin and positives take keys, of which one belongs to each query; with labels alone "
            "use below="
        )
    found = cosine_topk(
        queries,
        keys,
        k + skip,
        exclude_self=keys is None or (paired and positives is None),
        exclude=None if positives is None else own,
        labels=labels,
        below=bound,
        chunk_size=chunk_size,
        group=group,
    )
    return TopK(found.values[:, skip:], found.indices[:, skip:])


def _bound(queries: Tensor, keys: Tensor, own: Tensor, margin: float) -> Tensor:
    """What the cosines of each query's negatives must stay below; inf for one without a positive."""
    dtype = accumulation_dtype(queries.dtype)
    cosines = cosine_similarity(queries.to(dtype), keys[own.clamp(min=0)].to(dtype))
    # A key with the positive's very cosine is not below it, but is summed elsewhere, in a tile. Sums of D
    # products of unit vectors, whose magnitudes add up to 1 at most, differ by about √D·eps/2 (Higham and
    # Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019: with any order of summation), the
    # lengths that they are divided by by a few eps.
    slack = (8 + queries.shape[1] ** 0.5) * torch.finfo(dtype).eps
    bound = cosines - margin - slack
    # Below NaN is nothing.
    return bound.masked_fill(bound.isnan(), -torch.inf).masked_fill(own < 0, torch.inf)


def _positives(queries: Tensor, keys: Tensor, positives: Any, group: Group | None) -> Tensor:
    """The keys that belong to the queries; −1 for none."""
    if positives is None:
        if len(keys) < len(queries):
            raise ValueError(
                f"{WHERE}: key i belongs to query i unless positives= or labels= say otherwise, but there "
                f"are {len(queries)} queries and {len(keys)} keys"
            )
        return torch.arange(len(queries), device=keys.device)
    if group is not None:
        raise ValueError(f"{WHERE}: with group key i belongs to query i; leave positives out")
    check_indices(WHERE, "positives", positives, keys.device)
    if positives.shape != queries.shape[:1]:
        raise ValueError(
            f"{WHERE}: positives must have shape ({len(queries)},), a key for each query, got "
            f"{tuple(positives.shape)}"
        )
    own: Tensor = positives.long()
    given = own.masked_fill(own == -1, 0)
    check_range(f"{WHERE}: positives, keys or -1 for none, must be", given, len(keys))
    return own
