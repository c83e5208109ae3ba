"""Caffe2's cosine operators, and what runs nets of them, on torch.

`core` and `workspace` have the names, arguments and errors of Caffe2's Python modules; `load_net` and
`save_net` read and write its files; `to_torch` makes a module of a net; `install` lets old scripts import
`caffe2.python`. Needs the extra `cosnorm[caffe2]` (protobuf).
"""

from cosnorm.caffe2.proto import caffe2_pb2 as _  # noqa: F401  (first: it says what to install)

# isort: split

from cosnorm.caffe2 import core, workspace
from cosnorm.caffe2.drop_in import install, uninstall
from cosnorm.caffe2.files import load_net, save_net
from cosnorm.caffe2.torch_net import TorchNet, to_torch

__all__ = ["TorchNet", "core", "install", "load_net", "save_net", "to_torch", "uninstall", "workspace"]
