"""What a network wants beside cosine layers: FC, MatMul, Relu, Softmax, LabelCrossEntropy, AveragedLoss."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments, MakeArgument
from cosnorm.caffe2.operators.common import Made, as_column, axis_of, shaped
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import FLOAT, Kernel, gradient_of, input_gradients, new_operator, operator

LEAST = 1e-20  # under the logarithm


def _matrix(x: Tensor, axis: int) -> Tensor:
    """Dimensions before the axis as rows, the others as columns."""
    place = axis_of(axis, x.dim())
    return x.reshape(math.prod(x.shape[:place]), math.prod(x.shape[place:]))


@operator("FC", inputs=3, gradient=gradient_of("FCGradient", "X0 X1 dY0", "dX1 dX2 dX0"))
def fully_connected(arguments: Arguments) -> Kernel:
    """X Wᵀ + b, X (M, K), W (N, K), b (N)."""
    axis, axis_w = arguments.integer("axis", 1), arguments.integer("axis_w", 1)

    def kernel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, filters = _matrix(x, axis), _matrix(weight, axis_w)
        if rows.shape[1] != filters.shape[1] or bias.numel() != filters.shape[0]:
            raise RuntimeError(
                f"Dimension mismatch: X: {list(x.shape)}, W: {list(weight.shape)}, b: {list(bias.shape)}, "
                f"axis: {axis}, M: {rows.shape[0]}, N: {filters.shape[0]}, K: {rows.shape[1]}"
            )
        output = torch.addmm(bias.reshape(-1), rows, filters.t())
        return output.reshape(*x.shape[: axis_of(axis, x.dim())], filters.shape[0])

    return kernel


@operator("FCGradient", inputs=3, outputs=(2, 3))
def fully_connected_gradient(arguments: Arguments) -> Kernel:
    axis, axis_w = arguments.integer("axis", 1), arguments.integer("axis_w", 1)
    with_input = len(arguments.operator.output) == 3

    def kernel(x: Tensor, weight: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        rows, filters = _matrix(x, axis), _matrix(weight, axis_w)
        cotangent = shaped(cotangent, (rows.shape[0], filters.shape[0]), "FCGradient")
        gradients = (cotangent.t() @ rows).reshape(weight.shape), cotangent.sum(0)
        return (*gradients, (cotangent @ filters).reshape(x.shape)) if with_input else gradients

    return kernel


def _matmul_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> Made:
    """Two products; a third input tells the shape of the gradient."""
    given = Arguments(definition)
    of_a, of_b = given.integer("axis_a", 1), given.integer("axis_b", 1)
    trans_a, trans_b = MakeArgument("trans_a", 1), MakeArgument("trans_b", 1)
    # Each of the two products has one of the inputs as a factor, on the left or on the right, with its own
    # axis; the original mixes the axes up, which shows only where they are not 1.
    of = {
        (False, False): (
            ("dY0 X1 X0", [trans_b, MakeArgument("axis_b", of_b)]),
            ("X0 dY0 X1", [trans_a, MakeArgument("axis_a", of_a)]),
        ),
        (False, True): (
            ("dY0 X1 X0", [MakeArgument("axis_b", of_b)]),
            ("dY0 X0 X1", [trans_a, MakeArgument("axis_b", of_a)]),
        ),
        (True, False): (
            ("X1 dY0 X0", [trans_b, MakeArgument("axis_a", of_b)]),
            ("X0 dY0 X1", [MakeArgument("axis_a", of_a)]),
        ),
        (True, True): (
            ("X1 dY0 X0", [trans_a, trans_b, MakeArgument("axis_a", of_b)]),
            ("dY0 X0 X1", [trans_a, trans_b, MakeArgument("axis_b", of_a)]),
        ),
    }[bool(given.integer("trans_a", 0)), bool(given.integer("trans_b", 0))]
    made = [
        new_operator(definition, "MatMul", inputs, f"dX{i}", gradients, arguments, copy_arguments=False)
        for i, (inputs, arguments) in enumerate(of)
    ]
    return made, input_gradients(definition, "dX0 dX1")


@operator("MatMul", inputs=(2, 3), gradient=_matmul_gradient)
def matmul(arguments: Arguments) -> Kernel:
    """A B, each transposed where `trans_a`, `trans_b` say so; a third input gives the output its shape.

    Raises:
        RuntimeError: at running, a third input of another number of elements; the original writes beyond it.
    """
    axis_a, axis_b = arguments.integer("axis_a", 1), arguments.integer("axis_b", 1)
    trans_a, trans_b = arguments.integer("trans_a", 0), arguments.integer("trans_b", 0)

    def kernel(first: Tensor, second: Tensor, *like: Tensor) -> Tensor:
        a, b = _matrix(first, axis_a), _matrix(second, axis_b)
        a, b = a.t() if trans_a else a, b.t() if trans_b else b
        if a.shape[1] != b.shape[0]:
            raise RuntimeError(
                f"a_dim1 == b_dim0. Dimension mismatch: A: {list(first.shape)}, B: {list(second.shape)}"
            )
        output = a @ b
        if not like:
            return output
        if like[0].numel() != output.numel():
            raise RuntimeError(
                f"MatMul: the third input, whose shape the output takes, has {list(like[0].shape)}, the "
                f"product {list(output.shape)}; give one of {output.numel()} elements, or none"
            )
        return output.reshape(like[0].shape)

    return kernel


@operator("Relu", in_place=[(0, 0)], dispatched=True, gradient=gradient_of("ReluGradient", "Y0 dY0", "dX0"))
def relu(_: Arguments) -> Kernel:
    return torch.relu


@operator("ReluGradient", inputs=2, in_place=[(1, 0)])
def relu_gradient(_: Arguments) -> Kernel:
    """The gradient where Y > 0."""

    def kernel(y: Tensor, cotangent: Tensor) -> Tensor:
        cotangent = shaped(cotangent, y.shape, "ReluGradient")
        return torch.where(y > 0, cotangent, torch.zeros_like(cotangent))

    return kernel


@operator("Softmax", gradient=gradient_of("SoftmaxGradient", "Y0 dY0", "dX0"))
def softmax(arguments: Arguments) -> Kernel:
    """The softmax over all dimensions from `axis` on, taken as one."""
    axis = arguments.integer("axis", 1)
    return lambda x: _matrix(x, axis).softmax(1).reshape(x.shape)


@operator("SoftmaxGradient", inputs=2)
def softmax_gradient(arguments: Arguments) -> Kernel:
    axis = arguments.integer("axis", 1)

    def kernel(y: Tensor, cotangent: Tensor) -> Tensor:
        rows, given = _matrix(y, axis), _matrix(shaped(cotangent, y.shape, "SoftmaxGradient"), axis)
        return (rows * (given - (rows * given).sum(1, keepdim=True))).reshape(y.shape)

    return kernel


LABELS = (FLOAT, (torch.int32,), FLOAT)


def _labels(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of probabilities, and labels as a column of indices; compiled graphs do not check their range."""
    rows = x.reshape(1, -1) if x.dim() < 2 else x.flatten(1)
    if labels.dim() > 2 or (labels.dim() == 2 and labels.shape[1] != 1) or labels.numel() != rows.shape[0]:
        raise RuntimeError(f"label.dim32(0) == N. {list(labels.shape)} vs {rows.shape[0]}")
    column = labels.reshape(-1, 1).long()
    looked_at = not torch.compiler.is_compiling() and not column.is_meta
    if looked_at and bool(((column < 0) | (column >= rows.shape[1])).any()):
        raise RuntimeError(f"Label seems to be outside of supported range, which is 0 to {rows.shape[1] - 1}")
    return rows, column


@operator(
    "LabelCrossEntropy",
    inputs=2,
    dtypes=LABELS,
    gradient=gradient_of("LabelCrossEntropyGradient", "X0 X1 dY0", "dX0"),
)
def label_cross_entropy(_: Arguments) -> Kernel:
    """−log max(X[i, label i], 1e-20) for each row."""

    def kernel(x: Tensor, labels: Tensor) -> Tensor:
        rows, column = _labels(x, labels)
        return -rows.gather(1, column).squeeze(1).clamp(min=LEAST).log()

    return kernel


@operator("LabelCrossEntropyGradient", inputs=3, dtypes=LABELS)
def label_cross_entropy_gradient(_: Arguments) -> Kernel:
    def kernel(x: Tensor, labels: Tensor, cotangent: Tensor) -> Tensor:
        rows, column = _labels(x, labels)
        values = -as_column(cotangent, rows.shape[0], "dY") / rows.gather(1, column).clamp(min=LEAST)
        return torch.zeros_like(rows).scatter(1, column, values).reshape(x.shape)

    return kernel


@operator("AveragedLoss", gradient=gradient_of("AveragedLossGradient", "X0 dY0", "dX0"))
def averaged_loss(_: Arguments) -> Kernel:
    """The mean of all elements; 0 of none."""
    return lambda x: x.mean() if x.numel() else x.new_zeros(())


@operator("AveragedLossGradient", inputs=2)
def averaged_loss_gradient(_: Arguments) -> Kernel:
    def kernel(x: Tensor, cotangent: Tensor) -> Tensor:
        if cotangent.numel() < 1:
            raise RuntimeError("AveragedLossGradient: dY must have one element, got none")
        return (cotangent.reshape(-1)[0] / max(x.numel(), 1)).expand(x.shape).clone()

    return kernel
