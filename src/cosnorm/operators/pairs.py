"""Queries and keys as unit rows, and the way back of gradients: what all losses over pairs share.

Below the wall, without autograd. A loss of one number makes its gradients in the forward pass, where they
cost less than by themselves: projected, and not yet divided by the norms.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.torch.unit_rows import project_
from cosnorm.backends.torch.units import UnitRows
from cosnorm.distributed import Shares, gather, reduce_rows, share_rows
from cosnorm.operators.by_turns import Shared, SharedGradients

# Bytes of the keys of all processes that "auto" brings together.
_GATHERED = 2**28


class Gradients(NamedTuple):
    """Memory for gradients in unit rows.

    rows: in `Pairs.units`; in the queries alone where no other is wanted.
    into_x: its part for the queries.
    into_keys: its part for the own keys; where the queries are the keys, `into_x`; None where not wanted.
    into_beside: its part for the rows beside, likewise.
    into_y: for all that the queries meet, or None.
    into_queries: for the queries of all processes, or None.
    """

    rows: Tensor
    into_x: Tensor
    into_keys: Tensor | None
    into_beside: Tensor | None
    into_y: Tensor | SharedGradients | None
    into_queries: Tensor | SharedGradients | None


class Pairs(NamedTuple):
    """Unit rows.

    units: this process's queries, keys (unless the queries are the keys), extra keys and rows beside.
    divisors: (rows, 2), their `inverse_norm` and `scale`, see `UnitRows`.
    x: the queries, (N, D).
    own_keys: the keys of this process, (M, D).
    beside: K for each query, (N·K, D).
    y: what the queries meet: the keys of all processes, and the extra keys behind them.
    queries: those of all processes.
    keys: where this process's keys are among `units`.
    last: where the rows beside begin.
    shares: where the own keys are among `y`.
    query_shares: where the own queries are among `queries`.
    rounded: `units` in the dtype of the queries, where a kernel has made that, too.
    """

    units: Tensor
    divisors: Tensor
    x: Tensor
    own_keys: Tensor
    beside: Tensor
    y: Tensor | Shared
    queries: Tensor | Shared
    keys: slice
    last: int
    shares: Shares
    query_shares: Shares
    rounded: Tensor | None = None

    def gradients(self, *, into_y: bool) -> Gradients:
        """Zeros, to which gradients are added."""
        rows = torch.zeros_like(self.units if into_y else self.x)
        into_x = rows[: len(self.x)]
        if not into_y:
            return Gradients(rows, into_x, None, None, None, into_x)
        others: Tensor | SharedGradients = rows[self.keys.start : self.last]
        queries: Tensor | SharedGradients = into_x
        if self.shares.group:
            others = self.y.gradients() if isinstance(self.y, Shared) else torch.zeros_like(self.y)
            if self.query_shares is self.shares:
                queries = first_of(others, self.shares.total)
            elif isinstance(self.queries, Shared):
                queries = self.queries.gradients()
            elif len(self.queries) == self.query_shares.total:
                queries = torch.zeros_like(self.queries)
        return Gradients(rows, into_x, rows[self.keys], rows[self.last :], others, queries)

    def project_(self, gradients: Gradients) -> Tensor:
        """Bring gradients home from all processes and project them; gives Σ ∂/∂s over all products s·s."""
        rows, _, _, _, into_y, into_queries = gradients
        if into_y is None:
            return project_(rows, self.x).sum()
        if not self.shares.group:  # each product stands in the gradients of both of its rows
            return project_(rows, self.units).sum() / 2
        # So far there is only what this process's queries and keys looked for.
        along = project_(rows[: self.keys.stop], self.units[: self.keys.stop]).sum()
        own, extra = _home(into_y, self.shares)
        rows[self.keys] += own
        rows[self.keys.stop : self.last] += extra
        if into_queries is not None and self.query_shares is not self.shares and len(self.queries):
            rows[: len(self.x)] += _home(into_queries, self.query_shares)[0]
        project_(rows, self.units)
        return along


def _home(gradients: Tensor | SharedGradients, shares: Shares) -> tuple[Tensor, Tensor]:
    """What all processes have for the own rows of this one, and what it has behind those of all."""
    if isinstance(gradients, SharedGradients):
        return gradients.own, gradients.extra
    return reduce_rows(gradients[: shares.total], shares), gradients[shares.total :]


def first_of(rows: Any, number: int) -> Any:
    """The first rows, where these are those of the processes; without the extra ones."""
    return rows[:number] if isinstance(rows, Tensor) else rows.without_extra()


def pair_up(
    queries: Tensor,
    keys: Tensor | None,
    extra: Tensor | None,
    group: str,
    impl: str,
    *,
    beside: Tensor | None = None,
    meets_queries: bool = False,
    exchange: str = "auto",
) -> Pairs:
    """Queries, the keys of all processes (None: the queries are the keys) and extra keys.

    `beside` (N, K, D) are rows of each query's own; `meets_queries`: something looks for queries; `exchange`
    is how the rows of other processes come.
    """
    flat = None if beside is None else beside.reshape(-1, beside.shape[-1])
    sets = [one for one in (queries, keys, extra, flat) if one is not None]
    rounded, backend = None, _backends(impl, queries)[0]
    if hasattr(backend, "units_beside") and len({one.dtype for one in sets}) == 1 and not group:
        units, rounded, divisors = backend.units_beside(sets, queries.dtype)
    else:
        found = [unit_rows(one, impl) for one in sets]
        units = _beside([one.values for one in found])
        divisors = _beside([pack(one) for one in found])
    number = len(queries)
    own = slice(0, number) if keys is None else slice(number, number + len(keys))
    last = own.stop + (0 if extra is None else len(extra))
    shares = share_rows(own.stop - own.start, units.device, group)
    y: Tensor | Shared = units[own.start : last]
    x = units[:number]
    query_shares, all_queries = shares, cast("Tensor | Shared", x)
    # All processes know the same number, and decide alike.
    large = shares.total * units.shape[1] * units.element_size() > _GATHERED
    if group and (exchange == "ring" or (exchange == "auto" and large)):
        y = Shared(units[own], units[own.stop : last], shares)
        all_queries = y.without_extra()
        if keys is not None:
            query_shares = share_rows(number, units.device, group)
            all_queries = Shared(x, x[:0], query_shares)
    elif group:
        y = _beside([gather(units[own], shares), *([] if extra is None else [units[own.stop : last]])])
        all_queries = y[: shares.total]
        if keys is not None:
            query_shares, all_queries = share_rows(number, units.device, group), x[:0]
            if meets_queries:
                all_queries = gather(x, query_shares)
    elif keys is not None:
        query_shares = Shares([number], slice(0, number), group)
    return Pairs(
        units,
        divisors,
        x,
        units[own],
        units[last:],
        y,
        all_queries,
        own,
        last,
        shares,
        query_shares,
        rounded,
    )


def unit_rows(x: Tensor, impl: str = "auto") -> UnitRows:
    """Rows as unit vectors in their accumulation dtype, by what there is for the device."""
    for backend in _backends(impl, x):
        found: UnitRows | None = backend.unit_rows(x)
        if found is not None:
            return found
    raise AssertionError("the torch form declines nothing")


def inverse_norms(x: Tensor, impl: str = "auto") -> Tensor | None:
    """1/|x| of the rows, (N, 1), where one look at all of them is the fast form, and allows it."""
    found: Tensor | None = _backends(impl, x)[0].inverse_norms(x)
    return found


def pack(unit: UnitRows) -> Tensor:
    """What divides the gradients of unit rows, (N, 2)."""
    return torch.cat([unit.inverse_norm, unit.scale], 1)


def divide(u: Tensor, divisors: Tensor, factor: Tensor, like: Tensor, impl: str = "auto") -> Tensor:
    """Projected gradients over the norms, times a factor, in the dtype of `like`."""
    for backend in _backends(impl, u):
        found: Tensor | None = backend.finish(u, divisors, factor, like.dtype)
        if found is not None:
            return found
    raise AssertionError("the torch form declines nothing")


def quotients_of(divisors: Tensor, factor: Tensor, impl: str = "auto") -> Tensor | None:
    """What finishes each row in one multiplication, (N, 1), where one look at all of them allows it."""
    found: Tensor | None = _backends(impl, divisors)[0].quotients(divisors, factor)
    return found


def divide_each(
    projected: Tensor,
    divisors: Tensor,
    factor: Tensor,
    rows: Sequence[Tensor | None],
    needs: Sequence[bool],
    impl: str = "auto",
) -> list[Tensor | None]:
    """The finished gradients in queries, keys and extra keys."""
    sets = [one for one in rows if one is not None]
    backend = _backends(impl, projected)[0]
    all_needed = all(needed for needed, one in zip(needs, rows, strict=True) if one is not None)
    if hasattr(backend, "finish_each") and all_needed and len({one.dtype for one in sets}) == 1:
        made = iter(backend.finish_each(projected, divisors, factor, [(len(one), one.dtype) for one in sets]))
        return [None if one is None else next(made) for one in rows]
    found: list[Tensor | None] = []
    start = 0
    for one, needed in zip(rows, needs, strict=True):
        part = slice(start, start + (0 if one is None else len(one)))
        start = part.stop
        finished = None
        if needed and one is not None:
            finished = divide(projected[part], divisors[part], factor, one, impl)
        found.append(finished)
    return found


def split_factor(cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """A cotangent over its largest magnitude, and that: sums of what it weighs stay in the range."""
    if not cotangent.numel():
        return cotangent, cotangent.new_ones(())
    largest = cotangent.abs().amax().clamp(min=torch.finfo(cotangent.dtype).tiny)
    return cotangent / largest, largest


def _beside(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _backends(impl: str, x: Tensor) -> tuple[ModuleType, ...]:
    return choose.backends("unit_rows", "auto" if impl == "c" else impl, x)  # there are none in C
