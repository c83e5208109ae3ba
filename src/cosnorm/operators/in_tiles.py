"""Whole losses over pairs by a backend that finds the positives in its tiles: no operator stands between."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.operators.pair_problem import Problem
from cosnorm.operators.pairs import Pairs


def losses(pairs: Pairs, problem: Problem) -> Any:
    """What `losses` of the backend finds."""
    return problem.backend.losses(
        *problem.operands(pairs),
        problem.scale,
        problem.exclusion,
        problem.places,
        own=problem.own,
        columns=problem.options.bidirectional,
    )


def gradients(pairs: Pairs, problem: Problem, found: Any, *, into_y: bool) -> tuple[Tensor, Tensor]:
    """The projected gradients in the rows of `Pairs.units` (of the queries alone); and u·v of each row."""
    number, after = len(pairs.x), pairs.keys.start
    rows = torch.empty_like(pairs.units if into_y else pairs.x)
    others = rows[after:] if into_y else None
    # What the queries meet holds them, too: both sums are of the same rows.
    twice = into_y and not after and not problem.symmetric
    if twice:
        others = torch.empty_like(rows)
    problem.backend.loss_gradients(
        *problem.operands(pairs),
        problem.scale,
        problem.exclusion,
        problem.places,
        found,
        rows[:number],
        others,
        own=problem.own,
        symmetric=problem.symmetric,
        tile=problem.options.chunk_size,
    )
    if twice and others is not None:
        rows[:number] += others[:number]
        rows[number:] = others[number:]
    return rows, problem.backend.project_(rows, pairs.units[: len(rows)], problem.scale)


def into_temperature(along: Tensor, problem: Problem, *, into_y: bool) -> Tensor:
    """The gradient in the temperature; each product stands in the gradients of both of its rows, if made."""
    twice = into_y or problem.symmetric
    return along.sum() * (-problem.scale / 2 if twice else -problem.scale)
