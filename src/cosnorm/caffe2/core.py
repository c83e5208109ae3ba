"""Caffe2's `core`: operators, nets, scopes and gradients, under the names of `caffe2.python.core`.

Example:
    >>> from cosnorm.caffe2 import core
    >>> net = core.Net("two operators")
    >>> cosine = net.Cos("X")
    >>> square = net.Sqr(cosine, "square")
    >>> [operator.type for operator in net.Proto().op]
    ['Cos', 'Sqr']
    >>> net.AddGradientOperators([square])["X"]
    BlobReference("X_grad")
"""

from cosnorm.caffe2.blobs import (
    BlobReference,
    CreateOperator,
    ScopedBlobReference,
    ScopedName,
)
from cosnorm.caffe2.gradients import GradientRegistry
from cosnorm.caffe2.net import Net
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import OPERATORS
from cosnorm.caffe2.scope import DeviceScope, EmptyDeviceScope, EmptyNameScope, NameScope

__all__ = [
    "BlobReference",
    "CreateOperator",
    "DataType",
    "DeviceOption",
    "DeviceScope",
    "EmptyDeviceScope",
    "EmptyNameScope",
    "GradientRegistry",
    "IsOperator",
    "NameScope",
    "Net",
    "ScopedBlobReference",
    "ScopedName",
]


class DataType:
    """The data types of tensors, such as `DataType.FLOAT`."""

    UNDEFINED = caffe2_pb2.TensorProto.UNDEFINED
    FLOAT = caffe2_pb2.TensorProto.FLOAT
    INT32 = caffe2_pb2.TensorProto.INT32
    BYTE = caffe2_pb2.TensorProto.BYTE
    STRING = caffe2_pb2.TensorProto.STRING
    BOOL = caffe2_pb2.TensorProto.BOOL
    UINT8 = caffe2_pb2.TensorProto.UINT8
    INT8 = caffe2_pb2.TensorProto.INT8
    UINT16 = caffe2_pb2.TensorProto.UINT16
    INT16 = caffe2_pb2.TensorProto.INT16
    INT64 = caffe2_pb2.TensorProto.INT64
    FLOAT16 = caffe2_pb2.TensorProto.FLOAT16
    DOUBLE = caffe2_pb2.TensorProto.DOUBLE


def DeviceOption(
    device_type: int,
    device_id: int = 0,
    random_seed: int | None = None,
    node_name: str | None = None,
    numa_node_id: int | None = None,
) -> caffe2_pb2.DeviceOption:
    """The message of a device: `caffe2_pb2.CPU` or `caffe2_pb2.CUDA`, and its number."""
    option = caffe2_pb2.DeviceOption(device_type=device_type, device_id=device_id)
    if random_seed is not None:
        option.random_seed = random_seed
    if node_name is not None:
        option.node_name = node_name
    if numa_node_id is not None:
        assert device_type == caffe2_pb2.PROTO_CPU, "numa_node_id is for the CPU"
        option.numa_node_id = numa_node_id
    return option


def IsOperator(op_type: str) -> bool:
    """Whether there is an operator of that type."""
    return op_type in OPERATORS
