"""Spherical k-means, against itself written in NumPy, and by what it promises."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from cosnorm.cluster import spherical_kmeans
from cosnorm.functional import cosine_topk, pairwise_cosine


def clouds(number: int = 300, size: int = 8, kinds: int = 6) -> tuple[Tensor, Tensor]:
    kind = torch.arange(number) % kinds
    rows = torch.eye(size)[kind] + 0.1 * torch.randn(number, size)
    return rows * torch.rand(number, 1).exp(), kind


def in_numpy(rows: np.ndarray, centers: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """No cluster may become empty."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centers = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    for _ in range(steps):
        nearest = (units @ centers.T).argmax(1)
        sums = np.stack([units[nearest == one].sum(0) for one in range(len(centers))])
        centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return centers, (units @ centers.T).argmax(1)


@pytest.mark.parametrize("steps", [0, 1, 5, 50])
def test_as_in_numpy_from_the_same_beginning(steps: int):
    rows = torch.randn(200, 7, dtype=torch.float64)
    found = spherical_kmeans(rows, centers=rows[:9], iterations=steps, chunk_size=50)
    centers, labels = in_numpy(rows.numpy(), rows[:9].numpy(), steps)
    np.testing.assert_allclose(found.centers.numpy(), centers, atol=1e-12)
    assert np.array_equal(found.labels.numpy(), labels)
    torch.testing.assert_close(found.cosines, pairwise_cosine(rows, found.centers).amax(1))


@pytest.mark.parametrize("batch_size", [None, 60])
def test_finds_what_is_there_at_every_scale(batch_size: int | None):
    rows, kind = clouds()
    rows = rows * torch.logspace(-36, 36, len(rows)).unsqueeze(1)
    for seed in range(5):
        found = spherical_kmeans(
            rows, 6, batch_size=batch_size, generator=torch.Generator().manual_seed(seed)
        )
        assert len(set(zip(kind.tolist(), found.labels.tolist(), strict=True))) == 6
        assert found.cosines.mean() > 0.9


def test_the_mean_cosine_never_falls_though_clusters_run_empty():
    rows = torch.randn(100, 3)
    begin = torch.cat([rows[:3], -100 * rows.sum(0, keepdim=True) + torch.randn(9, 3) / 1e3])
    means = [
        spherical_kmeans(rows, centers=begin, iterations=steps).cosines.double().mean().item()
        for steps in range(12)
    ]
    assert all(later >= earlier - 1e-7 for earlier, later in itertools.pairwise(means))
    assert len(spherical_kmeans(rows, centers=begin).labels.unique()) == 12


@pytest.mark.parametrize("batch_size", [None, 20])
def test_fewer_directions_than_clusters(batch_size: int | None):
    rows = torch.eye(3).repeat(10, 1)
    found = spherical_kmeans(rows, 5, batch_size=batch_size)
    assert found.centers.isfinite().all()
    assert found.cosines.eq(1).all()
    zeros = spherical_kmeans(torch.zeros(4, 3), 2)
    assert zeros.cosines.eq(0).all()


def test_plus_plus_draws_far_rows_more_often():
    """After the first of two clouds a row of the other one, nearly always."""
    rows = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(95, 1), torch.tensor([[-1.0, 0.0]]).repeat(5, 1)])
    rows = rows + 0.01 * torch.randn(100, 2)
    for seed in range(20):
        found = spherical_kmeans(rows, 2, iterations=0, generator=torch.Generator().manual_seed(seed))
        assert found.centers[0] @ found.centers[1] < -0.9


def test_new_rows_half_types_and_numpy():
    rows, _ = clouds()
    found = spherical_kmeans(rows.bfloat16(), 6, generator=torch.Generator().manual_seed(1))
    assert found.centers.dtype == torch.float32
    assert torch.equal(cosine_topk(rows.bfloat16().float(), found.centers).indices.squeeze(1), found.labels)
    arrays = spherical_kmeans(rows.numpy(), 6)
    assert isinstance(arrays.centers, np.ndarray)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: spherical_kmeans(x), ValueError, "pass num_clusters, or centers"),
        (lambda x: spherical_kmeans(x, 2, centers=x[:2]), ValueError, "one of them"),
        (lambda x: spherical_kmeans(x, 7), ValueError, "at most the number of rows, 6, got 7"),
        (lambda x: spherical_kmeans(x, 0), ValueError, "num_clusters must be at least 1"),
        (lambda x: spherical_kmeans(x[0], 1), ValueError, r"shape \(N, D\), got \(3,\)"),
        (lambda x: spherical_kmeans(x, centers=x[:2, :2]), ValueError, r"\(C, 3\), got \(2, 2\)"),
        (lambda x: spherical_kmeans(x * torch.nan, 2), ValueError, "must be finite"),
        (lambda x: spherical_kmeans(x, 2, batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda x: spherical_kmeans(x.long(), 2), TypeError, "int64"),
    ],
)
def test_errors(call, error, words: str):
    with pytest.raises(error, match=words):
        call(torch.randn(6, 3))
