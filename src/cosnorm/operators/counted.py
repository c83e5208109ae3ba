"""What embeddings and classes count in a softmax over classes, as torch's `cross_entropy` has it.

With class weights w, their sum W over C classes, label smoothing ε and log sums S_i of the logits z, the loss
of an embedding of class y is

    (1 − ε) w_y (S_i − z_iy) + ε/C Σ_c w_c (S_i − z_ic)
        = a_i (S_i − z_iy) + ε/C [(W − w_y) z_iy + w_y s cos θ_iy − s x̂_i·u]

with a_i = (1 − ε) w_y + ε W/C and u = Σ_c w_c ŵ_c, for z_ic = s x̂_i·ŵ_c but at c = y, where a margin may
stand: smoothing is a product with one vector, and no pass over the logits. An ignored embedding counts 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.classes import ClassRows
from cosnorm.distributed import Shares, gather, share_rows, sum_over
from cosnorm.operators.targets import WHERE, precise_dtype


class Smoothing(NamedTuple):
    """The second part of the loss.

    Attributes:
        pulls: ε/C (W − w_y), what the own logit counts, (N,).
        own: s ε/C w_y, what the own cosine counts besides, (N,).
        rows: s ε/C of each embedding, (N,); 0 of ignored ones.
        classes: w of the classes that take part here, (n,).
        sum: Σ w_c ŵ_c of these, (D,).
        sum_of_all: that of the classes of all processes.
        cosine: of the embeddings with their own class, wherever that is, (N,).
    """

    pulls: Tensor
    own: Tensor
    rows: Tensor
    classes: Tensor
    sum: Tensor
    sum_of_all: Tensor
    cosine: Tensor


class Counted(NamedTuple):
    """What the embeddings of all processes count.

    Attributes:
        number: Σ w_y, what a mean divides by, ().
        counts: w_y, 0 of ignored ones, (N,).
        factors: a_i, (N,).
        smoothing: None without.
    """

    number: Tensor
    counts: Tensor
    factors: Tensor
    smoothing: Smoothing | None

    def losses(self, sums: Tensor, logits: Tensor, unit: Tensor) -> Tensor:
        """Of the embeddings: from the log sums, the logits of the own classes and the unit embeddings."""
        losses = self.factors * (sums - logits)
        if self.smoothing is None:
            return losses
        parts = self.smoothing
        losses = torch.addcmul(losses, parts.pulls, logits).addcmul_(parts.own, parts.cosine)
        return losses.addcmul_(parts.rows, unit @ parts.sum_of_all, value=-1)

    def pulls(self, sums: Tensor, logits: Tensor) -> Tensor:
        """The gradient in the logits of the own classes, (N,)."""
        pulls = self.factors * (logits - sums).expm1()
        return pulls if self.smoothing is None else pulls + self.smoothing.pulls


def count(
    labels: Tensor,
    shares: Shares,
    weights: ClassRows,
    cosine: Tensor,
    *,
    scale: float | Tensor,
    class_weights: Tensor | None,
    smoothing: float,
    ignore: int,
) -> Counted:
    """What the embeddings of all processes count.

    Args:
        labels: of this process's.
        shares: which embeddings are whose.
        weights: the rows of this process's classes.
        cosine: of the embeddings with their own class; 0 where another process has that.
        scale: s.
        class_weights: w of the classes of all processes; None: 1.
        smoothing: ε.
        ignore: a label that counts 0.
    """
    blocks, dtype = weights.blocks, weights.divisors.dtype
    labels = gather(labels, shares)
    own_classes = slice(None)
    if class_weights is not None:
        number = len(weights.weight) // blocks.sub_centers
        of_classes = share_rows(number, labels.device, shares.group)
        own_classes = of_classes.own
        if class_weights.shape != (of_classes.total,):
            raise ValueError(
                f"{WHERE}: class_weights must have shape ({of_classes.total},), a number for each class (of "
                f"all processes), got {tuple(class_weights.shape)}"
            )
        class_weights = class_weights.to(dtype)
    counted = counts_of(labels, class_weights, ignore, dtype)
    number_counted = counted.sum(dtype=precise_dtype(labels.device))
    if not smoothing:
        return Counted(number_counted, counted, counted, None)
    of_these = weights.divisors.new_ones(blocks.number)
    if class_weights is not None:
        of_these = class_weights[own_classes]
        of_these = of_these if blocks.classes is None else of_these[blocks.classes]
    own_sum = weights.weight.new_zeros(weights.weight.shape[1], dtype=dtype)
    for block in blocks.parts():
        own_sum.addmv_(weights.unit(block).to(dtype).t(), of_these[block])
    total, size = sum_over(torch.stack([of_these.sum(), of_these.new_full((), blocks.number)]), shares.group)
    each = smoothing / size * (labels != ignore).to(dtype)
    parts = Smoothing(
        pulls=each * total - each * counted,
        own=each * counted * scale,
        rows=each * scale,
        classes=of_these,
        sum=own_sum,
        sum_of_all=sum_over(own_sum, shares.group),
        cosine=sum_over(cosine, shares.group).to(dtype),
    )
    return Counted(number_counted, counted, (1 - smoothing) * counted + each * total, parts)


def counts_of(labels: Tensor, class_weights: Tensor | None, ignore: int, dtype: torch.dtype) -> Tensor:
    """w_y of each label, and 0 of ignored ones, (N,)."""
    counts = (labels != ignore).to(dtype)
    if class_weights is None:
        return counts
    return counts * class_weights.to(dtype)[labels.masked_fill(labels == ignore, 0)]
