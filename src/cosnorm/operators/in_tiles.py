"""Whole losses over pairs by a backend that finds the positives in its tiles: no operator stands between.

The fast way of what `pair_problem` poses, for losses that are plain: queries look for keys, or both look for
each other by their own numbers; nothing is asked of negatives but labels, groups and a mask.
"""

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.pairs import Exclusion, Places
from cosnorm.operators.pair_options import WHERE, PairOptions, check_mask_shape
from cosnorm.operators.pair_problem import check_others
from cosnorm.operators.pairs import Pairs
from cosnorm.operators.positives import check_indices

_QUERIES, _BOTH = 1, 5  # `PairOptions.directions`: queries look for keys; keys for queries, too


class Tiles(NamedTuple):
    """A plain loss over the pairs of one batch.

    Attributes:
        backend: makes whole losses.
        x: unit rows as it takes them, (N, D).
        y: the same of what they meet, (M, D).
        scale: 1/τ.
        exclusion: the pairs that stay out of the sums.
        places: the positives.
        own: a positive stays in the sum whatever its label.
        symmetric: y is x, and so is what stays out.
        columns: the keys look for the queries, too.
        tile: rows and columns; None chooses.
    """

    backend: ModuleType
    x: Tensor
    y: Tensor
    scale: float | Tensor
    exclusion: Exclusion
    places: Places
    own: bool
    symmetric: bool
    columns: bool
    tile: int | None


def pose(
    pairs: Pairs, queries: Tensor, scale: float | Tensor, options: PairOptions, *, alone: bool
) -> Tiles | None:
    """The plain problem of a batch; None where it is not plain, or no backend makes whole losses.

    Args:
        pairs: the unit rows.
        queries: as they were given.
        scale: 1/τ.
        options: what the user asked for.
        alone: the queries are the keys, and there are no others.
    """
    backend = choose.backends("softmax", options.impl, queries)[0]
    if not hasattr(backend, "losses") or not _is_plain(pairs, options):
        return None
    left_out: dict[str, Any] = {}
    if options.exclude is not None:
        shape = len(pairs.x), len(pairs.y)
        check_mask_shape(WHERE, options.exclude, *shape)
        left_out["mask"] = options.exclude.expand(shape)
    if options.exclude_self:
        left_out["offset"] = 0
    # What is by label is the same from either side; what is given nobody looks at.
    symmetric = alone and options.exclude is None
    places = _places(pairs, options)
    if options.decoupled:
        left_out |= {"labels": places.labels} if options.by_label else _one(places)
    own = options.groups is not None and not options.decoupled
    if options.groups is not None:
        left_out["labels"] = _met(options.groups, options.key_groups, options.extra_groups)
    symmetric = symmetric and (options.by_label or not (options.decoupled or own))
    units = pairs.units if pairs.rounded is None else pairs.rounded
    x, y = (
        backend.operands(one, queries.dtype)
        for one in (units[: len(pairs.x)], units[pairs.keys.start : pairs.last])
    )
    exclusion, columns = Exclusion(**left_out), options.directions == _BOTH
    return Tiles(backend, x, y, scale, exclusion, places, own, symmetric, columns, options.chunk_size)


def _is_plain(pairs: Pairs, options: PairOptions) -> bool:
    """Whether `Exclusion` and `Places` say all of it."""
    rare = options.guide, options.threshold, options.margin, options.hardness or None, options.group or None
    if options.joint or len(pairs.beside) or any(one is not None for one in rare):
        return False
    if not len(pairs.x) or not len(pairs.y) or (options.by_label and options.groups is not None):
        return False
    if options.positives is not None and options.positives.ndim == 2:
        return False
    if options.directions == _QUERIES:
        return True
    # Each query and each key has one positive, and none has an empty sum that the other lacks.
    given = options.positives, options.exclude, options.groups
    by_number = not options.by_label and all(one is None for one in given)
    return options.directions == _BOTH and by_number and len(pairs.x) == len(pairs.y) == len(pairs.own_keys)


def _places(pairs: Pairs, options: PairOptions) -> Places:
    """Where the positives are; raises where indices do not fit."""
    if options.by_label:
        assert options.labels is not None
        labels = _met(options.labels, options.key_labels, options.extra_labels)
        return Places(labels=labels, offset=0 if options.exclude_self else None)
    if options.positives is None:
        return Places(offset=0)
    check_indices(WHERE, "key", options.positives, len(pairs.own_keys), least=-1)
    given = options.positives.long()
    if options.exclude_self:
        check_others(WHERE, given != torch.arange(len(given), device=given.device))
    return Places(given=given)


def _one(places: Places) -> dict[str, Any]:
    """One positive of each query as fields of an `Exclusion`."""
    return {"offset": places.offset} if places.given is None else {"partner": places.given}


def _met(queries: Tensor, keys: Tensor | None, extra: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is known of the queries, and of all that they meet."""
    met = queries if keys is None else keys
    return queries, met if extra is None else torch.cat([met, extra])


def losses(tiles: Tiles) -> Any:
    """What `losses` of the backend finds."""
    return tiles.backend.losses(*tiles[1:6], own=tiles.own, columns=tiles.columns)


def gradients(pairs: Pairs, tiles: Tiles, found: Any, *, into_y: bool) -> tuple[Tensor, Tensor]:
    """The projected gradients in the rows of `Pairs.units` (of the queries alone); and u·v of each row."""
    number, after = len(pairs.x), pairs.keys.start
    rows = torch.empty_like(pairs.units if into_y else pairs.x)
    others = rows[after:] if into_y else None
    # What the queries meet holds them, too: both sums are of the same rows.
    twice = into_y and not after and not tiles.symmetric
    if twice:
        others = torch.empty_like(rows)
    tiles.backend.loss_gradients(
        *tiles[1:6],
        found,
        rows[:number],
        others,
        own=tiles.own,
        symmetric=tiles.symmetric,
        tile=tiles.tile,
    )
    if twice and others is not None:
        rows[:number] += others[:number]
        rows[number:] = others[number:]
    return rows, tiles.backend.project_(rows, pairs.units[: len(rows)], tiles.scale)


def into_temperature(along: Tensor, tiles: Tiles, *, into_y: bool) -> Tensor:
    """The gradient in the temperature; each product stands in the gradients of both of its rows, if made."""
    twice = into_y or tiles.symmetric
    return along.sum() * (-tiles.scale / 2 if twice else -tiles.scale)


def sigmoid_backend(pairs: Pairs, queries: Tensor, options: PairOptions) -> ModuleType | None:
    """What makes whole losses of a sigmoid of all pairs, where key i belongs to query i and that is all."""
    backend = choose.backends("sigmoid", options.impl, queries)[0]
    rare = options.positives, options.groups, options.exclude
    plain = not options.by_label and not options.exclude_self and all(one is None for one in rare)
    plain = plain and options.directions == _QUERIES and pairs.keys.start == len(pairs.x)
    return backend if hasattr(backend, "whole_losses") and plain and _is_plain(pairs, options) else None


def sigmoid_losses(
    backend: ModuleType,
    pairs: Pairs,
    scale: float | Tensor,
    bias: float | Tensor,
    weights: Tensor | None,
    options: PairOptions,
    *,
    write: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of the queries; if `write`, projected gradients, and those in scale and bias; weights: 1."""
    units, number = pairs.units if pairs.rounded is None else pairs.rounded, len(pairs.x)
    rows = torch.empty_like(pairs.units) if write else pairs.x.new_empty(0)
    found, numbers = backend.whole_losses(
        units[:number],
        units[pairs.keys.start :],
        scale,
        bias,
        weights=weights,
        into_x=rows[:number] if write else None,
        into_y=rows[number:] if write else None,
        tile=options.chunk_size,
    )
    if not write:
        return found, rows, rows
    backend.project_(rows, pairs.units, scale)
    return found, rows, numbers.sum(1)
