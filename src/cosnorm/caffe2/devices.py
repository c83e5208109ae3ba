"""The devices that scripts ask about: which there are, and where the blobs of an operator lie."""

from typing import Any

import torch

from cosnorm.caffe2.messages import message_of
from cosnorm.caffe2.proto import caffe2_pb2

# What scripts put into a DeviceOption for "the GPU"; torch answers to CUDA's name on AMD's, too.
GpuDeviceType = caffe2_pb2.PROTO_CUDA


def NumCudaDevices() -> int:
    """The number of GPUs that torch finds."""
    return torch.cuda.device_count()


def NumGpuDevices() -> int:
    """The number of GPUs that torch finds."""
    return torch.cuda.device_count()


def IsGPUDeviceType(device_type: int) -> bool:
    """Whether that is the type of a GPU: `caffe2_pb2.CUDA` or `caffe2_pb2.HIP`."""
    return device_type in (caffe2_pb2.CUDA, caffe2_pb2.HIP)  # type: ignore[attr-defined]


def InferOpBlobDevices(op: Any) -> tuple[list[caffe2_pb2.DeviceOption], list[caffe2_pb2.DeviceOption]]:
    """The devices of an operator's inputs and of its outputs: its own, as for the original's operators.

    Raises:
        TypeError, ValueError: `op` is no OperatorDef.

    Example:
        >>> from cosnorm.caffe2 import core
        >>> from cosnorm.caffe2.proto import caffe2_pb2
        >>> gpu = core.DeviceOption(caffe2_pb2.CUDA, 1)
        >>> inputs, _ = core.InferOpBlobDevices(core.CreateOperator("Cos", "X", "Y", device_option=gpu))
        >>> inputs[0].device_id
        1
    """
    operator = message_of(op, caffe2_pb2.OperatorDef)
    inputs, outputs = (
        [caffe2_pb2.DeviceOption.FromString(operator.device_option.SerializeToString()) for _ in names]
        for names in (operator.input, operator.output)
    )
    return inputs, outputs


def InferOpBlobDevicesAsDict(
    op: Any,
) -> tuple[dict[str, caffe2_pb2.DeviceOption], dict[str, caffe2_pb2.DeviceOption]]:
    """`InferOpBlobDevices` by the names of the blobs.

    Example:
        >>> from cosnorm.caffe2 import core
        >>> inputs, outputs = core.InferOpBlobDevicesAsDict(core.CreateOperator("Mul", ["A", "B"], "C"))
        >>> list(inputs), list(outputs)
        (['A', 'B'], ['C'])
    """
    operator = message_of(op, caffe2_pb2.OperatorDef)
    inputs, outputs = InferOpBlobDevices(operator)
    return dict(zip(operator.input, inputs, strict=True)), dict(zip(operator.output, outputs, strict=True))
