"""Classification by the labels of the nearest keys."""

import torch
from torch import Tensor

from cosnorm.distributed import Group
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_count, is_number
from cosnorm.metrics.labelled import Labelled, labelled

# Comparisons of neighbours with each other that are made at a time.
_AT_ONCE = 2**22


@takes_arrays
@torch.no_grad()
def knn_predict(
    queries: Tensor,
    keys: Tensor,
    key_labels: Tensor,
    *,
    k: int = 20,
    temperature: float | None = None,
    chunk_size: int | None = None,
    group: Group | None = None,
) -> Tensor:
    r"""The label for which the k nearest keys of each query vote.

    Args:
        queries: shape (N, D).
        keys: shape (M, D).
        key_labels: whole numbers, shape (M,).
        k: neighbours that vote, all keys where there are fewer.
        temperature: τ: a vote weighs exp(c/τ) with the cosine c, beside the query's others; None: all weigh
            the same.
        chunk_size: as in `cosnorm.functional.cosine_topk`.
        group: processes over which the keys are spread.

    Returns:
        Labels, shape (N,); of labels with as many votes the smallest. One of a query with NaN means nothing.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, a temperature that is not positive.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv
        1805.01978, section 3.4 (weighted votes); without a temperature equal to scikit-learn's
        `KNeighborsClassifier(metric="cosine")`.

    Example:
        >>> import torch
        >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]])
        >>> knn_predict(torch.tensor([[3.0, 1.0]]), keys, torch.tensor([5, 5, 7]), k=3)
        tensor([5])
    """
    return _votes(labelled("knn_predict", queries, None, keys, key_labels, group), k, temperature, chunk_size)


@takes_arrays
@torch.no_grad()
def knn_accuracy(
    queries: Tensor,
    labels: Tensor,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    *,
    k: int = 20,
    temperature: float | None = None,
    chunk_size: int | None = None,
    group: Group | None = None,
) -> Tensor:
    """The share of queries for whose label their k nearest keys vote.

    Args:
        queries: shape (N, D).
        labels: whole numbers, shape (N,).
        keys: shape (M, D). None: the queries themselves, none of which votes for itself.
        key_labels: their labels, (M,).
        k: as in `knn_predict`.
        temperature: as in `knn_predict`.
        chunk_size: as in `cosnorm.functional.cosine_topk`.
        group: processes over which queries and keys are spread; the result is that of all, on each.

    Returns:
        A float64 tensor without dimension; NaN of no query.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, a temperature that is not positive.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> knn_accuracy(rows, torch.tensor([0, 0, 1, 1]), k=1).item()
        1.0
    """
    given = labelled("knn_accuracy", queries, labels, keys, key_labels, group)
    right = _votes(given, k, temperature, chunk_size) == labels
    return given.mean(right, torch.ones_like(right))


def _votes(given: Labelled, k: int, temperature: float | None, chunk_size: int | None) -> Tensor:
    check_count(given.where, "k", k)
    if temperature is not None and (not is_number(temperature) or not temperature > 0):
        raise ValueError(f"{given.where}: temperature must be a positive number, got {temperature!r}")
    if given.number < 1:
        raise ValueError(f"{given.where}: there must be at least one key, got none")
    values, labels = given.nearest(min(k, given.number), chunk_size)
    cosines = values.double()
    # By the row's largest, which comes first and weighs 1: not all can vanish, however small τ is.
    apart = cosines - cosines[:, :1]
    weights = torch.ones_like(apart) if temperature is None else (apart / temperature).exp()
    weights = weights.masked_fill(~cosines.isfinite(), 0)
    # A neighbour's votes are those of all that have its label: k×k comparisons a query, no matter how many
    # labels there are.
    found = []
    step = max(1, _AT_ONCE // labels.shape[1] ** 2)
    for some, weight in zip(labels.split(step), weights.split(step), strict=True):
        votes = ((some.unsqueeze(2) == some.unsqueeze(1)) * weight.unsqueeze(1)).sum(2)
        most = votes == votes.amax(1, keepdim=True)
        found.append(some.masked_fill(~most, torch.iinfo(some.dtype).max).amin(1))
    return torch.cat(found)
