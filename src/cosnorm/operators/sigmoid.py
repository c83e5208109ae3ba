"""The sigmoid loss of all pairs of queries and keys as an operator: `sigmoid_pairs`."""

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.devices import is_accelerator
from cosnorm.distributed import number_of_processes, sum_over
from cosnorm.norms import accumulation_dtype, saturate
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import Backward
from cosnorm.operators.options import arguments_of, results_of
from cosnorm.operators.pairs import Gradients, Pairs, divide_each, pair_up, split_factor

_WHERE = "pairwise_sigmoid_loss"


class SigmoidOptions(NamedTuple):
    """What the loss is, apart from what learns.

    Attributes:
        number_scale: the scale, where no tensor is it.
        number_bias: the same.
        separate: a loss for each query, not their sum.
        chunk_size: rows and columns of a tile.
        group: name of the processes over which the batch is spread; "" for one.
    """

    number_scale: float
    number_bias: float
    separate: bool
    chunk_size: int | None
    group: str


class Results(NamedTuple):
    """The loss, how many queries count, and what is kept for the backward pass of one number.

    Attributes:
        loss: (), or (N,) if separate.
        number: ().
        projected: gradients in the unit rows of queries and keys, projected.
        divisors: what divides them, (rows, 2).
        numbers: gradients in scale and bias, (2,).
    """

    loss: Tensor
    number: Tensor
    projected: Tensor
    divisors: Tensor
    numbers: Tensor


def _value(name: str, tensor: Tensor | None, number: float, like: Tensor) -> float | Tensor:
    if tensor is not None and is_accelerator(tensor.device):  # NaN or inf shows itself in the loss
        return tensor.reshape(()).to(accumulation_dtype(like.dtype))
    value = number if tensor is None else float(tensor)
    if not -torch.inf < value < torch.inf:
        raise ValueError(f"{_WHERE}: {name} must be one finite number, got {value}")
    return value


def _pass(
    pairs: Pairs,
    scale: float | Tensor,
    bias: float | Tensor,
    weights: Tensor | None,
    options: SigmoidOptions,
    *,
    write: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of the queries; if `write`, projected gradients, and those in scale and bias; weights: 1."""
    backend = choose.backends("sigmoid", "auto", pairs.x)[0]
    if hasattr(backend, "whole_losses") and not options.group and len(pairs.x):
        return _whole_pass(backend, pairs, scale, bias, weights, options, write=write)
    weights = torch.ones_like(pairs.x[:, 0]) if write and weights is None else weights
    gradients = Gradients(pairs.x.new_empty(0), pairs.x.new_empty(0), None)
    if weights is not None:
        gradients = pairs.gradients(into_y=True)
    losses, into_bias = backend.losses(
        pairs.x,
        pairs.y,
        scale,
        bias,
        pairs.shares.own.start,
        tile=options.chunk_size,
        weights=weights,
        into_x=gradients.into_x,
        into_y=gradients.into_y,
    )
    if weights is None:
        return losses, gradients.rows, pairs.x.new_empty(0)
    into_scale = pairs.project_(gradients)
    return losses, gradients.rows.mul_(scale), torch.stack([into_scale, into_bias])


def _whole_pass(
    backend: ModuleType,
    pairs: Pairs,
    scale: float | Tensor,
    bias: float | Tensor,
    weights: Tensor | None,
    options: SigmoidOptions,
    *,
    write: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by a backend that makes all of it from its tiles."""
    units, number = pairs.units if pairs.rounded is None else pairs.rounded, len(pairs.x)
    rows = torch.empty_like(pairs.units) if write else pairs.x.new_empty(0)
    losses, numbers = backend.whole_losses(
        units[:number],
        units[number:],
        scale,
        bias,
        weights=weights,
        into_x=rows[:number] if write else None,
        into_y=rows[number:] if write else None,
        tile=options.chunk_size,
    )
    if not write:
        return losses, rows, rows
    backend.project_(rows, pairs.units, scale)
    return losses, rows, numbers.sum(1)


def _compute(queries: Tensor, keys: Tensor, scale: Tensor | None, bias: Tensor | None, *rest: Any) -> Results:
    options, keep = SigmoidOptions(*rest[:-1]), bool(rest[-1])
    s, b = (
        _value("scale", scale, options.number_scale, queries),
        _value("bias", bias, options.number_bias, queries),
    )
    pairs = pair_up(queries, keys, None, options.group, "auto")
    kept = keep and not options.separate
    losses, projected, numbers = _pass(pairs, s, b, None, options, write=kept)
    count = torch.full((), len(queries), dtype=torch.int64, device=queries.device)
    loss = losses if options.separate else sum_over(losses.sum(), options.group)
    divisors = pairs.divisors if kept else losses.new_empty(0)
    return Results(loss, sum_over(count, options.group), projected, divisors, numbers)


def _shapes(queries: Tensor, keys: Tensor, scale: Tensor | None, bias: Tensor | None, *rest: Any) -> Results:
    options, keep = SigmoidOptions(*rest[:-1]), bool(rest[-1])
    kept = keep and not options.separate
    rows = queries.shape[0] + keys.shape[0]

    def empty(*shape: int) -> Tensor:
        return queries.new_empty(shape, dtype=accumulation_dtype(queries.dtype))

    return Results(
        empty(queries.shape[0]) if options.separate else empty(),
        queries.new_empty((), dtype=torch.int64),
        empty(rows, queries.shape[1]) if kept else empty(0),
        empty(rows, 2) if kept else empty(0),
        empty(2) if kept else empty(0),
    )


def _gradients(
    cotangent: Tensor, queries: Tensor, keys: Tensor, scale: Tensor | None, bias: Tensor | None, *rest: Any
) -> tuple[Tensor | None, ...]:
    number = len(SigmoidOptions._fields)
    options, needs = SigmoidOptions(*rest[:number]), rest[-1]
    kept = Results(cotangent, *rest[number:-1])
    if options.separate:
        s, b = (
            _value("scale", scale, options.number_scale, queries),
            _value("bias", bias, options.number_bias, queries),
        )
        pairs = pair_up(queries, keys, None, options.group, "auto")
        weights, factor = split_factor(cotangent)
        _, projected, numbers = _pass(pairs, s, b, weights, options, write=True)
        divisors = pairs.divisors
    else:
        projected, divisors, numbers = kept.projected, kept.divisors, kept.numbers
        factor = cotangent * number_of_processes(options.group) if options.group else cotangent
    into_numbers = [
        None if one is None else saturate(into * factor, one.dtype).reshape(one.shape)
        for one, into in zip((scale, bias), numbers.unbind(), strict=True)
    ]
    return *divide_each(projected, divisors, factor, (queries, keys), needs[:2]), *into_numbers


def _flops(passes: int, queries: torch.Size, keys: torch.Size) -> int:
    return 2 * passes * queries[0] * keys[0] * queries[1]


def _forward_flops(queries: torch.Size, keys: torch.Size, *rest: Any) -> int:
    made = rest[-1] and not SigmoidOptions(*rest[2:-1]).separate
    return _flops(3 if made else 1, queries, keys)


def _backward_flops(cotangent: torch.Size, queries: torch.Size, keys: torch.Size, *rest: Any) -> int:
    return _flops(3 if len(cotangent) else 0, queries, keys)


sigmoid_pairs = define(
    "sigmoid_pairs(Tensor queries, Tensor keys, Tensor? scale, Tensor? bias, "
    f"{arguments_of(SigmoidOptions)}, int keep) -> {results_of(Results)}",
    _compute,
    _shapes,
    flops=_forward_flops,
    backward=Backward(_gradients, learns=4, flops=_backward_flops),
)
