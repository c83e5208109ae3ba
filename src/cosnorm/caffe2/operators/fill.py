"""Operators that make tensors or pass them on: the fills of init nets, Copy and StopGradient."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import Kernel, gradient_of, operator
from cosnorm.caffe2.tensors import Array, Value, dtype_of

DataType = caffe2_pb2.TensorProto
FILLED = {DataType.FLOAT, DataType.DOUBLE, DataType.BOOL, DataType.INT32, DataType.INT64}
FILLED |= {DataType.UINT8, DataType.INT8, DataType.UINT16, DataType.INT16}
LARGEST = 2**31  # elements; a broken file may ask for more than any machine has


def no_gradient(
    definition: caffe2_pb2.OperatorDef, _: Sequence[str | None]
) -> tuple[list[caffe2_pb2.OperatorDef], list[str | None]]:
    """For operators through which no gradient goes."""
    return [], [None] * len(definition.input)


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
        if not isinstance(inputs[0], Tensor) or inputs[0].dim() != 1 or inputs[0].dtype != torch.int64:
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


@operator("ConstantFill", inputs=(0, 2), dtypes=(None,), in_place=None, gradient=no_gradient)
def constant_fill(arguments: Arguments) -> Kernel:
    """`value` everywhere. Without `dtype` an integer value makes int64, a number or no value float."""
    shape = _shape(arguments)
    default = DataType.INT64 if arguments.has("value", "i") else DataType.FLOAT
    data_type = arguments.integer("dtype", default)
    if data_type == DataType.STRING:
        text = arguments.content("value", b"")
        return lambda *inputs: _strings([text] * math.prod(shape(inputs)), shape(inputs))
    if data_type not in FILLED:
        raise RuntimeError(f"Unexpected 'dtype' argument value: {data_type}")
    dtype = dtype_of(data_type)
    value: float = (
        arguments.number("value", 0.0) if dtype.is_floating_point else arguments.integer("value", 0)
    )
    if dtype == torch.bool:
        value = bool(value)
    elif not dtype.is_floating_point and not torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max:
        raise RuntimeError(f"Value {value} of argument value cannot be represented correctly in {dtype}")
    return lambda *inputs: torch.full(shape(inputs), value, dtype=dtype, device=_device(arguments))


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

    operator(name, inputs=(0, 1), dtypes=(None,), in_place=None, gradient=no_gradient)(make)


_given("GivenTensorFill", "floats", torch.float32)
_given("GivenTensorDoubleFill", "floats", torch.float64)
_given("GivenTensorBoolFill", "ints", torch.bool)
_given("GivenTensorIntFill", "ints", torch.int32)
_given("GivenTensorInt64Fill", "ints", torch.int64)
_given("GivenTensorStringFill", "strings", None)


def _random(name: str, draw: Callable[[Tensor, Arguments, torch.Generator | None], object]) -> None:
    """A fill of random numbers, drawn by torch: another sequence than the original's, the same distribution.

    A `random_seed` of the device option makes a generator for the operator, otherwise torch's own is used.
    """

    def make(arguments: Arguments) -> Kernel:
        shape, device = _shape(arguments), _device(arguments)
        option = arguments.operator.device_option
        generator = None
        if option.HasField("random_seed") and device.type != "meta":
            generator = torch.Generator(device).manual_seed(option.random_seed)
        draw(torch.empty(0, 0, device=device), arguments, generator)  # a wrong argument is an error now

        def kernel(*inputs: Tensor) -> Tensor:
            filled = torch.empty(shape(inputs), device=device)
            draw(filled, arguments, generator)
            return filled

        return kernel

    operator(name, inputs=(0, 1), dtypes=(None,), in_place=None, gradient=no_gradient)(make)


def _uniform(filled: Tensor, arguments: Arguments, generator: torch.Generator | None) -> None:
    filled.uniform_(arguments.number("min", 0.0), arguments.number("max", 1.0), generator=generator)


def _gaussian(filled: Tensor, arguments: Arguments, generator: torch.Generator | None) -> None:
    filled.normal_(arguments.number("mean", 0.0), arguments.number("std", 1.0), generator=generator)


def _xavier(filled: Tensor, _: Arguments, generator: torch.Generator | None) -> None:
    if filled.numel():
        bound = math.sqrt(3 * filled.shape[0] / filled.numel())
        filled.uniform_(-bound, bound, generator=generator)


def _msra(filled: Tensor, _: Arguments, generator: torch.Generator | None) -> None:
    if filled.dim() < 2:
        raise RuntimeError("Dimension out of range: MSRAFill wants at least two dimensions")
    if filled.numel():
        filled.normal_(0.0, math.sqrt(2 * filled.shape[1] / filled.numel()), generator=generator)


_random("UniformFill", _uniform)
_random("GaussianFill", _gaussian)
_random("XavierFill", _xavier)
_random("MSRAFill", _msra)


def _passed_on(_: Arguments) -> Kernel:
    return lambda value: value  # kernels never write into their inputs, so that nothing need be copied


operator("Copy", dtypes=(None,), gradient=gradient_of("CopyOnDeviceLike", "dY0 X0", "dX0"))(_passed_on)
operator("CopyOnDeviceLike", inputs=2, dtypes=(None,))(lambda _: lambda value, like: value.to(like.device))
operator("StopGradient", dtypes=(None,), in_place=[(0, 0)], gradient=no_gradient)(
    lambda _: lambda value: value.detach() if isinstance(value, Tensor) else value
)
