"""The sigmoid loss of all pairs of queries and keys as an operator: `sigmoid_pairs`.

With logits z = s·c + b, targets t (1 for a positive, 0 for all others) and σ(−z) = 1 − σ(z),

    loss_i = Σ_j t_ij log(1 + e^−z_ij) + (1 − t_ij) log(1 + e^z_ij),    ∂loss_i/∂z_ij = σ(z_ij) − t_ij

Positives that are listed leave the tiles and are looked at by themselves; those by label change sign in them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.devices import is_accelerator
from cosnorm.distributed import number_of_processes, sum_over
from cosnorm.norms import accumulation_dtype, saturate
from cosnorm.operators import in_tiles
from cosnorm.operators.by_turns import Shared, SharedGradients
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.options import arguments_of, results_of
from cosnorm.operators.pair_options import PairOptions
from cosnorm.operators.pair_problem import Field, Problem, mask_of, pose
from cosnorm.operators.pairs import Gradients, Pairs, divide_each, pair_up, split_factor
from cosnorm.operators.positives import LabelPositives, OnePositive, PairPositives

_WHERE = "pairwise_sigmoid_loss"
_LEARNING = 6


class Results(NamedTuple):
    """The loss, how many queries count, and what is kept for the backward pass of one number.

    Attributes:
        loss: (), or (N,) if separate.
        number: ().
        projected: gradients in the unit rows of queries, keys, extra keys and hard negatives, projected.
        divisors: what divides them, (rows, 2).
        numbers: gradients in scale and bias, (2,).
    """

    loss: Tensor
    number: Tensor
    projected: Tensor
    divisors: Tensor
    numbers: Tensor


class _Learning(NamedTuple):
    """The arguments that may learn."""

    queries: Tensor
    keys: Tensor | None
    extra_keys: Tensor | None
    hard_negatives: Tensor | None
    scale: Tensor | None
    bias: Tensor | None

    @property
    def rows(self) -> list[Tensor | None]:
        """Those that are embeddings, as rows."""
        hard = self.hard_negatives
        return [*self[:3], None if hard is None else hard.reshape(-1, hard.shape[-1])]


def _value(name: str, tensor: Tensor | None, number: float, like: Tensor) -> float | Tensor:
    if tensor is not None and is_accelerator(tensor.device):  # NaN or inf shows itself in the loss
        return tensor.reshape(()).to(accumulation_dtype(like.dtype))
    value = number if tensor is None else float(tensor)
    if not -torch.inf < value < torch.inf:
        raise ValueError(f"{_WHERE}: {name} must be one finite number, got {value}")
    return value


class _Sigmoid:
    """A batch, ready for its pass over the tiles."""

    def __init__(self, learning: _Learning, options: PairOptions, scale: float, bias: float) -> None:
        self.options, queries = options, learning.queries
        self.scale = _value("scale", learning.scale, scale, queries)
        self.bias = _value("bias", learning.bias, bias, queries)
        self.pairs: Pairs = pair_up(
            *learning[:3],
            options.group,
            options.impl,
            beside=learning.hard_negatives,
            meets_queries=options.meets_queries,
            exchange=options.exchange,
        )
        # What makes the losses without a problem: no operator stands between its tiles.
        self.whole = in_tiles.sigmoid_backend(self.pairs, queries, options)
        if self.whole is None:
            self.problem: Problem = pose(
                self.pairs, queries, self.scale, options, alone=False, operation="sigmoid", where=_WHERE
            )
        self.has_hard = learning.hard_negatives is not None

    def losses(self, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Gradients | None]:
        """Losses of the queries, those of the keys' own kind, the gradient in bias, and in unit rows."""
        pairs, positives = self.pairs, self.problem.anchors[0].positives
        into = None if weights is None else pairs.gradients(into_y=True)
        found, of_keys = pairs.x.new_zeros(len(pairs.x)), pairs.x.new_zeros(len(pairs.own_keys))
        into_bias = pairs.x.new_zeros(())
        backend = self.problem.backend
        for field in self.problem.fields:
            rows, bias = backend.losses(
                field.x,
                field.y,
                self.scale,
                self.bias,
                field.exclusion,
                self._labels(field),
                tile=self.options.chunk_size,
                weights=self._weights(field, weights),
                **({} if into is None else dict(zip(("into_x", "into_y"), field.into(into), strict=True))),
            )
            (of_keys if field.direction == "key_to_key" else found).add_(rows)
            into_bias += bias
        if isinstance(positives, OnePositive):
            into_bias += self._one(positives, found, weights, into)
        elif isinstance(positives, PairPositives):
            into_bias += self._listed(positives, found, weights, into)
        if self.has_hard:
            into_bias += self._hard(found, weights, into)
        return found, of_keys, into_bias, into

    def _weights(self, field: Field, weights: Tensor | None) -> Tensor | None:
        if weights is None or field.direction != "key_to_key":
            return weights
        return torch.ones_like(field.x[:, 0])

    def _labels(self, field: Field) -> tuple[Tensor, Tensor] | None:
        positives = self.problem.anchors[0].positives
        if field.direction != "query_to_key" or not isinstance(positives, LabelPositives):
            return None
        return positives.query_labels, positives.key_labels

    def _left_out(self, rows: Tensor, columns: Tensor) -> Tensor | None:
        """The positives that the user leaves out."""
        out: Tensor | None = None
        if self.options.exclude is not None:
            out = mask_of(self.options.exclude, "query_to_key", self.pairs)[rows, columns]
        if self.options.exclude_self:
            itself = columns == rows + self.pairs.shares.own.start
            out = itself if out is None else out | itself
        return out

    def _one(
        self, positives: OnePositive, found: Tensor, weights: Tensor | None, into: Gradients | None
    ) -> Tensor:
        """Add the positives of queries that have one at most; gives the gradient in bias."""
        logits = self.problem.anchors[0].logits + self.bias
        part, columns = positives.counts > 0, positives.columns
        if len(self.pairs.y):
            out = self._left_out(torch.arange(len(columns), device=columns.device), columns)
            part = part if out is None else part & ~out
        found -= F.logsigmoid(logits).masked_fill(~part, 0)
        if weights is None or into is None:
            return found.new_zeros(())
        pull = (-weights * torch.sigmoid(-logits)).masked_fill(~part, 0)
        column = pull.unsqueeze(1)
        into.into_x.addcmul_(positives.means(self.pairs.y), column)
        assert into.into_y is not None
        positives.spread_(into.into_y, self.pairs.x * column)
        return pull.sum()

    def _listed(
        self, positives: PairPositives, found: Tensor, weights: Tensor | None, into: Gradients | None
    ) -> Tensor:
        """Add the positives of pairs, whose weights are targets; gives the gradient in bias."""
        pairs, into_bias = self.pairs, found.new_zeros(())
        keys, into_keys, first = pairs.y, None if into is None else into.into_y, 0
        if isinstance(keys, Shared):  # listed are own keys alone
            keys, first = keys.own, pairs.shares.own.start
        if isinstance(into_keys, SharedGradients):
            into_keys = into_keys.own
        for part in positives.parts():
            rows, columns = positives.rows[part], positives.columns[part]
            x, y = pairs.x[rows], keys[columns - first]
            logits = (x * y).sum(1) * self.scale + self.bias
            target = torch.ones_like(logits)
            if positives.weights is not None:
                target = positives.weights[part].to(logits.dtype)
            losses = -target * F.logsigmoid(logits) - (1 - target) * F.logsigmoid(-logits)
            # What weighs nothing is among the negatives.
            out, left_out = target == 0, self._left_out(rows, columns)
            out = out if left_out is None else out | left_out
            found.index_add_(0, rows, losses.masked_fill(out, 0))
            if weights is None or into is None:
                continue
            # σ(z) − t, without a difference of what is nearly 1
            pull = (1 - target) * torch.sigmoid(logits) - target * torch.sigmoid(-logits)
            pull = (pull * weights[rows]).masked_fill(out, 0)
            into.into_x.index_add_(0, rows, y * pull.unsqueeze(1))
            assert into_keys is not None
            into_keys.index_add_(0, columns - first, x * pull.unsqueeze(1))
            into_bias += pull.sum()
        return into_bias

    def _hard(self, found: Tensor, weights: Tensor | None, into: Gradients | None) -> Tensor:
        """Add each query's hard negatives; gives the gradient in bias."""
        pairs, queries = self.pairs, self.problem.anchors[0]
        rows = pairs.beside.view(len(pairs.x), -1, pairs.x.shape[1])
        cosines = torch.bmm(rows, pairs.x.unsqueeze(2)).squeeze(2)
        logits = cosines * self.scale + self.bias
        if queries.most is not None:
            logits.masked_fill_(cosines > queries.most.unsqueeze(1), -torch.inf)
        found -= F.logsigmoid(-logits).sum(1)
        if weights is None or into is None or into.into_beside is None:
            return found.new_zeros(())
        pull = torch.sigmoid(logits) * weights.unsqueeze(1)
        into.into_x.add_(torch.bmm(pull.unsqueeze(1), rows).squeeze(1))
        into.into_beside.view(rows.shape).addcmul_(pull.unsqueeze(2), pairs.x.unsqueeze(1))
        return pull.sum()

    def found(self, weights: Tensor | None, *, write: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Losses of queries and keys; if `write`, projected gradients, and in scale and bias; weights: 1."""
        if self.whole is not None:
            numbers = self.scale, self.bias, weights, self.options
            losses, rows, sums = in_tiles.sigmoid_losses(self.whole, self.pairs, *numbers, write=write)
            return losses, None, rows, sums
        if not write:
            losses, of_keys, _, _ = self.losses(None)
            return losses, of_keys, losses.new_empty(0), losses.new_empty(0)
        if weights is None:
            weights = torch.ones_like(self.pairs.x[:, 0])
        losses, of_keys, into_bias, into = self.losses(weights)
        assert into is not None
        into_scale = self.pairs.project_(into)
        return losses, of_keys, into.rows.mul_(self.scale), torch.stack([into_scale, into_bias])


def _parts(arguments: tuple[Any, ...]) -> tuple[_Learning, PairOptions, float, float]:
    end = _LEARNING + len(PairOptions._fields)
    return (
        _Learning(*arguments[:_LEARNING]),
        PairOptions(*arguments[_LEARNING:end]),
        *arguments[end : end + 2],
    )


def _compute(*arguments: Any) -> Results:
    learning, options, scale, bias = _parts(arguments)
    sigmoid = _Sigmoid(learning, options, scale, bias)
    pairs, kept = sigmoid.pairs, bool(arguments[-1]) and not options.separate
    losses, of_keys, projected, numbers = sigmoid.found(None, write=kept)
    divisors = pairs.divisors if kept else pairs.x.new_empty(0)
    loss = losses
    if not options.separate:
        loss = losses.sum() if of_keys is None else losses.sum() + of_keys.sum()
        loss = sum_over(loss, options.group)
    count = torch.full((), len(pairs.x), dtype=torch.int64, device=losses.device)
    return Results(loss, sum_over(count, options.group), projected, divisors, numbers)


def _shapes(*arguments: Any) -> Results:
    learning, options, _, _ = _parts(arguments)
    queries, kept = learning.queries, bool(arguments[-1]) and not options.separate
    rows = sum(one.shape[0] for one in learning.rows if one is not None)

    def empty(*shape: int) -> Tensor:
        return queries.new_empty(shape, dtype=accumulation_dtype(queries.dtype))

    return Results(
        empty(queries.shape[0]) if options.separate else empty(),
        queries.new_empty((), dtype=torch.int64),
        empty(rows, queries.shape[1]) if kept else empty(0),
        empty(rows, 2) if kept else empty(0),
        empty(2) if kept else empty(0),
    )


def _gradients(cotangent: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    learning, options, scale, bias = _parts(arguments)
    end = _LEARNING + len(PairOptions._fields) + 2
    needs, kept = arguments[-1], Results(cotangent, *arguments[end:-1])
    if options.separate:
        sigmoid = _Sigmoid(learning, options, scale, bias)
        weights, factor = split_factor(cotangent)
        _, _, projected, numbers = sigmoid.found(weights, write=True)
        divisors = sigmoid.pairs.divisors
    else:
        projected, divisors, numbers = kept.projected, kept.divisors, kept.numbers
        factor = cotangent * number_of_processes(options.group) if options.group else cotangent
    into_numbers = [
        None if one is None else saturate(into * factor, one.dtype).reshape(one.shape)
        for one, into in zip(learning[4:], numbers.unbind(), strict=True)
    ]
    found = divide_each(projected, divisors, factor, learning.rows, needs[:4])
    if learning.hard_negatives is not None and found[3] is not None:
        found[3] = found[3].view(learning.hard_negatives.shape)
    return *found, *into_numbers


def _flops(passes: int, options: PairOptions, queries: torch.Size, *others: torch.Size | None) -> int:
    return 2 * passes * options.pairs(queries, *others) * int(queries[1])


def _forward_flops(*arguments: Any) -> int:
    _, options, _, _ = _parts(arguments)
    return _flops(3 if arguments[-1] and not options.separate else 1, options, *arguments[:4])


def _backward_flops(cotangent: torch.Size, *arguments: Any) -> int:
    _, options, _, _ = _parts(arguments)
    return _flops(3 if len(cotangent) else 0, options, *arguments[:4])


sigmoid_pairs = define(
    "sigmoid_pairs(Tensor queries, Tensor? keys, Tensor? extra_keys, Tensor? hard_negatives, Tensor? scale, "
    f"Tensor? bias, {arguments_of(PairOptions)}, float number_scale, float number_bias, int keep) -> "
    f"{results_of(Results)}",
    _compute,
    _shapes,
    flops=_forward_flops,
    backward=Backward(_gradients, learns=_LEARNING, flops=_backward_flops),
)
