"""Hard negatives, against the whole matrix of cosines."""

import pytest
import torch

from cosnorm.functional import pairwise_cosine
from cosnorm.losses import info_nce_loss, mine_hard_negatives


@pytest.mark.parametrize("below", [None, 0.4])
@pytest.mark.parametrize("margin", [None, 0.1, -0.2])
@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("given", [False, True])
def test_the_nearest_that_are_not_too_near(given: bool, skip: int, margin: float | None, below: float | None):
    queries, keys = torch.randn(23, 5, dtype=torch.float64), torch.randn(63, 5, dtype=torch.float64)
    keys[:23] += 2 * queries
    positives = torch.randint(63, (23,)) if given else torch.arange(23)
    cosines = pairwise_cosine(queries, keys)
    own = cosines.gather(1, positives.unsqueeze(1))
    bound = torch.full_like(own, torch.inf) if margin is None else own - margin
    bound = bound if below is None else bound.clamp(max=below)
    left = cosines.scatter(1, positives.unsqueeze(1), -torch.inf).masked_fill(cosines >= bound, -torch.inf)
    expected = left.topk(4 + skip)
    found = mine_hard_negatives(
        queries,
        keys,
        4,
        positives=positives if given else None,
        margin=margin,
        below=below,
        skip=skip,
        chunk_size=10,
    )
    torch.testing.assert_close(found.values, expected.values[:, skip:])
    some = found.values > -torch.inf
    assert torch.equal(found.indices[some], expected.indices[:, skip:][some])
    assert (found.indices[~some] == -1).all()


@pytest.mark.parametrize("size", [3, 64, 1000])
@pytest.mark.parametrize("tile", [None, 1, 7, 128])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_copy_of_the_positive_is_never_below_it(dtype: torch.dtype, tile: int | None, size: int):
    """Its cosine is the same number, whatever the order of sums in a tile has made of it."""
    queries, keys = torch.randn(128, size).to(dtype), torch.randn(256, size).to(dtype)
    keys[:128] = queries + keys[:128] / 4
    keys[128:] = keys[:128]
    for positives in (None, torch.arange(128)):
        found = mine_hard_negatives(queries, keys, 100, positives=positives, margin=0.0, chunk_size=tile)
        assert (
            not (found.indices % 128 == torch.arange(128).unsqueeze(1)).logical_and(found.indices >= 0).any()
        )
        assert (found.indices >= 0).any(1).float().mean() > 0.9 or size == 3


def test_what_is_just_below_the_positive_is_taken():
    angles = torch.tensor([0.5, 0.5 + 1e-5, 0.9])
    keys = torch.stack([angles.cos(), angles.sin()], 1)
    found = mine_hard_negatives(torch.tensor([[1.0, 0.0]]), keys, 1, positives=torch.tensor([0]), margin=0.0)
    assert found.indices.item() == 1


@pytest.mark.parametrize("below", [None, 0.3])
def test_a_query_without_a_positive_has_no_bound_of_its_own(below: float | None):
    queries, keys = torch.randn(9, 5), torch.randn(40, 5)
    positives = torch.tensor([3, -1, 39, 0, -1, 7, 7, -1, 2])
    found = mine_hard_negatives(queries, keys, 4, positives=positives, margin=0.1, below=below)
    cosines = pairwise_cosine(queries, keys)
    own = cosines.gather(1, positives.clamp(min=0).unsqueeze(1)) - 0.1
    own[positives < 0] = torch.inf
    own = own.clamp(max=torch.inf if below is None else below)
    expected = cosines.masked_fill(cosines >= own, -torch.inf).topk(4)
    torch.testing.assert_close(found.values, expected.values)
    free = mine_hard_negatives(queries, keys, 4, below=below, positives=positives)
    assert torch.equal(found.indices[positives < 0], free.indices[positives < 0])


def test_below_a_positive_of_nan_is_nothing():
    queries, keys = torch.randn(4, 3), torch.randn(9, 3)
    keys[1] = torch.nan
    found = mine_hard_negatives(queries, keys, 2, margin=-3.0)
    assert found.indices[1].tolist() == [-1, -1]
    assert (found.indices[[0, 2, 3]] >= 0).all()


def test_by_labels_alone_and_with_pairs():
    rows, labels = torch.randn(40, 6), torch.arange(40) % 5
    same = labels.unsqueeze(1) == labels
    expected = pairwise_cosine(rows).masked_fill(same, -torch.inf).topk(3)
    found = mine_hard_negatives(rows, k=3, labels=labels)
    assert torch.equal(found.indices, expected.indices)
    keys = torch.randn(40, 6)
    expected = pairwise_cosine(rows, keys).masked_fill(same, -torch.inf).topk(3)
    assert torch.equal(mine_hard_negatives(rows, keys, 3, labels=(labels, labels)).indices, expected.indices)


def test_a_loss_takes_them():
    queries, keys = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4)
    loss = info_nce_loss(queries, keys, mine_hard_negatives(queries, keys, 3).indices)
    loss.backward()
    easier = info_nce_loss(queries, keys, torch.stack([torch.arange(9).roll(n) for n in (1, 2, 3)], 1))
    assert loss > easier  # the hardest are at least as hard as any


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"keys": None}, ValueError, "pass labels=, or keys="),
        ({"keys": None, "labels": torch.arange(4), "margin": 0.1}, ValueError, "use below="),
        ({"keys": torch.randn(3, 3)}, ValueError, "4 queries and 3 keys"),
        ({"positives": torch.arange(3)}, ValueError, r"shape \(4,\), a key for each query, got \(3,\)"),
        ({"margin": "0.1"}, TypeError, "margin must be a number, got str"),
        ({"margin": float("nan")}, ValueError, "margin must be a number, got NaN"),
        ({"below": float("nan")}, ValueError, "below must be a number, got NaN"),
        *(
            ({"positives": torch.tensor([0, 1, 2, one])} | margin, ValueError, rf"in \[0, 6\), got {span}")
            for one, span in ((6, "0 to 6"), (-2, "-2 to 2"))
            for margin in ({}, {"margin": 0.1})
        ),
        ({"k": 3, "skip": 9}, ValueError, "at most the number of keys, 6, got 12"),
        ({"positives": torch.arange(4), "group": object()}, ValueError, "leave positives out"),
    ],
)
def test_errors(options: dict, error, words: str):
    given = {"keys": torch.randn(6, 3)} | options
    with pytest.raises(error, match=words):
        mine_hard_negatives(torch.randn(4, 3), **given)
