"""`workspace.C`: of the original's compiled module what its own test helpers use, workspaces as objects.

Example:
    >>> import numpy as np
    >>> from cosnorm.caffe2 import core, workspace
    >>> ws = workspace.C.Workspace()
    >>> ws.create_blob("X").feed(np.zeros(2, dtype=np.float32))
    True
    >>> ws.run(core.CreateOperator("Cos", "X", "Y"))
    True
    >>> ws.blobs["Y"].fetch()
    array([1., 1.], dtype=float32)
"""

import difflib
from typing import Any

from cosnorm.caffe2 import runtime
from cosnorm.caffe2.blobs import name_of
from cosnorm.caffe2.checks import flag_of
from cosnorm.caffe2.current import current
from cosnorm.caffe2.feeding import fed, fetched
from cosnorm.caffe2.messages import message_of
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import OPERATORS, Operator
from cosnorm.caffe2.tensors import deserialize, serialize

__all__ = ["Blob", "Net", "OpSchema", "Workspace", "nearby_opnames", "use_mkldnn"]

use_mkldnn = False  # there are no operators of that engine


class Blob:
    """A blob of a workspace; also after it was removed there it holds what it is fed with."""

    def __init__(self, held: runtime.Blob) -> None:
        self._held = held

    def feed(self, arg: Any, device_option: Any = None) -> bool:
        """Copies a value into the blob; arguments and errors are those of `workspace.FeedBlob`."""
        self._held.value = fed(arg, device_option, self._held.name)
        return True

    def fetch(self) -> Any:
        """A copy of the value: an array, or bytes."""
        return fetched(self._held.value, self._held.name)

    def serialize(self, name: str) -> bytes:
        """The bytes of a BlobProto of that name. Raises a RuntimeError if the blob holds nothing."""
        return serialize(name_of(name), self._held.value)

    def deserialize(self, content: bytes) -> None:
        """Takes the value of such bytes. Raises a RuntimeError for bytes that are none."""
        self._held.value = deserialize(content)


class Net:
    """A net that was created in a workspace."""

    def __init__(self, workspace: runtime.Workspace, name: str) -> None:
        self._workspace, self._name = workspace, name

    def run(self) -> bool:
        """Runs it once. Raises a RuntimeError if it is there no longer, or an operator fails."""
        self._workspace.run_net(self._name)
        return True


class _Current:
    """`Workspace.current`, which is another one after `SwitchWorkspace`."""

    def __get__(self, instance: Any, owner: type["Workspace"]) -> "Workspace":
        return owner(current())


class Workspace:
    """A workspace of its own, which has no name and is the current one for nobody.

    Attributes:
        current: the current workspace of the process.
    """

    current = _Current()

    def __init__(self, held: runtime.Workspace | None = None) -> None:
        self._held = runtime.Workspace() if held is None else held

    @property
    def blobs(self) -> dict[str, Blob]:
        """The blobs by name."""
        return {name: Blob(blob) for name, blob in self._held.blobs.items()}

    @property
    def nets(self) -> dict[str, Net]:
        """The nets that were created, by name."""
        return {name: Net(self._held, name) for name in self._held.nets}

    def create_blob(self, name: Any) -> Blob:
        """The blob of that name, made if need be. Raises a TypeError for what is no name."""
        return Blob(self._held.create_blob(name_of(name)))

    def create_net(self, net: Any, overwrite: bool = False) -> Net:
        """Binds a net to the blobs; arguments and errors are those of `workspace.CreateNet`."""
        definition = message_of(net, caffe2_pb2.NetDef)
        self._held.create_net(definition, flag_of(overwrite, "overwrite"))
        return Net(self._held, definition.name)

    def run(self, obj: Any) -> bool:
        """Runs an operator or a net once, given as a message or as what has one.

        Raises:
            RuntimeError: an operator fails.
            ValueError: anything else.
        """
        proto = obj.Proto() if hasattr(obj, "Proto") else obj
        if isinstance(proto, caffe2_pb2.OperatorDef):
            self._held.run_operator(proto)
        elif isinstance(proto, caffe2_pb2.NetDef):
            self._held.run_net_once(proto)
        else:
            raise ValueError(
                f"Don't know how to do Workspace.run() on {type(obj)}: give an operator or a net"
            )
        return True


class OpSchema:
    """The operators by their type."""

    @staticmethod
    def get(op_type: str) -> Operator | None:
        """What is known about a type of operator, or None."""
        return OPERATORS.get(op_type)


def nearby_opnames(name: str) -> list[str]:
    """The types of operators whose names are like that."""
    return difflib.get_close_matches(name, OPERATORS, n=5, cutoff=0.5)
