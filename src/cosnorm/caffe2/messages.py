"""Protobuf messages from what callers hold: messages, their bytes, nets."""

from typing import Any

from google.protobuf.message import DecodeError, Message


def message_of(given: Any, kind: Any) -> Any:
    """An OperatorDef or NetDef from a message, its bytes, or an object with `Proto()`.

    Raises:
        TypeError: a str, or a message of another kind.
        ValueError: an object of another kind.
        RuntimeError: bytes that are no such message.
    """
    if isinstance(given, kind):
        return given
    if isinstance(given, str):
        raise TypeError(f"expected a {kind.__name__} or its bytes, got a str")
    if isinstance(given, bytes):
        return parse(given, kind)
    proto = given.Proto() if hasattr(given, "Proto") else given
    if isinstance(proto, kind):
        return proto
    if isinstance(proto, Message):
        # The same message may come from another program's definitions; the bytes of another one parse, too.
        if proto.DESCRIPTOR.name != kind.DESCRIPTOR.name:
            raise TypeError(f"expected a {kind.__name__}, got a {proto.DESCRIPTOR.name}")
        return parse(proto.SerializeToString(), kind)
    raise ValueError(f"Unexpected argument to StringifyProto of type {type(given).__name__}")


def parse(content: bytes, kind: Any) -> Any:
    """A message from its bytes. Raises a RuntimeError for bytes that are none."""
    message = kind()
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise RuntimeError(f"Cannot parse {len(content)} bytes into a {kind.__name__}: {error}") from error
    return message
