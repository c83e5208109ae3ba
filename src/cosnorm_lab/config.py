"""A run's whole configuration: equal configurations give equal runs, and the same file name."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METHODS = ("baseline", "cosine", "centered", "batch", "layer", "weight", "max", "mean-only")
WITH_HIDDEN_BIAS = ("baseline", "max")


@dataclass(frozen=True)
class RunConfig:
    """What one training run is, apart from the machine it runs on.

    Attributes:
        recipe: name of the recipe the run belongs to; its records lie in a folder of that name.
        dataset: name of the data set, see `cosnorm_lab.data`.
        method: how the hidden layers are normalized, one of `METHODS`.
        hidden: number of units of each hidden layer.
        learning_rate: constant learning rate of plain gradient descent.
        epochs: number of passes over the training images.
        seed: seed of the initial weights and of the data order.
        batch_size: images of a step, over all processes together.
        init_std: standard deviation of the initial weights.
        augment: the constant extra component of the cosine layers (the paper's w₀ = x₀).
        max_norm: radius of the ball of max normalization.
        precision: Lightning Fabric's name of a precision, such as "32-true" or "bf16-mixed".
        validation: number of training images held back, the last ones. If positive, the errors are those of
            the held-back images and the test images are never looked at.
        hidden_bias: whether the hidden layers learn a bias. It can be False for `WITH_HIDDEN_BIAS` only: the
            other methods have none, or one that their normalization brings.

    Raises:
        ValueError: a field is out of its range.
    """

    recipe: str
    dataset: str
    method: str
    hidden: tuple[int, ...]
    learning_rate: float
    epochs: int
    seed: int = 0
    batch_size: int = 100
    init_std: float = 0.1
    augment: float = 1e-4
    max_norm: float = 2.0
    precision: str = "32-true"
    validation: int = 0
    hidden_bias: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {self.method!r}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of at least one unit; got {self.hidden}")
        for name in ("learning_rate", "epochs", "batch_size", "init_std", "max_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("seed", "augment", "validation"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if not self.hidden_bias and self.method not in WITH_HIDDEN_BIAS:
            raise ValueError(
                f"hidden layers without bias are an option of {' and '.join(WITH_HIDDEN_BIAS)} only, "
                f"got {self.method}: name those methods alone"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """The configuration of a record's start line; fields of other versions are left out.

        Raises:
            ValueError: a field is missing or out of its range.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        try:
            return cls(**{**known, "hidden": tuple(known.get("hidden", ()))})
        except TypeError as error:
            raise ValueError(f"not a run configuration: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, as a record's start line holds them."""
        values = {**dataclasses.asdict(self), "hidden": list(self.hidden)}
        for name in ("learning_rate", "init_std", "augment", "max_norm"):
            values[name] = float(values[name])  # 10 and 10.0 are one learning rate, and one file name
        return values

    def name(self) -> str:
        """File stem of the run: method, learning rate, seed and a hash of the whole configuration.

        Fields at their default are left out of the hash, so that a new field renames no record.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        chosen = {name: value for name, value in self.to_dict().items() if value != defaults[name]}
        text = json.dumps(chosen, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.method}-lr{self.learning_rate:g}-seed{self.seed}-{digest}"
