"""Caffe2's `utils`, as far as nets and blobs need it."""

from typing import Any

import numpy as np

from cosnorm.caffe2.arguments import MakeArgument
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.tensors import from_array, from_proto, to_array, to_proto

__all__ = ["Caffe2TensorToNumpyArray", "MakeArgument", "NumpyArrayToCaffe2Tensor"]


def NumpyArrayToCaffe2Tensor(arr: np.ndarray[Any, Any], name: str | None = None) -> caffe2_pb2.TensorProto:
    """The message of an array. Raises a RuntimeError for a dtype that Caffe2 has not."""
    message = to_proto(from_array(arr), name or "")
    for field in ("device_detail", "segment"):  # Caffe2 writes them with blobs alone
        message.ClearField(field)
    return message


def Caffe2TensorToNumpyArray(tensor: caffe2_pb2.TensorProto) -> np.ndarray[Any, Any]:
    """The array of a message. Raises a RuntimeError as `workspace.FeedBlob` does."""
    return to_array(from_proto(tensor))
