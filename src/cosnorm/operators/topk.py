"""The k nearest keys of each query as an operator: `cosine_topk`.

The cosines have gradients, as if the choice did not depend on the rows: with the chosen keys K(i)

    ∂/∂x̂_i = Σ_{j ∈ K(i)} g_ij ŷ_j,    ∂/∂ŷ_j = Σ_{i: j ∈ K(i)} g_ij x̂_i,

projected on the planes orthogonal to the unit rows and divided by the norms (eqs. 9-12).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.nearest import Best, LeftOut
from cosnorm.backends.pairs import Exclusion
from cosnorm.backends.torch import rows as torch_rows
from cosnorm.backends.torch.contraction import PAIRS
from cosnorm.backends.torch.unit_rows import project_
from cosnorm.backends.torch.units import UnitRows
from cosnorm.distributed import Shares, gather, in_turn, largest_over, share_rows, sum_in_turn
from cosnorm.operators.chosen import add_gradients_
from cosnorm.operators.define import define
from cosnorm.operators.differentiate import NO_SECOND, Backward
from cosnorm.operators.indices import check_no_nan, check_range
from cosnorm.operators.options import arguments_of
from cosnorm.operators.pairs import divide, pack, split_factor, unit_rows

WHERE = "cosine_topk"


class SearchOptions(NamedTuple):
    """What is looked for; `cosnorm.functional.cosine_topk` says more of each.

    Attributes:
        exclude: True where a key stays out, (N, all M), or which do: an index (N,), or pairs (P, 2).
        labels: of the queries, (N,).
        key_labels: of the keys, (M,); None: the queries are the keys, or there are no labels.
        below: keys whose cosine is not below this stay out, (N,).
        k: how many keys.
        exclude_self: key i stays out for query i.
        chunk_size: rows and columns of a tile; None chooses.
        group: name of the processes over which the keys are spread; "" for one.
    """

    exclude: Tensor | None
    labels: Tensor | None
    key_labels: Tensor | None
    below: Tensor | None
    k: int
    exclude_self: bool
    chunk_size: int | None
    group: str


class Search(NamedTuple):
    """Unit rows of the queries and of this process's keys (None: the queries), and whose keys are where."""

    queries: UnitRows
    keys: UnitRows | None
    shares: Shares

    @property
    def own_keys(self) -> UnitRows:
        """The keys, which may be the queries."""
        return self.queries if self.keys is None else self.keys


class Nearest(NamedTuple):
    """The results: cosines (N, k), falling, and the keys' numbers."""

    values: Tensor
    indices: Tensor


def _search(queries: Tensor, keys: Tensor | None, group: str) -> Search:
    rows = queries if keys is None else keys
    found = unit_rows(queries), None if keys is None else unit_rows(keys)
    return Search(*found, share_rows(len(rows), rows.device, group))


def _left_out(options: SearchOptions, search: Search) -> LeftOut:
    number, shares = len(search.queries.values), search.shares
    found: dict[str, Any] = {}
    exclude = options.exclude
    if exclude is not None and exclude.dtype == torch.bool:
        check_mask_shape(exclude, number, shares.total)
        found["mask"] = exclude.expand(number, shares.total)
    elif exclude is not None and exclude.ndim == 1:
        check_range(f"{WHERE}: 1 + exclude, keys or -1 for none, must be", exclude + 1, 1 + shares.total)
        found["partner"] = exclude.long()
    elif exclude is not None:
        check_range(f"{WHERE}: queries of pairs to exclude must be", exclude[:, 0], number)
        check_range(f"{WHERE}: keys of pairs to exclude must be", exclude[:, 1], shares.total)
        pairs = exclude.long()[exclude[:, 0].argsort()]
        found["pairs"] = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()
    if options.exclude_self:
        found["offset"] = shares.own.start
    if options.labels is not None:
        of_keys = options.labels if options.key_labels is None else options.key_labels
        found["labels"] = options.labels, gather(of_keys, shares)
    if options.below is not None:
        check_no_nan(f"{WHERE}: below must be numbers, got NaN, which no cosine is below", options.below)
    dtype = search.queries.values.dtype
    below = None if options.below is None else options.below.to(dtype).unsqueeze(1)
    return LeftOut(Exclusion(**found), below)


def check_mask_shape(exclude: Tensor, rows: int, columns: int) -> None:
    """Raise unless a mask broadcasts to (rows, columns)."""
    shape = exclude.shape
    sizes = zip(reversed(shape), (columns, rows), strict=False)
    if len(shape) > 2 or not all(one in (1, size) for one, size in sizes):
        raise ValueError(
            f"{WHERE}: a mask to exclude must broadcast to {(rows, columns)}, got {tuple(shape)}; whole "
            "numbers of shape (N,) or (P, 2) name single keys"
        )


def check_k(k: int, number: int) -> None:
    """Raise unless there are so many keys."""
    if k > number:
        raise ValueError(f"{WHERE}: k must be at most the number of keys, {number}, got {k}")


def _compute(queries: Tensor, keys: Tensor | None, *arguments: Any) -> Nearest:
    options = SearchOptions(*arguments[:-1])
    search = _search(queries, keys, options.group)
    check_k(options.k, search.shares.total)
    x, left_out = search.queries.values, _left_out(options, search)
    best = Best.none(x, options.k)
    backend = choose.backends("topk", "auto", queries)[0]
    for first, part in in_turn(search.own_keys.values, search.shares):
        symmetric = part is x and left_out.is_symmetric
        backend.merge_(best, x, part, first, left_out, symmetric=symmetric, tile=options.chunk_size)
    values, indices = best
    none = values == -torch.inf
    values = values.clamp_(-1, 1).masked_fill_(none, -torch.inf)
    values.masked_fill_(x.sum(1, keepdim=True).isnan(), torch.nan)
    return Nearest(values.to(queries.dtype), indices.masked_fill_(none, -1))


def _shapes(queries: Tensor, keys: Tensor | None, *arguments: Any) -> Nearest:
    shape = queries.shape[0], SearchOptions(*arguments[:-1]).k
    return Nearest(queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64))


def _gradients(cotangent: Tensor, *arguments: Any) -> tuple[Tensor | None, Tensor | None]:
    queries, keys, *given, indices, needs = arguments
    search = _search(queries, keys, SearchOptions(*given).group)
    x, own = search.queries.values, search.own_keys.values
    for rows in {id(one): one for one in (x, own)}.values():
        rows.nan_to_num_(0)  # what weighs 0 is to add 0; NaN comes back with the norms
    weights, largest = split_factor(cotangent.to(x.dtype).masked_fill(indices < 0, 0))
    factor = largest_over(largest, search.shares.group)
    weights *= largest / factor
    into_queries = torch.zeros_like(x)

    def into_keys() -> Iterator[Tensor]:
        for first, part in in_turn(own, search.shares):
            into = torch.zeros_like(part)
            if len(part):
                here = _chosen_here(weights, indices - first, len(part))
                add_gradients_(here[0], x, part, here[1], into_queries, into)
            yield into

    into = sum_in_turn(into_keys(), search.shares)
    if search.keys is None:
        project_(into_queries.add_(into), x)
        return divide(into_queries, pack(search.queries), factor, queries), None
    project_(into_queries, x)
    found = divide(into_queries, pack(search.queries), factor, queries) if needs[0] else None
    if not needs[1]:
        return found, None
    assert keys is not None
    project_(into, own)
    return found, divide(into, pack(search.keys), factor, keys)


def _chosen_here(weights: Tensor, places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What keys of one process weigh, and their places there; the others weigh 0."""
    outside = (places < 0).logical_or_(places >= size)
    return weights.masked_fill(outside, 0), places.masked_fill(outside, 0)


def _indices(queries: Tensor, keys: Tensor | None, given: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The chosen keys once more, and where there is none, for what differentiates again."""
    if SearchOptions(*given).group:
        raise RuntimeError(NO_SECOND.format(f"{WHERE} over a group"))
    with torch.no_grad():
        found = cosine_topk(queries.detach(), None if keys is None else keys.detach(), *given, 0)[1]
    return found.clamp(min=0), found < 0


def _gradient_formula(cotangent: Tensor, *arguments: Any) -> tuple[Tensor | None, Tensor | None]:
    queries, keys, *given, _ = arguments
    indices, none = _indices(queries, keys, tuple(given))
    rows = queries if keys is None else keys
    into_queries, into_chosen = torch_rows.gradient_formula(
        cotangent.masked_fill(none, 0),
        queries.unsqueeze(1),
        rows[indices],
        PAIRS,
        centered=False,
        augment=0.0,
        needs=[True, True],
    )
    into_queries = into_queries.squeeze(1)
    into_rows = torch.zeros_like(rows).index_add(0, indices.flatten(), into_chosen.flatten(0, 1))
    return (into_queries + into_rows, None) if keys is None else (into_queries, into_rows)


def _tangent_formula(tangents: tuple[Tensor | None, ...], *arguments: Any) -> Tensor:
    queries, keys, *given = arguments
    indices, none = _indices(queries, keys, tuple(given))
    of_queries, of_rows = tangents[0], tangents[0] if keys is None else tangents[1]
    found = torch_rows.tangent_formula(
        (
            None if of_queries is None else of_queries.unsqueeze(1),
            None if of_rows is None else of_rows[indices],
        ),
        queries.unsqueeze(1),
        (queries if keys is None else keys)[indices],
        PAIRS,
        centered=False,
        augment=0.0,
    )
    return found.masked_fill(none, 0)


def _flops(queries: torch.Size, keys: torch.Size | None, *_: Any) -> int:
    return 2 * queries.numel() * (queries if keys is None else keys)[0]


def _backward_flops(cotangent: torch.Size, queries: torch.Size, *arguments: Any) -> int:
    return 2 * sum(arguments[-1]) * cotangent.numel() * queries[1]


cosine_topk = define(
    f"cosine_topk(Tensor queries, Tensor? keys, {arguments_of(SearchOptions)}, int keep) "
    "-> (Tensor values, Tensor indices)",
    _compute,
    _shapes,
    flops=_flops,
    backward=Backward(
        _gradients,
        learns=2,
        gradients=_gradient_formula,
        tangent=_tangent_formula,
        flops=_backward_flops,
    ),
)
"""The cosines (N, k) of each query with its nearest keys, and the numbers of these."""
