"""Arguments of the wrong type: an error at once, not a name of their own such as "3" or "b'X'".

The original's functions of C++ refuse them with a TypeError; those of Python take what can be printed.
"""

from collections.abc import Iterable
from typing import Any


def text_of(value: Any, what: str) -> str:
    """A str, or UTF-8 bytes as such. Raises a TypeError for anything else."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return value
    raise TypeError(f"{what} must be a str or bytes, got {value!r} of type {type(value).__name__}")


def flag_of(value: Any, what: str) -> bool:
    """A bool, given as one or as 0 or 1 of whatever integer type. Raises a TypeError for anything else."""
    try:
        if value in (0, 1) and not isinstance(value, float):
            return bool(value)
    except (TypeError, ValueError):  # arrays have no single answer
        pass
    raise TypeError(f"{what} must be True or False, got {value!r} of type {type(value).__name__}")


def list_of(values: Any, what: str) -> list[Any]:
    """The elements of a list. Raises a TypeError for a single text, which has letters, and for no list."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{what} must be a list, got {values!r} of type {type(values).__name__}")
    return list(values)
