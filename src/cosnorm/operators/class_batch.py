"""A batch beside the weights of its classes, and the way of gradients back to both.

A loss gives the gradients of the cosines with other classes, block by block, and how far each embedding and
its own class turn to each other; what is done with both is the same for all.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.classes import Blocks, ClassRows
from cosnorm.backends.torch.unit_rows import project_
from cosnorm.backends.torch.units import UnitRows
from cosnorm.devices import is_accelerator
from cosnorm.distributed import reduce_rows
from cosnorm.operators.pairs import divide, inverse_norms, pack, quotients_of, unit_rows
from cosnorm.operators.targets import Batch, Target, find_targets, gather_batch

# Of each block its classes, its unit weights, and the gradient in them, in memory that is used again.
Found = Iterator[tuple[slice, Tensor, Tensor]]


class ClassBatch(NamedTuple):
    """The embeddings of all processes, and this process's classes.

    Attributes:
        batch: the embeddings, and where their classes are.
        unit: the embeddings as unit rows.
        target: each beside its own class.
        weights: those of the classes, a block at a time.
    """

    batch: Batch
    unit: UnitRows
    target: Target
    weights: ClassRows

    @property
    def here(self) -> Tensor:
        """Whether the class of an embedding is this process's, and takes part, (N,)."""
        places = self.batch.places
        return (places >= 0) & (places < self.weights.blocks.number)

    def with_own(
        self,
        found: Found,
        turns: Tensor,
        into_x: Tensor,
        *,
        into_weight: bool,
        change: Callable[[slice, Tensor], None] | None = None,
    ) -> Iterator[tuple[slice | Tensor, Tensor]]:
        """Add what the own classes give to `into_x`, and to the gradients in the weights.

        Args:
            found: what the other classes give; it adds its part to `into_x` itself.
            turns: the derivative of the loss in −θ of each embedding and its own class, (N,).
            into_x: gradients in the unit embeddings, all but projected, (N, D).
            into_weight: whether rows of the weight and the projected gradients in them come.
            change: what else is done with the gradient of a block.
        """
        places, blocks, target = self.batch.places, self.weights.blocks, self.target
        into_x.add_(target.toward_w * turns.unsqueeze(1))
        toward = (target.toward_x * turns.unsqueeze(1)).to(self.unit.values.dtype)
        own_of = _own_embeddings(places, blocks)
        for number, (block, unit, gradient) in enumerate(found):
            if not into_weight:
                continue
            if change is not None:
                change(block, gradient)
            rows = blocks.rows(block)
            own = slice(None) if own_of is None else own_of[number]
            at = target.rows[own]
            at = at - rows.start if isinstance(rows, slice) else torch.searchsorted(rows, at)
            pulled = toward[own]
            if own_of is None:  # those of other blocks count 0
                inside = (places >= block.start) & (places < block.stop)
                at, pulled = at.where(inside, 0), pulled.where(inside.unsqueeze(1), 0)
            gradient.index_add_(0, at, pulled)
            project_(gradient, unit)
            yield rows, gradient

    def finish(
        self,
        found: Iterator[tuple[slice | Tensor, Tensor]],
        into_x: Tensor,
        factor: Tensor,
        to_all: Tensor,
        embeddings: Tensor,
        weight: Tensor,
        *,
        into_weight: bool,
        impl: str,
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients in this process's embeddings and weights.

        Args:
            found: what `with_own` gives.
            into_x: to which that adds.
            factor: what those in the weights are multiplied by, ().
            to_all: what those in the embeddings are.
            embeddings: as they were given.
            weight: as it was given.
            into_weight: whether it learns.
            impl: as the user named it.
        """
        into_w, weights, shares = None, self.weights, self.batch.shares
        if into_weight:  # classes that take no part receive 0
            into_w = torch.empty_like(weight) if weights.blocks.classes is None else torch.zeros_like(weight)
        quotients = quotients_of(weights.divisors, factor, impl) if weights.known else None
        for rows, gradient in found:
            assert into_w is not None
            if quotients is not None and isinstance(rows, slice):
                torch.mul(gradient, quotients[rows], out=into_w[rows])
            else:
                into_w[rows] = divide(gradient, weights.divisors[rows], factor, weight, impl)
        gradient_x = reduce_rows(into_x, shares)
        project_(gradient_x, self.unit.values[shares.own])
        return divide(gradient_x, pack(self.unit)[shares.own], to_all, embeddings, impl), into_w


def class_batch(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    *,
    sub_centers: int,
    ignore: int,
    group: str,
    size: int | None,
    impl: str,
    block_size: Callable[[int], int],
    check: str = "",
) -> ClassBatch:
    """Bring the embeddings of all processes beside this one's classes; `check` as in `gather_batch`."""
    batch = gather_batch(embeddings, weight, labels, classes, sub_centers, ignore, group, check=check)
    number = weight.shape[0] // sub_centers if classes is None else classes.shape[0]
    blocks = Blocks(number, sub_centers, classes, size or block_size(len(batch.embeddings)))
    return ClassBatch(
        batch,
        unit_rows(batch.embeddings, impl),
        find_targets(batch.embeddings, weight, batch.places, classes, sub_centers, impl, directions=True),
        ClassRows(weight, blocks, inverse_norms(weight, impl), partial(unit_rows, impl=impl)),
    )


def _own_embeddings(places: Tensor, blocks: Blocks) -> list[Tensor] | None:
    """The embeddings whose class is in each block; None where nobody waits for how many."""
    if is_accelerator(places.device):
        return None
    order = places.argsort()
    ends = [block.start for block in blocks.parts()] + [blocks.number]
    bounds = torch.searchsorted(places[order], torch.tensor(ends, dtype=places.dtype)).tolist()
    return [order[start:end] for start, end in itertools.pairwise(bounds)]
