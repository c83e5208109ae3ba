"""The softmax over pairs of queries and keys as an operator: `pair_softmax`.

With cosines s_ij = x̂_i·ŷ_j, weights a_i of the anchors' losses and the mean positive p_i = (A ŷ)_i,

    loss_i = log Σ_j exp(s_ij/τ) − x̂_i·p_i/τ
    ∂/∂x̂_i = (1/τ) a_i (Σ_j P_ij ŷ_j − p_i),    ∂/∂ŷ = (1/τ) (Pᵀ − Aᵀ) a x̂,    P_ij = exp(s_ij/τ) / Σ

and ∂/∂τ = −(1/τ) Σ s·∂/∂s over all products s, so that a learned temperature needs no second look at the
tiles. What comes back through a unit vector is projected on the plane orthogonal to it and divided by the
norm (eqs. 9-12). `directions.py` makes losses of the sums of many directions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.pairs import direction
from cosnorm.distributed import number_of_processes, sum_over
from cosnorm.norms import accumulation_dtype, saturate
from cosnorm.operators import in_tiles
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.directions import Losses, Sums, kinds_of, losses_of, weigh
from cosnorm.operators.in_tiles import Tiles
from cosnorm.operators.options import arguments_of, flags_of, results_of
from cosnorm.operators.pair_options import PairOptions
from cosnorm.operators.pair_problem import pose
from cosnorm.operators.pairs import Gradients, Pairs, divide_each, pair_up, split_factor

_LEARNING = 5


class Results(NamedTuple):
    """The loss, how many anchors take part, and what is kept for the backward pass.

    Attributes:
        loss: (), or (N,) if separate.
        number: ().
        projected: of a loss of one number: its gradients in the unit rows of queries, keys, extra keys and
            hard negatives (of the queries alone, if no others learn), projected.
        divisors: what divides them, (rows, 2).
        into_temperature: the gradient in the temperature, ().
        log_sums: of separate losses: the logs of their sums, direction after direction.
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
    hard_negatives: Tensor | None
    temperature: Tensor | None

    def into_y(self, needs: list[bool], options: PairOptions) -> bool:
        """Whether gradients go into anything but the queries."""
        if self.hard_negatives is not None or not options.is_one_field(self.extra_keys):
            return True
        # A symmetric tile serves both of its rows, whether these learn or the temperature alone.
        if self.alone(options):
            return True
        return (needs[0] and self.keys is None) or needs[1] or needs[2]

    def alone(self, options: PairOptions) -> bool:
        """Whether the queries are the keys, and there are no others."""
        return self.keys is None and self.extra_keys is None and not options.group

    def pairs(self, options: PairOptions) -> tuple[Pairs, float | Tensor]:
        """The batch as unit rows, and 1/τ."""
        scale = options.scale(self.temperature, self.queries)
        pairs = pair_up(
            self.queries,
            self.keys,
            self.extra_keys,
            options.group,
            options.impl,
            beside=self.hard_negatives,
            meets_queries=options.meets_queries,
            exchange=options.exchange,
        )
        return pairs, scale

    def tiles(self, pairs: Pairs, scale: float | Tensor, options: PairOptions) -> Tiles | None:
        """The same for a backend that makes whole losses, where there is one."""
        return in_tiles.pose(pairs, self.queries, scale, options, alone=self.alone(options))


class _Softmax:
    """A batch, ready for the passes over the tiles."""

    def __init__(
        self, learning: _Learning, pairs: Pairs, scale: float | Tensor, options: PairOptions
    ) -> None:
        self.options, self.pairs = options, pairs
        self.problem = pose(pairs, learning.queries, scale, options, alone=learning.alone(options))
        self.hard = self._hard() if learning.hard_negatives is not None else None

    def _hard(self) -> Tensor:
        """The logits of each query's hard negatives, (N, K)."""
        x, queries = self.pairs.x, self.problem.anchors[0]
        cosines = torch.bmm(self._beside(self.pairs.beside), x.unsqueeze(2)).squeeze(2)
        logits = cosines * (self.problem.scale + self.options.hardness)
        if queries.most is not None:
            logits.masked_fill_(cosines > queries.most.unsqueeze(1), -torch.inf)
        return logits

    def _beside(self, rows: Tensor) -> Tensor:
        return rows.view(len(self.pairs.x), -1, rows.shape[1])

    def _own(self, direction: str, *, beside: bool = True) -> Tensor | None:
        """The log of what each anchor has beside the tiles: its positive, and its hard negatives."""
        anchors = self.problem.anchors[direction.startswith("key")]
        if direction in ("query_to_query", "key_to_key"):  # where no positive is met
            return None
        found = None if anchors.own is None else anchors.logits.masked_fill(~anchors.own, -torch.inf)
        if not beside or self.hard is None or direction != "query_to_key":
            return found
        hard = self.hard.logsumexp(1)
        return hard if found is None else torch.logaddexp(found, hard)

    def log_sums(self, kept: list[list[Tensor]] | None) -> Sums:
        """The logs of the sums, for each direction."""
        found: Sums = {}
        for field in self.problem.fields:
            tiles: list[Tensor] | None = None
            if kept is not None:
                kept.append(tiles := [])
            rows, columns = self.problem.backend.log_sums(
                *self.problem.operands(field),
                self.problem.scale,
                field.exclusion,
                symmetric=field.symmetric,
                columns=field.columns,
                tile=self.options.chunk_size,
                kept=tiles,
            )
            found[field.direction] = rows
            if columns is not None:
                found["key_to_query"] = columns
        return self.options.in_order({name: self._with_own(name, one) for name, one in found.items()})

    def _with_own(self, direction: str, sums: Tensor) -> Tensor:
        own = self._own(direction)
        return sums if own is None else torch.logaddexp(sums, own)

    def gradients(self, into: Gradients, sums: Sums, weights: list[Tensor], kept: list[list[Tensor]]) -> None:
        """Add the gradients of the losses, each with its weight."""
        problem, along = self.problem, weigh(self.problem, sums, weights)
        towards = {name: direction(along[name], sums[name]) for name in sums}
        for place, field in enumerate(problem.fields):
            rows = towards[field.direction]
            columns = rows if field.symmetric else towards["key_to_query"] if field.columns else None
            problem.backend.gradients(
                *problem.operands(field),
                problem.scale,
                field.exclusion,
                rows,
                columns,
                *field.into(into),
                symmetric=field.symmetric,
                tile=self.options.chunk_size,
                kept=kept[place] if kept else None,
            )
        self.pull(into, sums, weights, along)

    def pull(self, into: Gradients, sums: Sums, weights: list[Tensor], along: Sums) -> None:
        """Add what the logits beside the tiles give: those of positives and of hard negatives."""
        problem, pairs = self.problem, self.pairs
        pulls = dict(zip(kinds_of(problem, sums), (-one for one in weights), strict=True))
        for name, kind in (("query_to_key", 0), ("key_to_query", 1)):
            own = self._own(name, beside=False) if name in sums else None
            if own is not None:
                found = _share(along[name], own, sums[name])
                pulls[kind] = pulls[kind] + found if kind in pulls else found
        if len(pulls) == 2 and problem.anchors[0] is problem.anchors[1]:
            pulls = {0: pulls[0] + pulls[1]}
        sides = (
            (pairs.x, pairs.y, into.into_x, into.into_y),
            (
                pairs.own_keys,
                pairs.queries,
                into.into_keys,
                into.into_queries,
            ),
        )
        for kind, pull in pulls.items():
            positives, (rows, others, into_rows, into_others) = problem.anchors[kind].positives, sides[kind]
            pull = (pull * problem.scale).unsqueeze(1)
            if into_rows is not None:
                into_rows.addcmul_(positives.means(others), pull)
            if into_others is not None:
                positives.spread_(into_others, rows * pull)
        if self.hard is not None and into.into_beside is not None:
            name = "query_to_key"
            pull = _share(along[name].unsqueeze(1), self.hard, sums[name].unsqueeze(1)) * problem.scale
            into.into_x.add_(torch.bmm(pull.unsqueeze(1), self._beside(pairs.beside)).squeeze(1))
            self._beside(into.into_beside).addcmul_(pull.unsqueeze(2), pairs.x.unsqueeze(1))

    def one_pass(self, into: Gradients) -> tuple[Sums, list[Losses]] | None:
        """Losses and the gradients of their sum together, where the tiles are whole rows of one direction."""
        problem, field = self.problem, self.problem.fields[0]
        if len(problem.fields) > 1 or field.symmetric or field.columns or problem.options.joint:
            return None
        anchors = problem.anchors[field.direction.startswith("key")]
        into_x, into_y = field.into(into)
        rows = problem.backend.rows_with_gradients(
            *problem.operands(field),
            problem.scale,
            field.exclusion,
            (anchors.positives.counts > 0).to(field.x.dtype),
            self._own(field.direction),
            into_x,
            into_y,
            tile=self.options.chunk_size,
        )
        if rows is None:
            return None
        sums = {field.direction: rows}
        losses = losses_of(problem, sums)
        weights = [losses[0].part.to(rows.dtype)]
        self.pull(into, sums, weights, weigh(problem, sums, weights))
        return sums, losses


def _share(along: Tensor, logits: Tensor, sums: Tensor) -> Tensor:
    """What logits beside the tiles weigh: along · exp(logit − sum), 0 where the anchor takes no part."""
    return torch.where(along == 0, 0, along * (logits - sums).exp())


def _reduced(losses: list[Losses], options: PairOptions) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The loss, what it is still to be divided by for the mean, and what the loss of each anchor weighs."""
    if options.separate:
        loss = losses[0].values
        if len(losses) > 1:
            loss = torch.stack([one.values * one.share for one in losses]).sum(0)
        return loss, losses[0].part.sum(), [one.part.to(loss.dtype) * one.share for one in losses]
    numbers = [sum_over(one.part.sum(), options.group) for one in losses]
    sums = [sum_over(one.values.sum(), options.group) for one in losses]
    if len(losses) == 1:
        return sums[0], numbers[0], [losses[0].part.to(sums[0].dtype)]
    # Queries and keys have numbers of their own: their means are made here.
    shares = [
        one.share / number.clamp(min=1).to(sums[0].dtype) if options.reduction == "mean" else one.share
        for one, number in zip(losses, numbers, strict=True)
    ]
    weights = [one.part.to(sums[0].dtype) * share for one, share in zip(losses, shares, strict=True)]
    loss = torch.stack([one * share for one, share in zip(sums, shares, strict=True)]).sum()
    return loss, torch.ones_like(numbers[0]), weights


def _compute(*arguments: Any) -> Results:
    learning, options, keep = _parts(arguments)
    pairs, scale = learning.pairs(options)
    tiles = learning.tiles(pairs, scale, options)
    if tiles is not None:
        return _compute_in_tiles(pairs, tiles, options, keep, into_y=learning.into_y(keep, options))
    softmax = _Softmax(learning, pairs, scale, options)
    problem = softmax.problem
    projected, divisors, into_temperature, log_sums = (pairs.x.new_empty(0) for _ in range(4))
    if any(keep) and not options.separate:
        into = pairs.gradients(into_y=learning.into_y(keep, options))
        found = softmax.one_pass(into)
        if found is not None:
            loss, number, _ = _reduced(found[1], options)
        else:
            kept: list[list[Tensor]] = []
            sums = softmax.log_sums(kept)
            loss, number, weights = _reduced(losses_of(problem, sums), options)
            softmax.gradients(into, sums, weights, kept)
        into_temperature = pairs.project_(into) * -problem.scale
        projected, divisors = into.rows, pairs.divisors[: len(into.rows)].clone()
    else:
        sums = softmax.log_sums(None)
        loss, number, _ = _reduced(losses_of(problem, sums), options)
        if any(keep):
            log_sums = torch.cat(list(sums.values()))
    return Results(loss, number, projected, divisors, into_temperature, log_sums)


def _compute_in_tiles(
    pairs: Pairs, tiles: Tiles, options: PairOptions, keep: list[bool], *, into_y: bool
) -> Results:
    """The same by a backend that finds the positives in its tiles: few launches."""
    found = in_tiles.losses(tiles)
    empty = pairs.x.new_empty(0)
    if options.separate:
        log_sums = torch.cat(found.log_sums) if any(keep) else empty
        return Results(found.losses, found.part.sum(dtype=torch.int64), empty, empty, empty, log_sums)
    loss, number = found.sums()
    if not any(keep):
        return Results(loss, number, empty, empty, empty, empty)
    rows, along = in_tiles.gradients(pairs, tiles, found, into_y=into_y)
    into_temperature = pairs.x.new_empty(())
    if keep[-1]:
        into_temperature = in_tiles.into_temperature(along, tiles, into_y=into_y)
    divisors = pairs.divisors
    if len(rows) < len(divisors):
        divisors = divisors[: len(rows)].clone()
    return Results(loss, number, rows, divisors, into_temperature, empty)


def _parts(arguments: Sequence[Any]) -> tuple[_Learning, PairOptions, list[bool]]:
    keep = flags_of(arguments[-1], _LEARNING)
    return _Learning(*arguments[:_LEARNING]), PairOptions(*arguments[_LEARNING:-1]), keep


def _shapes(*arguments: Any) -> Results:
    learning, options, keep = _parts(arguments)
    queries = learning.queries
    number, size = queries.shape

    def empty(*shape: int) -> Tensor:
        return queries.new_empty(shape, dtype=accumulation_dtype(queries.dtype))

    kept = any(keep) and not options.separate
    rows = number
    if learning.into_y(keep, options):
        rows += sum(one.shape[:-1].numel() for one in learning[1:4] if one is not None)
    sums = [
        (number if learning.keys is None else learning.keys.shape[0]) if kind else number
        for kind in options.anchors
    ]
    return Results(
        empty(number) if options.separate else empty(),
        queries.new_empty((), dtype=torch.int64),
        empty(rows, size) if kept else empty(0),
        empty(rows, 2) if kept else empty(0),
        empty() if kept else empty(0),
        empty(sum(sums)) if any(keep) and options.separate else empty(0),
    )


def _gradients(cotangent: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    end = _LEARNING + len(PairOptions._fields)
    learning, options = _Learning(*arguments[:_LEARNING]), PairOptions(*arguments[_LEARNING:end])
    kept, needs = Results(cotangent, *arguments[end:-1]), arguments[-1]
    if options.separate:
        pairs, scale = learning.pairs(options)
        tiles, into_y = learning.tiles(pairs, scale, options), learning.into_y(needs, options)
        weights, factor = split_factor(cotangent)
        if tiles is not None:
            found = in_tiles.losses(tiles)
            found = found._replace(part=found.part * weights)
            projected, along = in_tiles.gradients(pairs, tiles, found, into_y=into_y)
            into_temperature = in_tiles.into_temperature(along, tiles, into_y=into_y)
        else:
            softmax = _Softmax(learning, pairs, scale, options)
            sums = options.named(kept.log_sums, len(pairs.x), len(pairs.own_keys))
            shares = _reduced(losses_of(softmax.problem, sums), options)[2]
            into = pairs.gradients(into_y=into_y)
            softmax.gradients(into, sums, [torch.where(one == 0, 0, weights * one) for one in shares], [])
            projected, into_temperature = into.rows, pairs.project_(into) * -softmax.problem.scale
        divisors = pairs.divisors
    else:
        projected, divisors, into_temperature = kept.projected, kept.divisors, kept.into_temperature
        factor = cotangent * number_of_processes(options.group) if options.group else cotangent
    rows: list[Tensor | None] = list(learning[:4])
    hard = learning.hard_negatives
    if hard is not None:
        rows[3] = hard.reshape(-1, hard.shape[-1])
    finished = divide_each(projected, divisors, factor, rows, needs[:4], options.impl)
    if hard is not None and finished[3] is not None:
        finished[3] = finished[3].view(hard.shape)
    temperature = learning.temperature
    if temperature is None:
        return *finished, None
    return *finished, saturate(into_temperature * factor, temperature.dtype).reshape(temperature.shape)


def _flops(passes: int, options: PairOptions, queries: torch.Size, *others: torch.Size | None) -> int:
    return 2 * passes * options.pairs(queries, *others) * int(queries[1])


def _forward_flops(*arguments: Any) -> int:
    options = PairOptions(*arguments[_LEARNING:-1])
    return _flops(3 if arguments[-1] and not options.separate else 1, options, *arguments[:4])


def _backward_flops(cotangent: torch.Size, *arguments: Any) -> int:
    options = PairOptions(*arguments[_LEARNING : _LEARNING + len(PairOptions._fields)])
    return _flops(3 if len(cotangent) else 0, options, *arguments[:4])


pair_softmax = define(
    "pair_softmax(Tensor queries, Tensor? keys, Tensor? extra_keys, Tensor? hard_negatives, "
    f"Tensor? temperature, {arguments_of(PairOptions)}, int keep) -> {results_of(Results)}",
    _compute,
    _shapes,
    flops=_forward_flops,
    backward=Backward(_gradients, learns=_LEARNING, flops=_backward_flops),
)
