"""Caffe2's protobuf messages; `caffe2_pb2` is made from caffe2.proto."""

try:
    import google.protobuf  # noqa: F401
except ImportError as error:
    raise ImportError("cosnorm.caffe2 needs protobuf: pip install 'cosnorm[caffe2]'") from error

from cosnorm.caffe2.proto import caffe2_pb2

__all__ = ["caffe2_pb2"]

# The names that Caffe2's scripts use for its devices.
caffe2_pb2.CPU = caffe2_pb2.PROTO_CPU  # type: ignore[attr-defined]
caffe2_pb2.CUDA = caffe2_pb2.PROTO_CUDA  # type: ignore[attr-defined]
caffe2_pb2.HIP = 6  # type: ignore[attr-defined]  # AMD's, which are torch's "cuda" devices, too
