"""A batch in parts, and what an encoder makes of them as one again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


class Batch:
    """The arguments of an encoder: every tensor in them has the rows of the batch, and is split.

    Attributes:
        name: for messages.
        length: the number of rows.
    """

    def __init__(self, name: str, arguments: Any) -> None:
        self.name = name
        if isinstance(arguments, Mapping):  # transformers' BatchEncoding among them
            arguments = dict(arguments)
        self._leaves, self._structure = tree_flatten(arguments)
        tensors = [leaf for leaf in self._leaves if _has_rows(leaf)]
        if not tensors:
            raise TypeError(
                f"microbatch: {name} must hold a tensor with a dimension of rows, got "
                f"{type(arguments).__name__}; convert it with torch.as_tensor"
            )
        lengths = sorted({len(tensor) for tensor in tensors})
        if len(lengths) > 1:
            raise ValueError(
                f"microbatch: all tensors of {name} are split along dimension 0 and must have one length "
                f"there, got {lengths}; give what every part shares by functools.partial(encoder, …)"
            )
        if any(tensor.requires_grad and not tensor.is_leaf for tensor in tensors):
            raise ValueError(
                f"microbatch: {name} must not come out of another graph, which every part would have to go "
                "back through; detach() it, or put what makes it into the encoder"
            )
        self.length = lengths[0]

    def rows(self, size: int) -> list[slice]:
        """At most `size` rows each; one of none for a batch without rows."""
        starts = range(0, max(self.length, 1), size)
        return [slice(start, min(start + size, self.length)) for start in starts]

    def encode(self, encoder: Callable[..., Any], rows: slice) -> tuple[list[Any], TreeSpec]:
        """What the encoder makes of these rows: tensors, and the structure that they stand in."""
        part = tree_unflatten(
            [leaf[rows] if _has_rows(leaf) else leaf for leaf in self._leaves], self._structure
        )
        match part:
            case dict():
                made = encoder(**part)
            case tuple():
                made = encoder(*part)
            case _:
                made = encoder(part)
        leaves, structure = tree_flatten(made)
        for leaf in leaves:
            self._check(leaf, rows.stop - rows.start)
        return leaves, structure

    def _check(self, leaf: Any, number: int) -> None:
        if leaf is None:
            return
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"microbatch: the encoder of {self.name} must return a tensor of embeddings, or a tuple or "
                f"dict of tensors, got {type(leaf).__name__}; return the tensors of it that the loss takes"
            )
        if leaf.ndim == 0 or len(leaf) != number:
            raise ValueError(
                f"microbatch: the encoder of {self.name} must return a row for each of its {number}, got "
                f"shape {tuple(leaf.shape)}; have it return embeddings (N, …) alone"
            )


def joined(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """The tensors of all parts, one after the other, without their graphs."""
    return [
        None
        if tensors[0] is None
        else tensors[0].detach()
        if len(tensors) == 1
        else torch.cat(tensors).detach()
        for tensors in zip(*parts, strict=True)
    ]


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0
