"""The claims that a page of records answers first, as data: what is said, of which runs, against which."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """One claim, evaluated by `cosnorm_lab.report.headlines`.

    Attributes:
        name: Tells it from the others.
        recipe: Whose records answer it.
        label: A few words, for the figure and for lists.
        text: The claim, a sentence without its full stop.
        ours: Fields that our runs have; of several series the longest trained counts, then the one with the
            most seeds. Where settings are left open (`over`), their mean.
        against: Fields of the runs to compare with; None: the best of the other methods that were trained
            as long, in the same setting.
        compared: Whether runs are compared at all, or our figure with the paper's only.
        quantity: A key of `cosnorm_lab.report.quantities.QUANTITIES`.
        over: Fields over whose settings the mean is taken.
        fair: Whether each side has the learning rates that are usual or best for it.
        top: Whether it stands on top of the page, not in its section alone.
    """

    name: str
    recipe: str
    label: str
    text: str
    ours: Fields
    against: Fields | None = None
    compared: bool = True
    quantity: str = "errors"
    over: tuple[str, ...] = ()
    fair: bool = False
    top: bool = True

    @property
    def between_methods(self) -> bool:
        """Whether it sets a method with cosines beside others, not beside itself in another setting."""
        return self.compared and (self.against or {}).get("method") not in OURS


COSINE: Fields = {"method": "cosine"}
CENTERED: Fields = {"method": "centered"}
NORM: Fields = {"method": "norm"}
OURS = ("cosine", "centered", "converted", "converted-norm", "converted-all")  # methods that make cosines


def _drop_in(
    name: str, label: str, text: str, ours: Fields, against: Fields = NORM, top: bool = False
) -> Claim:
    over = ("network", "optimizer", "learning_rate")
    return Claim(name, "drop-in", label, text, ours, against, True, "right", over, fair=True, top=top)


def _converted(size: int) -> Fields:
    return {"method": "converted", "batch_size": size}


CLAIMS = (
    Claim(
        name="fair",
        recipe="fair",
        label="MNIST, own best rates",
        text="every method at its own best learning rate, chosen on held-back images: "
        "cosine has the fewest errors on MNIST",
        ours=COSINE,
        fair=True,
    ),
    _drop_in(
        name="drop-in",
        label="CIFAR-10, converted networks",
        text="usual networks at their usual rates, batches of 100: cosines in place of batch or layer norm "
        "give more right answers",
        ours=_converted(100),
        top=True,
    ),
    _drop_in(
        name="drop-in-batches-of-2",
        label="CIFAR-10, batches of two",
        text="the same convolutional networks in batches of two: more right answers than with batch norm",
        ours=_converted(2),
        top=True,
    ),
    _drop_in(
        name="drop-in-batches-of-8",
        label="CIFAR-10, batches of eight",
        text="the same in batches of eight",
        ours=_converted(8),
    ),
    _drop_in(
        name="drop-in-plain",
        label="CIFAR-10, beside plain networks",
        text="usual networks, batches of 100: more right answers than without any norm",
        ours=_converted(100),
        against={"method": "plain"},
    ),
    _drop_in(
        name="drop-in-attention",
        label="CIFAR-10, attention converted",
        text="a ViT whose attention and patches are converted too: more right answers than with layer norm",
        ours={"method": "converted-all"},
    ),
    Claim(
        name="drop-in-text",
        recipe="drop-in-text",
        label="GPT, converted",
        text="a GPT at its usual rates: cosines in place of layer norm give a lower loss",
        ours={"method": "converted"},
        against=NORM,
        quantity="test_loss",
        over=("optimizer", "learning_rate"),
        fair=True,
    ),
    Claim(
        name="table-1",
        recipe="mnist-table1",
        label="MNIST, Table 1",
        text="Table 1: cosine has the fewest errors on MNIST",
        ours=COSINE,
    ),
    Claim(
        name="dropout",
        recipe="mnist-table2",
        label="MNIST with dropout, Table 2",
        text="Table 2: with dropout (0.2 of the input, half of the hidden units) cosine errs less still",
        ours={"method": "cosine", "input_dropout": 0.2, "dropout": 0.5},
        compared=False,
        top=False,
    ),
    Claim(
        name="single-images",
        recipe="mnist-table2",
        label="MNIST, batches of one, Table 2",
        text="Table 2: cosine trains with batches of one image",
        ours={"method": "cosine", "batch_size": 1},
        compared=False,
        top=False,
    ),
    Claim(
        name="depth",
        recipe="mnist-depth",
        label="MNIST, five layers, Figure 5",
        text="Figure 5: depth helps: five weight layers have fewer errors than four",
        ours={"method": "cosine", "layers": 5},
        against={"method": "cosine", "layers": 4},
        quantity="least",
    ),
    Claim(
        name="deeper-than-two",
        recipe="mnist-depth",
        label="MNIST, four layers and two",
        text="four weight layers have fewer errors than two",
        ours={"method": "cosine", "layers": 4},
        against={"method": "cosine", "layers": 2},
        quantity="least",
        top=False,
    ),
    Claim(
        name="table-3",
        recipe="news-table3",
        label="Newsgroups, Table 3",
        text="Table 3: cosine has the fewest errors on 20 Newsgroups",
        ours=COSINE,
    ),
    Claim(
        name="table-4",
        recipe="cifar10-table4",
        label="CIFAR-10 augmented, Table 4",
        text="Table 4: the least errors of cosine on CIFAR-10 with augmentation",
        ours=COSINE,
        compared=False,
        quantity="least",
    ),
    Claim(
        name="table-5",
        recipe="cifar10-table5",
        label="CIFAR-10, Table 5",
        text="Table 5: the least errors of cosine on CIFAR-10 without augmentation",
        ours={"method": "cosine", "init_std": 0.1},
        quantity="least",
    ),
    Claim(
        name="table-5-centered",
        recipe="cifar10-table5",
        label="CIFAR-10, centered",
        text="centered cosine, which the paper does not run, has fewer errors than cosine",
        ours=CENTERED,
        against={"method": "cosine", "init_std": 0.1},
        quantity="least",
        top=False,
    ),
    Claim(
        name="magnitude",
        recipe="magnitude",
        label="MNIST, input × 0.1 to 10",
        text="the magnitude of the input does not count: cosine has the fewest errors at the worst factor "
        "from 0.1 to 10, MNIST",
        ours=COSINE,
        quantity="worst factor",
    ),
    Claim(
        name="magnitude-news",
        recipe="magnitude-news",
        label="Newsgroups, input × 0.1 to 10",
        text="the same of documents",
        ours=COSINE,
        quantity="worst factor",
        top=False,
    ),
    Claim(
        name="cifar100",
        recipe="cifar100",
        label="CIFAR-100",
        text="the later version's data set, without augmentation: cosine has the fewest errors",
        ours={"method": "cosine", "augmentation": False},
        top=False,
    ),
    Claim(
        name="cifar100-augmented",
        recipe="cifar100",
        label="CIFAR-100 augmented",
        text="the same with augmentation",
        ours={"method": "cosine", "augmentation": True},
        top=False,
    ),
    Claim(
        name="cifar100-centered",
        recipe="cifar100",
        label="CIFAR-100, centered",
        text="without augmentation centered cosine has fewer errors than cosine",
        ours={"method": "centered", "augmentation": False},
        against={"method": "cosine", "augmentation": False},
        top=False,
    ),
    Claim(
        name="retrieval",
        recipe="retrieval",
        label="CIFAR-100, unseen classes",
        text="classes that were never seen: ArcFace finds more nearest neighbours of the same class than the "
        "best of the other losses",
        ours={"method": "arcface"},
        quantity="recall_at_1",
        top=False,
    ),
    Claim(
        name="retrieval-map",
        recipe="retrieval",
        label="CIFAR-100, unseen classes, MAP@R",
        text="the same by MAP@R",
        ours={"method": "arcface"},
        quantity="map_at_r",
        top=False,
    ),
    Claim(
        name="retrieval-softmax",
        recipe="retrieval",
        label="CIFAR-100, unseen classes, softmax",
        text="the same beside softmax alone",
        ours={"method": "arcface"},
        against={"method": "softmax"},
        quantity="map_at_r",
        top=False,
    ),
)
