"""What a blob is fed with: the value that it then holds, and what it gives back."""

from typing import Any

import numpy as np
import torch

from cosnorm.caffe2 import scope, tensors
from cosnorm.caffe2.messages import message_of
from cosnorm.caffe2.proto import caffe2_pb2


def fed(arr: Any, device_option: Any, blob: str) -> tensors.Value:
    """A copy of an array, a TensorProto, a torch tensor, a str or bytes, as `workspace.FeedBlob` takes it.

    Args:
        arr: what is fed.
        device_option: where a tensor is to lie, None for the device of the DeviceScope.
        blob: the name, for errors.

    Raises:
        RuntimeError: a value of another type, a dtype that Caffe2 has not, a device that there is not.
        TypeError, ValueError: `device_option` is no DeviceOption.
    """
    option = scope.CurrentDeviceScope()
    if device_option is not None:
        option = message_of(device_option, caffe2_pb2.DeviceOption)
    value = _value(arr)
    if isinstance(value, torch.Tensor) and option is not None:
        return value.to(tensors.device_of(option, blob))
    return value


def _value(arr: Any) -> tensors.Value:
    if isinstance(arr, caffe2_pb2.TensorProto):
        return tensors.from_proto(arr)
    if isinstance(arr, np.ndarray):
        return tensors.from_array(arr)
    if isinstance(arr, torch.Tensor):
        if tensors.data_type_of(arr) == caffe2_pb2.TensorProto.UNDEFINED:
            raise RuntimeError(
                f"This torch data type is not supported: {arr.dtype}; convert it, such as to float32"
            )
        return arr.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(arr, str | bytes):
        return arr.encode() if isinstance(arr, str) else arr
    raise RuntimeError(
        "Unexpected type of argument - only numpy array or string are supported for feeding; got "
        f"{type(arr).__name__}: np.asarray(…) makes an array"
    )


def fetched(value: tensors.Value, blob: str) -> Any:
    """A copy of a blob's value: an array, or bytes; of a blob that holds nothing Caffe2's text about it."""
    if value is None:
        return f"{blob}, a C++ native class of type nullptr (uninitialized).".encode()
    return value if isinstance(value, bytes) else tensors.to_array(value)
