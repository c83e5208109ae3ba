"""Clusters of directions: k-means on the unit sphere, in tiles."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_count, check_tensors
from cosnorm.functional.topk import cosine_topk
from cosnorm.operators.unit_vectors import unit_vectors

__all__ = ["Clusters", "spherical_kmeans"]
WHERE = "spherical_kmeans"


class Clusters(NamedTuple):
    """Centers, and what belongs to them. New rows belong to `cosine_topk(rows, centers).indices`.

    Attributes:
        centers: unit rows, shape (C, D).
        labels: the nearest center of each row, int64, (N,).
        cosines: with that, (N,); their mean is what k-means makes large.

    Example:
        >>> import torch
        >>> spherical_kmeans(torch.eye(2), centers=torch.tensor([[1.0, 0.0], [0.0, 2.0]])).labels
        tensor([0, 1])
    """

    centers: Tensor
    labels: Tensor
    cosines: Tensor


@takes_arrays
@torch.no_grad()
def spherical_kmeans(
    rows: Tensor,
    num_clusters: int | None = None,
    *,
    centers: Tensor | None = None,
    iterations: int = 50,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Clusters:
    r"""K-means of directions: centers of unit length with the largest mean cosine that a descent finds.

    .. math:: \max \frac{1}{N} \sum_i \max_c \hat x_i \cdot m_c, \qquad
        m_c = \frac{\sum_{i \in c} \hat x_i}{|\sum_{i \in c} \hat x_i|}

    A center that no row is nearest to goes to the row that is farthest from its own; if none is left that is
    not at its center already, it stays where it is. Neither step makes the mean cosine smaller.

    Args:
        rows: shape (N, D), of any length, at least as many as clusters.
        num_clusters: C; None: the number of `centers`.
        centers: where to begin, (C, D). None: greedy k-means++: each next one of a few rows that are drawn by
            1 − the cosine with the nearest that is there.
        iterations: at most so many passes over all rows; it ends where no row changes its center. With
            `batch_size`: so many batches.
        batch_size: rows drawn for each step, without repetition; a center then is the mean direction of all
            rows that it ever got. None: all rows.
        chunk_size: as in `cosnorm.functional.cosine_topk`.
        generator: the source of drawing; None: torch's own.

    Returns:
        `Clusters`, of the dtype in which sums are taken: float32 for half types. NumPy arrays give NumPy.

    A zero row has cosine 0 with every center. The memory is O((N + C)·D), never N×C.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, more clusters than rows, rows with NaN or inf.

    Source: Dhillon and Modha, "Concept Decompositions for Large Sparse Text Data Using Clustering", 2001;
        Arthur and Vassilvitskii, "k-means++", 2007; Sculley, "Web-Scale K-Means Clustering", 2010.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.1], [5.0, 0.0], [0.0, 2.0], [0.1, 1.0]])
        >>> found = spherical_kmeans(rows, 2, generator=torch.Generator().manual_seed(0))
        >>> bool(found.labels[0] == found.labels[1] != found.labels[2] == found.labels[3])
        True
    """
    number = _check(rows, num_clusters, centers, iterations, batch_size)
    units = unit_vectors(rows)
    if not bool(units.isfinite().all()):
        raise ValueError(f"{WHERE}: rows must be finite, got NaN or inf; leave such rows out")
    found = _begin(units, number, generator) if centers is None else unit_vectors(centers.to(units.dtype))
    found = found.clone()
    if batch_size is None:
        _descend_(found, units, iterations, chunk_size)
    else:
        _descend_in_batches_(found, units, iterations, batch_size, chunk_size, generator)
    nearest = cosine_topk(units, found, chunk_size=chunk_size)
    return Clusters(found, nearest.indices.squeeze(1), nearest.values.squeeze(1))


def _begin(units: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
    """k-means++; of a few that are drawn the one that leaves the least."""
    device, tries = units.device, 2 + int(math.log(number))
    chosen = [int(torch.randint(len(units), (1,), generator=generator, device=device))]
    apart = 1 - units @ units[chosen[0]]
    while len(chosen) < number:
        apart = apart.clamp_(min=0).index_fill_(0, torch.tensor(chosen, device=device), 0)
        if not bool(apart.any()):  # no other direction is left
            chosen.append(int(_free(len(units), chosen, device)[0]))
            continue
        # By hand, as torch.multinomial takes no more than 2^24 rows.
        line = apart.double().cumsum(0)
        at = torch.rand(tries, generator=generator, dtype=torch.float64, device=device) * line[-1]
        drawn = torch.searchsorted(line, at, right=True).clamp_(max=len(units) - 1)
        left = torch.minimum(apart.unsqueeze(1), 1 - units @ units[drawn].t())
        best = int(left.sum(0).argmin())
        chosen.append(int(drawn[best]))
        apart = left[:, best]
    return units[torch.tensor(chosen, device=device)]


def _free(number: int, chosen: list[int], device: torch.device) -> Tensor:
    """Rows that were not chosen."""
    free = torch.ones(number, dtype=torch.bool, device=device)
    free[torch.tensor(chosen, device=device)] = False
    return free.nonzero().squeeze(1)


def _descend_(centers: Tensor, units: Tensor, iterations: int, chunk_size: int | None) -> None:
    """Whole passes; ends where no row changes its center."""
    labels: Tensor | None = None
    for _ in range(iterations):
        nearest = cosine_topk(units, centers, chunk_size=chunk_size)
        before, labels = labels, nearest.indices.squeeze(1)
        if before is not None and torch.equal(before, labels):
            return
        labels = _fill_empty(labels, nearest.values.squeeze(1), len(centers))
        sums = torch.zeros_like(centers).index_add_(0, labels, units)
        _move_(centers, sums)


def _descend_in_batches_(
    centers: Tensor,
    units: Tensor,
    iterations: int,
    batch_size: int,
    chunk_size: int | None,
    generator: torch.Generator | None,
) -> None:
    sums = torch.zeros_like(centers)
    counts = torch.zeros(len(centers), dtype=torch.int64, device=centers.device)
    for _ in range(iterations):
        drawn = torch.randperm(len(units), generator=generator, device=units.device)[:batch_size]
        batch = units[drawn]
        nearest = cosine_topk(batch, centers, chunk_size=chunk_size)
        labels = _fill_empty(nearest.indices.squeeze(1), nearest.values.squeeze(1), len(centers), counts)
        sums.index_add_(0, labels, batch)
        counts += torch.bincount(labels, minlength=len(centers))
        _move_(centers, sums)


def _fill_empty(labels: Tensor, cosines: Tensor, number: int, counts: Tensor | None = None) -> Tensor:
    """Labels in which every empty cluster has the row that is farthest from its center, as far as they go.

    A row that is alone in its cluster stays there, and so does one at its center.
    """
    sizes = torch.bincount(labels, minlength=number)
    empty = (sizes if counts is None else sizes + counts).eq(0).nonzero().squeeze(1).tolist()
    if not empty:
        return labels
    labels, left, eps = labels.clone(), sizes.tolist(), 8 * torch.finfo(cosines.dtype).eps
    for row in cosines.argsort().tolist():
        if not empty or cosines[row] >= 1 - eps:
            break
        own = int(labels[row])
        if left[own] > 1:
            left[own] -= 1
            labels[row] = empty.pop()
    return labels


def _move_(centers: Tensor, sums: Tensor) -> None:
    """Centers to the directions of sums; those whose sum is 0 stay."""
    centers.copy_(torch.where(sums.any(1, keepdim=True), unit_vectors(sums), centers))


def _check(rows: Any, num_clusters: Any, centers: Any, iterations: int, batch_size: int | None) -> int:
    """The number of clusters."""
    check_tensors(WHERE, rows=rows)
    if rows.ndim != 2:
        raise ValueError(f"{WHERE}: rows must have shape (N, D), got {tuple(rows.shape)}")
    check_count(WHERE, "iterations", iterations, least=0)
    if batch_size is not None:
        check_count(WHERE, "batch_size", batch_size)
    if centers is not None:
        check_tensors(WHERE, rows=rows, centers=centers)
        if centers.ndim != 2 or centers.shape[1] != rows.shape[1]:
            raise ValueError(
                f"{WHERE}: centers must have shape (C, {rows.shape[1]}), got {tuple(centers.shape)}"
            )
    if (num_clusters is None) == (centers is None):
        raise ValueError(f"{WHERE}: pass num_clusters, or centers to begin with: one of them")
    number: int = len(centers) if num_clusters is None else num_clusters
    check_count(WHERE, "num_clusters", number)
    if number > len(rows):
        raise ValueError(
            f"{WHERE}: num_clusters must be at most the number of rows, {len(rows)}, got {number}"
        )
    return number
