"""What a cosine softmax is, and its targets: each embedding beside the weight of its own class.

A target is looked at in float64: with t = ŵ − cos θ x̂, |t| = sin θ, the gradient of ψ in the unit embedding
is −ψ'(θ) t / |t|, and 0 where sin θ = 0, where it has no direction.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.distributed import Group
from cosnorm.functional.margins import Margin
from cosnorm.functional.norms import unit_rows

# Logits of a block, 2 MiB of float32; and of all blocks together where they are kept, 32 MiB.
_BLOCK, _KEPT = 2**19, 2**23
# Softmax values of a block between two kernels, 128 MiB of bfloat16.
_KERNEL_BLOCK = 2**26


@dataclass(frozen=True)
class Head:
    """What a cosine softmax is, apart from its tensors.

    Attributes:
        margin: ψ of the target.
        scale: s.
        sub_centers: rows of the weight for each class; the nearest one counts.
        classes: sorted numbers of the classes that take part; None: all.
        separate: a loss for each embedding, not their sum.
        block: classes of a block; None chooses.
        keep_gradients: make the gradients in the forward pass where that saves a matrix product.
        group: processes that have the other classes; labels of theirs are out of range here.
        kernels: the dtype in which the Triton kernels compute; None: torch computes.
    """

    margin: Margin
    scale: float
    sub_centers: int
    classes: Tensor | None
    separate: bool = False
    block: int | None = None
    keep_gradients: bool = False
    group: Group | None = None
    kernels: torch.dtype | None = None

    def blocks(self, embeddings: Tensor, weight: Tensor) -> list[slice]:
        """The classes that take part, in blocks."""
        number = self.number(weight)
        logits = _BLOCK if self.kernels is None else _KERNEL_BLOCK
        size = self.block or max(64, logits // max(1, len(embeddings) * self.sub_centers))
        return [slice(start, min(start + size, number)) for start in range(0, number, size)]

    def number(self, weight: Tensor) -> int:
        """How many classes take part."""
        return len(weight) // self.sub_centers if self.classes is None else len(self.classes)

    def keeps(self, embeddings: Tensor, weight: Tensor) -> bool:
        """Whether the logits of all blocks are kept until the gradients are made, in the forward pass."""
        numbers = len(embeddings) * self.number(weight) * self.sub_centers
        return self.keep_gradients and not self.separate and numbers <= _KEPT and self.kernels is None

    def rows(self, block: slice) -> slice | Tensor:
        """The rows of the weight that belong to a block of classes."""
        if self.classes is None:
            return slice(block.start * self.sub_centers, block.stop * self.sub_centers)
        first = self.classes[block] * self.sub_centers
        return (first.unsqueeze(1) + torch.arange(self.sub_centers, device=first.device)).flatten()


class Target(NamedTuple):
    """Each embedding beside the weight of its own class.

    Attributes:
        rows: the row of the weight, (N,).
        logits: s ψ(θ), (N,); −inf where another process has the class.
        into_x: gradient of the logit in the unit embedding, (N, D).
        into_w: gradient of the logit in the unit weight, (N, D).
    """

    rows: Tensor
    logits: Tensor
    into_x: Tensor
    into_w: Tensor


def find_target(embeddings: Tensor, weight: Tensor, labels: Tensor, head: Head, dtype: torch.dtype) -> Target:
    """Look at each embedding beside its own class; results in `dtype`."""
    precise = torch.float32 if embeddings.device.type == "mps" else torch.float64
    number = head.number(weight)
    here = (labels >= 0) & (labels < number)
    if not number:
        nothing = embeddings.new_zeros(embeddings.shape, dtype=dtype)
        return Target(labels, nothing.new_full((len(labels),), -torch.inf), nothing, nothing)
    x = unit_rows(embeddings.to(precise), centered=False, augment=0.0).values
    own = labels.clamp(0, number - 1)
    own = own if head.classes is None else head.classes[own]
    rows = own.unsqueeze(1) * head.sub_centers + torch.arange(head.sub_centers, device=own.device)
    candidates = unit_rows(weight[rows].to(precise), centered=False, augment=0.0).values
    cosines = (candidates @ x.unsqueeze(2)).squeeze(2)
    cosine, nearest = cosines.max(1)
    rows = rows.gather(1, nearest.unsqueeze(1)).squeeze(1)
    w = candidates[torch.arange(len(x), device=x.device), nearest]
    cosine = cosine.clamp(-1, 1)

    def orthogonal(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        rest = one - other * cosine.unsqueeze(1)
        sine = rest.norm(dim=1)
        lost = (sine <= 16 * torch.finfo(precise).eps).unsqueeze(1)  # rounding of equal vectors
        return sine, (rest / sine.unsqueeze(1)).masked_fill(lost, 0)

    sine, toward_w = orthogonal(w, x)
    _, toward_x = orthogonal(x, w)
    value, slope = head.margin(cosine, sine)
    # A zero vector has cosine 0, and no direction.
    some = ((x != 0).any(1) & (w != 0).any(1) & here).unsqueeze(1)
    slope = (head.scale * slope).unsqueeze(1)
    into_x, into_w = ((slope * toward).masked_fill(~some, 0).to(dtype) for toward in (toward_w, toward_x))
    logits = (head.scale * value).masked_fill(~here, -torch.inf)
    return Target(rows, logits.to(dtype), into_x, into_w)
