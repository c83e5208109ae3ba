"""What a benchmark case is: an operation, our implementation of it, the peers, and the physical floor."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

Step = Callable[[], object]


@dataclass(frozen=True)
class Floor:
    """What no implementation can do without.

    Attributes:
        products: multiplications and additions of its matrix products, counted apart.
        bytes: read and written, each operand and each result once.
    """

    products: float
    bytes: float


@dataclass(frozen=True)
class Case:
    """`make()` gives the steps by name; the ratio of each is to the one called "plain", else to the first.

    Steps that give tensors must agree before they are timed: those among `groups` that stand together, and
    without groups all of them but `different`.

    Attributes:
        name: of the case, its shapes among it.
        make: makes the steps.
        floor: of the plain step.
        groups: names of steps that compute the same.
        different: names of steps that compute something else.
        tolerance: the largest difference, as a part of the largest number.
        surroundings: opened while the steps are timed.
    """

    name: str
    make: Callable[[], dict[str, Step]]
    floor: Floor | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    different: tuple[str, ...] = ()
    tolerance: float = 1e-4
    surroundings: Callable[[], AbstractContextManager[object]] = nullcontext
