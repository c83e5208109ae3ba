"""The passes of a cosine softmax over classes by the Triton kernels, which write no logits."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.heads_blocks import Passes
from cosnorm.functional.heads_target import Head


def passes_for(x: Tensor, weight: Tensor, labels: Tensor, head: Head) -> Passes:
    """The passes by what the head says computes."""
    return Passes(x, weight, labels, head) if head.kernels is None else KernelPasses(x, weight, labels, head)


class KernelPasses(Passes):
    """`Passes` in blocks that kernels make; without sub-centers."""

    def _inputs(self, block: slice) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Unit weights of a block; embeddings and these in the kernels' dtype; and the targets, left out."""
        from cosnorm.kernels.softmax import Exclusion

        unit = self.classes.unit(block)
        numbers = torch.arange(block.start, block.stop, device=unit.device)
        dtype = self.head.kernels
        return unit, self.x.to(dtype), unit.to(dtype), Exclusion(labels=(self.labels, numbers))

    def log_sums(self, keep: list[tuple[Tensor, Tensor, Tensor]] | None) -> Tensor:
        """Log of the sum over all classes but the target, (N,); nothing is kept."""
        from cosnorm.kernels.softmax import log_sums

        sums = self.x.new_full((len(self.x),), -torch.inf)
        for block in self.blocks:
            _, x, values, exclusion = self._inputs(block)
            sums = torch.logaddexp(sums, log_sums(x, values, self.head.scale, exclusion))
        return sums

    def _pushes(
        self,
        sums: Tensor,
        weights: Tensor,
        gradient_x: Tensor,
        kept: list[tuple[Tensor, Tensor, Tensor]] | None,
        *,
        into_w: bool,
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        from cosnorm.kernels.launch import product
        from cosnorm.kernels.softmax import softmax_weights

        for block in self.blocks:
            unit, x, values, exclusion = self._inputs(block)
            softmax = softmax_weights(x, values, self.head.scale, exclusion, weights, sums)
            gradient_x.add_(product(softmax, values))
            yield block, unit, product(softmax.mT, x).float() if into_w else unit
