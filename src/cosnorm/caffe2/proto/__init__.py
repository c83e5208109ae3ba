"""Caffe2's protobuf messages; `caffe2_pb2` is made from caffe2.proto."""

from cosnorm import installing

try:
    import google.protobuf  # noqa: F401
except ImportError as error:
    raise ImportError(f"cosnorm.caffe2 needs protobuf: {installing.command('caffe2')}") from error

from cosnorm.caffe2.proto import caffe2_pb2

__all__ = ["caffe2_pb2"]

# The names that Caffe2's scripts use for its devices.
caffe2_pb2.CPU = caffe2_pb2.PROTO_CPU  # type: ignore[attr-defined]
caffe2_pb2.CUDA = caffe2_pb2.PROTO_CUDA  # type: ignore[attr-defined]
caffe2_pb2.HIP = 6  # type: ignore[attr-defined]  # AMD's, which are torch's "cuda" devices, too
