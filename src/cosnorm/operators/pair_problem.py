"""What a softmax over pairs is: its options; and for a batch its positives, what stays out, what computes."""

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.pairs import Exclusion, Places
from cosnorm.devices import is_accelerator
from cosnorm.distributed import gather
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.indices import assert_all
from cosnorm.operators.pairs import Pairs
from cosnorm.operators.positives import LabelPositives, OnePositive, Positives, pair_positives

WHERE = "contrastive_cross_entropy"


class PairOptions(NamedTuple):
    """What the loss is, apart from what learns; `contrastive_cross_entropy` says more of each.

    Attributes:
        positives: an index (N,), or pairs (P, 2), or None.
        labels: of the queries, (N,).
        key_labels: of the keys, (M,); None: the queries are the keys, or there are no labels.
        extra_labels: of the extra keys, (E,).
        exclude: True where a key stays out of a sum, (N, all M).
        fixed_temperature: τ, where no tensor is it.
        decoupled: the positives leave the sums.
        bidirectional: keys look for their query, too.
        exclude_self: key i stays out of the sum of query i.
        exclude_same_label: keys of the query's label stay out, and the positive comes back by itself.
        separate: a loss for each query, not their sum.
        chunk_size: rows and columns of a tile; None chooses.
        group: name of the processes over which the batch is spread; "" for one.
        impl: as the user named it.
    """

    positives: Tensor | None
    labels: Tensor | None
    key_labels: Tensor | None
    extra_labels: Tensor | None
    exclude: Tensor | None
    fixed_temperature: float
    decoupled: bool
    bidirectional: bool
    exclude_self: bool
    exclude_same_label: bool
    separate: bool
    chunk_size: int | None
    group: str
    impl: str

    def scale(self, temperature: Tensor | None, queries: Tensor) -> float | Tensor:
        """1/τ; raises unless τ is positive and finite.

        On an accelerator a learned temperature is not looked at: 1/τ is a tensor, NaN unless τ is positive.
        """
        if temperature is not None and is_accelerator(temperature.device):
            given = temperature.reshape(()).to(accumulation_dtype(queries.dtype))
            return given.reciprocal().where(given > 0, torch.nan)
        value = self.fixed_temperature if temperature is None else float(temperature)
        check_temperature_value(value)
        return 1 / value

    @property
    def by_label(self) -> bool:
        """Whether the positives of a query are the keys of its label."""
        return self.positives is None and self.labels is not None and not self.exclude_same_label


class Problem(NamedTuple):
    """A softmax over the pairs of one batch.

    Attributes:
        options: what the user asked for.
        scale: 1/τ.
        positives: the positives of each query.
        exclusion: the pairs that stay out of the sums.
        own: the positive is among them and comes back by itself; no query has two.
        symmetric: the keys are the queries, and so is what stays out.
        backend: computes.
        dtype: of the queries.
        places: the positives, for a backend that finds them in its tiles and makes whole losses; else None.
    """

    options: PairOptions
    scale: float | Tensor
    positives: Positives
    exclusion: Exclusion
    own: bool
    symmetric: bool
    backend: ModuleType
    dtype: torch.dtype
    places: Places | None

    def operands(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The unit rows as the backend takes them."""
        if pairs.rounded is not None and self.places is not None:
            return pairs.rounded[: len(pairs.x)], pairs.rounded[pairs.keys.start :]
        x = self.backend.operands(pairs.x, self.dtype)
        return x, x if self.symmetric else self.backend.operands(pairs.y, self.dtype)


def check_temperature_value(value: float) -> None:
    """Raise unless τ is positive and finite."""
    if not 1e-6 <= value <= 1e6:
        raise ValueError(
            f"{WHERE}: temperature must be positive (between 1e-6 and 1e6), got {value}; learn its "
            "logarithm, as the loss modules do, so that no step makes it negative"
        )


def check_mask_shape(exclude: Tensor, rows: int, columns: int) -> None:
    """Raise unless a mask broadcasts to (rows, columns)."""
    shape = exclude.shape
    fits = len(shape) <= 2 and all(
        one in (1, size) for one, size in zip(reversed(shape), (columns, rows), strict=False)
    )
    if not fits:
        raise ValueError(f"{WHERE}: exclude must broadcast to {(rows, columns)}, got {tuple(shape)}")


def pose(
    pairs: Pairs, queries: Tensor, scale: float | Tensor, options: PairOptions, *, alone: bool
) -> Problem:
    """The problem of a batch; raises where the values of indices do not fit.

    Args:
        pairs: the unit rows.
        queries: as they were given.
        scale: 1/τ.
        options: what the user asked for.
        alone: the queries are the keys, and there are no others.
    """
    labels = _labels(pairs, options)
    own_keys = pairs.shares.own
    if options.by_label:
        assert labels is not None
        positives: Positives = LabelPositives(*labels, own_keys.start if options.exclude_self else None)
    else:
        positives = pair_positives(WHERE, options.positives, len(queries), own_keys, queries.device)
    symmetric = alone and options.exclude is None
    left_out: dict[str, Any] = {}
    if options.exclude is not None:
        check_mask_shape(options.exclude, len(queries), len(pairs.y))
        left_out["mask"] = options.exclude.expand(len(queries), len(pairs.y))
    if options.exclude_self:
        left_out["offset"] = own_keys.start
    if options.exclude_same_label:
        if not isinstance(positives, OnePositive):
            _check_one_positive(positives)
        left_out["labels"] = labels
    elif options.decoupled:
        left_out |= positives.exclusion()
        symmetric = symmetric and positives.is_symmetric()
    exclusion = Exclusion(**left_out)
    backend = _backend(queries, exclusion, positives, options.impl)
    places = positives.places() if hasattr(backend, "losses") and not options.group else None
    if not (len(queries) and len(pairs.y)):
        places = None
    if isinstance(scale, Tensor) and not getattr(backend, "TAKES_TENSOR_SCALE", False):
        scale = float(scale)
    return Problem(
        options=options,
        scale=scale,
        positives=positives,
        exclusion=exclusion,
        own=options.exclude_same_label and not options.decoupled,
        symmetric=symmetric,
        backend=backend,
        dtype=queries.dtype,
        places=places,
    )


def _check_one_positive(positives: Positives) -> None:
    message = f"{WHERE}: exclude_same_label takes at most one positive for each query"
    few = positives.counts <= 1
    if is_accelerator(few.device):
        assert_all(few, message)
    elif not bool(few.all()):
        raise ValueError(f"{message}, got {int(positives.counts.max())}; leave some out")


def _labels(pairs: Pairs, options: PairOptions) -> tuple[Tensor, Tensor] | None:
    """The labels of the queries and of all that they meet."""
    if options.labels is None:
        return None
    of_keys = gather(options.labels if options.key_labels is None else options.key_labels, pairs.shares)
    if options.extra_labels is not None:
        of_keys = torch.cat([of_keys, options.extra_labels])
    return options.labels, of_keys


def _backend(queries: Tensor, exclusion: Exclusion, positives: Positives, impl: str) -> ModuleType:
    for backend in choose.backends("softmax", impl, queries):
        if backend.takes(exclusion):
            return backend
        if impl == "triton":
            raise RuntimeError(
                f'{WHERE}: impl="triton" takes one positive for each query where decoupled, got '
                f'{int(positives.counts.max())}; use impl="torch", or labels'
            )
    raise AssertionError("the torch form takes everything")
