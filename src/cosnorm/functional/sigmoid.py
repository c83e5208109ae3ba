"""A sigmoid for each pair of queries and keys instead of a softmax, a tile at a time (SigLIP)."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.distributed import Group, check_group, gather_rows, sum_over
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.checks import check_count, check_pair
from cosnorm.functional.contrastive_inputs import mask_self
from cosnorm.functional.norms import (
    UnitRows,
    accumulation_dtype,
    finish_gradient,
    normalized,
    project_out_,
    scale_by_exponent,
    split_exponent,
)
from cosnorm.functional.once import first_derivative_only, records_gradient
from cosnorm.functional.opaque import opaque
from cosnorm.functional.tiles import TILE
from cosnorm.functional.unit import unit_vectors

Reduction = Literal["none", "mean", "sum"]
_WHERE = "pairwise_sigmoid_loss"


@takes_arrays
def pairwise_sigmoid_loss(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
) -> Tensor:
    r"""Binary cross-entropy of every pair: query i and key i belong together, all others do not.

    .. math:: \ell_i = -\sum_j \log \sigma\big(z_{ij} (s\,c_{ij} + b)\big),
        \quad z_{ij} = 1 \text{ if } i = j \text{ else } -1

    with the cosines c. No N×N matrix is made, forward or backward.

    Args:
        queries: shape (N, D).
        keys: shape (N, D).
        scale: s, a number or a tensor of one element that learns.
        bias: b, the same.
        reduction: "mean" over the queries, "sum", or "none": shape (N,).
        chunk_size: rows and columns of a tile. None: chosen by itself.
        group: processes over which the batch is spread, as for `contrastive_cross_entropy`: queries look at
            the keys of all.

    Returns:
        The loss: float32 for half types, else of the dtype of the queries. NumPy arrays give NumPy.

    A zero row has cosine 0 with everything and receives gradient 0. The gradient cannot be differentiated
    again: that raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, two devices, a scale or bias that is not finite.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343, section 3.2.

    Example:
        >>> import torch
        >>> pairwise_sigmoid_loss(torch.eye(2), torch.eye(2), scale=10.0, bias=-5.0)
        tensor(0.0134)
    """
    if torch.compiler.is_compiling() and group is None:
        numbers = _tensor("scale", scale), _tensor("bias", bias)
        return _compiled(queries, keys, *numbers, reduction, chunk_size)
    check_pair(_WHERE, queries=queries, keys=keys)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{_WHERE}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if chunk_size is not None:
        check_count(_WHERE, "chunk_size", chunk_size)
    scale, bias = _number("scale", scale), _number("bias", bias)
    number, offset = queries.new_tensor(len(queries), dtype=torch.float64), 0
    if group is not None:
        check_group(_WHERE, group)
        keys, offset = gather_rows(unit_vectors(keys), group)
    keep = records_gradient(queries, keys, scale, bias)
    options = _Options(offset, chunk_size or TILE, reduction == "none", keep)
    loss: Tensor = _Sigmoid.apply(queries, keys, scale, bias, options)[0]
    if group is not None and reduction != "none":
        loss, number = sum_over(loss, group), sum_over(number, group)
    return loss / float(number.clamp(min=1)) if reduction == "mean" else loss


def _tensor(name: str, value: float | Tensor) -> Tensor:
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise TypeError(f"{_WHERE}: {name} must be a number or a tensor, got {type(value).__name__}")
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)


def _number(name: str, value: float | Tensor) -> Tensor:
    found = _tensor(name, value)
    if found.numel() != 1 or not bool(found.detach().isfinite().all()):
        raise ValueError(f"{_WHERE}: {name} must be one finite number, got {value!r}")
    return found


class _Options(NamedTuple):
    offset: int  # query i belongs to key i + offset
    tile: int
    separate: bool
    keep: bool


class _Sums(NamedTuple):
    """Losses of the queries, and their gradients in unit queries, unit keys (less the scale) and the bias."""

    losses: Tensor
    into_x: Tensor
    into_y: Tensor
    into_bias: Tensor


def _tiles(
    x: Tensor, y: Tensor, scale: float, bias: float, weights: Tensor | None, options: _Options
) -> _Sums:
    """One pass over the tiles; without weights the gradients are not made."""
    own = y[options.offset : options.offset + len(x)]
    positive = (x * own).sum(1) * scale + bias
    losses = -F.logsigmoid(positive)
    into_x, into_y, into_bias = torch.zeros_like(x), torch.zeros_like(y), x.new_zeros(())
    if weights is not None:
        pull = (-weights * torch.sigmoid(-positive)).unsqueeze(1)
        into_x.addcmul_(own, pull)
        into_y[options.offset : options.offset + len(x)] = x * pull
        into_bias += pull.sum()
    for top in range(0, len(x), options.tile):
        rows = slice(top, min(top + options.tile, len(x)))
        scaled = x[rows] * scale
        for left in range(0, len(y), options.tile):
            columns = slice(left, min(left + options.tile, len(y)))
            logits = (scaled @ y[columns].t()).add_(bias)
            mask_self(options.offset, logits, rows, columns)
            losses[rows] -= F.logsigmoid(-logits).sum(1)
            if weights is not None:
                softly = logits.sigmoid_().mul_(weights[rows].unsqueeze(1))
                into_x[rows].addmm_(softly, y[columns])
                into_y[columns].addmm_(softly.t(), x[rows])
                into_bias += softly.sum()
    return _Sums(losses, into_x, into_y, into_bias)


class _Sigmoid(torch.autograd.Function):
    """The loss; and kept gradients: projected, with 1/norm and exponent, in the scale and in the bias."""

    @staticmethod
    def forward(
        queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, options: _Options
    ) -> tuple[Tensor, ...]:
        with without_autocast(queries.device):
            unit_x, unit_y = (normalized(rows) for rows in (queries, keys))
            keep = options.keep and not options.separate
            weights = torch.ones_like(unit_x.values[:, 0]) if keep else None
            sums = _tiles(unit_x.values, unit_y.values, float(scale), float(bias), weights, options)
            if not keep:
                return (sums.losses if options.separate else sums.losses.sum(),)
            return sums.losses.sum(), *_gradients(sums, unit_x, unit_y, float(scale))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        queries, keys, scale, bias, ctx.options = inputs
        ctx.dtypes = queries.dtype, keys.dtype
        ctx.mark_non_differentiable(*output[1:])
        ctx.kept = len(output) > 1
        ctx.save_for_backward(queries, keys, scale, bias, *output[1:])

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, scale, bias, *saved = ctx.saved_tensors
        cotangent, exponent = split_exponent(cotangent)
        if not ctx.kept:
            with without_autocast(queries.device):
                unit_x, unit_y = (normalized(rows) for rows in (queries, keys))
                x, y = unit_x.values, unit_y.values
                weights = cotangent.expand(len(x)).to(x.dtype)
                sums = _tiles(x, y, float(scale), float(bias), weights, ctx.options)
                saved = _gradients(sums, unit_x, unit_y, float(scale))
                cotangent = torch.ones_like(cotangent[..., :1]).squeeze()
        *rows, into_scale, into_bias = saved
        found = [
            finish_gradient(projected, inverse_norm * cotangent, exponent - row_exponent, dtype)
            for (projected, inverse_norm, row_exponent), dtype in zip(
                (rows[:3], rows[3:]), ctx.dtypes, strict=True
            )
        ]
        numbers = [
            scale_by_exponent(one * cotangent, exponent).to(like.dtype).reshape(like.shape)
            for one, like in ((into_scale, scale), (into_bias, bias))
        ]
        return *found, *numbers, None


def _gradients(sums: _Sums, unit_x: UnitRows, unit_y: UnitRows, scale: float) -> list[Tensor]:
    """What is kept of the gradients; consumes the sums."""
    into_scale = (unit_x.values * sums.into_x).sum()
    parts: list[Tensor] = []
    for gradient, unit in ((sums.into_x, unit_x), (sums.into_y, unit_y)):
        parts += [project_out_(gradient.mul_(scale), unit), unit.inverse_norm, unit.exponent]
    return [*parts, into_scale, sums.into_bias]


def _eager(
    queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, reduction: Any, chunk_size: int | None
) -> Tensor:
    loss: Tensor = pairwise_sigmoid_loss(
        queries, keys, scale=scale, bias=bias, reduction=reduction, chunk_size=chunk_size
    )
    return loss


def _fake(queries: Tensor, *values: Any) -> Tensor:
    shape = queries.shape[:1] if values[-2] == "none" else ()
    return queries.new_empty(shape, dtype=accumulation_dtype(queries.dtype))


_compiled = opaque(
    "pairwise_sigmoid_loss",
    "Tensor queries, Tensor keys, Tensor scale, Tensor bias, str reduction, int? chunk_size",
    _eager,
    _fake,
    differentiable=4,
)
