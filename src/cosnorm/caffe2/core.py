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

from collections.abc import Mapping, Sequence

from cosnorm.caffe2 import scope, utils, workspace
from cosnorm.caffe2.blobs import (
    BlobReference,
    CreateOperator,
    ScopedBlobReference,
    ScopedName,
)
from cosnorm.caffe2.checks import text_of
from cosnorm.caffe2.devices import InferOpBlobDevices, InferOpBlobDevicesAsDict, IsGPUDeviceType
from cosnorm.caffe2.gradients import IR, GradientRegistry, GradientSlice
from cosnorm.caffe2.net import Net
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import OPERATORS
from cosnorm.caffe2.scope import DeviceScope, EmptyDeviceScope, EmptyNameScope, NameScope

__all__ = [
    "IR",
    "BlobReference",
    "CreateOperator",
    "DataType",
    "DeviceOption",
    "DeviceScope",
    "EmptyDeviceScope",
    "EmptyNameScope",
    "GlobalInit",
    "GradientRegistry",
    "GradientSlice",
    "InferOpBlobDevices",
    "InferOpBlobDevicesAsDict",
    "IsGPUDeviceType",
    "IsOperator",
    "NameScope",
    "Net",
    "ScopedBlobReference",
    "ScopedName",
    "SetEnginePref",
    "scope",
    "utils",
    "workspace",
]


_REGISTERED_OPERATORS = OPERATORS  # the name that scripts look types up in

# The data types of tensors, such as DataType.FLOAT.
DataType = caffe2_pb2.TensorProto.DataType


def GlobalInit(args: Sequence[str]) -> None:
    """Does nothing: Caffe2's library had to be initialized, with the arguments of its command line."""
    workspace.GlobalInit(args)


def SetEnginePref(
    per_op_engine_pref: Mapping[str, Mapping[int, Sequence[str]]],
    global_engine_pref: Mapping[int, Sequence[str]],
) -> None:
    """Does nothing: an operator has one way to be computed here, whatever engine is preferred.

    Args:
        per_op_engine_pref: the engines for each type of device, by the type of operator.
        global_engine_pref: the engines for each type of device.

    Raises:
        TypeError: one of them is no mapping.
    """
    for given in (per_op_engine_pref, global_engine_pref):
        if not isinstance(given, Mapping):
            raise TypeError(f"preferences of engines must be a dict, got {given!r}")


def DeviceOption(
    device_type: int,
    device_id: int = 0,
    random_seed: int | None = None,
    node_name: str | None = None,
    numa_node_id: int | None = None,
    extra_info: Sequence[str] | None = None,
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
    option.extra_info.extend(extra_info or ())
    return option


def IsOperator(op_type: str) -> bool:
    """Whether there is an operator of that type. Raises a TypeError for what is no text."""
    return text_of(op_type, "the type of an operator") in OPERATORS
