"""References to blobs, and the operators made from them."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from cosnorm.caffe2 import scope
from cosnorm.caffe2.arguments import MakeArgument
from cosnorm.caffe2.checks import text_of
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import OPERATORS

Net = Any  # a `cosnorm.caffe2.net.Net`, which is made of these references


def name_of(blob: Any) -> str:
    """The name of a blob given as str, bytes or BlobReference. Raises a TypeError for anything else."""
    return str(blob) if isinstance(blob, BlobReference) else text_of(blob, "the name of a blob")


class BlobReference:
    """The name of a blob, with the net that it comes from; equal to the name as a string.

    Example:
        >>> from cosnorm.caffe2 import core
        >>> net = core.Net("angles")
        >>> net.AddExternalInput("X")
        BlobReference("X")
        >>> net.GetBlobRef("X").Cos([], "Y")
        BlobReference("Y")
    """

    def __init__(self, name: Any, net: Net | None = None) -> None:
        self._name = name_of(name)
        self._from_net = net
        self.meta: dict[Any, Any] = {}

    def __hash__(self) -> int:
        return hash(self._name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, bytes):
            return self._name == other.decode()
        return isinstance(other, str | BlobReference) and self._name == str(other)

    def __str__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f'BlobReference("{self._name}")'

    def __add__(self, other: object) -> "BlobReference":
        if not isinstance(other, str):
            raise RuntimeError("Cannot add BlobReference to a non-string.")
        return BlobReference(self._name + other, self._from_net)

    def __radd__(self, other: object) -> "BlobReference":
        if not isinstance(other, str):
            raise RuntimeError("Cannot add a non-string to BlobReference.")
        return BlobReference(other + self._name, self._from_net)

    def Net(self) -> Any:
        """The net that the blob comes from."""
        return self._from_net

    def GetNameScope(self) -> str:
        """The part of the name up to the last slash."""
        return self._name[: self._name.rfind(scope.SEPARATOR) + 1]

    def GetUnscopedName(self) -> str:
        """The part of the name behind the last slash."""
        return self._name[self._name.rfind(scope.SEPARATOR) + 1 :]

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        """`blob.Cos([], "Y")` is `net.Cos([blob], "Y")` for the net that the blob comes from."""
        if op_type.startswith("_"):
            raise AttributeError(f"Attribute {op_type} not found.")
        net = self._from_net
        if net is None:
            raise AttributeError(
                "You cannot use a blob reference that does not have a net source to create operators. "
                "Create the operator from an explicit net object."
            )
        check_registered(op_type)

        def add(inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
            others = [inputs] if isinstance(inputs, str | BlobReference) else list(inputs or [])
            return getattr(net, op_type)([self, *others], *args, **kwargs)

        return add


def check_registered(op_type: str) -> None:
    """Raises an AttributeError, with the nearest names, unless there is such an operator."""
    if op_type not in OPERATORS:
        near = difflib.get_close_matches(op_type, OPERATORS, n=5, cutoff=0.5) or sorted(OPERATORS)
        raise AttributeError(
            f"Method {op_type} is not a registered operator. Did you mean: [{','.join(near)}]"
        )


def ScopedName(name: str | bytes) -> str:
    """The name behind the prefix of the current NameScope."""
    return scope.CurrentNameScope() + name_of(name)


def ScopedBlobReference(name: str | bytes, net: Net | None = None) -> BlobReference:
    """A reference to the blob of that name in the current NameScope."""
    return BlobReference(ScopedName(name), net)


def references(given: Any, net: Net | None = None) -> list[BlobReference]:
    """One name or several as references: strings receive the NameScope's prefix, references stay as they are.

    Raises:
        TypeError: anything else.
    """
    if isinstance(given, str | bytes):
        return [ScopedBlobReference(given, net)]
    if isinstance(given, BlobReference):
        return [given]
    if not isinstance(given, list | tuple):
        raise TypeError(f"Unknown input/output type: {given} of type {type(given)}.")
    found: list[BlobReference] = []
    for blob in given:
        if not isinstance(blob, str | bytes | BlobReference):
            raise TypeError(f"I/O blob #{len(found)} of unsupported type: {blob} of type {type(blob)}")
        found += references(blob, net)
    return found


def CreateOperator(
    operator_type: str,
    inputs: Any,
    outputs: Any,
    name: str = "",
    control_input: Any = None,
    device_option: caffe2_pb2.DeviceOption | None = None,
    arg: Iterable[caffe2_pb2.Argument] | None = None,
    engine: str | None = None,
    debug_info: str | None = None,
    **kwargs: Any,
) -> caffe2_pb2.OperatorDef:
    """The definition of an operator. Whether there is one of the type is asked when it is run.

    Args:
        operator_type: such as "Cos".
        inputs: names or references of its input blobs, one or a list; a string is put into the NameScope.
        outputs: the same of its output blobs.
        name: of the operator.
        control_input: blobs that must be made before.
        device_option: where it runs; by default that of the DeviceScope.
        arg: ready arguments.
        engine: kept, and not looked at.
        debug_info: the same.
        kwargs: arguments: a float is kept as float, bool and int as integer, str and bytes as string, a
            sequence as a list of these; None is left out. `random_seed` goes to the device option.

    Raises:
        TypeError: a type that is no text, or blobs that are neither names nor references.
        ValueError: an argument of another type.

    Example:
        >>> from cosnorm.caffe2 import core
        >>> core.CreateOperator("Normalize", "X", "Y", axis=0).arg[0].i
        0
    """
    operator = caffe2_pb2.OperatorDef(type=text_of(operator_type, "the type of an operator"), name=name)
    operator.input.extend(map(str, references(inputs)))
    operator.output.extend(map(str, references(outputs)))
    operator.control_input.extend(map(str, references([] if control_input is None else control_input)))
    device = device_option if device_option is not None else scope.CurrentDeviceScope()
    if device is not None:
        operator.device_option.CopyFrom(device)
    if engine is not None:
        operator.engine = engine
    if debug_info is not None:
        operator.debug_info = debug_info
    if "random_seed" in kwargs:
        operator.device_option.random_seed = kwargs.pop("random_seed")
    operator.arg.extend(arg or ())
    operator.arg.extend(MakeArgument(key, value) for key, value in kwargs.items() if value is not None)
    return operator
