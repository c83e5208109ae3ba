"""The named arguments of an operator: made from Python values, and read with their types checked."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import Message

from cosnorm.caffe2.proto import caffe2_pb2


def MakeArgument(key: str, value: Any) -> caffe2_pb2.Argument:
    """The message of one argument: a float goes to `f`, an integer or bool to `i`, text to `s`, and so on.

    Raises:
        ValueError: a value, or a sequence's mixture of values, that no field can hold.
    """
    argument = caffe2_pb2.Argument(name=key)
    if isinstance(value, np.ndarray):
        value = value.flatten().tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        argument.f = value
    elif isinstance(value, int):
        argument.i = int(value)  # a bool, too
    elif isinstance(value, str | bytes):
        argument.s = _bytes(value)
    elif isinstance(value, caffe2_pb2.NetDef):
        argument.n.CopyFrom(value)
    elif isinstance(value, Message):
        argument.s = value.SerializeToString()
    elif isinstance(value, Iterable):
        _extend(argument, key, list(value))
    else:
        raise ValueError(f"Unknown argument type: key={key} value={value}, value type={type(value)}")
    return argument


def _extend(argument: caffe2_pb2.Argument, key: str, values: list[Any]) -> None:
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if all(isinstance(value, float) for value in values):
        argument.floats.extend(values)
    elif all(isinstance(value, int) for value in values):
        argument.ints.extend(map(int, values))
    elif all(isinstance(value, str | bytes) for value in values):
        argument.strings.extend(map(_bytes, values))
    elif all(isinstance(value, caffe2_pb2.NetDef) for value in values):
        argument.nets.extend(values)
    elif all(isinstance(value, Message) for value in values):
        argument.strings.extend(value.SerializeToString() for value in values)
    else:
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        raise ValueError(
            f"Unknown iterable argument type: key={key} value={values}, with values of {kinds}; "
            "give all of one type"
        )


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


class Arguments:
    """The arguments of an operator by name. Those that nobody asks for are no error, as in Caffe2.

    Raises:
        RuntimeError: two arguments of one name that are not the same; at reading, one whose value is in
            another field than the reader's: an integer where a float is wanted.
    """

    def __init__(self, operator: caffe2_pb2.OperatorDef) -> None:
        self.operator = operator
        self._arguments: dict[str, caffe2_pb2.Argument] = {}
        for argument in operator.arg:
            other = self._arguments.setdefault(argument.name, argument)
            if other is not argument and other != argument:
                raise RuntimeError(
                    f"Duplicated argument name [{argument.name}] found in operator def: {operator}"
                )

    def has(self, name: str, field: str | None = None) -> bool:
        """Whether there is such an argument, with a value in the field "f", "i" or "s" if one is named."""
        return name in self._arguments and (field is None or self._arguments[name].HasField(field))

    def _single(self, name: str, field: str, default: Any) -> Any:
        if name not in self._arguments:
            return default
        argument = self._arguments[name]
        if not argument.HasField(field):
            raise RuntimeError(f"Argument {name} does not have the right field: expected field {field}")
        return getattr(argument, field)

    def number(self, name: str, default: float) -> float:
        """A floating-point argument."""
        return float(self._single(name, "f", default))

    def integer(self, name: str, default: int) -> int:
        """An integer argument; bools are integers."""
        return int(self._single(name, "i", default))

    def text(self, name: str, default: str) -> str:
        """A string argument. Raises a RuntimeError for bytes that are no UTF-8."""
        try:
            return self.content(name, default.encode()).decode()
        except UnicodeDecodeError as error:
            raise RuntimeError(f"Argument {name} is no UTF-8: {error}") from error

    def content(self, name: str, default: bytes) -> bytes:
        """The bytes of a string argument."""
        return bytes(self._single(name, "s", default))

    def repeated(self, name: str, field: str) -> Sequence[Any]:
        """The values of a list, `field` one of "floats", "ints" and "strings"; empty without the argument.

        Raises:
            RuntimeError: an argument whose value is in another field, which the original takes for an empty
                list.
        """
        if name not in self._arguments:
            return []
        argument = self._arguments[name]
        values = list(getattr(argument, field))
        others = [one.name for one, _ in argument.ListFields() if one.name != "name"]
        if others and not values:
            raise RuntimeError(
                f"Argument {name} does not have the right field: expected field {field}, got {others[0]}"
            )
        return values
