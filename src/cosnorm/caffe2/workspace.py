"""Caffe2's `workspace`: feed and fetch blobs, run operators and nets.

The functions have the names, the arguments and the errors of `caffe2.python.workspace`. They act on the
current one of several workspaces, which begins as "default".

Example:
    >>> import numpy as np
    >>> from cosnorm.caffe2 import core, workspace
    >>> workspace.FeedBlob("X", np.zeros(2, dtype=np.float32))
    True
    >>> workspace.RunOperatorOnce(core.CreateOperator("Cos", "X", "Y"))
    True
    >>> workspace.FetchBlob("Y")
    array([1., 1.], dtype=float32)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cosnorm.caffe2 import compiled as C
from cosnorm.caffe2 import scope, tensors
from cosnorm.caffe2.blobs import name_of
from cosnorm.caffe2.checks import flag_of, list_of, text_of
from cosnorm.caffe2.current import (
    CurrentWorkspace,
    ResetWorkspace,
    RootFolder,
    SwitchWorkspace,
    Workspaces,
    current,
)
from cosnorm.caffe2.devices import GpuDeviceType, NumCudaDevices, NumGpuDevices
from cosnorm.caffe2.feeding import fed, fetched
from cosnorm.caffe2.messages import message_of
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import OPERATORS
from cosnorm.caffe2.shapes import infer
from cosnorm.caffe2.stringify import StringifyBlobName, StringifyNetName, StringifyProto

__all__ = [
    "Blobs",
    "C",
    "CreateBlob",
    "CreateNet",
    "CurrentWorkspace",
    "DeserializeBlob",
    "FeedBlob",
    "FetchBlob",
    "FetchBlobs",
    "GetBlobSizeBytes",
    "GetNameScope",
    "GlobalInit",
    "GpuDeviceType",
    "HasBlob",
    "InferShapesAndTypes",
    "NumCudaDevices",
    "NumGpuDevices",
    "RegisteredOperators",
    "RemoveBlob",
    "ResetBlob",
    "ResetWorkspace",
    "RootFolder",
    "RunNet",
    "RunNetOnce",
    "RunOperatorMultiple",
    "RunOperatorOnce",
    "RunOperatorsOnce",
    "SerializeBlob",
    "StringifyBlobName",
    "StringifyNetName",
    "StringifyProto",
    "SwitchWorkspace",
    "Workspaces",
    "blobs",
]
# Answered by __getattr__.
has_cuda_support: bool
has_gpu_support: bool
has_hip_support: bool
__all__ += ["has_cuda_support", "has_gpu_support", "has_hip_support"]


def __getattr__(name: str) -> bool:
    """Whether there are GPUs, asked when a script asks: torch's own question begins to use them."""
    if name in ("has_cuda_support", "has_gpu_support"):
        return torch.cuda.is_available()
    if name == "has_hip_support":
        return False  # those of AMD answer to CUDA's name in torch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def GlobalInit(args: Sequence[str]) -> None:
    """Does nothing: Caffe2's library had to be initialized, with the arguments of its command line.

    Raises:
        TypeError: what is no list of texts.
    """
    for one in list_of(args, "GlobalInit's arguments"):
        text_of(one, "an argument of GlobalInit")


def GetNameScope() -> str:
    """The prefix that plain blob names receive, such as "layer1/"; empty outside every scope."""
    return scope.CurrentNameScope()


def RegisteredOperators() -> list[str]:
    """The types of all operators."""
    return sorted(OPERATORS)


def FeedBlob(name: Any, arr: Any, device_option: caffe2_pb2.DeviceOption | None = None) -> bool:
    """Copies a value into a blob, which is made if need be.

    Args:
        name: str, bytes or BlobReference.
        arr: a NumPy array (of numbers or strings), a TensorProto, a str, bytes, or a torch tensor.
        device_option: where the tensor is to lie; by default that of the DeviceScope, or the CPU.

    Returns:
        True.

    Raises:
        RuntimeError: a value of another type (a list, a number), a dtype that Caffe2 has not, or a device
            that torch does not find.
        AssertionError: a name of another type.
        TypeError, ValueError: `device_option` is no DeviceOption.
    """
    text = StringifyBlobName(name)
    value = fed(arr, device_option, text)
    current().create_blob(text).value = value
    return True


def FetchBlob(name: Any) -> Any:
    """A copy of a blob's value: an array, or bytes; strings come back as bytes.

    Raises:
        RuntimeError: there is no such blob.
        AssertionError: a name that is no str, bytes or BlobReference.
    """
    text = StringifyBlobName(name)
    return fetched(current().find_blob(text).value, text)


def FetchBlobs(names: Iterable[Any]) -> list[Any]:
    """`FetchBlob` of each name. Raises a TypeError for a single one."""
    return [FetchBlob(name) for name in list_of(names, "FetchBlobs' names")]


def HasBlob(name: Any) -> bool:
    """Whether there is such a blob."""
    return StringifyBlobName(name) in current().blobs


def Blobs() -> list[str]:
    """The names of all blobs, sorted."""
    return sorted(current().blobs)


def CreateBlob(name: Any) -> bool:
    """Makes a blob that holds nothing; one that is there stays as it is."""
    current().create_blob(StringifyBlobName(name))
    return True


def ResetBlob(name: Any) -> None:
    """Empties a blob and keeps its name. Raises a RuntimeError if there is none."""
    current().find_blob(StringifyBlobName(name)).value = None


def RemoveBlob(name: Any) -> bool:
    """Removes a blob; says whether there was one."""
    return current().remove_blob(StringifyBlobName(name))


def GetBlobSizeBytes(name: Any) -> int:
    """The bytes that a blob's elements take; a string counts as its bytes and 32, as in the original.

    Raises:
        RuntimeError: there is no such blob, or it holds no tensor.
    """
    text = StringifyBlobName(name)
    value = current().find_blob(text).value
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return sum(32 + len(one) for one in value.flat)
    raise RuntimeError(f"blob {text} holds no tensor, whose size could be told")


class _Blobs:
    """The blobs of the current workspace as a mapping: `blobs["X"]` fetches, `blobs["X"] = array` feeds."""

    def __getitem__(self, name: Any) -> Any:
        return FetchBlob(name)

    def __setitem__(self, name: Any, value: Any) -> None:
        FeedBlob(name, value)

    def __delitem__(self, name: Any) -> None:
        if not RemoveBlob(name):
            raise RuntimeError(f"Can't find blob: {name}")

    def __len__(self) -> int:
        return len(current().blobs)

    def __iter__(self) -> Iterator[str]:
        return iter(Blobs())

    def __contains__(self, name: Any) -> bool:
        return HasBlob(name)


blobs = _Blobs()


def RunOperatorOnce(operator: Any) -> bool:
    """Runs one operator, given as an OperatorDef or its bytes."""
    current().run_operator(message_of(operator, caffe2_pb2.OperatorDef))
    return True


def RunOperatorMultiple(operator: Any, num_runs: int) -> bool:
    """Runs one operator so many times."""
    current().run_operator(message_of(operator, caffe2_pb2.OperatorDef), num_runs)
    return True


def RunOperatorsOnce(operators: Iterable[Any]) -> bool:
    """Runs several operators, one after the other."""
    return all(RunOperatorOnce(operator) for operator in operators)


def CreateNet(net: Any, overwrite: bool = False, input_blobs: Sequence[Any] | None = None) -> bool:
    """Binds a net (a Net, a NetDef or its bytes) to the workspace's blobs; `input_blobs` are made before.

    Raises:
        RuntimeError: the name is taken without `overwrite`, an input is missing, an operator is unknown.
        TypeError: `overwrite` is no bool, or `input_blobs` no list.
    """
    overwrite = flag_of(overwrite, "overwrite")
    for name in list_of(() if input_blobs is None else input_blobs, "input_blobs"):
        CreateBlob(name)
    current().create_net(message_of(net, caffe2_pb2.NetDef), overwrite)
    return True


def RunNet(name: Any, num_iter: int = 1, allow_fail: bool = False) -> bool:
    """Runs a created net, by its name or a Net, `num_iter` times.

    Raises:
        RuntimeError: no such net was created, or an operator failed; as in Caffe2 an error of an operator is
            raised with `allow_fail`, too.
        TypeError: `num_iter` is no integer, or `allow_fail` no bool.
    """
    flag_of(allow_fail, "allow_fail")
    current().run_net(StringifyNetName(name), num_iter)
    return True


def RunNetOnce(net: Any) -> bool:
    """Runs a net without keeping it."""
    current().run_net_once(message_of(net, caffe2_pb2.NetDef))
    return True


def SerializeBlob(name: Any) -> bytes:
    """The bytes of a BlobProto with the blob's name and value. Raises a RuntimeError if it holds nothing."""
    text = StringifyBlobName(name)
    return tensors.serialize(text, current().find_blob(text).value)


def DeserializeBlob(name: Any, content: bytes) -> None:
    """Fills a blob with the value of such bytes. Raises a RuntimeError for bytes that are none."""
    value = tensors.deserialize(content)
    current().create_blob(StringifyBlobName(name)).value = value


def InferShapesAndTypes(
    nets: Sequence[Any],
    blob_dimensions: Mapping[str, Sequence[int]] | None = None,
    nets_proto: bool = False,
    blob_types: Mapping[str, int] | None = None,
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """The shapes and data types that the blobs of nets will have, as far as they follow from the inputs'.

    Args:
        nets: one after the other, as Nets or, with `nets_proto`, as NetDefs.
        blob_dimensions: shapes by name; by default those of the workspace's blobs.
        nets_proto: whether messages are given.
        blob_types: data types by name; by default float.

    Returns:
        Shapes and data types by name, without the blobs that stay unknown.

    Raises:
        RuntimeError: a known shape that no tensor has.
        TypeError: a name that is none, or a shape that is no list.
        ValueError: a data type that there is not.
    """
    del nets_proto
    definitions = [message_of(net, caffe2_pb2.NetDef) for net in nets]
    known = {}
    if blob_dimensions is None:
        assert blob_types is None
        for name, blob in current().blobs.items():
            if isinstance(blob.value, torch.Tensor | np.ndarray):
                known[name] = (list(blob.value.shape), tensors.data_type_of(blob.value))
    else:
        types = blob_types or {}
        default = caffe2_pb2.TensorProto.FLOAT
        for kind in types.values():
            if kind not in caffe2_pb2.TensorProto.DataType.values():
                raise ValueError(f"blob_types: {kind!r} is no data type, such as core.DataType.FLOAT")
        known = {
            name_of(name): (list_of(dims, f"the shape of {name}"), types.get(name, default))
            for name, dims in blob_dimensions.items()
        }
    inferred = infer(definitions, known)
    return {name: dims for name, (dims, _) in inferred.items()}, {
        name: kind for name, (_, kind) in inferred.items()
    }
