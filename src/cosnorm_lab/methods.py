"""What is compared: an entry here is a method's name, colour, place, learning rates, and who builds it.

Nothing of torch is imported for it, so that the command line answers at once; `Method.make` imports the
builder.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of normalizing, one loss, or one conversion.

    Attributes:
        name: as the command line and records name it.
        title: as tables and figures name it.
        colour: its colour in every figure: Okabe and Ito's, with grey for their yellow, which cannot be read
            on white.
        build: who makes it, as "module:function".
            Of `NORMALIZATIONS` a layer, see `cosnorm_lab.layers`; of `CONTRASTIVE` the loss (x, y) → number;
            of `HEADS` and `RETRIEVAL` the module (embeddings, labels) → loss; of `CONVERSIONS` the network.
        rates: its learning rates by the family of recipes, see `rates`.
        constraint: what is done to the network after each step, as "module:class".
        takes: those fields of a configuration that not every method of its kind takes.
    """

    name: str
    title: str
    colour: str
    build: str
    rates: Mapping[str, float] = field(default_factory=dict)
    constraint: str = ""
    takes: tuple[str, ...] = ()

    def make(self, *arguments: Any, **options: Any) -> Any:
        """Calls the builder."""
        return pkgutil.resolve_name(self.build)(*arguments, **options)

    def constrained(self, *arguments: Any, **options: Any) -> Any:
        """The constraint on a network, whose `project` follows each step; None without one."""
        return pkgutil.resolve_name(self.constraint)(*arguments, **options) if self.constraint else None


def _named(*methods: Method) -> dict[str, Method]:
    return {method.name: method for method in methods}


# Rates: "mnist" are those of Table 1 (784-1000-1000-10, batches of 100), "news" of Table 3, "cifar" of Tables
# 4 and 5, "cnn" those of the same network where the table has none. The paper gives: mnist's of baseline,
# cosine, batch, weight and max; cifar's of baseline and cosine; news' of all but centered and layer. The
# others are ours. "digits": errors among 297 held-back training images over the last 5 of 20 epochs, mean of
# two seeds, at this rate: baseline 6.6, cosine 5.9, centered 7.1, batch 6.8, layer 6.2, weight 7.3, max 6.4,
# mean-only 6.6.
NORMALIZATIONS = _named(
    Method(
        name="baseline",
        title="baseline",
        colour="#000000",
        build="cosnorm_lab.layers:plain",
        rates={"mnist": 0.1, "news": 0.1, "cifar": 0.01, "digits": 0.5},
        takes=("hidden_bias",),
    ),
    Method(
        name="cosine",
        title="cosine",
        colour="#D55E00",
        build="cosnorm_lab.layers:cosine",
        rates={"mnist": 10.0, "news": 10.0, "cifar": 10.0, "digits": 2.0},
    ),
    Method(
        name="centered",
        title="centered cosine",
        colour="#E69F00",
        build="cosnorm_lab.layers:centered",
        rates={"mnist": 10.0, "news": 10.0, "cifar": 10.0, "digits": 2.0},
    ),
    Method(
        name="batch",
        title="batch norm",
        colour="#0072B2",
        build="cosnorm_lab.layers:batch",
        rates={"mnist": 5.0, "news": 1.0, "cifar": 0.1, "digits": 0.1},
    ),
    Method(
        name="layer",
        title="layer norm",
        colour="#56B4E9",
        build="cosnorm_lab.layers:layer",
        rates={"mnist": 1.0, "news": 1.0, "cifar": 0.1, "digits": 0.2},
    ),
    Method(
        name="weight",
        title="weight norm",
        colour="#009E73",
        build="cosnorm_lab.layers:weight",
        rates={"mnist": 5.0, "news": 1.0, "cifar": 1.0, "digits": 0.5},
    ),
    Method(
        name="max",
        title="max norm",
        colour="#CC79A7",
        build="cosnorm_lab.layers:plain",
        rates={"mnist": 1.0, "news": 0.1, "cnn": 0.01, "digits": 0.5},
        constraint="cosnorm.nn:MaxNorm",
        takes=("hidden_bias",),
    ),
    Method(
        name="mean-only",
        title="mean-only batch norm",
        colour="#808080",
        build="cosnorm_lab.layers:mean_only",
        # mnist's: the best of 0.1 to 5 on 10,000 held-back images (20 epochs; from 1 on it diverges)
        rates={"mnist": 0.5, "cnn": 0.01, "digits": 1.0},
    ),
)
CONTRASTIVE = _named(
    Method(name="nt-xent", title="NT-Xent", colour="#D55E00", build="cosnorm_lab.tasks.contrastive:nt_xent"),
    Method(
        name="decoupled",
        title="decoupled NT-Xent",
        colour="#0072B2",
        build="cosnorm_lab.tasks.contrastive:decoupled",
    ),
    Method(
        name="untrained",
        title="untrained encoder",
        colour="#808080",
        build="cosnorm_lab.tasks.contrastive:untrained",
    ),
)
HEADS = _named(
    Method(name="softmax", title="softmax", colour="#000000", build="cosnorm_lab.heads:softmax"),
    Method(name="center", title="center loss", colour="#56B4E9", build="cosnorm_lab.heads:center"),
    Method(name="island", title="island loss", colour="#0072B2", build="cosnorm_lab.heads:island"),
    Method(
        name="normface",
        title="NormFace",
        colour="#009E73",
        build="cosnorm_lab.heads:normface",
        takes=("scale",),
    ),
    Method(
        name="am-softmax",
        title="AM-Softmax",
        colour="#D55E00",
        build="cosnorm_lab.heads:am_softmax",
        takes=("scale", "margin"),
    ),
    Method(
        name="arcface",
        title="ArcFace",
        colour="#E69F00",
        build="cosnorm_lab.heads:arcface",
        takes=("scale", "margin"),
    ),
    Method(
        name="cosine-distance",
        title="cosine distance loss",
        colour="#CC79A7",
        build="cosnorm_lab.heads:cosine_distance",
        takes=("scale", "margin"),
    ),
)
# What the `retrieval` recipe compares. Built as build(classes, embedding_size, …) with those fields of the
# configuration that it takes: an entry is all that a further head of `cosnorm.losses` wants.
RETRIEVAL = _named(
    Method(name="softmax", title="softmax", colour="#000000", build="cosnorm_lab.heads:Softmax"),
    Method(
        name="normface",
        title="NormFace",
        colour="#009E73",
        build="cosnorm.losses:NormFaceLoss",
        takes=("scale",),
    ),
    Method(
        name="arcface",
        title="ArcFace",
        colour="#E69F00",
        build="cosnorm.losses:ArcFaceLoss",
        takes=("scale", "margin"),
    ),
    Method(
        name="adaface",
        title="AdaFace",
        colour="#0072B2",
        build="cosnorm.losses:AdaFaceLoss",
        takes=("scale", "margin"),
    ),
    Method(
        name="curricularface",
        title="CurricularFace",
        colour="#D55E00",
        build="cosnorm.losses:CurricularFaceLoss",
        takes=("scale", "margin"),
    ),
    Method(
        name="proxy-anchor",
        title="Proxy-Anchor",
        colour="#CC79A7",
        build="cosnorm.losses:ProxyAnchorLoss",
        takes=("scale", "margin"),
    ),
    Method(
        name="sup-con",
        title="SupCon",
        colour="#56B4E9",
        build="cosnorm_lab.heads:SupCon",
        takes=("temperature",),
    ),
)
CONVERSIONS = _named(
    Method(name="plain", title="plain", colour="#000000", build="cosnorm_lab.tasks.drop_in:plain"),
    Method(
        name="norm", title="batch or layer norm", colour="#0072B2", build="cosnorm_lab.tasks.drop_in:norm"
    ),
    Method(
        name="converted", title="converted", colour="#E69F00", build="cosnorm_lab.tasks.drop_in:converted"
    ),
    Method(
        name="converted-norm",
        title="converted, norms kept",
        colour="#56B4E9",
        build="cosnorm_lab.tasks.drop_in:converted_norm",
    ),
    Method(
        name="converted-all",
        title="converted, attention too",
        colour="#D55E00",
        build="cosnorm_lab.tasks.drop_in:converted_all",
    ),
)
# In the order of tables and legends.
METHODS = {**NORMALIZATIONS, **CONTRASTIVE, **HEADS, **(RETRIEVAL | HEADS), **CONVERSIONS}


def rates(*families: str) -> dict[str, float]:
    """The learning rate of each method that has one in these families; of several the first counts."""
    return {
        name: next(method.rates[family] for family in families if family in method.rates)
        for name, method in METHODS.items()
        if any(family in method.rates for family in families)
    }


def taking(option: str) -> list[str]:
    """The methods that take a field of the configuration."""
    return [name for name, method in METHODS.items() if option in method.takes]
