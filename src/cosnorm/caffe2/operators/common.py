"""What several families of operators share: axes, the shapes of gradients, gradients that are none."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import NAMES
from cosnorm.caffe2.tensors import checked_shape

# What a GradientMaker returns: the gradient operators, and the names of the inputs' gradients.
Made = tuple[list[caffe2_pb2.OperatorDef], list[str | None]]
EPS = 1e-12  # below which a norm or a difference counts as 0


def no_gradient(definition: caffe2_pb2.OperatorDef, _: Sequence[str | None]) -> Made:
    """For operators through which no gradient goes."""
    return [], [None] * len(definition.input)


def axis_of(axis: int, dimensions: int) -> int:
    """The axis counted from the front. Raises a RuntimeError where there is none."""
    if not -dimensions <= axis < dimensions:
        bound = "axis_index < ndims" if axis >= 0 else "axis_index >= -ndims"
        raise RuntimeError(
            f"Expected {bound} to be true, but got false: axis {axis} of {dimensions} dimensions"
        )
    return axis % dimensions


def check_dtype(tensor: Tensor, dtype: torch.dtype) -> None:
    """Raises a RuntimeError for another dtype."""
    if tensor.dtype != dtype:
        raise RuntimeError(
            f"Tensor type mismatch, caller expects elements to be {NAMES[dtype]}, "
            f"while tensor contains {NAMES.get(tensor.dtype, str(tensor.dtype))}."
        )


def shaped(gradient: Tensor, shape: Sequence[int], name: str) -> Tensor:
    """The gradient of an output of that shape, in that shape.

    As in the original only the number of elements matters; that one reads beyond the end of a short gradient.

    Raises:
        RuntimeError: another number of elements.
    """
    if gradient.numel() != math.prod(shape):
        raise RuntimeError(
            f"{name}: the gradient must have the elements of the output, which has shape {list(shape)}, "
            f"got {list(gradient.shape)}"
        )
    return gradient.reshape(shape)


def held_sizes(sizes: Tensor) -> list[int]:
    """The shape that a vector of int64 holds.

    Raises:
        RuntimeError: sizes that no tensor has, or a vector on the meta device, which holds none.
    """
    if sizes.is_meta:
        raise RuntimeError("the shape is what a blob holds: it is not known before the net runs")
    return checked_shape(sizes.tolist())


def as_column(gradient: Tensor, rows: int, name: str) -> Tensor:
    """The gradient of an output that is one number a row, as a column.

    Raises:
        RuntimeError: another shape.
    """
    if gradient.dim() != 1 or gradient.shape[0] != rows:
        raise RuntimeError(
            f"{name}.dim() == 1 and {name}.dim32(0) == N, N = {rows}; got {list(gradient.shape)}"
        )
    return gradient.unsqueeze(1)
