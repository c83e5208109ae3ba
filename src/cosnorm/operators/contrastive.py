"""The softmax over pairs of queries and keys as an operator: `pair_softmax`.

With cosines s_ij = x̂_i·ŷ_j, weights a_i of the queries' losses and the mean positive p_i = (A ŷ)_i,

    loss_i = log Σ_j exp(s_ij/τ) − x̂_i·p_i/τ
    ∂/∂x̂_i = (1/τ) a_i (Σ_j P_ij ŷ_j − p_i),    ∂/∂ŷ = (1/τ) (Pᵀ − Aᵀ) a x̂,    P_ij = exp(s_ij/τ) / Σ

and ∂/∂τ = −(1/τ) Σ_i x̂_i·∂/∂x̂_i, so that a learned temperature needs no second look at the tiles. What
comes back through a unit vector is projected on the plane orthogonal to it and divided by the norm (eqs.
9-12).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.pairs import direction
from cosnorm.distributed import number_of_processes, sum_over
from cosnorm.norms import accumulation_dtype, saturate
from cosnorm.operators import in_tiles
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.options import arguments_of, flags_of, results_of
from cosnorm.operators.pair_problem import PairOptions, Problem, pose
from cosnorm.operators.pairs import Gradients, Pairs, divide_each, pair_up, split_factor


class Results(NamedTuple):
    """The loss, how many queries take part, and what is kept for the backward pass.

    Attributes:
        loss: (), or (N,) if separate.
        number: ().
        projected: of a loss of one number: its gradients in the unit rows of queries, keys and extra keys
            (of the queries alone, if no others learn), projected.
        divisors: what divides them, (rows, 2).
        into_temperature: the gradient in the temperature, ().
        log_sums: of separate losses: the logs of their sums, (directions, N).
    """

    loss: Tensor
    number: Tensor
    projected: Tensor
    divisors: Tensor
    into_temperature: Tensor
    log_sums: Tensor


class _Learning(NamedTuple):
    """The arguments that may learn."""

    queries: Tensor
    keys: Tensor | None
    extra_keys: Tensor | None
    temperature: Tensor | None

    def into_y(self, needs: list[bool]) -> bool:
        """Whether gradients go into anything that the queries meet."""
        return (needs[0] and self.keys is None) or needs[1] or needs[2]

    def pairs(self, options: PairOptions) -> tuple[Pairs, Problem]:
        """The batch as unit rows, and the problem that is posed for it."""
        scale = options.scale(self.temperature, self.queries)
        pairs = pair_up(self.queries, self.keys, self.extra_keys, options.group, options.impl)
        alone = self.keys is None and self.extra_keys is None and not options.group
        return pairs, pose(pairs, self.queries, scale, options, alone=alone)


def _losses(problem: Problem, positive: Tensor, log_sums: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Losses of the queries from the logits of their positives and the log sums; and who takes part."""
    part = problem.positives.counts > 0
    for one in log_sums:
        part = part.logical_and(one != -torch.inf)
    losses = torch.stack([one - positive for one in log_sums]).mean(0)
    return losses.masked_fill(~part, 0), part


def _positive(problem: Problem, pairs: Pairs) -> Tensor:
    """The mean logit of each query's positives, (N,)."""
    return (pairs.x * problem.positives.means(pairs.y)).sum(1) * problem.scale


def _log_sums(problem: Problem, pairs: Pairs, positive: Tensor, kept: list[Tensor] | None) -> list[Tensor]:
    """Log sums of the rows and, if bidirectional, of the columns."""
    rows, columns = problem.backend.log_sums(
        *problem.operands(pairs),
        problem.scale,
        problem.exclusion,
        symmetric=problem.symmetric,
        columns=problem.options.bidirectional,
        tile=problem.options.chunk_size,
        kept=kept,
    )
    found = [rows] if columns is None else [rows, columns]
    return [torch.logaddexp(one, positive) for one in found] if problem.own else found


def _gradients_of(
    problem: Problem,
    pairs: Pairs,
    into: Gradients,
    weights: Tensor,
    positive: Tensor,
    log_sums: list[Tensor],
    kept: list[Tensor] | None,
) -> None:
    """Add the gradients of the losses, each with its weight."""
    along = [direction(weights / len(log_sums), one) for one in log_sums]
    problem.backend.gradients(
        *problem.operands(pairs),
        problem.scale,
        problem.exclusion,
        along[0],
        along[-1] if problem.symmetric or problem.options.bidirectional else None,
        into.into_x,
        into.into_y,
        symmetric=problem.symmetric,
        tile=problem.options.chunk_size,
        kept=kept,
    )
    _pull(problem, pairs, into, weights, positive, log_sums)


def _pull(
    problem: Problem,
    pairs: Pairs,
    into: Gradients,
    weights: Tensor,
    positive: Tensor,
    log_sums: list[Tensor],
) -> None:
    """Add what the logits of the positives, each with its weight, give to the gradients."""
    pulls = -weights
    if problem.own:
        softmax = torch.stack([(positive - one).exp() for one in log_sums]).mean(0)
        pulls = torch.where(weights == 0, 0, weights * (softmax - 1))
    pulls = (pulls * problem.scale).unsqueeze(1)
    into.into_x.addcmul_(problem.positives.means(pairs.y), pulls)
    if into.into_y is not None:
        problem.positives.spread_(into.into_y, pairs.x * pulls)


def _with_gradients(
    problem: Problem, pairs: Pairs, positive: Tensor, into: Gradients
) -> tuple[Tensor, Tensor]:
    """Losses of the queries, who takes part, and in `into` the gradients of the sum of the losses."""
    if not (problem.symmetric or problem.options.bidirectional):
        counting = (problem.positives.counts > 0).to(pairs.x.dtype)
        own = positive if problem.own else None
        rows = problem.backend.rows_with_gradients(
            *problem.operands(pairs),
            problem.scale,
            problem.exclusion,
            counting,
            own,
            into.into_x,
            into.into_y,
            tile=problem.options.chunk_size,
        )
        if rows is not None:
            losses, part = _losses(problem, positive, [rows])
            _pull(problem, pairs, into, part.to(pairs.x.dtype), positive, [rows])
            return losses, part
    tiles: list[Tensor] = []
    log_sums = _log_sums(problem, pairs, positive, tiles)
    losses, part = _losses(problem, positive, log_sums)
    _gradients_of(problem, pairs, into, part.to(pairs.x.dtype), positive, log_sums, tiles)
    return losses, part


def _compute(*arguments: Any) -> Results:
    learning, options, keep = (
        _Learning(*arguments[:4]),
        PairOptions(*arguments[4:-1]),
        flags_of(arguments[-1], 4),
    )
    pairs, problem = learning.pairs(options)
    if problem.places is not None:
        return _compute_in_tiles(pairs, problem, keep, into_y=learning.into_y(keep))
    positive = _positive(problem, pairs)
    projected, divisors, into_temperature, log_sums = (pairs.x.new_empty(0) for _ in range(4))
    if any(keep) and not options.separate:
        # A symmetric tile serves both of its rows, whether these learn or the temperature alone.
        into = pairs.gradients(into_y=learning.into_y(keep) or problem.symmetric)
        losses, part = _with_gradients(problem, pairs, positive, into)
        into_temperature = pairs.project_(into) * -problem.scale
        projected, divisors = into.rows, pairs.divisors[: len(into.rows)].clone()
    else:
        found = _log_sums(problem, pairs, positive, None)
        losses, part = _losses(problem, positive, found)
        if any(keep):
            log_sums = torch.stack(found)
    if options.separate:
        return Results(losses, part.sum(), projected, divisors, into_temperature, log_sums)
    loss, count = (sum_over(one.sum(), options.group) for one in (losses, part))
    return Results(loss, count, projected, divisors, into_temperature, log_sums)


def _compute_in_tiles(pairs: Pairs, problem: Problem, keep: list[bool], *, into_y: bool) -> Results:
    """The same by a backend that finds the positives in its tiles: few launches."""
    found = in_tiles.losses(pairs, problem)
    empty = pairs.x.new_empty(0)
    if problem.options.separate:
        number = found.part.sum(dtype=torch.int64)
        log_sums = torch.stack(found.log_sums) if any(keep) else empty
        return Results(found.losses, number, empty, empty, empty, log_sums)
    loss, count = found.sums()
    if not any(keep):
        return Results(loss, count, empty, empty, empty, empty)
    rows, along = in_tiles.gradients(pairs, problem, found, into_y=into_y)
    into_temperature = pairs.x.new_empty(())
    if keep[3]:
        into_temperature = in_tiles.into_temperature(along, problem, into_y=into_y)
    divisors = pairs.divisors
    if len(rows) < len(divisors):
        divisors = divisors[: len(rows)].clone()
    return Results(loss, count, rows, divisors, into_temperature, empty)


def _shapes(*arguments: Any) -> Results:
    learning, options, keep = (
        _Learning(*arguments[:4]),
        PairOptions(*arguments[4:-1]),
        flags_of(arguments[-1], 4),
    )
    queries = learning.queries
    number, size = queries.shape

    def empty(*shape: int) -> Tensor:
        return queries.new_empty(shape, dtype=accumulation_dtype(queries.dtype))

    kept = any(keep) and not options.separate
    rows = number
    if learning.into_y(keep):
        rows += sum(one.shape[0] for one in learning[1:3] if one is not None)
    return Results(
        empty(number) if options.separate else empty(),
        queries.new_empty((), dtype=torch.int64),
        empty(rows, size) if kept else empty(0),
        empty(rows, 2) if kept else empty(0),
        empty() if kept else empty(0),
        empty(1 + options.bidirectional, number) if any(keep) and options.separate else empty(0),
    )


def _gradients(cotangent: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    end = 4 + len(PairOptions._fields)
    learning, options, needs = _Learning(*arguments[:4]), PairOptions(*arguments[4:end]), arguments[-1]
    kept = Results(cotangent, *arguments[end:-1])
    if options.separate:
        pairs, problem = learning.pairs(options)
        weights, factor = split_factor(cotangent)
        into_y = learning.into_y(needs)
        if problem.places is not None:
            found = in_tiles.losses(pairs, problem)
            found = found._replace(part=found.part * weights)
            projected, along = in_tiles.gradients(pairs, problem, found, into_y=into_y)
            into_temperature = in_tiles.into_temperature(along, problem, into_y=into_y)
        else:
            positive = _positive(problem, pairs)
            log_sums = list(kept.log_sums)
            _, part = _losses(problem, positive, log_sums)
            into = pairs.gradients(into_y=into_y or problem.symmetric)
            _gradients_of(problem, pairs, into, weights.where(part, 0), positive, log_sums, None)
            projected, into_temperature = into.rows, pairs.project_(into) * -problem.scale
        divisors = pairs.divisors
    else:
        projected, divisors, into_temperature = kept.projected, kept.divisors, kept.into_temperature
        factor = cotangent * number_of_processes(options.group) if options.group else cotangent
    finished = divide_each(projected, divisors, factor, learning[:3], needs[:3], options.impl)
    temperature = learning.temperature
    if temperature is None:
        return *finished, None
    return *finished, saturate(into_temperature * factor, temperature.dtype).reshape(temperature.shape)


def _flops(passes: int, queries: torch.Size, keys: torch.Size | None, extra: torch.Size | None) -> int:
    others = (queries if keys is None else keys)[0] + (0 if extra is None else extra[0])
    return 2 * passes * queries[0] * others * queries[1]


def _forward_flops(*arguments: Any) -> int:
    options = PairOptions(*arguments[4:-1])
    return _flops(3 if arguments[-1] and not options.separate else 1, *arguments[:3])


def _backward_flops(cotangent: torch.Size, *arguments: Any) -> int:
    return _flops(3 if len(cotangent) else 0, *arguments[:3])


pair_softmax = define(
    "pair_softmax(Tensor queries, Tensor? keys, Tensor? extra_keys, Tensor? temperature, "
    f"{arguments_of(PairOptions)}, int keep) -> {results_of(Results)}",
    _compute,
    _shapes,
    flops=_forward_flops,
    backward=Backward(_gradients, learns=4, flops=_backward_flops),
)
