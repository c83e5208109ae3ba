"""Retrieval by cosine: recall, precision, R-precision, MAP@R and nDCG from one search."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cosnorm.distributed import Group
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_count
from cosnorm.metrics.labelled import Labelled, labelled

WHERE = "retrieval_metrics"


@takes_arrays
@torch.no_grad()
def retrieval_metrics(
    queries: Tensor,
    labels: Tensor,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    *,
    recall: int | Sequence[int] = (1, 10),
    ndcg: int | Sequence[int] = (10,),
    at_r: bool = True,
    chunk_size: int | None = None,
    group: Group | None = None,
) -> dict[str, Tensor]:
    r"""How well the keys nearest by cosine have the label of their query.

    With r = 1 where the j-th nearest key of query i has its label, else 0, and R keys of that label:

    .. math:: \text{recall@}k = \max_{j \le k} r_{ij}, \quad
        \text{R-precision} = \frac{1}{R} \sum_{j \le R} r_{ij}, \quad
        \text{MAP@R} = \frac{1}{R} \sum_{j \le R} \frac{r_{ij}}{j} \sum_{l \le j} r_{il}

    and nDCG@k, the sum of r / log₂(1 + j) over j ≤ k by the largest that it can be. Each is the mean over the
    queries that have a key of their label.

    Args:
        queries: shape (N, D).
        labels: whole numbers, shape (N,).
        keys: shape (M, D). None: the queries themselves, none of which finds itself.
        key_labels: their labels, (M,).
        recall: k of each recall@k, or one, as metric learning counts it: one hit suffices.
        ndcg: k of each nDCG@k, or one.
        at_r: also "r_precision" and "map@r", for which as many keys are looked for as the largest class has.
        chunk_size: as in `cosnorm.functional.cosine_topk`.
        group: processes over which queries and keys are spread; the result is that of all, on each.

    Returns:
        float64 tensors without dimension by their names: "precision@1", "recall@k", "ndcg@k", "r_precision",
        "map@r"; NaN where no query counts, as of a single row without `keys`. NumPy arrays give NumPy's
        numbers.

    A query with NaN or inf finds nothing. The memory is O(N·k) for the largest k, never N×M.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, no key at all.

    Source: Musgrave et al., "A Metric Learning Reality Check", arXiv 2003.08505, section 3.2; equal to
        pytorch-metric-learning's `AccuracyCalculator` and scikit-learn's `ndcg_score`.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.6, 0.9]])
        >>> found = retrieval_metrics(rows, torch.tensor([0, 0, 1, 0]), recall=(1,))
        >>> {name: round(float(value), 3) for name, value in found.items()}
        {'precision@1': 0.667, 'recall@1': 0.667, 'r_precision': 0.833, 'map@r': 0.75, 'ndcg@10': 0.898}
    """
    recalls, ndcgs = _counts("recall", recall), _counts("ndcg", ndcg)
    given = labelled(WHERE, queries, labels, keys, key_labels, group)
    given.check_keys()
    relevant = _relevant_keys(given)
    largest = _largest_class(given) if at_r else 1
    k = min(max(1, *recalls, *ndcgs, largest), max(1, given.number))
    values, of_keys = given.nearest(k, chunk_size)
    hits = (of_keys == labels.unsqueeze(1)).logical_and_(values.isfinite())
    counted = relevant > 0
    found = {"precision@1": hits[:, 0]}
    found |= {f"recall@{k}": hits[:, :k].any(1) for k in recalls}
    if at_r:
        found |= _at_r(hits, relevant)
    found |= {f"ndcg@{k}": _ndcg(hits, relevant, k) for k in ndcgs}
    return {name: given.mean(value, counted) for name, value in found.items()}


def _counts(name: str, given: int | Sequence[int]) -> tuple[int, ...]:
    """Each k; one alone may be a number."""
    counts = tuple(given) if isinstance(given, Iterable) else (given,)
    for k in counts:
        check_count(WHERE, name, k)
    return counts


def _relevant_keys(given: Labelled) -> Tensor:
    """How many keys have the label of each query, itself not counted: R, (N,)."""
    ordered = given.all_labels.sort().values
    own = given.labels.contiguous()
    count = torch.searchsorted(ordered, own, right=True) - torch.searchsorted(ordered, own)
    return count - 1 if given.keys is None else count


def _largest_class(given: Labelled) -> int:
    """The largest number of keys that share a label: the same on all processes."""
    return int(given.all_labels.unique(return_counts=True)[1].max()) if len(given.all_labels) else 1


def _at_r(hits: Tensor, relevant: Tensor) -> dict[str, Tensor]:
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    hits = hits & (places <= relevant.unsqueeze(1))
    number = relevant.clamp(min=1).double()
    precision = hits.cumsum(1).double() / places
    return {
        "r_precision": hits.sum(1) / number,
        "map@r": precision.masked_fill_(~hits, 0).sum(1) / number,
    }


def _ndcg(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    discounts = torch.arange(2, k + 2, device=hits.device, dtype=torch.float64).log2_().reciprocal_()
    best = torch.cat([discounts.new_zeros(1), discounts.cumsum(0)])[relevant.clamp(max=k)]
    return hits[:, :k].double() @ discounts[: hits.shape[1]] / best.clamp(min=discounts[-1])
