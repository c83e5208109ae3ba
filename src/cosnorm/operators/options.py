"""Options of an operator as one named tuple: its schema, and how many arguments it takes there."""

from typing import NamedTuple, get_type_hints

from torch import Tensor

_NAMES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    int: "int",
    int | None: "int?",
    list[int]: "int[]",
    float: "float",
    float | None: "float?",
    str: "str",
}


def arguments_of(options: type[NamedTuple]) -> str:
    """The part of a schema that holds these options, in their order."""
    return ", ".join(f"{_NAMES[kind]} {name}" for name, kind in get_type_hints(options).items())


def flags_of(keep: int, learns: int) -> list[bool]:
    """Which of the learning arguments get gradients, from `int keep` of a schema."""
    return [bool(keep >> place & 1) for place in range(learns)]


def results_of(results: type[NamedTuple]) -> str:
    """The results of a schema by their names."""
    return f"({', '.join(f'Tensor {name}' for name in get_type_hints(results))})"
