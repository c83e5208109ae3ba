"""A run's whole configuration: equal configurations give equal runs, and the same file name."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cosnorm_lab import methods as registry


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What one training run is, apart from the machine it runs on: what all kinds of runs have in common.

    Attributes:
        kind: which kind of training, and so which subclass; a record without it is of kind "mlp".
        methods: what `method` can be.
        recipe: name of the recipe the run belongs to; its records lie in a folder of that name.
        dataset: name of the data set, see `cosnorm_lab.data`.
        method: what is compared: a normalization or a loss.
        learning_rate: constant learning rate.
        epochs: number of passes over the training images.
        seed: seed of the initial weights and of the data order.
        batch_size: images of a step, over all processes together.
        precision: Lightning Fabric's name of a precision, such as "32-true" or "bf16-mixed".
        validation: number of training images held back, the last ones. If positive, the errors are those of
            the held-back images and the test images are never looked at.

    Raises:
        ValueError: a field is out of its range.
    """

    kind: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]

    recipe: str
    dataset: str
    method: str
    learning_rate: float
    epochs: int
    seed: int = 0
    batch_size: int = 100
    precision: str = "32-true"
    validation: int = 0

    def __post_init__(self) -> None:
        if self.method not in self.methods:
            raise ValueError(f"method must be one of {', '.join(self.methods)}; got {self.method!r}")
        self._positive("learning_rate", "epochs", "batch_size")
        self._not_negative("seed", "validation")

    def _positive(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {getattr(self, name)}")

    def _not_negative(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "RunConfig":
        """The configuration of a record's start line; fields of other versions are left out.

        Raises:
            ValueError: an unknown kind, a field is missing or out of its range.
        """
        kind = values.get("kind", MLPConfig.kind)
        if kind not in KINDS:
            raise ValueError(f"unknown kind of run {kind!r}; known are {', '.join(KINDS)}")
        names = {field.name for field in dataclasses.fields(KINDS[kind])}
        known = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in names
        }
        try:
            config: RunConfig = KINDS[kind](**known)  # type: ignore[arg-type]
            return config
        except TypeError as error:
            raise ValueError(f"not a run configuration: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, as a record's start line holds them."""
        values: dict[str, Any] = {} if self.kind == MLPConfig.kind else {"kind": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                value = float(value)  # 10 and 10.0 are one learning rate, and one file name
            values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    def name(self) -> str:
        """File stem of the run: method, learning rate, seed and a hash of the whole configuration.

        Fields at their default are left out of the hash, so that a new field renames no record.
        """
        defaults = {
            field.name: list(field.default) if isinstance(field.default, tuple) else field.default
            for field in dataclasses.fields(self)
        }
        chosen = {name: value for name, value in self.to_dict().items() if value != defaults.get(name)}
        text = json.dumps(chosen, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.method}-lr{self.learning_rate:g}-seed{self.seed}-{digest}"


@dataclass(frozen=True, kw_only=True)
class MLPConfig(RunConfig):
    """A fully connected network that classifies, trained by plain gradient descent.

    Attributes:
        method: how the hidden layers are normalized, one of `methods.NORMALIZATIONS`.
        hidden: number of units of each hidden layer.
        init_std: standard deviation of the initial weights.
        augment: the constant extra component of the cosine layers (the paper's w₀ = x₀).
        max_norm: radius of the ball of max normalization.
        hidden_bias: whether the hidden layers learn a bias. It can be False for those methods only that
            take it: the others have none, or one that their normalization brings.
        input_dropout: share of the input that dropout sets to zero.
        dropout: share of each hidden layer's outputs that dropout sets to zero.
        factors: what the test input is multiplied by after the last epoch, to count the errors once more.
        standardize: whether samples that are no pixels get mean 0 and deviation 1, see
            `cosnorm_lab.tasks.batches.standardized`.
    """

    kind = "mlp"
    methods = tuple(registry.NORMALIZATIONS)

    hidden: tuple[int, ...]
    init_std: float = 0.1
    augment: float = 1e-4
    max_norm: float = 2.0
    hidden_bias: bool = True
    input_dropout: float = 0.0
    dropout: float = 0.0
    factors: tuple[float, ...] = ()
    standardize: bool = False

    @property
    def layers(self) -> int:
        """Number of weight layers."""
        return len(self.hidden) + 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1; got {getattr(self, name)}")
        if not all(factor > 0 for factor in self.factors):
            raise ValueError(f"factors must be positive; got {self.factors}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of at least one unit; got {self.hidden}")
        self._positive("init_std", "max_norm")
        self._not_negative("augment")
        if not self.hidden_bias and self.method not in registry.taking("hidden_bias"):
            known = " and ".join(registry.taking("hidden_bias"))
            raise ValueError(
                f"hidden layers without bias are an option of {known} only, "
                f"got {self.method}: name those methods alone"
            )


@dataclass(frozen=True, kw_only=True)
class CNNConfig(RunConfig):
    """A convolutional network that classifies colour images, trained by plain gradient descent.

    An "epoch" of its record is a number of steps, not a pass over the images: `steps`.

    Attributes:
        method: how convolutions and hidden layers are normalized, one of `methods.NORMALIZATIONS`.
        steps: steps between two evaluations.
        filters: number of 5×5 filters of each convolution.
        hidden: number of units of each fully connected layer after them.
        augmentation: random crops, flips, brightness and contrast; otherwise the middle of each image.
        crop: length of the sides of what the network sees; 0: all pixels.
        average_decay: largest decay of the moving average of the parameters that is evaluated; 0: none.
        init_std: standard deviation of the initial weights.
        augment: the constant extra component of the cosine layers (the paper's w₀ = x₀).
        max_norm: radius of the ball of max normalization.
        standardize: as of an MLP.
    """

    kind = "cnn"
    methods = tuple(registry.NORMALIZATIONS)

    batch_size: int = 128
    steps: int = 250
    filters: tuple[int, ...] = (64, 64)
    hidden: tuple[int, ...] = (384, 192)
    augmentation: bool = False
    crop: int = 24
    average_decay: float = 0.9999
    init_std: float = 0.05
    augment: float = 1e-4
    max_norm: float = 2.0
    standardize: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("filters", "hidden"):
            sizes = getattr(self, name)
            if not sizes or min(sizes) < 1:
                raise ValueError(f"{name} must name at least one layer of at least one unit; got {sizes}")
        self._positive("steps", "init_std", "max_norm")
        self._not_negative("augment", "average_decay", "crop")
        if self.average_decay >= 1:
            raise ValueError(f"average_decay must be below 1; got {self.average_decay}")


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(RunConfig):
    """Contrastive training of an encoder without labels; its errors are those of a linear probe.

    Attributes:
        method: the loss, one of `methods.CONTRASTIVE`; "untrained" leaves the encoder as it began.
        learning_rate: of Adam.
        temperature: of the loss.
        embedding_size: outputs of the projection that the loss sees; the probe sees what comes before it.
    """

    kind = "contrastive"
    methods = tuple(registry.CONTRASTIVE)

    batch_size: int = 256
    temperature: float = 0.2
    embedding_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("temperature", "embedding_size")


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(RunConfig):
    """A convolutional network with a small embedding, trained by a loss over class weights or centers.

    Attributes:
        method: the loss, one of `methods.HEADS`.
        learning_rate: of Adam.
        network: "small-cnn" or "mini-xception".
        embedding_size: D; embeddings of 2 and 3 dimensions are drawn in the report.
        scale: s of the cosine softmax; 0 for methods without one.
        margin: m, in radians for arcface; 0 for methods without one.
        center_weight: what center and island loss count beside the softmax.
        island_weight: what the pairs of centers count within the island loss.
    """

    kind = "heads"
    methods = tuple(registry.HEADS)

    network: str = "small-cnn"
    embedding_size: int = 3
    scale: float = 0.0
    margin: float = 0.0
    center_weight: float = 0.01
    island_weight: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in ("small-cnn", "mini-xception"):
            raise ValueError(f"network must be small-cnn or mini-xception; got {self.network!r}")
        self._positive("embedding_size")
        self._not_negative("scale", "margin", "center_weight", "island_weight")
        for name in ("scale", "margin"):
            known = registry.taking(name)
            if getattr(self, name) and self.method not in known:
                raise ValueError(f"{name} is an option of {', '.join(known)} only, got {self.method}")
        if self.method in registry.taking("scale") and not self.scale:
            raise ValueError(f"scale must be positive for {self.method}; got {self.scale}")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(RunConfig):
    """A convolutional network of colour images, judged by the neighbours of classes that it never saw.

    An error is a test image of an unseen class whose nearest other one, by cosine, is of another class.

    Attributes:
        method: the loss, one of `methods.RETRIEVAL`.
        learning_rate: of Adam.
        seen: how many classes, the first ones, are trained on; the others are those of the test. With
            `validation` those of the last classes that are seen, as far as they have no more images, are held
            back whole and judged instead.
        embedding_size: D.
        filters: of the three convolutions.
        scale: s of the cosine softmax; 0 for methods without one.
        margin: m, in radians for arcface; 0 for methods without one.
        temperature: of sup-con; 0 for methods without one.
    """

    kind = "retrieval"
    methods = tuple(registry.RETRIEVAL)

    batch_size: int = 128
    seen: int = 50
    embedding_size: int = 128
    filters: tuple[int, ...] = (32, 64, 128)
    scale: float = 0.0
    margin: float = 0.0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("seen", "embedding_size")
        self._not_negative("scale", "margin", "temperature")
        if not self.filters or min(self.filters) < 1:
            raise ValueError(f"filters must name at least one layer of at least one; got {self.filters}")
        takes = registry.RETRIEVAL[self.method].takes
        for name in ("scale", "margin", "temperature"):
            if getattr(self, name) and name not in takes:
                known = [one.name for one in registry.RETRIEVAL.values() if name in one.takes]
                raise ValueError(f"{name} is an option of {', '.join(known)} only, got {self.method}")
            if name != "margin" and name in takes and not getattr(self, name):
                raise ValueError(f"{name} must be positive for {self.method}; got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DropInConfig(RunConfig):
    """A network as people have it, converted or not, at the optimizer and learning rate that it has.

    Attributes:
        method: "plain", "norm" (batch or layer norm), "converted" (`cosnorm.convert.to_cosine` of the network
            with norms, which takes out those that it makes needless), "converted-norm" (which keeps them),
            "converted-all" (as "converted"; attention and patches, too: all but the last layer).
        network: "mlp", "cnn", "resnet", "vit"; "gpt" of text.
        optimizer: "sgd" (momentum 0.9) or "adamw".
        weight_decay: of AdamW.
        samples: training images, the first ones; 0: all.
        pooling: sides of the squares of pixels that become one.
        centered: of the conversion, as are the next two.
        scale: a number or a name.
        augment: the constant extra component.
        length: characters of a sample of text.
        steps: steps of an "epoch" of text; 0: a pass over all samples.
    """

    kind = "drop-in"
    methods = tuple(registry.CONVERSIONS)

    network: str
    optimizer: str
    weight_decay: float = 0.01
    samples: int = 8000
    pooling: int = 2
    centered: bool = True
    scale: str = "unit"
    augment: float = 0.0
    length: int = 64
    steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("network", ("mlp", "cnn", "resnet", "vit", "gpt")),
            ("optimizer", ("sgd", "adamw")),
            ("scale", ("unit", "learned")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        self._positive("pooling", "length")
        self._not_negative("weight_decay", "samples", "augment", "steps")


KINDS = {
    config.kind: config
    for config in (MLPConfig, CNNConfig, ContrastiveConfig, HeadsConfig, DropInConfig, RetrievalConfig)
}
