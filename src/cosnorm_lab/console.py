"""Where tables are printed: in a terminal they fit its width, elsewhere nothing of them is cut."""

from typing import Any

from rich.console import Console

WIDEST = 2**20  # no name is so long; tables take the width that they need


def console(**options: Any) -> Console:
    """The standard output. A pipe or a file is as wide as what is printed, whatever COLUMNS says.

    Args:
        options: those of rich's Console.
    """
    found = Console(**options)
    if not found.is_terminal:
        found = Console(**options, width=WIDEST)
    return found
