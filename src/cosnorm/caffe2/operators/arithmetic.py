"""Arithmetic: Add, Sub, Mul and Div with broadcasting, sums, Scale, Sqr, Sqrt."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments, MakeArgument
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import (
    FLOATS,
    MANY,
    NAMES,
    NUMBERS,
    Kernel,
    gradient_of,
    input_gradients,
    new_operator,
    operator,
)

_Made = tuple[list[caffe2_pb2.OperatorDef], list[str | None]]


def _aligned(arguments: Arguments) -> Callable[[Tensor, Tensor], Tensor]:
    """What gives B the shape in which it broadcasts to A.

    With `broadcast=1` B's dimensions are A's from `axis` on (by default the last ones); `axis_str` names the
    axis by a letter of `order`. Otherwise shapes are matched from the last dimension, as torch does.
    """
    if not arguments.integer("broadcast", 0):
        return lambda a, b: b
    axis = arguments.integer("axis", -1)
    letter = arguments.text("axis_str", "")
    if letter:
        order = arguments.text("order", "NCHW")
        if len(letter) != 1 or letter not in order:
            raise RuntimeError(f'Unsupported axis string "{letter}" of the order {order}')
        axis = order.index(letter)

    def align(a: Tensor, b: Tensor) -> Tensor:
        if b.numel() == 1:
            return b.reshape(())
        start = a.dim() - b.dim() if axis == -1 else axis
        if start < 0 or start + b.dim() > a.dim():
            raise RuntimeError(
                f"Broadcast: {b.dim()} dimensions from axis {axis} on do not fit {a.dim()} dimensions"
            )
        for i, size in enumerate(b.shape):
            if a.shape[start + i] != size:
                raise RuntimeError(
                    f"A.size(i + axis) == B.size(i). {a.shape[start + i]} vs {size}. "
                    "Broadcast dimension mismatch."
                )
        return b.reshape(*b.shape, *(1 for _ in range(a.dim() - start - b.dim())))

    return align


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.dtype != b.dtype:
        raise RuntimeError(
            f"Tensor type mismatch, caller expects elements to be {NAMES[a.dtype]}, "
            f"while tensor contains {NAMES.get(b.dtype, str(b.dtype))}."
        )
    for one, other in zip(reversed(a.shape), reversed(b.shape), strict=False):
        if one != other and one != 1 and other != 1:
            raise RuntimeError(f"A_dim == B_dim || A_dim == 1 || B_dim == 1. A_dim: {one},B_dim: {other}")


def _summed_to(gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of a tensor that was broadcast."""
    extra = gradient.dim() - len(shape)
    gradient = gradient.sum(list(range(extra))) if extra else gradient
    kept = [i for i, size in enumerate(shape) if size == 1 and gradient.shape[i] != 1]
    return gradient.sum(kept, keepdim=True) if kept else gradient


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return a / b
    if not b.is_meta and not bool(b.all()):
        raise RuntimeError("Div: an integer divisor is 0")  # the original's process is killed
    return torch.div(a, b, rounding_mode="trunc")


def _binary(
    name: str,
    value: Callable[[Tensor, Tensor], Tensor],
    gradient: Callable[..., tuple[Tensor, Tensor]],
    inputs: str,
    in_place: Sequence[tuple[int, int]],
) -> None:
    def make(arguments: Arguments) -> Kernel:
        align = _aligned(arguments)
        outputs = arguments.operator.output
        first, second = (name == arguments.operator.output[0] for name in arguments.operator.input[:2])

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            aligned = align(a, b)
            _check_pair(a, aligned)
            result = value(a, aligned)
            for in_place_, given in ((first, a), (second, b)):
                if in_place_ and result.shape != given.shape:
                    raise RuntimeError(
                        f"C_dims_int == {'A' if given is a else 'B'}_dims. {outputs[0]} of shape "
                        f"{tuple(given.shape)} cannot hold the result's {tuple(result.shape)}"
                    )
            return result

        return kernel

    def make_gradient(arguments: Arguments) -> Kernel:
        align = _aligned(arguments)

        def kernel(cotangent: Tensor, a: Tensor, b: Tensor, *output: Tensor) -> tuple[Tensor, Tensor]:
            aligned = align(a, b)
            _check_pair(a, aligned)
            gradient_a, gradient_b = gradient(cotangent, a, aligned, *output)
            return _summed_to(gradient_a, a.shape), _summed_to(gradient_b, aligned.shape).reshape(b.shape)

        return kernel

    of = gradient_of(f"{name}Gradient", inputs, "dX0 dX1")
    operator(name, inputs=2, dtypes=(NUMBERS,), dispatched=True, in_place=in_place, gradient=of)(make)
    operator(
        f"{name}Gradient",
        inputs=len(inputs.split()),
        outputs=2,
        dtypes=(NUMBERS,),
        dispatched=True,
        in_place=None if name in ("Add", "Sub") else [(0, 0)] if name == "Div" else [(0, 0), (0, 1)],
    )(make_gradient)


BOTH = [(0, 0), (1, 0)]
_binary("Add", lambda a, b: a + b, lambda g, a, b, *_: (g, g), "dY0 X0 X1", BOTH)
_binary("Sub", lambda a, b: a - b, lambda g, a, b, *_: (g, -g), "dY0 X0 X1", BOTH)
_binary("Mul", lambda a, b: a * b, lambda g, a, b, *_: (g * b, g * a), "dY0 X0 X1", BOTH)
_binary("Div", _divide, lambda g, a, b, c: (g / b, -g * c / b), "dY0 X0 X1 Y0", [(0, 0)])


def _sum_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> _Made:
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
            _check_pair(first, other)
            result = result + other
        return result

    return kernel


def _weighted_sum_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> _Made:
    if Arguments(definition).integer("grad_on_w", 0):
        raise RuntimeError("WeightedSum: gradients of the weights (grad_on_w) are not supported")
    places = range(len(definition.input))
    if len(places) % 2:
        raise RuntimeError(f"WeightedSum takes pairs, got {len(places)} inputs")
    outputs = " ".join(f"dX{i}" for i in places[::2])
    inputs = " ".join(["dY0", *(f"X{i}" for i in places)])
    made = [new_operator(definition, "WeightedSumGradient", inputs, outputs, gradients)]
    return made, input_gradients(definition, outputs)


@operator("WeightedSumGradient", inputs=(3, MANY), outputs=(1, MANY))
def weighted_sum_gradient(_: Arguments) -> Kernel:
    def kernel(cotangent: Tensor, *inputs: Tensor) -> Any:
        found = tuple(cotangent * weight.reshape(()) for weight in inputs[1::2])
        return found if len(found) > 1 else found[0]

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
        for number, weight in enumerate(weights):
            if weight.numel() != 1:
                raise RuntimeError(f"weight{number}.numel() == 1. {weight.numel()} vs 1")
        for number, value in enumerate(values):
            if value.numel() != values[0].numel():
                raise RuntimeError(f"X{number}.numel() == size. {value.numel()} vs {values[0].numel()}")
        result = values[0] * weights[0].reshape(())
        for value, weight in zip(values[1:], weights[1:], strict=True):
            result = result + weight.reshape(()) * value.reshape(values[0].shape)
        return result

    return kernel


def _scale_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> _Made:
    return [new_operator(definition, "Scale", "dY0", "dX0", gradients)], input_gradients(definition, "dX0")


@operator("Scale", dtypes=(FLOATS,), in_place=[(0, 0)], dispatched=True, gradient=_scale_gradient)
def scale(arguments: Arguments) -> Kernel:
    factor = arguments.number("scale", 1.0)
    return lambda x: x * factor


def _sqr_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> _Made:
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


def _sqrt_gradient(definition: caffe2_pb2.OperatorDef, gradients: Sequence[str | None]) -> _Made:
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
