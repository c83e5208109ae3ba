"""Verification, against scikit-learn and every threshold in turn."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cosnorm.metrics import verification_metrics


def pairs(number: int, seed: int = 0, steps: int = 0) -> tuple[Tensor, Tensor]:
    """Scores, some of them equal where `steps` says of how many kinds they are."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.rand(number, generator=generator) > 0.6
    same[:2] = torch.tensor([True, False])
    scores = torch.randn(number, generator=generator) + same.float()
    return (scores * steps).round() / steps if steps else scores, same


def rates(scores: Tensor, same: Tensor, threshold: float) -> tuple[float, float]:
    taken = scores >= threshold
    return float(taken[same].double().mean()), float(taken[~same].double().mean())


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("number", [20, 63, 507])
def test_every_threshold_in_turn(number: int, steps: int):
    scores, same = pairs(number, steps=steps)
    found = verification_metrics(scores, same, far=(0.0, 0.1, 1.0), folds=7)
    every = [torch.inf, *sorted(set(scores.tolist()), reverse=True)]
    for rate in (0.0, 0.1, 1.0):
        best = max(tar for tar, far in (rates(scores, same, one) for one in every) if far <= rate)
        assert found[f"tar@far={rate:g}"].item() == pytest.approx(best)
    right = []
    for part in torch.arange(number).tensor_split(7):
        others = torch.tensor([place for place in range(number) if place not in part])
        candidates = [torch.inf, *sorted(set(scores[others].tolist()), reverse=True)]
        shares = [int(((scores[others] >= one) == same[others]).sum()) for one in candidates]
        threshold = candidates[shares.index(max(shares))]
        right.append(float(((scores[part] >= threshold) == same[part]).double().mean()))
    assert found["accuracy"].item() == pytest.approx(np.mean(right))
    assert found["accuracy_std"].item() == pytest.approx(np.std(right))


@pytest.mark.parametrize("steps", [0, 2])
def test_as_scikit_learn(steps: int):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, same = pairs(300, 1, steps)
    found = verification_metrics(scores, same)
    false, true, _ = metrics.roc_curve(same.numpy(), scores.numpy(), drop_intermediate=False)
    assert found["auc"].item() == pytest.approx(metrics.roc_auc_score(same.numpy(), scores.numpy()))
    at = np.linspace(0, 1, 2_000_001)
    line = np.interp(at, false, true)
    equal = at[np.argmin(np.abs(1 - line - at))]
    assert found["eer"].item() == pytest.approx(equal, abs=1e-6)


def test_perfect_hopeless_and_nan():
    same = torch.tensor([True, True, False, False])
    perfect = verification_metrics(torch.tensor([0.9, 0.8, 0.1, 0.2]), same, folds=2)
    assert (perfect["eer"], perfect["auc"], perfect["tar@far=0.001"]) == (0, 1, 1)
    hopeless = verification_metrics(torch.tensor([0.1, 0.2, 0.9, 0.8]), same, folds=0)
    assert (hopeless["eer"], hopeless["auc"], hopeless["tar@far=0.001"]) == (1, 0, 0)
    assert "accuracy" not in hopeless
    spoiled = verification_metrics(torch.tensor([0.9, torch.nan, 0.1, 0.2]), same, folds=0)
    assert spoiled["tar@far=0.001"] == 0.5


@pytest.mark.parametrize("infinite", [False, True])
def test_nan_is_never_accepted(infinite: bool):
    """Pair by pair: with comparisons, which NaN does not pass at any threshold, −inf among them."""
    scores, same = pairs(60, 3, steps=3)
    scores[::7] = torch.nan
    if infinite:
        scores[3], scores[4], scores[5] = -torch.inf, torch.inf, -torch.inf
    found = verification_metrics(scores, same, far=(0.0, 0.3, 1.0), folds=6)
    # The highest threshold accepts nothing: no score is above inf but one could be equal to it.
    every = [torch.nan, *sorted(set(scores[~scores.isnan()].tolist()), reverse=True)]
    for rate in (0.0, 0.3, 1.0):
        best = max(tar for tar, far in (rates(scores, same, one) for one in every) if far <= rate)
        assert found[f"tar@far={rate:g}"].item() == pytest.approx(best)
    assert found["tar@far=1"] < 1
    right = []
    for part in torch.arange(60).tensor_split(6):
        others = torch.ones(60, dtype=torch.bool).index_fill_(0, part, False)
        shares = [int(((scores[others] >= one) == same[others]).sum()) for one in every]
        threshold = every[shares.index(max(shares))]
        right.append(float(((scores[part] >= threshold) == same[part]).double().mean()))
    assert found["accuracy"].item() == pytest.approx(np.mean(right))
    below = scores.nan_to_num(nan=-1e9, posinf=torch.inf, neginf=-1e8)
    for a in ("auc", "eer"):
        assert found[a].item() == pytest.approx(verification_metrics(below, same, folds=0)[a].item())


def test_where_all_scores_are_nan_nothing_is_accepted():
    same = torch.tensor([True, False, False, True, False, False])
    found = verification_metrics(torch.full((6,), torch.nan), same, far=1, folds=2)
    assert found["tar@far=1"] == 0
    assert found["accuracy"].item() == pytest.approx(2 / 3)
    assert (found["auc"], found["eer"]) == (0.5, 0.5)


def test_one_rate_is_one_number():
    scores, same = pairs(40)
    assert verification_metrics(scores, same, far=0.1) == verification_metrics(scores, same, far=(0.1,))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"same": torch.arange(6)}, TypeError, "bool tensor, got torch.int64"),
        ({"same": torch.ones(6).bool()}, ValueError, "got 6 of 6 of the same"),
        ({"same": torch.ones(5).bool()}, ValueError, r"one shape \(N,\), got \(6,\) and \(5,\)"),
        ({"far": (2.0,)}, ValueError, "between 0 and 1, got 2.0"),
        ({"far": 2}, ValueError, "between 0 and 1, got 2"),
        ({"folds": 1}, ValueError, "from 2 to the number of pairs, 6; got 1"),
        ({"folds": 7}, ValueError, "got 7"),
        ({"scores": torch.arange(6)}, TypeError, "scores must be float16"),
    ],
)
def test_errors(change: dict, error, words: str):
    given = {"scores": torch.rand(6), "same": torch.tensor([True, False] * 3)} | change
    with pytest.raises(error, match=words):
        verification_metrics(**given)
