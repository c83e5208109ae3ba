"""What a softmax over pairs is for a batch: who looks for whom, what is no negative, and what computes.

An *anchor* is a row that looks for its positives: a query among keys (`query_to_key`), a key among queries
(`key_to_query`). Each may also meet its own kind (`query_to_query`, `key_to_key`), as negatives. A *field* is
one block of pairs whose logits are needed: rows that look, and what they meet.
"""

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.negatives import Guide, Negatives
from cosnorm.backends.pairs import Exclusion
from cosnorm.devices import is_accelerator
from cosnorm.distributed import gather
from cosnorm.operators.by_turns import ByTurns, Shared
from cosnorm.operators.indices import assert_all, check_finite
from cosnorm.operators.pair_options import DIRECTIONS, WHERE, PairOptions, check_mask_shape
from cosnorm.operators.pairs import Gradients, Pairs, first_of, unit_rows
from cosnorm.operators.positives import (
    LabelPositives,
    OnePositive,
    PairPositives,
    Positives,
    linked,
    pair_positives,
)

# Cosines of the same two vectors differ by so many roundings: tiles sum in another order.
_TWINS = 32


class Anchors(NamedTuple):
    """Rows that look for their positives.

    Attributes:
        positives: theirs, among the others of all processes.
        logits: the mean logit of the positives of each, (N,).
        own: the anchors whose positive is left out of the tiles, and comes back by itself, (N,); no anchor
            has two. None: nobody's is.
        most: the largest cosine of a negative of each, (N,) or (1,).
        guided: the same of the guide's cosine.
    """

    positives: Positives
    logits: Tensor
    own: Tensor | None
    most: Tensor | None
    guided: Tensor | None


class Field(NamedTuple):
    """A block of pairs.

    Attributes:
        direction: one of `DIRECTIONS`; with `columns`, the columns look the other way.
        x: the rows that look.
        y: what they meet.
        exclusion: what stays out.
        symmetric: y is x, and so is what stays out.
        columns: the columns look for the rows, too.
    """

    direction: str
    x: Tensor
    y: Tensor | Shared
    exclusion: Exclusion
    symmetric: bool
    columns: bool

    def into(self, gradients: Gradients) -> tuple[Tensor, Any]:
        """Where the gradients in its rows and in its columns go."""
        of_rows = gradients.into_x if self.direction.startswith("query") else gradients.into_keys
        into_y = gradients.into_y if self.direction.endswith("key") else gradients.into_queries
        assert of_rows is not None
        if isinstance(into_y, Tensor):
            into_y = into_y[: len(self.y)]
        elif into_y is not None and self.direction == "key_to_key":
            into_y = into_y.without_extra()
        return of_rows, into_y


class Problem(NamedTuple):
    """A softmax over the pairs of one batch.

    Attributes:
        options: what the user asked for.
        scale: 1/τ.
        anchors: queries, and keys where these look, too.
        fields: of pairs.
        backend: computes: a module, or `ByTurns` of one.
        dtype: of the queries.
        first_key: where the own keys are among those of all processes.
    """

    options: PairOptions
    scale: float | Tensor
    anchors: list[Anchors]
    fields: list[Field]
    backend: Any
    dtype: torch.dtype
    first_key: int

    def operands(self, field: Field) -> tuple[Tensor, Any]:
        """The unit rows as the backend takes them."""
        x = self.backend.operands(field.x, self.dtype)
        return x, x if field.symmetric else self.backend.operands(field.y, self.dtype)


class _Sides(NamedTuple):
    """What is known of the own queries, of what they meet, of the own keys and of all queries."""

    queries: Tensor
    met: Any
    keys: Tensor
    all_queries: Any

    def of(self, direction: str, total: int) -> tuple[Tensor, Any]:
        """Of the rows and the columns of a field."""
        rows = self.queries if direction.startswith("query") else self.keys
        if direction.endswith("query"):
            return rows, self.all_queries
        return rows, self.met if direction.startswith("query") else first_of(self.met, total)


def _sides(
    queries: Tensor | None, keys: Tensor | None, extra: Tensor | None, pairs: Pairs, options: PairOptions
) -> _Sides | None:
    """Labels, groups or guides of all that meet."""
    if queries is None:
        return None
    own_keys = queries if keys is None else keys
    if isinstance(pairs.y, Shared) and queries.is_floating_point():  # rows of a guide, not numbers
        behind = own_keys[:0] if extra is None else extra
        shared = Shared(own_keys, behind, pairs.shares)
        none = queries[:0]
        others = shared.without_extra() if keys is None else Shared(queries, none, pairs.query_shares)
        return _Sides(queries, shared, own_keys, others)
    met = gather(own_keys, pairs.shares)
    all_queries = queries
    if options.meets_queries:
        all_queries = gather(queries, pairs.query_shares)
    if extra is not None:
        met = torch.cat([met, extra])
    return _Sides(queries, met, own_keys, all_queries)


def pose(
    pairs: Pairs,
    queries: Tensor,
    scale: float | Tensor,
    options: PairOptions,
    *,
    alone: bool,
    operation: str = "softmax",
    where: str = WHERE,
) -> Problem:
    """The problem of a batch; raises where the values of indices do not fit.

    Args:
        pairs: the unit rows.
        queries: as they were given.
        scale: 1/τ.
        options: what the user asked for.
        alone: the queries are the keys, and there are no others.
        operation: what is looked for among the backends.
        where: the function that errors name.
    """
    labels = _sides(options.labels, options.key_labels, options.extra_labels, pairs, options)
    groups = _sides(options.groups, options.key_groups, options.extra_groups, pairs, options)
    guides = _sides(*_units(where, options), pairs, options)
    forth = _positives(where, pairs, labels, options)
    anchors = [_anchors(forth, pairs.x, pairs.y, guides, "query_to_key", pairs, scale, options)]
    if 1 in options.anchors:
        back = _turned(forth, pairs, labels, options)
        if back is forth:  # pair i is pair i from either side
            anchors.append(anchors[0])
        else:
            given = pairs.own_keys, pairs.queries, guides, "key_to_query"
            anchors.append(_anchors(back, *given, pairs, scale, options))
    together = _together(where, forth, pairs, labels, options)
    fields = [
        _field(direction, anchors[place // 2], groups, guides, together, pairs, options, alone=alone)
        for place, direction in enumerate(DIRECTIONS)
        if options.looks(direction)
    ]
    fields = _merged(fields, anchors, pairs)
    backend: Any = _backend(operation, where, queries, fields, options.impl)
    if isinstance(scale, Tensor) and not getattr(backend, "TAKES_TENSOR_SCALE", False):
        scale = float(scale)
    if isinstance(pairs.y, Shared):
        backend = ByTurns(backend)
    return Problem(options, scale, anchors, fields, backend, queries.dtype, pairs.shares.own.start)


def _positives(where: str, pairs: Pairs, labels: _Sides | None, options: PairOptions) -> Positives:
    own_keys = pairs.shares.own
    most = torch.inf if where == WHERE else 1.0  # weights, or targets of a sigmoid
    if options.by_label:
        assert labels is not None
        offset = own_keys.start if options.exclude_self else None
        return LabelPositives(labels.queries, labels.met, offset)
    found = pair_positives(
        where, options.positives, options.positive_weights, len(pairs.x), own_keys, pairs.x.device, most
    )
    if options.exclude_self:
        _check_others(where, found, own_keys.start)
    return found


def _check_others(where: str, positives: OnePositive | PairPositives, first: int) -> None:
    """Raise where a query, which is among the keys, is its own positive."""
    if isinstance(positives, OnePositive):
        columns = positives.columns
        others = columns != torch.arange(first, first + len(columns), device=columns.device)
        if positives.known is not None:
            others |= ~positives.known
    else:
        rows, columns = positives.places()["listed"]
        others = columns != rows + first
    check_others(where, others)


def check_others(where: str, others: Tensor) -> None:
    """Raise unless all positives are others than the query itself."""
    message = f"{where}: a query is among the keys, and cannot be its own positive"
    if is_accelerator(others.device):
        assert_all(others, message)
    elif not bool(others.all()):
        raise ValueError(f"{message}; leave such pairs out, or pass exclude_self=False")


def _turned(forth: Positives, pairs: Pairs, labels: _Sides | None, options: PairOptions) -> Positives:
    """The positives of keys: the queries whose positive they are."""
    first, number = pairs.query_shares.own.start, len(pairs.own_keys)
    if isinstance(forth, LabelPositives):
        assert labels is not None
        return LabelPositives(labels.keys, labels.all_queries, first if options.exclude_self else None)
    if options.positives is None:
        if number == len(pairs.x) and first == pairs.shares.own.start:
            return forth
        at = torch.arange(number, device=pairs.x.device)
        known = None if number == len(pairs.x) else at < len(pairs.x)
        return OnePositive(at.clamp(max=max(0, len(pairs.x) - 1)) + first, known)
    found = forth.paired() if isinstance(forth, OnePositive) else forth
    assert isinstance(found, PairPositives)
    rows = found.columns - pairs.shares.own.start
    return PairPositives(rows, found.rows + first, number, found.weights)


def _anchors(
    positives: Positives,
    x: Tensor,
    y: Tensor | Shared,
    guides: _Sides | None,
    direction: str,
    pairs: Pairs,
    scale: float | Tensor,
    options: PairOptions,
) -> Anchors:
    def bound(own: Tensor) -> Tensor | None:
        """The largest cosine of a negative, from those of the positives."""
        most = (
            None if options.margin is None else own + (options.margin + _TWINS * torch.finfo(own.dtype).eps)
        )
        if options.threshold is None:
            return most
        return own.new_full((1,), options.threshold) if most is None else most.clamp(max=options.threshold)

    cosine = (x * positives.means(y)).sum(1)
    most = guided = None
    if guides is None:
        most = bound(cosine)
    else:
        rows, met = guides.of(direction, pairs.shares.total)
        guided = bound((rows * positives.means(met)).sum(1))
    asked = options.groups is not None or options.hardness or most is not None or guided is not None
    own = None
    if asked and isinstance(positives, OnePositive) and not options.decoupled:
        own = _met(positives, direction, pairs, options)
    return Anchors(positives, cosine * scale, own, most, guided)


def _met(positives: OnePositive, direction: str, pairs: Pairs, options: PairOptions) -> Tensor:
    """The anchors that meet their positive: it is known, and neither excluded nor the anchor itself."""
    met, number = positives.counts > 0, len(positives.columns)
    if options.exclude is not None and number:
        mask = mask_of(options.exclude, direction, pairs)
        met &= ~mask.gather(1, positives.columns.unsqueeze(1)).squeeze(1)
    if options.exclude_self:
        first = (pairs.shares if direction.endswith("key") else pairs.query_shares).own.start
        met &= positives.columns != torch.arange(number, device=met.device) + first
    return met


def mask_of(exclude: Tensor, direction: str, pairs: Pairs) -> Tensor:
    """What the user leaves out, for queries among what they meet, or for keys among queries."""
    shape = len(pairs.x), len(pairs.y)
    check_mask_shape(WHERE, exclude, *shape)
    mask = exclude.expand(shape)
    return mask if direction == "query_to_key" else mask[:, : len(pairs.own_keys)].mT


def _together(
    where: str, forth: Positives, pairs: Pairs, labels: _Sides | None, options: PairOptions
) -> _Sides | None:
    """What hangs together among queries, and among keys: they are no negatives of each other."""
    if not (options.looks("query_to_query") or options.looks("key_to_key")):
        return None
    if labels is not None:
        return labels
    found = forth.paired() if isinstance(forth, OnePositive) else forth
    assert isinstance(found, PairPositives)
    first = pairs.query_shares.own.start, pairs.shares.own.start
    return _sides(*linked(where, found, len(pairs.own_keys), *first), None, pairs, options)


def _field(
    direction: str,
    anchors: Anchors,
    groups: _Sides | None,
    guides: _Sides | None,
    together: _Sides | None,
    pairs: Pairs,
    options: PairOptions,
    *,
    alone: bool,
) -> Field:
    total, left_out = pairs.shares.total, dict[str, Any]()
    x = pairs.x if direction.startswith("query") else pairs.own_keys
    y = pairs.queries if direction.endswith("query") else pairs.y
    within = direction in ("query_to_query", "key_to_key")
    if within:
        assert together is not None
        y = first_of(y, total if direction == "key_to_key" else len(y))
        left_out["labels"] = together.of(direction, total)
    if within or options.exclude_self:
        shares = pairs.query_shares if direction.endswith("query") else pairs.shares
        left_out["offset"] = shares.own.start
    if options.exclude is not None and not within:
        left_out["mask"] = mask_of(options.exclude, direction, pairs)
    # Positives leave the tiles, or nothing that is asked of negatives touches them there.
    apart = not within and (options.decoupled or anchors.own is not None)
    symmetric = (alone or (within and not options.group)) and options.exclude is None
    if apart:
        left_out |= anchors.positives.exclusion()
        symmetric = symmetric and anchors.positives.is_symmetric()
    negatives = Negatives(most=anchors.most, hardness=options.hardness)
    if groups is not None:
        if (apart or within) and "labels" not in left_out:
            left_out["labels"] = groups.of(direction, total)
        else:
            negatives = negatives._replace(groups=groups.of(direction, total))
    if guides is not None and anchors.guided is not None:
        guide = Guide(*guides.of(direction, total), anchors.guided)
        negatives = negatives._replace(guide=guide)
    if not negatives.is_empty:
        if not (apart or within):
            negatives = negatives._replace(**anchors.positives.places())
        left_out["negatives"] = negatives
    return Field(direction, x, y, Exclusion(**left_out), symmetric, False)


def _merged(fields: list[Field], anchors: list[Anchors], pairs: Pairs) -> list[Field]:
    """One field for both of its directions, where these leave out the same."""
    names = [field.direction for field in fields]
    if pairs.shares.group or not {"query_to_key", "key_to_query"} <= set(names):
        return fields
    forth, back = (fields[names.index(one)] for one in ("query_to_key", "key_to_query"))
    negatives = forth.exclusion.negatives
    one_way = negatives is not None and not negatives.is_symmetric
    if one_way or (anchors[0].own is None) != (anchors[1].own is None) or len(forth.y) != len(pairs.own_keys):
        return fields
    both = forth._replace(columns=True)
    return [both if field is forth else field for field in fields if field is not back]


def _units(where: str, options: PairOptions) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The guide's embeddings as unit rows."""

    def units(given: Tensor | None) -> Tensor | None:
        if given is None:
            return None
        check_finite(f"{where}: guide", given)
        # A guide may have a dtype for which there are no kernels.
        return unit_rows(given, options.impl if options.impl == "torch" else "auto").values

    return units(options.guide), units(options.key_guide), units(options.extra_guide)


def _backend(operation: str, where: str, queries: Tensor, fields: list[Field], impl: str) -> ModuleType:
    for backend in choose.backends(operation, impl, queries):
        if all(backend.takes(field.exclusion, columns=field.columns) for field in fields):
            return backend
        if impl == "triton":
            raise RuntimeError(
                f'{where}: impl="triton" has no kernel for many positives of a decoupled query, nor for '
                'thresholds, guides and hardness; use impl="torch", or leave them out'
            )
    raise AssertionError("the torch form takes everything")
