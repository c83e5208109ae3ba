"""Passes over the classes of a cosine softmax, a block at a time: log sums, then gradients."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cosnorm.functional.heads_target import Head, Target
from cosnorm.functional.norms import accumulation_dtype, finish_gradient, plain_rows, unit_rows
from cosnorm.functional.tiles import BOUNDED, LOG2_E


class Classes:
    """Unit class weights, a block at a time.

    Attributes:
        inverse_norm: 1/|w| of each row of the weight that has been looked at; in the scaled form that of
            w·2^-exponent.
        exponent: of each row; None in the plain form.
    """

    def __init__(self, weight: Tensor, head: Head) -> None:
        self.weight, self._head = weight, head
        plain = None
        if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
            plain = plain_rows(weight, centered=False, augment=0.0)
        self.exponent: Tensor | None = None
        if plain is not None:
            self.inverse_norm = plain.factor
        else:
            self.inverse_norm = weight.new_zeros((len(weight), 1), dtype=accumulation_dtype(weight.dtype))
            self.exponent = torch.zeros((len(weight), 1), dtype=torch.int64, device=weight.device)

    def unit(self, block: slice) -> Tensor:
        """The unit rows of a block."""
        rows = self._head.rows(block)
        if self.exponent is None:
            return self.weight[rows] * self.inverse_norm[rows]
        unit = unit_rows(self.weight[rows], centered=False, augment=0.0)
        self.inverse_norm[rows], self.exponent[rows] = unit.inverse_norm, unit.exponent.long()
        return unit.values


def finish_weight(
    projected: Tensor, inverse_norm: Tensor, exponents: Tensor | None, exponent: Tensor, into: Tensor
) -> None:
    """Write the projected gradient over the norms, times 2^exponent, into rows of the weight's gradient."""
    if exponents is None and abs(int(exponent)) < 40:
        torch.mul(projected, inverse_norm * 2.0 ** int(exponent), out=into)
    else:
        difference = exponent if exponents is None else exponent - exponents
        into.copy_(finish_gradient(projected, inverse_norm, difference, into.dtype))


class _Buffer:
    """Memory for the products of one block after another: fresh memory costs more than a small product."""

    def __init__(self, like: Tensor, numbers: int, *, keep: bool = False) -> None:
        """`keep`: the products stand beside each other, and none overwrites the last."""
        self._values = like.new_empty(numbers)
        self._keep, self._used = keep, 0

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """A @ b, (rows of a, columns of b)."""
        start = self._used if self._keep else 0
        self._used = start + len(a) * b.shape[1]
        return torch.mm(a, b, out=self._values[start : self._used].view(len(a), b.shape[1]))


def _logits(
    scaled: Tensor, unit: Tensor, block: slice, labels: Tensor, head: Head, buffer: _Buffer
) -> tuple[Tensor, Tensor]:
    """Logits of a block (classes, N), −inf at the targets; and which sub-center each is of."""
    logits = buffer.product(unit, scaled.t())
    nearest = labels.new_empty(0)
    if head.sub_centers > 1:
        logits, nearest = logits.unflatten(0, (-1, head.sub_centers)).max(1)
    inside = ((labels >= block.start) & (labels < block.stop)).nonzero().squeeze(1)
    logits[labels[inside] - block.start, inside] = -torch.inf
    return logits, nearest


class Passes:
    """The two passes over the classes, for one batch."""

    def __init__(self, x: Tensor, weight: Tensor, labels: Tensor, head: Head) -> None:
        self.x, self.labels, self.head = x, labels, head
        self.classes = Classes(weight, head)
        self.blocks = head.blocks(x, weight)
        self.bounded = head.scale <= BOUNDED
        # In units of log 2 where no maximum is looked for: exp2 takes less than half the time of exp.
        self._scaled = x * (head.scale * LOG2_E if self.bounded else head.scale)

    def _block(self, block: slice, buffer: _Buffer) -> tuple[Tensor, Tensor, Tensor]:
        """Unit weights, exp of the logits (or these, if that could overflow), and the nearest sub-centers."""
        unit = self.classes.unit(block)
        logits, nearest = _logits(self._scaled, unit, block, self.labels, self.head, buffer)
        return unit, logits.exp2_() if self.bounded else logits, nearest

    def _buffer(self, width: int, *, keep: bool = False) -> _Buffer:
        """Room for `width` numbers beside each row of a block, or of all blocks."""
        rows = (
            self.head.number(self.classes.weight)
            if keep
            else max((b.stop - b.start for b in self.blocks), default=0)
        )
        return _Buffer(self.x, rows * self.head.sub_centers * width, keep=keep)

    def log_sums(self, keep: list[tuple[Tensor, Tensor, Tensor]] | None) -> Tensor:
        """Log of the sum over all classes but the target, (N,)."""
        sums = self.x.new_full((len(self.x),), 0.0 if self.bounded else -torch.inf)
        buffer = self._buffer(len(self.x), keep=keep is not None)
        for block in self.blocks:
            found = self._block(block, buffer)
            if self.bounded:
                sums += found[1].sum(0)
            else:
                sums = torch.logaddexp(sums, found[1].logsumexp(0))
            if keep is not None:
                keep.append(found)
        return sums.log_() if self.bounded else sums

    def gradients(
        self,
        target: Target,
        sums: Tensor,
        weights: Tensor,
        finish: Callable[[Tensor, slice | Tensor], None] | None,
        kept: list[tuple[Tensor, Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Gradient in the unit embeddings for the weights of their losses.

        `finish` gets the gradient in the unit weights, projected, and the rows that it is of, block by block.
        """
        pulls = (weights * (target.logits - sums).expm1()).unsqueeze(1)
        gradient_x = target.into_x * pulls
        # Samples in the order of their labels, and where those of each block begin.
        order = self.labels.argsort()
        ends = [block.start for block in self.blocks] + [self.head.number(self.classes.weight)]
        bounds = torch.searchsorted(
            self.labels[order], torch.tensor(ends, device=self.labels.device)
        ).tolist()
        for number, (block, unit, gradient) in enumerate(
            self._pushes(sums, weights * self.head.scale, gradient_x, kept, into_w=finish is not None)
        ):
            if finish is None:
                continue
            own = order[bounds[number] : bounds[number + 1]]
            rows = self.head.rows(block)
            if len(own):
                found = target.rows[own]
                places = found - rows.start if isinstance(rows, slice) else torch.searchsorted(rows, found)
                gradient.index_add_(0, places, target.into_w[own] * pulls[own])
            along = (gradient * unit).sum(1, keepdim=True)
            finish(gradient.addcmul_(unit, along, value=-1), rows)
        return gradient_x

    def _pushes(
        self,
        sums: Tensor,
        weights: Tensor,
        gradient_x: Tensor,
        kept: list[tuple[Tensor, Tensor, Tensor]] | None,
        *,
        into_w: bool,
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """What the logits of all classes but the targets give, each with its softmax times `weights`.

        It is added to `gradient_x`; for each block come its unit weights and, if wanted, their gradient.
        """
        quotients = weights * (-sums).exp()
        buffer = self._buffer(len(self.x) if kept is None else 0)
        into_unit = self._buffer(self.x.shape[1])
        for number, block in enumerate(self.blocks):
            unit, softmax, nearest = self._block(block, buffer) if kept is None else kept[number]
            if self.bounded:
                softmax.mul_(quotients)
            else:
                softmax.sub_(sums).exp_().mul_(weights)
            if self.head.sub_centers > 1:
                spread = softmax.new_zeros(len(softmax), self.head.sub_centers, softmax.shape[1])
                softmax = spread.scatter_(1, nearest.unsqueeze(1), softmax.unsqueeze(1)).flatten(0, 1)
            gradient_x.addmm_(softmax.t(), unit)
            yield block, unit, into_unit.product(softmax, self.x) if into_w else unit
