"""ReduceBackSum: sums over the last dimensions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.operators.common import Made, held_sizes, shaped
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import NUMBERS, Kernel, input_gradients, new_operator, operator


def _reduced(arguments: Arguments, shape: Sequence[int]) -> tuple[int, int]:
    """The number of dimensions that stay, and the number of elements in those that do not."""
    count = arguments.integer("num_reduce_dim", 1)
    if not 0 <= count <= len(shape):
        raise RuntimeError(
            "num_reduce_dims_ >= 0 && num_reduce_dims_ <= X.dim(). For N-dim input tensor, support "
            f"num_reduce_dims in range [0, N]; got {count} of {len(shape)}"
        )
    kept = len(shape) - count
    return kept, math.prod(shape[kept:])


def _mask(lengths: Sequence[Tensor], shape: Sequence[int], kept: int, size: int) -> Tensor | None:
    """Which elements of a row count, where lengths are given."""
    if not lengths:
        return None
    rows = math.prod(shape[:kept])
    if lengths[0].numel() != rows:
        raise RuntimeError(
            f"The size of lengths vector doesn't match the batch size: {lengths[0].numel()} vs {rows}"
        )
    places = torch.arange(size, device=lengths[0].device)
    return (places < lengths[0].reshape(-1, 1)).reshape(tuple(shape))


def _reduce_back_sum_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> Made:
    inputs = "dY0 X0 X1" if len(definition.input) > 1 else "dY0 X0"
    made = [new_operator(definition, "ReduceBackSumGradient", inputs, "dX0", gradients)]
    return made, input_gradients(definition, "dX0")


@operator(
    "ReduceBackSum",
    inputs=(1, 2),
    dtypes=(NUMBERS, (torch.int32,)),
    dispatched=True,
    gradient=_reduce_back_sum_gradient,
)
def reduce_back_sum(arguments: Arguments) -> Kernel:
    """The sum over the last `num_reduce_dim` dimensions, of the first `lengths[i]` elements of each row."""

    def kernel(x: Tensor, *lengths: Tensor) -> Tensor:
        kept, size = _reduced(arguments, x.shape)
        mask = _mask(lengths, x.shape, kept, size)
        x = x if mask is None else x.masked_fill(~mask, 0)
        return x.reshape(*x.shape[:kept], size).sum(-1, dtype=x.dtype)

    return kernel


@operator("ReduceBackSumGradient", inputs=(2, 3), dtypes=(NUMBERS, NUMBERS, (torch.int32,)), dispatched=True)
def reduce_back_sum_gradient(arguments: Arguments) -> Kernel:
    """The gradient of X: each row's dY at its elements that count.

    A vector of int64 in X's place is the shape of X, as old nets give it. So is a vector X of int64, which
    the original cannot tell from one either.
    """

    def kernel(cotangent: Tensor, x: Tensor, *lengths: Tensor) -> Tensor:
        holds_shape = x.dim() == 1 and x.dtype == torch.int64
        shape = held_sizes(x) if holds_shape else list(x.shape)
        kept, size = _reduced(arguments, shape)
        rows = math.prod(shape[:kept])
        given = shaped(cotangent, (rows, 1), "ReduceBackSumGradient")
        gradient = given.expand(rows, size).reshape(shape)
        mask = _mask(lengths, shape, kept, size)
        return gradient.clone() if mask is None else gradient.masked_fill(~mask, 0)

    return kernel
