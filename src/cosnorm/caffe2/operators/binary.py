"""Add, Sub, Mul and Div, with both of Caffe2's ways to broadcast."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.operators.common import check_dtype, shaped
from cosnorm.caffe2.registry import NUMBERS, Kernel, gradient_of, operator


def _axis(arguments: Arguments) -> int:
    """The axis of A with which B begins; -1 if B is to end with A's last."""
    axis = arguments.integer("axis", -1)
    letter = arguments.text("axis_str", "")
    if not letter:
        return axis
    if axis != -1:
        raise RuntimeError("Args axis and axis_str cannot be used simultaneously.")
    order = arguments.text("order", "NCHW")
    if len(letter) != 1 or letter not in order:
        raise RuntimeError(f'Unsupported axis string "{letter}" of the order {order}')
    return order.index(letter)


def _aligned(arguments: Arguments) -> Callable[[Tensor, Tensor], Tensor]:
    """What gives B the shape in which it broadcasts to A.

    With `broadcast=1` B's dimensions are A's from `axis` on (by default the last ones), but for sizes of 1 at
    either end of B's. Otherwise shapes are matched from the last dimension, as torch does.
    """
    if not arguments.integer("broadcast", 0):
        return lambda a, b: b
    axis = _axis(arguments)

    def align(a: Tensor, b: Tensor) -> Tensor:
        if b.numel() == 1:
            return b.reshape(())
        room = a.dim() - b.dim()
        if room < 0:
            raise RuntimeError(
                f"A.dim() >= B.dim(). {a.dim()} vs {b.dim()}. If you are doing broadcasting, input1 should "
                "have a smaller or equal number of dimensions."
            )
        start = room if axis == -1 else axis
        if not 0 <= start <= room:
            raise RuntimeError(
                "axis >= 0 && axis <= A.dim() - B.dim(). Broadcast axis should be in the range of"
                f"[0, A.ndim() - B.ndim()], but axis = {axis}, of {room}"
            )
        wide = [i for i, size in enumerate(b.shape) if size != 1]
        for i in range(wide[0], wide[-1] + 1):
            if a.shape[start + i] != b.shape[i]:
                raise RuntimeError(
                    f"A.size(i + axis) == B.size(i). {a.shape[start + i]} vs {b.shape[i]}. "
                    "Broadcast dimension mismatch."
                )
        return b.reshape(*b.shape, *(1 for _ in range(room - start)))

    return align


def _check_pair(a: Tensor, b: Tensor) -> None:
    check_dtype(b, a.dtype)
    for one, other in zip(reversed(a.shape), reversed(b.shape), strict=False):
        if one != other and one != 1 and other != 1:
            raise RuntimeError(f"A_dim == B_dim || A_dim == 1 || B_dim == 1. A_dim: {one},B_dim: {other}")


def _summed_to(gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of a tensor that was broadcast."""
    extra = gradient.dim() - len(shape)
    if extra:
        gradient = gradient.sum(list(range(extra)), dtype=gradient.dtype)
    kept = [i for i, size in enumerate(shape) if size == 1 and gradient.shape[i] != 1]
    return gradient.sum(kept, keepdim=True, dtype=gradient.dtype) if kept else gradient


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
    in_place: Sequence[tuple[int, int]] = ((0, 0), (1, 0)),
    gradient_inputs: str = "dY0 X0 X1",
    gradient_in_place: Sequence[tuple[int, int]] = ((0, 0), (0, 1)),
) -> None:
    def make(arguments: Arguments) -> Kernel:
        align = _aligned(arguments)
        outputs = arguments.operator.output
        first, second = (name == outputs[0] for name in arguments.operator.input[:2])
        if second and not first and arguments.integer("broadcast", 0):
            raise RuntimeError("In-place is allowed only with the first tensor when legacy-broadcasting")

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
        without_a = name == "Div" and len(arguments.operator.input) == 3

        def kernel(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            if without_a:  # an older form of DivGradient: B, C and dY; A's shape is that of C
                inputs = (inputs[2], inputs[1], inputs[0], inputs[1])
            cotangent, a, b, *output = inputs
            aligned = align(a, b)
            _check_pair(a, aligned)
            shape = torch.broadcast_shapes(a.shape, aligned.shape)
            for given in (cotangent, *output):
                check_dtype(given, a.dtype)
            gradient_a, gradient_b = gradient(
                shaped(cotangent, shape, f"{name}Gradient"),
                a,
                aligned,
                *(shaped(given, shape, f"{name}Gradient") for given in output),
            )
            return _summed_to(gradient_a, a.shape), _summed_to(gradient_b, aligned.shape).reshape(b.shape)

        return kernel

    of = gradient_of(f"{name}Gradient", gradient_inputs, "dX0 dX1")
    operator(name, inputs=2, dtypes=(NUMBERS,), dispatched=True, in_place=in_place, gradient=of)(make)
    operator(
        f"{name}Gradient",
        inputs=(3, len(gradient_inputs.split())),
        outputs=2,
        dtypes=(NUMBERS,),
        dispatched=True,
        in_place=gradient_in_place,
    )(make_gradient)


_binary("Add", lambda a, b: a + b, lambda g, a, b: (g, g))
_binary("Sub", lambda a, b: a - b, lambda g, a, b: (g, -g))
_binary("Mul", lambda a, b: a * b, lambda g, a, b: (g * b, g * a))
_binary(
    "Div",
    _divide,
    lambda g, a, b, c: (_divide(g, b), -_divide(g * c, b)),
    in_place=[(0, 0)],
    gradient_inputs="dY0 X0 X1 Y0",
    gradient_in_place=[(0, 0)],
)
