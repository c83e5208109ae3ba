"""Operators that make tensors of given values (ConstantFill, GivenTensorFill) or pass tensors on (Copy)."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.operators.common import check_dtype, no_gradient
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import Kernel, gradient_of, operator
from cosnorm.caffe2.tensors import Array, Value, checked_shape, device_of, dtype_of

DataType = caffe2_pb2.TensorProto
FILLED = {DataType.FLOAT, DataType.DOUBLE, DataType.BOOL, DataType.INT32, DataType.INT64}
FILLED |= {DataType.UINT8, DataType.INT8, DataType.UINT16, DataType.INT16}
# The data types of GivenTensorFill, and the fields of an argument that hold their values.
GIVEN: dict[int, str] = {DataType.FLOAT: "floats", DataType.DOUBLE: "floats", DataType.STRING: "strings"}
GIVEN |= dict.fromkeys((DataType.BOOL, DataType.INT16, DataType.INT32, DataType.INT64), "ints")


def _tensor(value: Value) -> Tensor | Array:
    """A tensor of numbers or strings. Raises a RuntimeError for text."""
    if isinstance(value, (Tensor, np.ndarray)):  # Dynamo of torch 2.6 knows no X | Y here
        return value
    raise RuntimeError(
        "wrong type for the Blob instance. Blob contains std::string while caller expects caffe2::Tensor"
    )


def shape_of(arguments: Arguments) -> Callable[[Sequence[Value]], list[int]]:
    """The shape of a fill: its argument, that of its input, or what its input holds; then `extra_shape`."""
    if arguments.has("shape", "i") and not arguments.operator.input:
        raise RuntimeError("Fill 'shape' argument was a scalar, list expected")
    given = checked_shape(arguments.repeated("shape", "ints"))
    extra = checked_shape(arguments.repeated("extra_shape", "ints"))
    holds = bool(arguments.integer("input_as_shape", 0))
    if arguments.operator.input:
        if given:
            raise RuntimeError("Cannot set the shape argument and pass in an input at the same time")
    elif extra:
        raise RuntimeError("Cannot set extra_shape when there is no input")
    elif holds:
        raise RuntimeError("An input must be given if input_as_shape is true")

    def shape(inputs: Sequence[Value]) -> list[int]:
        if not inputs:
            return given
        like = _tensor(inputs[0])
        if not holds:
            return checked_shape([*like.shape, *extra]) if extra else list(like.shape)
        if not isinstance(like, Tensor) or like.dim() != 1 or like.dtype != torch.int64 or not like.numel():
            raise RuntimeError(
                "When input_as_shape is true, the input must be a 1D tensor of data type int64_t, not empty"
            )
        return checked_shape([*like.tolist(), *extra])

    return shape


def device(arguments: Arguments) -> torch.device:
    """Where a fill makes its output."""
    if torch.empty(0).device.type == "meta":  # up to torch 2.7 get_default_device knows no `with` around it
        return torch.device("meta")  # only the shape is asked for
    return device_of(arguments.operator.device_option, ", ".join(arguments.operator.output))


@operator("ConstantFill", inputs=(0, 2), dtypes=(None,), in_place=[(0, 0)], gradient=no_gradient)
def constant_fill(arguments: Arguments) -> Kernel:
    """`value` everywhere, or what a second input holds.

    Without `dtype` an integer value makes int64, a number or no value float.
    """
    shape, place = shape_of(arguments), device(arguments)
    default = DataType.INT64 if arguments.has("value", "i") else DataType.FLOAT
    data_type = arguments.integer("dtype", default)
    if data_type == DataType.STRING:
        if len(arguments.operator.input) > 1:
            raise RuntimeError("constant fill string from tensor is not supported")
        text = np.empty((), dtype=object)
        text[()] = arguments.content("value", b"")
        return lambda *inputs: np.broadcast_to(text, shape(inputs))  # which takes no memory
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

    def kernel(*inputs: Value) -> Tensor:
        if len(inputs) < 2:
            return torch.full(shape(inputs), value, dtype=dtype, device=place)
        held = inputs[1]
        if not isinstance(held, Tensor) or held.numel() != 1:
            raise RuntimeError("value vector must have 1 element")
        check_dtype(held, dtype)
        return held.reshape(()).to(place).expand(shape(inputs)).clone()

    return kernel


def _given(name: str, data_type: int) -> None:
    def make(arguments: Arguments) -> Kernel:
        if not arguments.has("values"):
            raise RuntimeError(
                "Operator def did not pass schema checking: Argument 'values' is required for Operator "
                f"'{name}'."
            )
        shape, place = shape_of(arguments), device(arguments)
        # The kinds of other types do not look at `dtype`.
        kind = arguments.integer("dtype", data_type) if data_type == DataType.FLOAT else data_type
        if kind not in GIVEN:
            raise RuntimeError(f"Unexpected 'dtype' argument value: {kind}")
        values = arguments.repeated("values", GIVEN[kind])

        def kernel(*inputs: Value) -> Tensor | Array:
            sizes = shape(inputs)
            if math.prod(sizes) != len(values):
                raise RuntimeError(f"output->numel() == values_.numel(). {math.prod(sizes)} vs {len(values)}")
            if kind == DataType.STRING:
                strings = np.empty(len(values), dtype=object)
                strings[:] = values
                return strings.reshape(sizes)
            return torch.tensor(values, dtype=dtype_of(kind), device=place).reshape(sizes)

        return kernel

    operator(name, inputs=(0, 1), dtypes=(None,), in_place=[(0, 0)], gradient=no_gradient)(make)


_given("GivenTensorFill", DataType.FLOAT)
_given("GivenTensorDoubleFill", DataType.DOUBLE)
_given("GivenTensorBoolFill", DataType.BOOL)
_given("GivenTensorIntFill", DataType.INT32)
_given("GivenTensorInt64Fill", DataType.INT64)
_given("GivenTensorStringFill", DataType.STRING)


@operator("Copy", dtypes=(None,), gradient=gradient_of("CopyOnDeviceLike", "dY0 X0", "dX0"))
def copy(_: Arguments) -> Kernel:
    return _tensor  # kernels never write into their inputs, so that nothing need be copied


@operator("CopyOnDeviceLike", inputs=2, dtypes=(None,))
def copy_on_device_like(_: Arguments) -> Kernel:
    def kernel(value: Value, like: Value) -> Tensor | Array:
        if isinstance(value, Tensor) and isinstance(like, Tensor):
            return value.to(like.device)
        return _tensor(value)

    return kernel


@operator("StopGradient", dtypes=(None,), in_place=[(0, 0)], gradient=no_gradient)
def stop_gradient(_: Arguments) -> Kernel:
    def kernel(value: Value) -> Tensor | Array:
        value = _tensor(value)
        return value.detach() if isinstance(value, Tensor) else value

    return kernel
