"""ReduceBackSum: sums over the last dimensions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.operators.common import Made, shaped
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import NUMBERS, Kernel, input_gradients, new_operator, operator


def _reduced(arguments: Arguments, x: Tensor) -> tuple[int, int]:
    """The number of dimensions that stay, and the number of elements in those that do not."""
    count = arguments.integer("num_reduce_dim", 1)
    if not 0 <= count <= x.dim():
        raise RuntimeError(
            "num_reduce_dims_ >= 0 && num_reduce_dims_ <= X.dim(). For N-dim input tensor, support "
            f"num_reduce_dims in range [0, N]; got {count} of {x.dim()}"
        )
    kept = x.dim() - count
    return kept, math.prod(x.shape[kept:])


def _mask(lengths: Sequence[Tensor], x: Tensor, kept: int, size: int) -> Tensor | None:
    """Which elements of a row count, where lengths are given."""
    if not lengths:
        return None
    rows = math.prod(x.shape[:kept])
    if lengths[0].numel() != rows:
        raise RuntimeError(
            f"The size of lengths vector doesn't match the batch size: {lengths[0].numel()} vs {rows}"
        )
    return (torch.arange(size, device=x.device) < lengths[0].reshape(-1, 1)).reshape(x.shape)


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
        kept, size = _reduced(arguments, x)
        mask = _mask(lengths, x, kept, size)
        x = x if mask is None else x.masked_fill(~mask, 0)
        return x.reshape(*x.shape[:kept], size).sum(-1, dtype=x.dtype)

    return kernel


@operator("ReduceBackSumGradient", inputs=(2, 3), dtypes=(NUMBERS, NUMBERS, (torch.int32,)), dispatched=True)
def reduce_back_sum_gradient(arguments: Arguments) -> Kernel:
    def kernel(cotangent: Tensor, x: Tensor, *lengths: Tensor) -> Tensor:
        kept, size = _reduced(arguments, x)
        rows = math.prod(x.shape[:kept])
        given = shaped(cotangent, (rows, 1), "ReduceBackSumGradient")
        gradient = given.expand(rows, size).reshape(x.shape)
        mask = _mask(lengths, x, kept, size)
        return gradient.clone() if mask is None else gradient.masked_fill(~mask, 0)

    return kernel
