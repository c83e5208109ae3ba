"""What a benchmark case is."""

from collections.abc import Callable
from dataclasses import dataclass

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """`make()` gives the steps by name; the ratio of each is to the one called "plain", else to the first.

    Steps that give tensors (a loss and its gradients) must agree before they are timed.
    """

    name: str
    make: Callable[[], dict[str, Step]]
