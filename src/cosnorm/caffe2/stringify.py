"""What callers hold as what is kept: the names of blobs and nets as text, messages as bytes."""

from typing import Any

from google.protobuf.message import Message


def _text(name: Any, kind: str) -> str:
    """The text of a name, or of an object of the class `kind`."""
    if isinstance(name, bytes):
        return name.decode()
    if isinstance(name, str):
        return name
    assert type(name).__name__ == kind, f"Expected a string or {kind}"
    return str(name)


def shown(name: str | bytes) -> str:
    """A name or text for a person to read: what is no UTF-8, or cannot be printed, is escaped."""
    text = name if isinstance(name, str) else name.decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def StringifyBlobName(name: Any) -> str:
    """The name of a blob given as str, bytes or BlobReference. Raises an AssertionError for anything else."""
    return _text(name, "BlobReference")


def StringifyNetName(name: Any) -> str:
    """The name of a net given as str, bytes or Net. Raises an AssertionError for anything else."""
    return _text(name, "Net")


def StringifyProto(obj: Any) -> str | bytes:
    """The bytes of a message or of what has one, such as a Net; text and bytes stay as they are.

    Raises:
        ValueError: an object of another kind.
    """
    if isinstance(obj, str | bytes):
        return obj
    proto = obj.Proto() if hasattr(obj, "Proto") else obj
    if isinstance(proto, Message):
        return proto.SerializeToString()
    raise ValueError(f"Unexpected argument to StringifyProto of type {type(obj).__name__}")
