"""Operators that make tensors or pass them on: the fills of init nets, Copy and StopGradient."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import MANY, GradientMaker, Kernel, gradient_of, operator
from cosnorm.caffe2.tensors import Array, Value, dtype_of

DataType = caffe2_pb2.TensorProto
LARGEST = 2**31  # elements; a broken file may ask for more than any machine has


def _no_gradient(
    definition: caffe2_pb2.OperatorDef, _: object
) -> tuple[list[caffe2_pb2.OperatorDef], list[None]]:
    return [], [None] * len(definition.input)


NO_GRADIENT: GradientMaker = _no_gradient  # type: ignore[assignment]


def _shape(arguments: Arguments) -> Callable[[tuple[Tensor, ...]], list[int]]:
    """The shape of a fill: its argument, that of its input, or what its input holds; then `extra_shape`."""
    given = [int(size) for size in arguments.repeated("shape", "ints")]
    extra = [int(size) for size in arguments.repeated("extra_shape", "ints")]
    holds = bool(arguments.integer("input_as_shape", 0))
    if given and arguments.operator.input:
        raise RuntimeError("Cannot set the shape argument and pass in an input at the same time")
    if any(size < 0 for size in [*given, *extra]) or math.prod([*given, *extra]) > LARGEST:
        raise RuntimeError(f"shape must be of sizes of at least 0 that memory can hold, got {given + extra}")

    def shape(inputs: tuple[Tensor, ...]) -> list[int]:
        if not inputs:
            return given + extra
        if not holds:
            return [*inputs[0].shape, *extra]
        if inputs[0].dim() != 1 or inputs[0].dtype != torch.int64:
            raise RuntimeError(
                "When input_as_shape is true, the input must be a 1D tensor of data type int64_t"
            )
        sizes = [int(size) for size in inputs[0]]
        if any(size < 0 for size in sizes) or math.prod(sizes) > LARGEST:
            raise RuntimeError(f"input_as_shape: sizes must be at least 0, got {sizes}")
        return sizes + extra

    return shape


def _strings(values: Sequence[bytes], shape: list[int]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


@operator("ConstantFill", inputs=(0, 2), dtypes=(None,), in_place=None, gradient=NO_GRADIENT)
def constant_fill(arguments: Arguments) -> Kernel:
    """`value` everywhere. Without `dtype` an integer value makes int64 and anything else float."""
    shape = _shape(arguments)
    value_field = next((field for field in "ifs" if "value" in arguments and _has(arguments, field)), "f")
    default = DataType.INT64 if value_field == "i" else DataType.FLOAT
    data_type = arguments.integer("dtype", default)
    if data_type == DataType.STRING:
        text = arguments.content("value", b"")
        return lambda *inputs: _strings([text] * math.prod(shape(inputs)), shape(inputs))
    try:
        dtype = dtype_of(data_type)
    except KeyError:
        dtype = torch.float16
    if dtype in (torch.float16, torch.uint16, torch.int8, torch.int16):
        raise RuntimeError(f"Unexpected 'dtype' argument value: {data_type}")
    value: float | int = (
        arguments.number("value", 0.0) if dtype.is_floating_point else arguments.integer("value", 0)
    )
    if dtype not in (torch.bool, torch.float32, torch.float64) and not (
        torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max
    ):
        raise RuntimeError(
            f"Value {value} of argument value cannot be represented correctly in a target type"
        )
    return lambda *inputs: torch.full(shape(inputs), value, dtype=dtype, device=_device(arguments))


def _has(arguments: Arguments, field: str) -> bool:
    return any(one.name == "value" and one.HasField(field) for one in arguments.operator.arg)


def _device(arguments: Arguments) -> torch.device:
    if torch.get_default_device().type == "meta":
        return torch.device("meta")  # only the shape is asked for
    option = arguments.operator.device_option
    if option.device_type == caffe2_pb2.PROTO_CUDA:
        return torch.device("cuda", option.device_id)
    return torch.device("cpu")


def _given(name: str, field: str, dtype: torch.dtype | None) -> None:
    def make(arguments: Arguments) -> Kernel:
        shape, values = _shape(arguments), arguments.repeated("values", field)

        def kernel(*inputs: Tensor) -> Value:
            sizes = shape(inputs)
            if math.prod(sizes) != len(values):
                raise RuntimeError(f"output->numel() == values_.numel(). {math.prod(sizes)} vs {len(values)}")
            if dtype is None:
                return _strings(values, sizes)
            return torch.tensor(values, dtype=dtype, device=_device(arguments)).reshape(sizes)

        return kernel

    operator(name, inputs=(0, 1), dtypes=(None,), in_place=None, gradient=NO_GRADIENT)(make)


_given("GivenTensorFill", "floats", torch.float32)
_given("GivenTensorDoubleFill", "floats", torch.float64)
_given("GivenTensorBoolFill", "ints", torch.bool)
_given("GivenTensorIntFill", "ints", torch.int32)
_given("GivenTensorInt64Fill", "ints", torch.int64)
_given("GivenTensorStringFill", "strings", None)


def _random(name: str, draw: Callable[[Tensor, Arguments], object]) -> None:
    """A fill of random numbers, drawn by torch: another sequence than the original's, the same distribution.

    A `random_seed` of the device option makes its own generator, otherwise torch's is used.
    """

    def make(arguments: Arguments) -> Kernel:
        shape = _shape(arguments)
        draw(torch.empty(0), arguments)  # a wrong argument is an error now
        seeded = arguments.operator.device_option.HasField("random_seed")

        def kernel(*inputs: Tensor) -> Tensor:
            device = _device(arguments)
            filled = torch.empty(shape(inputs), device=device)
            if not seeded:
                draw(filled, arguments)
                return filled
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(arguments.operator.device_option.random_seed)
                draw(filled, arguments)
            return filled

        return kernel

    operator(
        name,
        inputs=(0, MANY if name == "UniformFill" else 1),
        dtypes=(None,),
        in_place=None,
        gradient=NO_GRADIENT,
    )(make)


def _uniform(filled: Tensor, arguments: Arguments) -> None:
    filled.uniform_(arguments.number("min", 0.0), arguments.number("max", 1.0))


def _gaussian(filled: Tensor, arguments: Arguments) -> None:
    filled.normal_(arguments.number("mean", 0.0), arguments.number("std", 1.0))


def _xavier(filled: Tensor, _: Arguments) -> None:
    if filled.numel():
        bound = math.sqrt(3 * filled.shape[0] / filled.numel())
        filled.uniform_(-bound, bound)


def _msra(filled: Tensor, _: Arguments) -> None:
    if filled.numel():
        channels = filled.shape[1] if filled.dim() > 1 else 1
        filled.normal_(0.0, math.sqrt(2 * channels / filled.numel()))


_random("UniformFill", _uniform)
_random("GaussianFill", _gaussian)
_random("XavierFill", _xavier)
_random("MSRAFill", _msra)


def _passed_on(_: Arguments) -> Kernel:
    return lambda value: value  # kernels never write into their inputs, so that nothing need be copied


operator("Copy", dtypes=(None,), gradient=gradient_of("CopyOnDeviceLike", "dY0 X0", "dX0"))(_passed_on)
operator("CopyOnDeviceLike", inputs=2, dtypes=(None,))(lambda _: lambda value, like: value.to(like.device))
operator("StopGradient", dtypes=(None,), in_place=[(0, 0)], gradient=NO_GRADIENT)(
    lambda _: lambda value: value.detach() if isinstance(value, Tensor) else value
)
