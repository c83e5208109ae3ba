"""Losses of the sums that anchors make in each direction, and what each sum weighs in their gradient.

With ℓ_di the log of what anchor i sums in direction d, and z̄_i the mean logit of its positives:

    apart                     loss_i = mean_d ℓ_di − z̄_i, for queries and for keys
    joint, of queries alone   loss_i = log Σ_d exp ℓ_di − z̄_i
    joint, of both            loss_i = Σ_p A_ip (log (Σ_d exp ℓ_di + Σ_d exp ℓ_dp) − z_ip), d of either kind
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.operators.pair_problem import Problem
from cosnorm.operators.positives import OnePositive, PairPositives, counts_of

Sums = dict[str, Tensor]


class Losses(NamedTuple):
    """Of one kind of anchors.

    Attributes:
        values: (N,); 0 where an anchor takes no part.
        part: whether it does, (N,).
        share: what they are of the whole loss.
    """

    values: Tensor
    part: Tensor
    share: float


def _of_keys(direction: str) -> bool:
    return direction.startswith("key")


def _by_anchors(sums: Sums) -> list[list[str]]:
    """The directions of queries, and those of keys."""
    return [[one for one in sums if _of_keys(one) == keys] for keys in (False, True)]


def kinds_of(problem: Problem, sums: Sums) -> list[int]:
    """Whose losses `losses_of` gives: 0 those of queries, 1 those of keys."""
    kinds = [kind for kind, names in enumerate(_by_anchors(sums)) if names]
    return kinds[:1] if problem.options.joint else kinds


def losses_of(problem: Problem, sums: Sums) -> list[Losses]:
    """Losses of queries and of keys, of those that look."""
    kinds = _by_anchors(sums)
    if problem.options.joint:
        return [_joint(problem, sums, kinds)]
    found = []
    for anchors, names in zip(problem.anchors, kinds, strict=False):
        if names:
            logs = [sums[name] for name in names]
            found.append(_losses(anchors.positives.counts > 0, anchors.logits, logs, len(names) / len(sums)))
    return found


def _losses(part: Tensor, logits: Tensor, logs: list[Tensor], share: float) -> Losses:
    for one in logs:
        part = part.logical_and(one != -torch.inf)
    losses = (logs[0] if len(logs) == 1 else torch.stack(logs).mean(0)) - logits
    return Losses(losses.masked_fill(~part, 0), part, share)


def _joint(problem: Problem, sums: Sums, kinds: list[list[str]]) -> Losses:
    anchors, totals = problem.anchors[0 if kinds[0] else 1], _totals(sums, kinds)
    part = anchors.positives.counts > 0
    if len(totals) == 1:
        return _losses(part, anchors.logits, totals, 1.0)
    pairs, shares = _pairs(problem)
    together, _ = _together(pairs, totals, problem.first_key)
    empty = together == -torch.inf
    losses = (
        totals[0].new_zeros(part.shape).index_add_(0, pairs.rows, together.masked_fill(empty, 0) * shares)
    )
    part = part & (counts_of(pairs.rows, len(part), empty.long()) == 0)
    return Losses((losses - anchors.logits).masked_fill(~part, 0), part, 1.0)


def _totals(sums: Sums, kinds: list[list[str]]) -> list[Tensor]:
    return [torch.logsumexp(torch.stack([sums[name] for name in names]), 0) for names in kinds if names]


def _pairs(problem: Problem) -> tuple[PairPositives, Tensor]:
    """The positives as pairs, and what each is of its query's."""
    positives = problem.anchors[0].positives
    pairs = positives.paired() if isinstance(positives, OnePositive) else positives
    assert isinstance(pairs, PairPositives)
    return pairs, pairs.shares(problem.anchors[0].logits.dtype)


def _together(pairs: PairPositives, totals: list[Tensor], first: int) -> tuple[Tensor, Tensor]:
    keys = pairs.columns - first
    return torch.logaddexp(totals[0][pairs.rows], totals[1][keys]), keys


def weigh(problem: Problem, sums: Sums, weights: list[Tensor]) -> Sums:
    """What the sum of each anchor and direction weighs, where the losses of the anchors weigh `weights`."""
    kinds = _by_anchors(sums)
    if not problem.options.joint:
        asked = [names for names in kinds if names]
        return {name: one / len(names) for names, one in zip(asked, weights, strict=True) for name in names}
    totals = _totals(sums, kinds)
    if len(totals) == 1:
        return {name: weights[0] * _quotient(one, totals[0]) for name, one in sums.items()}
    pairs, shares = _pairs(problem)
    together, keys = _together(pairs, totals, problem.first_key)
    each, found = weights[0][pairs.rows] * shares, {}
    for name, one in sums.items():
        at = keys if _of_keys(name) else pairs.rows
        found[name] = torch.zeros_like(one).index_add_(0, at, each * _quotient(one[at], together))
    return found


def _quotient(logs: Tensor, total: Tensor) -> Tensor:
    """exp(log − total), 0 where the total is empty."""
    return (logs - total.masked_fill(total == -torch.inf, 0)).exp()
