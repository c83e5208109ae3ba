"""Which rows meet which: the sums of products over the last dimension, and their adjoints."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Contraction(Protocol):
    """How rows x (*, D) and rows y (*, D) meet; leading dimensions broadcast."""

    @property
    def is_product(self) -> bool:
        """Whether they meet in matrix products."""

    @property
    def keeps_products(self) -> bool:
        """Whether products are worth their memory until the backward pass: they spare it two passes."""

    def shape(self, x: Shape, y: Shape) -> torch.Size:
        """The shape of the products."""

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """The products Σ_d x·y."""

    def into_x(self, h: Tensor, x: Shape, y: Tensor) -> Tensor:
        """Σ h·y over all that rows x meet, in the shape x."""

    def into_y(self, h: Tensor, x: Tensor, y: Shape) -> Tensor:
        """Σ h·x over all that rows y meet, in the shape y."""

    def beside_x(self, numbers: Tensor) -> Tensor:
        """One number for each row x, (*, 1), so that it broadcasts beside the products."""

    def beside_y(self, numbers: Tensor) -> Tensor:
        """One number for each row y, (*, 1), so that it broadcasts beside the products."""


@dataclass(frozen=True)
class Pairs:
    """Each row with one other: (*, D), (*, D) → (*)."""

    is_product: bool = False
    keeps_products: bool = False

    def shape(self, x: Shape, y: Shape) -> torch.Size:  # noqa: D102
        return torch.broadcast_shapes(x[:-1], y[:-1])

    def dot(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return (x * y).sum(-1)

    def into_x(self, h: Tensor, x: Shape, y: Tensor) -> Tensor:  # noqa: D102
        return (h.unsqueeze(-1) * y).sum_to_size(x)

    def into_y(self, h: Tensor, x: Tensor, y: Shape) -> Tensor:  # noqa: D102
        return (h.unsqueeze(-1) * x).sum_to_size(y)

    def beside_x(self, numbers: Tensor) -> Tensor:  # noqa: D102
        return numbers.squeeze(-1)

    beside_y = beside_x


@dataclass(frozen=True)
class Matrix:
    """Every row of one matrix with every row of another: (*, N, D), (*, M, D) → (*, N, M)."""

    keeps_products: bool
    is_product: bool = True

    def shape(self, x: Shape, y: Shape) -> torch.Size:  # noqa: D102
        return torch.Size((*torch.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-2]))

    def dot(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return x @ y.mT

    def into_x(self, h: Tensor, x: Shape, y: Tensor) -> Tensor:  # noqa: D102
        return (h @ y).sum_to_size(x)

    def into_y(self, h: Tensor, x: Tensor, y: Shape) -> Tensor:  # noqa: D102
        return (h.mT @ x).sum_to_size(y)

    def beside_x(self, numbers: Tensor) -> Tensor:  # noqa: D102
        return numbers

    def beside_y(self, numbers: Tensor) -> Tensor:  # noqa: D102
        return numbers.mT


PAIRS, MATRIX, ALL_PAIRS = Pairs(), Matrix(keeps_products=True), Matrix(keeps_products=False)


def summed_dimensions(products: Shape, beside: Shape) -> tuple[int, ...]:
    """The dimensions of the products along which numbers of shape `beside` are one and the same."""
    lead = len(products) - len(beside)
    return tuple(d for d in range(len(products)) if d < lead or beside[d - lead] != products[d])
