"""Arithmetic on tensors of one shape: Sum, WeightedSum, Scale, Sqr, Sqrt."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments, MakeArgument
from cosnorm.caffe2.operators.common import Made, check_dtype
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import (
    FLOATS,
    MANY,
    NUMBERS,
    Kernel,
    input_gradients,
    new_operator,
    operator,
)


def _sum_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> Made:
    """The gradient of a sum is that of each term: no operator, one name."""
    return [], [gradients[0]] * len(definition.input)


@operator(
    "Sum", inputs=(1, MANY), dtypes=(NUMBERS,), dispatched=True, in_place=[(0, 0)], gradient=_sum_gradient
)
def sum_(_: Arguments) -> Kernel:
    def kernel(first: Tensor, *others: Tensor) -> Tensor:
        result = first
        for number, other in enumerate(others, 1):
            if other.shape != first.shape:
                raise RuntimeError(
                    f"Check failed: output->sizes() == Input(i).sizes(). Input #{number}, input dimension:"
                    f"{list(other.shape)} should match output dimension: {list(first.shape)}"
                )
            check_dtype(other, first.dtype)
            result = result + other
        return result

    return kernel


def _weighted_sum_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> Made:
    """The gradients of the values, and with `grad_on_w` behind them those of the weights."""
    places = range(len(definition.input))
    if len(places) % 2:
        raise RuntimeError(f"WeightedSum takes pairs, got {len(places)} inputs")
    wanted = [*places[::2], *(places[1::2] if Arguments(definition).integer("grad_on_w", 0) else ())]
    outputs = " ".join(f"dX{i}" for i in wanted)
    inputs = " ".join(["dY0", *(f"X{i}" for i in places)])
    made = [new_operator(definition, "WeightedSumGradient", inputs, outputs, gradients)]
    return made, input_gradients(definition, outputs)


def _check_weight(number: int, weight: Tensor) -> None:
    if weight.numel() != 1:
        raise RuntimeError(f"weight{number}.numel() == 1. {weight.numel()} vs 1")


@operator("WeightedSumGradient", inputs=(1, MANY), outputs=(1, MANY))
def weighted_sum_gradient(arguments: Arguments) -> Kernel:
    """Of inputs dY, X₀, w₀, X₁, w₁, …: wᵢ dY for each i, then with `grad_on_w` dY·Xᵢ for each."""
    of_weights = arguments.integer("grad_on_w", 0)
    count, outputs = len(arguments.operator.input), len(arguments.operator.output)
    if count % 2 == 0:
        raise RuntimeError(
            "Operator def did not pass schema checking: WeightedSumGradient takes dY and pairs, "
            f"got {count} inputs"
        )
    expected = count - 1 if of_weights else count // 2
    if outputs != expected:
        raise RuntimeError(f"OutputSize() == output_size. {outputs} vs {expected}")

    def kernel(cotangent: Tensor, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values, weights = inputs[::2], inputs[1::2]
        for number, (value, weight) in enumerate(zip(values, weights, strict=True)):
            _check_weight(number, weight)
            if of_weights and value.numel() != cotangent.numel():
                raise RuntimeError(f"cur_X.numel() == size. {value.numel()} vs {cotangent.numel()}")
        found = [cotangent * weight.reshape(()) for weight in weights]
        if of_weights:
            flat = cotangent.reshape(-1)
            found += [flat.dot(value.reshape(-1)).reshape(1) for value in values]
        return tuple(found) if len(found) > 1 else found[0]

    return kernel


@operator("WeightedSum", inputs=(2, MANY), in_place=[(0, 0)], gradient=_weighted_sum_gradient)
def weighted_sum(arguments: Arguments) -> Kernel:
    """Σ wᵢ Xᵢ of inputs X₀, w₀, X₁, w₁, …: how Caffe2's scripts update parameters."""
    count = len(arguments.operator.input)
    if count % 2:
        raise RuntimeError(
            f"Operator def did not pass schema checking: WeightedSum takes pairs, got {count} inputs"
        )

    def kernel(*inputs: Tensor) -> Tensor:
        values, weights = inputs[::2], inputs[1::2]
        if not values[0].numel():
            raise RuntimeError("X0.numel() > 0. 0 vs 0")
        for number, weight in enumerate(weights):
            _check_weight(number, weight)
        for number, value in enumerate(values):
            if value.numel() != values[0].numel():
                raise RuntimeError(f"X{number}.numel() == size. {value.numel()} vs {values[0].numel()}")
        result = values[0] * weights[0].reshape(())
        for value, weight in zip(values[1:], weights[1:], strict=True):
            result = result + weight.reshape(()) * value.reshape(values[0].shape)
        return result

    return kernel


def _scale_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> Made:
    return [new_operator(definition, "Scale", "dY0", "dX0", gradients)], input_gradients(definition, "dX0")


@operator("Scale", dtypes=(FLOATS,), in_place=[(0, 0)], dispatched=True, gradient=_scale_gradient)
def scale(arguments: Arguments) -> Kernel:
    factor = arguments.number("scale", 1.0)
    return lambda x: x * factor


def _sqr_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> Made:
    """2 x dY in two operators, the first of which overwrites dY, as the original's does."""
    two = [MakeArgument("scale", 2.0)]
    made = [
        new_operator(definition, "Scale", "dY0", "dY0", gradients, two),
        new_operator(definition, "Mul", "dY0 X0", "dX0", gradients),
    ]
    return made, input_gradients(definition, "dX0")


@operator("Sqr", in_place=[(0, 0)], dispatched=True, gradient=_sqr_gradient)
def sqr(_: Arguments) -> Kernel:
    return torch.square


def _sqrt_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> Made:
    """½ dY / y in two operators."""
    half = [MakeArgument("scale", 0.5)]
    made = [
        new_operator(definition, "Scale", "dY0", "dX0", gradients, half),
        new_operator(definition, "Div", "dX0 Y0", "dX0", gradients),
    ]
    return made, input_gradients(definition, "dX0")


@operator("Sqrt", dtypes=(FLOATS,), in_place=[(0, 0)], dispatched=True, gradient=_sqrt_gradient)
def sqrt(_: Arguments) -> Kernel:
    return torch.sqrt
