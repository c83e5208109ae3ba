"""Retrieval and nearest neighbours, against pytorch-metric-learning, scikit-learn and the definitions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cosnorm.functional import pairwise_cosine
from cosnorm.metrics import knn_accuracy, knn_predict, retrieval_metrics


def clusters(
    number: int, classes: int, size: int = 12, noise: float = 1.5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows of any length around a few directions; classes of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (number,), generator=generator) % (1 + torch.arange(number) % classes)
    centers = torch.randn(classes, size, generator=torch.Generator().manual_seed(99))
    rows = centers[labels] + noise * torch.randn(number, size, generator=generator)
    return rows * torch.rand(number, 1, generator=generator).exp(), labels


def by_definition(
    cosines: Tensor, labels: Tensor, key_labels: Tensor, ks: tuple[int, ...]
) -> dict[str, float]:
    """Query by query, in the words of the definitions."""
    found: dict[str, list[float]] = {}
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        order = sorted((key for key in range(len(row)) if row[key] > -2), key=lambda key: -row[key])
        hits = [int(key_labels[key] == label) for key in order]
        number = sum(hits)
        if not number:
            continue
        one = {"precision@1": hits[0], "r_precision": sum(hits[:number]) / number}
        one["map@r"] = sum(hits[j] * sum(hits[: j + 1]) / (j + 1) for j in range(number)) / number
        for k in ks:
            one[f"recall@{k}"] = float(any(hits[:k]))
            gains = [1 / math.log2(2 + j) for j in range(k)]
            best = sum(gains[: min(k, number)])
            one[f"ndcg@{k}"] = sum(g * h for g, h in zip(gains, hits, strict=False)) / best
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("number", "classes"), [(2, 1), (63, 7), (123, 40)])
def test_the_definitions(number: int, classes: int, alone: bool):
    rows, labels = clusters(number, classes)
    keys, key_labels = (rows, labels) if alone else clusters(97, classes, seed=1)
    cosines = pairwise_cosine(rows.double(), keys.double())
    if alone:
        cosines.fill_diagonal_(-9)
    expected = by_definition(cosines, labels, key_labels, (1, 5, 200))
    given = () if alone else (keys, key_labels)
    found = retrieval_metrics(rows, labels, *given, recall=(1, 5, 200), ndcg=(1, 5, 200), chunk_size=20)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize("alone", [True, False])
def test_as_pytorch_metric_learning(alone: bool):
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rows, labels = clusters(200, 30)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
        kmeans_func=object(),
    )
    if alone:
        theirs = calculator.get_accuracy(rows, labels)
        ours = retrieval_metrics(rows, labels)
    else:
        keys, key_labels = clusters(150, 30, seed=1)
        theirs = calculator.get_accuracy(rows, labels, keys, key_labels)
        ours = retrieval_metrics(rows, labels, keys, key_labels)
    for name, other in (
        ("precision@1", "precision_at_1"),
        ("r_precision", "r_precision"),
        ("map@r", "mean_average_precision_at_r"),
    ):
        assert ours[name].item() == pytest.approx(theirs[other], abs=1e-9), name


def test_ndcg_as_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rows, labels = clusters(60, 9)
    keys, key_labels = clusters(80, 9, seed=1)
    cosines = pairwise_cosine(rows, keys)
    relevant = labels.unsqueeze(1) == key_labels
    kept = relevant.any(1)
    for k in (1, 7, 80):
        expected = metrics.ndcg_score(relevant[kept].numpy(), cosines[kept].numpy(), k=k)
        found = retrieval_metrics(rows, labels, keys, key_labels, ndcg=(k,), recall=(), at_r=False)
        assert found[f"ndcg@{k}"].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("k", [1, 4, 20, 500])
def test_votes_as_scikit_learn(k: int):
    neighbors = pytest.importorskip("sklearn.neighbors")
    rows, labels = clusters(100, 9)
    keys, key_labels = clusters(120, 9, seed=1)
    judge = neighbors.KNeighborsClassifier(min(k, 120), metric="cosine", algorithm="brute")
    judge.fit(keys.numpy(), key_labels.numpy())
    expected = torch.from_numpy(judge.predict(rows.numpy()))
    assert torch.equal(knn_predict(rows, keys, key_labels, k=k), expected)
    share = (expected == labels).double().mean()
    assert knn_accuracy(rows, labels, keys, key_labels, k=k) == share


def test_weighted_votes_by_definition():
    rows, labels = clusters(50, 6)
    cosines = pairwise_cosine(rows.double()).fill_diagonal_(-9)
    values, places = cosines.topk(7)
    votes = torch.zeros(50, 6, dtype=torch.float64).scatter_add_(1, labels[places], (values / 0.07).exp())
    expected = (votes.argmax(1) == labels).double().mean()
    assert knn_accuracy(rows, labels, k=7, temperature=0.07).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.01, 1e-5, 1e-300])
def test_votes_that_are_all_small_still_count(temperature: float, dtype: torch.dtype):
    """Far from all keys, exp((c − 1)/τ) would be 0 for every neighbour."""
    keys = torch.tensor([[-1.0, 2.0], [-1.0, 1.0], [-2.0, 1.0]], dtype=dtype)
    found = knn_predict(torch.tensor([[1.0, 0.0]], dtype=dtype), keys, torch.tensor([7, 5, 3]), k=3)
    assert found == 3
    options = {"k": 3, "temperature": temperature}
    found = knn_predict(torch.tensor([[1.0, 0.0]], dtype=dtype), keys, torch.tensor([7, 5, 3]), **options)
    assert found == 7
    labels = torch.tensor([7])
    share = knn_accuracy(
        torch.tensor([[1.0, 0.0]], dtype=dtype), labels, keys, torch.tensor([7, 5, 3]), **options
    )
    assert share == 1


def test_one_number_is_one_k():
    rows, labels = clusters(30, 4)
    several = retrieval_metrics(rows, labels, recall=(5,), ndcg=[3])
    one = retrieval_metrics(rows, labels, recall=5, ndcg=3)
    assert one == several


def test_what_cannot_be_counted():
    rows, labels = clusters(20, 5)
    for number in (1, 3):
        alone = retrieval_metrics(rows[:number], torch.arange(number))
        assert all(value.isnan() for value in alone.values())
    none = retrieval_metrics(rows[:0], labels[:0], rows, labels)
    assert all(value.isnan() for value in none.values())
    spoiled = rows.clone()
    spoiled[4] = torch.nan
    found = retrieval_metrics(spoiled, labels, recall=(1,))
    others = [row for row in range(20) if row != 4]
    hits = 0.0
    counted = 0
    for row in range(20):
        number = int((labels == labels[row]).sum()) - 1
        counted += number > 0
        if row != 4 and number:
            best = max(
                (pairwise_cosine(rows[row : row + 1], rows[[o]]).item(), o) for o in others if o != row
            )
            hits += float(labels[best[1]] == labels[row])
    assert found["recall@1"].item() == pytest.approx(hits / counted)


def test_numpy_gives_numpy():
    rows, labels = clusters(30, 4)
    found = retrieval_metrics(rows.numpy(), labels.numpy())
    assert all(isinstance(value, np.float64) for value in found.values())
    assert found["map@r"] == retrieval_metrics(rows, labels)["map@r"].item()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, y: retrieval_metrics(x, y[:3]), ValueError, "one class for each embedding"),
        (lambda x, y: retrieval_metrics(x, y, x), ValueError, "keys and key_labels belong together"),
        (lambda x, y: retrieval_metrics(x, y, x[:, :2], y), ValueError, r"\(N, D\) and \(M, D\)"),
        (lambda x, y: retrieval_metrics(x[0], y), ValueError, r"must have shape \(N, D\), got \(3,\)"),
        (lambda x, y: retrieval_metrics(x, y, recall=(0,)), ValueError, "recall must be at least 1"),
        (lambda x, y: retrieval_metrics(x, y, recall=0), ValueError, "recall must be at least 1"),
        (lambda x, y: retrieval_metrics(x, y, ndcg=2.5), TypeError, "ndcg must be an int, got 2.5"),
        (lambda x, y: retrieval_metrics(x[:0], y[:0]), ValueError, "retrieval_metrics: .* at least one key"),
        (lambda x, y: retrieval_metrics(x, y, x[:0], y[:0]), ValueError, "retrieval_metrics: .* one key"),
        (lambda x, y: retrieval_metrics(x, y.float()), TypeError, "labels must be whole numbers"),
        (lambda x, y: knn_accuracy(x, y, k=0), ValueError, "k must be at least 1"),
        (lambda x, y: knn_accuracy(x, y, temperature=0), ValueError, "positive number, got 0"),
        (lambda x, y: knn_predict(x, x[:0], y[:0]), ValueError, "at least one key"),
    ],
)
def test_errors(call, error, words: str):
    with pytest.raises(error, match=words):
        call(torch.randn(4, 3), torch.arange(4))
