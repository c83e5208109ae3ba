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
        ({"k": 3, "skip": 9}, ValueError, "at most the number of keys, 6, got 12"),
        ({"positives": torch.arange(4), "group": object()}, ValueError, "leave positives out"),
    ],
)
def test_errors(options: dict, error, words: str):
    given = {"keys": torch.randn(6, 3)} | options
    with pytest.raises(error, match=words):
        mine_hard_negatives(torch.randn(4, 3), **given)
