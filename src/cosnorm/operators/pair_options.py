"""The options of a softmax over pairs, as its operator takes them."""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.devices import is_accelerator
from cosnorm.norms import accumulation_dtype

WHERE = "contrastive_cross_entropy"
DIRECTIONS = ("query_to_key", "query_to_query", "key_to_query", "key_to_key")


class PairOptions(NamedTuple):
    """What the loss is, apart from what learns; `contrastive_cross_entropy` says more of each.

    Attributes:
        positives: an index (N,), or pairs (P, 2), or None.
        positive_weights: of the pairs, (P,).
        labels: of the queries, (N,).
        key_labels: of the keys, (M,); None: the queries are the keys, or there are no labels.
        extra_labels: of the extra keys, (E,).
        groups: of the queries, (N,): keys of the same group are no negatives.
        key_groups: of the keys, (M,); None: the queries are the keys, or there are no groups.
        extra_groups: of the extra keys, (E,).
        guide: other embeddings of the queries, whose cosines say what is no negative, (N, G).
        key_guide: of the keys, (M, G); None: the queries are the keys, or there is no guide.
        extra_guide: of the extra keys, (E, G).
        exclude: True where a key stays out of a sum, (N, all M).
        fixed_temperature: τ, where no tensor is it.
        threshold: a larger cosine is no negative's.
        margin: one that is larger than the positives' by more is no negative's.
        hardness: β; negatives weigh exp(β·cosine).
        decoupled: the positives leave the sums.
        directions: a bit for each of `DIRECTIONS`.
        joint: they have one sum.
        exclude_self: key i stays out of the sum of query i.
        by_label: the positives of a query are the keys of its label.
        reduction: "none", "mean" or "sum".
        chunk_size: rows and columns of a tile; None chooses.
        group: name of the processes over which the batch is spread; "" for one.
        exchange: "gather", "ring" or "auto": how the rows of other processes come.
        impl: as the user named it.
    """

    positives: Tensor | None
    positive_weights: Tensor | None
    labels: Tensor | None
    key_labels: Tensor | None
    extra_labels: Tensor | None
    groups: Tensor | None
    key_groups: Tensor | None
    extra_groups: Tensor | None
    guide: Tensor | None
    key_guide: Tensor | None
    extra_guide: Tensor | None
    exclude: Tensor | None
    fixed_temperature: float
    threshold: float | None
    margin: float | None
    hardness: float
    decoupled: bool
    directions: int
    joint: bool
    exclude_self: bool
    by_label: bool
    reduction: str
    chunk_size: int | None
    group: str
    exchange: str
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

    def looks(self, direction: str) -> bool:
        """Whether it is among the directions."""
        return bool(self.directions >> DIRECTIONS.index(direction) & 1)

    def is_one_field(self, extra_keys: Tensor | None) -> bool:
        """Whether one block of pairs holds all: queries and keys look for each other, or queries for keys."""
        asked = self.groups, self.guide, self.threshold, self.margin, self.hardness or None, extra_keys
        both = self.looks("query_to_key") and self.looks("key_to_query") and len(self.anchors) == 2
        return self.directions == 1 or (both and not self.group and all(one is None for one in asked))

    def in_order(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """What there is for each direction, in their order."""
        return {name: found[name] for name in DIRECTIONS if name in found}

    def named(self, together: Tensor, queries: int, keys: int) -> dict[str, Tensor]:
        """What there is for each direction, from all of it beside each other."""
        names = [name for name in DIRECTIONS if self.looks(name)]
        return dict(
            zip(names, together.split([keys if kind else queries for kind in self.anchors]), strict=True)
        )

    def pairs(
        self,
        queries: torch.Size,
        keys: torch.Size | None,
        extra_keys: torch.Size | None,
        hard_negatives: torch.Size | None,
    ) -> int:
        """How many pairs of this process's rows there are, from shapes."""
        own = (queries if keys is None else keys)[0]
        met = {
            "query_to_key": queries[0] * (own + (0 if extra_keys is None else extra_keys[0])),
            "query_to_query": queries[0] ** 2,
            "key_to_query": 0 if self.looks("query_to_key") else queries[0] * own,
            "key_to_key": own**2,
        }
        beside = 0 if hard_negatives is None else hard_negatives[0] * hard_negatives[1]
        return int(sum(number for name, number in met.items() if self.looks(name)) + beside)

    @property
    def anchors(self) -> list[int]:
        """For each direction whose rows look: 0 those of queries, 1 those of keys."""
        return [place // 2 for place, name in enumerate(DIRECTIONS) if self.looks(name)]

    @property
    def separate(self) -> bool:
        """A loss for each query, not their sum."""
        return self.reduction == "none"

    @property
    def meets_queries(self) -> bool:
        """Whether anything looks for queries of all processes."""
        return self.directions != 1


def check_temperature_value(value: float) -> None:
    """Raise unless τ is positive and finite."""
    if not 1e-6 <= value <= 1e6:
        raise ValueError(
            f"{WHERE}: temperature must be positive (between 1e-6 and 1e6), got {value}; learn its "
            "logarithm, as the loss modules do, so that no step makes it negative"
        )


def check_mask_shape(where: str, exclude: Tensor, rows: int, columns: int) -> None:
    """Raise unless a mask broadcasts to (rows, columns)."""
    shape = exclude.shape
    fits = len(shape) <= 2 and all(
        one in (1, size) for one, size in zip(reversed(shape), (columns, rows), strict=False)
    )
    if not fits:
        raise ValueError(f"{where}: exclude must broadcast to {(rows, columns)}, got {tuple(shape)}")
