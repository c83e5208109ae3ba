"""Rows of all processes that are looked at one process's share after the other (`exchange="ring"`).

Nowhere do the rows of all lie beside each other: a process has its own and one share. Forward the shares come
round once for each pass over the tiles; backward each goes round again, and what all processes add to its
gradient is summed where it is at home.
"""

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cosnorm.backends.pairs import Direction, Exclusion
from cosnorm.distributed import Shares, in_turn, sum_in_turn


class Shared:
    """Stands for the rows of all processes, and the own extra rows behind them.

    Args:
        own: of this process, (n, D).
        extra: behind those of all, (E, D).
        shares: how many each process has.
    """

    def __init__(self, own: Tensor, extra: Tensor, shares: Shares) -> None:
        self.own, self.extra, self.shares = own, extra, shares

    def __len__(self) -> int:
        """How many rows there are."""
        return self.shares.total + len(self.extra)

    def without_extra(self) -> "Shared":
        """Those of the processes alone."""
        return Shared(self.own, self.extra[:0], self.shares)

    def map(self, function: Any) -> "Shared":
        """The same of other rows, one for one."""
        return Shared(function(self.own), function(self.extra), self.shares)

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Where the rows of each share are among all, and they; every process must take them all."""
        for start, rows in in_turn(self.own.contiguous(), self.shares):
            yield slice(start, start + len(rows)), rows
        if len(self.extra):
            yield slice(self.shares.total, len(self)), self.extra

    def means(self, positives: Any) -> Tensor:
        """The mean of each anchor's positives."""
        local = positives.among(self.shares.own)
        if local is not None:
            found: Tensor = local.means(self.own)
            return found
        return torch.stack([positives.part(columns).means(rows) for columns, rows in self.parts()]).sum(0)

    def gradients(self) -> "SharedGradients":
        """Zeros, to which gradients are added."""
        return SharedGradients(torch.zeros_like(self.own), torch.zeros_like(self.extra), self.shares)


class SharedGradients:
    """Gradients in `Shared`: what this process's own rows get from all, and its extra rows."""

    def __init__(self, own: Tensor, extra: Tensor, shares: Shares) -> None:
        self.own, self.extra, self.shares = own, extra, shares

    def without_extra(self) -> "SharedGradients":
        """Those of the processes alone."""
        return SharedGradients(self.own, self.extra[:0], self.shares)

    def add(self, parts: Iterator[Tensor]) -> None:
        """Add what this process gives to each share in turn, and to its extra rows."""
        self.own += sum_in_turn(itertools.islice(parts, len(self.shares.sizes)), self.shares)
        for part in parts:
            self.extra += part

    def spread(self, positives: Any, rows: Tensor) -> None:
        """Add Aᵀ @ rows."""
        local = positives.among(self.shares.own)
        if local is not None:
            local.spread_(self.own, rows)
            return

        def parts() -> Iterator[Tensor]:
            start = 0
            for size in [*self.shares.sizes, *([len(self.extra)] if len(self.extra) else [])]:
                part = rows.new_zeros(size, rows.shape[1])
                positives.part(slice(start, start + size)).spread_(part, rows)
                start += size
                yield part

        self.add(parts())


class ByTurns:
    """A backend of softmax or sigmoid, for what comes by turns."""

    TAKES_TENSOR_SCALE = True

    def __init__(self, backend: ModuleType) -> None:
        self._backend = backend

    def operands(self, rows: Any, dtype: torch.dtype) -> Any:
        """The rows as the backend takes them."""
        if isinstance(rows, Shared):
            return rows.map(lambda one: self._backend.operands(one, dtype))
        return self._backend.operands(rows, dtype)

    def log_sums(
        self, x: Tensor, y: Shared, scale: float | Tensor, exclusion: Exclusion, **options: Any
    ) -> tuple[Tensor, None]:
        """Log of the sums of exp over each row."""
        total = x.new_full((len(x),), -torch.inf)
        for columns, rows, guide in _with_guide(y, exclusion):
            part = exclusion.part(columns, guide)
            found, _ = self._backend.log_sums(x, rows, scale, part, tile=options["tile"])
            total = torch.logaddexp(total.to(found.dtype), found)
        return total, None

    def gradients(
        self,
        x: Tensor,
        y: Shared,
        scale: float | Tensor,
        exclusion: Exclusion,
        along_rows: Direction,
        along_columns: None,
        into_x: Tensor,
        into_y: SharedGradients,
        **options: Any,
    ) -> None:
        """Add scale · W y and scale · Wᵀ x."""

        def parts() -> Iterator[Tensor]:
            for columns, rows, guide in _with_guide(y, exclusion):
                into = into_x.new_zeros(len(rows), into_x.shape[1])
                given = x, rows, scale, exclusion.part(columns, guide), along_rows, None
                self._backend.gradients(*given, into_x, into, tile=options["tile"])
                yield into

        into_y.add(parts())

    def rows_with_gradients(self, *arguments: Any, tile: int | None = None) -> None:
        """There is no such pass: a row is never seen as a whole."""
        return

    def losses(
        self,
        x: Tensor,
        y: Shared,
        scale: float | Tensor,
        bias: float | Tensor,
        exclusion: Exclusion,
        positives: tuple[Tensor, Tensor] | None,
        *,
        tile: int | None,
        weights: Tensor | None = None,
        into_x: Tensor | None = None,
        into_y: SharedGradients | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Those of the sigmoid."""
        found, into_bias = x.new_zeros(len(x)), x.new_zeros(())

        def parts() -> Iterator[Tensor]:
            for columns, rows, guide in _with_guide(y, exclusion):
                into = rows.new_zeros(rows.shape if weights is not None else (0,))
                losses, bias_part = self._backend.losses(
                    x,
                    rows,
                    scale,
                    bias,
                    exclusion.part(columns, guide),
                    None if positives is None else (positives[0], positives[1][columns]),
                    tile=tile,
                    weights=weights,
                    into_x=into_x,
                    into_y=into if weights is not None else None,
                )
                found.add_(losses)
                into_bias.add_(bias_part)
                yield into

        if into_y is None:
            for _ in parts():
                pass
        else:
            into_y.add(parts())
        return found, into_bias


def _with_guide(y: Shared, exclusion: Exclusion) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Parts of what is met, and of the guide beside it, which comes round with it."""
    negatives = exclusion.negatives
    if negatives is None or negatives.guide is None:
        for columns, rows in y.parts():
            yield columns, rows, None
        return
    guides: Any = negatives.guide.y
    for (columns, rows), (_, guide) in zip(y.parts(), guides.parts(), strict=True):
        yield columns, rows, guide
