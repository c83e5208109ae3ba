"""Verification: whether two embeddings are of the same thing, by a threshold on their cosine."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_count, check_tensors, is_number

WHERE = "verification_metrics"


@takes_arrays
@torch.no_grad()
def verification_metrics(
    scores: Tensor,
    same: Tensor,
    *,
    far: float | Sequence[float] = (1e-2, 1e-3, 1e-4),
    folds: int = 10,
) -> dict[str, Tensor]:
    r"""How well a threshold on scores tells pairs of the same thing from pairs of two.

    A pair is accepted where its score is at least the threshold. The true accept rate (TAR) is the share of
    accepted pairs among those of the same thing, the false accept rate (FAR) that among the others.

    Args:
        scores: larger where alike, shape (N,), such as `cosnorm.functional.cosine_similarity` of the pairs.
        same: True where a pair is of the same thing; bool, shape (N,).
        far: false accept rates, or one; for each the largest TAR of a threshold whose FAR is not above it.
        folds: parts, one after the other as they stand; each is judged by the threshold that is right most
            often on the others, the highest such. 0: no accuracy.

    Returns:
        float64 tensors without dimension by their names: "tar@far=0.001" for each rate, "eer" (the rate at
        which FAR and 1 − TAR are equal, on the straight line between the thresholds beside it), "auc" (the
        share of pairs of pairs in the right order), "accuracy" (the mean over the folds), "accuracy_std"
        (their standard deviation, by the number of folds). NumPy arrays give NumPy's numbers.

    Scores of NaN are never accepted: no threshold has them, not even at a rate of 1. In "eer" and "auc" they
    stand below all others.

    Raises:
        TypeError: not tensors, scores that are no floating-point numbers, `same` not bool.
        ValueError: shapes that do not fit, pairs of one kind alone, rates outside of [0, 1], more folds
            than pairs, one fold.

    Source: Huang et al., "Labeled Faces in the Wild", 2007 (accuracy over ten folds); equal to
        scikit-learn's `roc_curve` and `roc_auc_score`.

    Example:
        >>> import torch
        >>> scores = torch.tensor([0.9, 0.8, 0.4, 0.3, 0.2, 0.1])
        >>> same = torch.tensor([True, True, False, True, False, False])
        >>> found = verification_metrics(scores, same, far=(0.1,), folds=3)
        >>> {name: round(value.item(), 3) for name, value in found.items()}
        {'tar@far=0.1': 0.667, 'eer': 0.333, 'auc': 0.889, 'accuracy': 0.5, 'accuracy_std': 0.408}
    """
    rates = tuple(far) if isinstance(far, Iterable) else (far,)
    _check(scores, same, rates, folds)
    scores = scores.double()
    curve = _curve(scores, same)
    found = {f"tar@far={rate:g}": curve.accepted[curve.false <= rate].max() for rate in rates}
    whole = curve.to_the_end()
    found["eer"] = _equal_error(whole)
    found["auc"] = torch.trapezoid(whole.accepted, whole.false)
    if folds:
        right = _over_folds(scores, same, folds)
        found["accuracy"], found["accuracy_std"] = right.mean(), right.std(correction=0)
    return found


class _Curve(NamedTuple):
    """What is accepted at each threshold, from none to all pairs but those whose score is NaN.

    Attributes:
        thresholds: falling; the first is NaN, which accepts nothing, not even inf.
        accepted: TAR.
        false: FAR.
    """

    thresholds: Tensor
    accepted: Tensor
    false: Tensor

    def to_the_end(self) -> "_Curve":
        """With all pairs accepted in the end, as if there were a threshold below NaN."""
        return _Curve(
            *(torch.cat([one, one.new_full((1,), end)]) for one, end in zip(self, _END, strict=True))
        )


_END = (-torch.inf, 1.0, 1.0)


def _curve(scores: Tensor, same: Tensor) -> _Curve:
    number, of_same = len(same), same.sum()
    kept = ~scores.isnan()
    scores, same = scores[kept], same[kept]
    ordered, order = scores.sort(descending=True)
    true = same[order].double().cumsum(0)
    false = torch.arange(1, len(true) + 1, device=true.device) - true
    # Equal scores are accepted together.
    last = torch.ones_like(same)
    last[:-1] = ordered[1:] != ordered[:-1]
    nothing = true.new_zeros(1)
    return _Curve(
        torch.cat([ordered.new_full((1,), torch.nan), ordered[last]]),
        torch.cat([nothing, true[last] / of_same.clamp(min=1)]),
        torch.cat([nothing, false[last] / (number - of_same).clamp(min=1)]),
    )


def _equal_error(curve: _Curve) -> Tensor:
    """Where FAR − (1 − TAR), which rises, is 0."""
    gap = curve.false + curve.accepted - 1
    after = int((gap >= 0).nonzero()[0])
    low, high = gap[after - 1], gap[after]
    return torch.lerp(curve.false[after - 1], curve.false[after], low / (low - high))


def _over_folds(scores: Tensor, same: Tensor, folds: int) -> Tensor:
    """The share of right decisions in each fold."""
    right = []
    for part in torch.arange(len(scores), device=scores.device).tensor_split(folds):
        others = torch.ones_like(same).index_fill_(0, part, False)
        true = int(same[others].sum())
        curve = _curve(scores[others], same[others])
        decided = curve.accepted * true + (1 - curve.false) * (int(others.sum()) - true)
        threshold = curve.thresholds[(decided.round() == decided.round().max()).nonzero()[0]]
        right.append(((scores[part] >= threshold) == same[part]).double().mean())
    return torch.stack(right)


def _check(scores: Tensor, same: Tensor, far: Sequence[float], folds: int) -> None:
    check_tensors(WHERE, scores=scores)
    if not isinstance(same, Tensor) or same.dtype != torch.bool:
        found = same.dtype if isinstance(same, Tensor) else type(same).__name__
        raise TypeError(f"{WHERE}: same must be a bool tensor, got {found}; labels_a == labels_b makes one")
    if scores.ndim != 1 or scores.shape != same.shape:
        raise ValueError(
            f"{WHERE}: scores and same must have one shape (N,), got {tuple(scores.shape)} and "
            f"{tuple(same.shape)}"
        )
    if not bool(same.any()) or bool(same.all()):
        raise ValueError(
            f"{WHERE}: there must be pairs of the same thing and of two, got {int(same.sum())} of "
            f"{len(same)} of the same; no rate can be told without both"
        )
    for rate in far:
        if not is_number(rate) or not 0 <= rate <= 1:
            raise ValueError(f"{WHERE}: far must be rates between 0 and 1, got {rate!r}")
    check_count(WHERE, "folds", folds, least=0)
    if folds == 1 or folds > len(same):
        raise ValueError(
            f"{WHERE}: folds must be 0, or from 2 to the number of pairs, {len(same)}; got {folds}"
        )
