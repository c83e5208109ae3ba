"""Tensors in Caffe2's messages and in arrays: data types, TensorProto, BlobProto."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from cosnorm.caffe2.proto import caffe2_pb2

DataType = caffe2_pb2.TensorProto
MOST_DIMENSIONS = 64  # of NumPy's arrays
MOST_ELEMENTS = 2**31  # of what a message asks for; a broken one may ask for more than any machine has
MOST_BYTES = 2**31 - 1  # of a message
_AT_ONCE = 2**16  # numbers, for as Python's they take eight times the memory
# What a blob holds: a tensor, an array of byte strings, one byte string, or nothing yet.
Array = np.ndarray[Any, Any]
Value = Tensor | Array | bytes | None

# Data type: torch's dtype, NumPy's, and the field of a TensorProto that holds the numbers.
_TYPES: dict[int, tuple[torch.dtype, Any, str]] = {
    DataType.FLOAT: (torch.float32, np.float32, "float_data"),
    DataType.DOUBLE: (torch.float64, np.float64, "double_data"),
    DataType.INT32: (torch.int32, np.int32, "int32_data"),
    DataType.INT64: (torch.int64, np.int64, "int64_data"),
    DataType.BOOL: (torch.bool, np.bool_, "int32_data"),
    DataType.UINT8: (torch.uint8, np.uint8, "int32_data"),
    DataType.INT8: (torch.int8, np.int8, "int32_data"),
    DataType.UINT16: (torch.uint16, np.uint16, "int32_data"),
    DataType.INT16: (torch.int16, np.int16, "int32_data"),
    DataType.FLOAT16: (torch.float16, np.float16, "int32_data"),
}
_OF_DTYPE = {dtype: data_type for data_type, (dtype, _, _) in _TYPES.items()}
_OF_ARRAY = {np.dtype(array): dtype for dtype, array, _ in _TYPES.values()}


def dtype_of(data_type: int) -> torch.dtype:
    """Torch's dtype of a data type. Raises a KeyError for STRING and others that no tensor has."""
    return _TYPES[data_type][0]


def data_type_of(value: Value) -> int:
    """The data type of a blob's value; UNDEFINED of nothing."""
    if isinstance(value, Tensor):
        return _OF_DTYPE.get(value.dtype, DataType.UNDEFINED)
    return DataType.STRING if isinstance(value, np.ndarray) else DataType.UNDEFINED


def checked_shape(dims: Sequence[int], most: int = MOST_ELEMENTS) -> list[int]:
    """Sizes that came from outside, if there can be such a tensor.

    Args:
        dims: the sizes.
        most: elements. A size of 0 counts as 1, for strides are the products of the others.

    Raises:
        RuntimeError: too many dimensions or elements, or a negative size.
    """
    if len(dims) > MOST_DIMENSIONS:
        raise RuntimeError(f"a shape has at most {MOST_DIMENSIONS} dimensions, got {len(dims)}")
    elements = 1
    for size in dims:
        if size < 0:
            raise RuntimeError(f"sizes of a shape must be at least 0, got {list(dims)}")
        elements *= max(size, 1)
        if elements > most:
            raise RuntimeError(f"a shape has at most {most} elements, got {list(dims)}")
    return [int(size) for size in dims]


def device_of(option: caffe2_pb2.DeviceOption, blob: str) -> torch.device:
    """Where a device option puts a blob. Raises a RuntimeError where torch has no such device."""
    if option.device_type not in (caffe2_pb2.CUDA, caffe2_pb2.HIP):  # type: ignore[attr-defined]
        return torch.device("cpu")
    if not 0 <= option.device_id < torch.cuda.device_count():
        raise RuntimeError(
            f"Blob {blob} is to lie on the device cuda:{option.device_id}, which torch does not find; it "
            f"finds {torch.cuda.device_count()} such devices. Leave the device option out for the CPU."
        )
    return torch.device("cuda", option.device_id)


def from_array(array: Array) -> Tensor | Array:
    """A copy of an array: as a tensor, or as an array of byte strings. Big-endian arrays are converted.

    Raises:
        RuntimeError: a dtype that Caffe2 has not, or objects that are no strings.
    """
    if array.dtype.kind in "SU":
        array = array.astype(object)
    if array.dtype == object:
        strings = np.empty(array.shape, dtype=object)
        for place, value in np.ndenumerate(array):
            if not isinstance(value, str | bytes):
                raise RuntimeError(
                    "Unsupported python object type passed into ndarray: strings are taken alone"
                )
            strings[place] = value.encode() if isinstance(value, str) else value
        return strings
    dtype = _OF_ARRAY.get(array.dtype.newbyteorder("="))
    if dtype is None:
        raise RuntimeError(
            f"This numpy data type is not supported: {array.dtype}; convert it, such as to float32 or int64"
        )
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True))


def to_array(value: Tensor | Array) -> Array:
    """A copy as an array."""
    return value.copy() if isinstance(value, np.ndarray) else value.detach().cpu().numpy().copy()


def to_proto(value: Tensor | Array, name: str = "") -> caffe2_pb2.TensorProto:
    """The message of a tensor or of an array of strings, with the fields that Caffe2 writes."""
    proto = caffe2_pb2.TensorProto()
    _write(proto, value, name)
    return proto


def _write(proto: caffe2_pb2.TensorProto, value: Tensor | Array, name: str) -> None:
    proto.dims.extend(value.shape)
    proto.data_type = data_type_of(value)  # type: ignore[assignment]
    if isinstance(value, np.ndarray):
        proto.string_data.extend(value.ravel().tolist())
        count = value.size
    else:
        count = value.numel()
        if count * value.element_size() > MOST_BYTES:
            raise RuntimeError(f"a message holds less than 2 GiB; blob {name} has shape {list(value.shape)}")
        _write_numbers(proto, value.detach().cpu().contiguous().numpy().ravel())
    if name:
        proto.name = name
    proto.device_detail.device_type = caffe2_pb2.PROTO_CPU
    proto.segment.begin, proto.segment.end = 0, count


def _write_numbers(proto: caffe2_pb2.TensorProto, array: Array) -> None:
    if array.dtype == np.float16:
        array = array.view(np.uint16)
    elif array.dtype == np.bool_:
        array = array.view(np.uint8)
    numbers = getattr(proto, _TYPES[proto.data_type][2])
    for start in range(0, array.size, _AT_ONCE):
        numbers.extend(array[start : start + _AT_ONCE].data)


def from_proto(proto: caffe2_pb2.TensorProto) -> Tensor | Array:
    """The tensor, or the array of byte strings, of a message.

    Raises:
        RuntimeError: an unknown data type, sizes that no tensor has, or another number of elements than the
            sizes say. Memory is taken for the elements that are there, not for those that the sizes promise.
    """
    if proto.data_type == DataType.STRING:
        strings = np.empty(len(proto.string_data), dtype=object)
        strings[:] = list(proto.string_data)
        return strings.reshape(_shape(proto, len(strings)))
    if proto.data_type == DataType.BYTE:
        array = np.frombuffer(proto.byte_data, dtype=np.uint8)
    elif proto.data_type not in _TYPES:
        raise RuntimeError(f"TensorProto {proto.name!r}: data type {proto.data_type} is not supported")
    else:
        _, dtype, field = _TYPES[proto.data_type]
        content = proto.raw_data if proto.HasField("raw_data") else None
        if content is None and field == "int32_data" and not proto.int32_data and proto.byte_data:
            content = proto.byte_data  # some versions write small numbers so
        if content is not None:
            if len(content) % np.dtype(dtype).itemsize:
                raise RuntimeError(f"TensorProto {proto.name!r}: {len(content)} bytes are no whole elements")
            array = np.frombuffer(content, dtype=np.dtype(dtype).newbyteorder("<"))
        elif proto.data_type == DataType.FLOAT16:
            array = np.array(proto.int32_data, dtype=np.int64).astype(np.uint16).view(np.float16)
        else:
            wide = np.float64 if dtype in (np.float32, np.float64) else np.int64
            with np.errstate(all="ignore"):  # what float32 cannot hold was no float32 before
                array = np.array(getattr(proto, field), dtype=wide).astype(dtype)
    return from_array(array.reshape(_shape(proto, array.size)))


def _shape(proto: caffe2_pb2.TensorProto, count: int) -> list[int]:
    try:
        shape = checked_shape(proto.dims)
    except RuntimeError as error:
        raise RuntimeError(f"TensorProto {proto.name!r}: {error}") from error
    if math.prod(shape) != count:
        raise RuntimeError(
            f"TensorProto {proto.name!r}: {shape} are {math.prod(shape)} elements, {count} are there"
        )
    return shape


def serialize(name: str, value: Value) -> bytes:
    """The bytes of a BlobProto. Raises a RuntimeError for a blob that holds nothing."""
    blob = caffe2_pb2.BlobProto(name=name)
    if isinstance(value, bytes):
        blob.type, blob.content = "std::string", value
    elif value is None:
        raise RuntimeError(f"No known serializer for nullptr (uninitialized): blob {name} holds nothing yet")
    else:
        blob.type = "Tensor"
        _write(blob.tensor, value, name)
    return blob.SerializeToString()


def deserialize(content: bytes) -> Value:
    """What `serialize` wrote, or Caffe2.

    Raises:
        RuntimeError: bytes that are no BlobProto, a part of a larger blob, or a type without a reader.
    """
    blob = caffe2_pb2.BlobProto()
    try:
        blob.ParseFromString(content)
    except DecodeError as error:
        raise RuntimeError("Cannot parse content into a BlobProto.") from error
    if blob.content_num_chunks > 1:
        raise RuntimeError(
            f"Blob {blob.name!r} is one of {blob.content_num_chunks} chunks; give a whole blob"
        )
    if blob.type == "std::string":
        return bytes(blob.content)
    if blob.type == "Tensor":
        return from_proto(blob.tensor)
    raise RuntimeError(f"No registered deserializer for type {blob.type!r}; known are Tensor and std::string")
