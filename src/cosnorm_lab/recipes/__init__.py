"""Recipes: named comparisons of methods, each a list of frozen run configurations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes import (
    cifar,
    digits,
    drop_in,
    fair,
    heads,
    magnitude,
    mnist,
    newsgroups,
    own,
    retrieval,
    simclr,
)
from cosnorm_lab.recipes.published import Published, by_method

FIGURES: Mapping[str, int | None] = {"errors": None, "pre-activations": None}  # those of any recipe


@dataclass(frozen=True)
class Recipe:
    """One entry of the registry.

    Attributes:
        name: what `cosnorm run` is told.
        dataset: name of the data set.
        description: one line.
        configs: makes the configurations; see `cosnorm_lab.recipes.comparison.comparison` for its arguments.
        paper: what the paper prints of these runs.
        columns: fields that the runs of a method differ in: columns of the table, axes of figures.
        goal: a number of errors; the table says when each run came down to it.
        then: makes further configurations of all runs so far, again and again until there are none; it gets
            them, then the same arguments.
        fit: arguments that follow from the data, for those that the user leaves out; it gets the data, then
            the arguments.
        across: what the tables of pages show with a column for each method, see
            `cosnorm_lab.report.across.across_table`; "" for a row for each.
        further: keys of `cosnorm_lab.report.quantities.QUANTITIES` that have a column beside the errors.
        figures: what the report draws, see `cosnorm_lab.report.figures.make_pictures`, with the paper's
            number.
    """

    name: str
    dataset: str
    description: str
    configs: Callable[..., list[RunConfig]]
    paper: tuple[Published, ...] = ()
    columns: tuple[str, ...] = ()
    goal: int | None = None
    then: Callable[..., list[RunConfig]] | None = None
    fit: Callable[..., dict[str, Any]] | None = None
    across: str = ""
    further: tuple[str, ...] = ()
    figures: Mapping[str, int | None] = field(default_factory=lambda: dict(FIGURES))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name=mnist.NAME,
            dataset="mnist",
            description="Table 1 of the paper: 784-1000-1000-10, 200 epochs, eight methods",
            configs=mnist.table1,
            paper=mnist.OTHER_READING + by_method(mnist.PAPER_TABLE1, mnist.NOTES_TABLE1),
            figures={"errors": 2, "pre-activations": 3},
        ),
        Recipe(
            name=mnist.TABLE2_NAME,
            dataset="mnist",
            description="Table 2 of the paper: noise by dropout, in both readings, and by single images",
            configs=mnist.table2,
            paper=mnist.PAPER_TABLE2,
            columns=("input_dropout", "dropout", "batch_size"),
            figures={"errors": 4},
        ),
        Recipe(
            name=mnist.DEPTH_NAME,
            dataset="mnist",
            description="Figure 5 of the paper: networks of 2, 3, 4 and 5 weight layers",
            configs=mnist.depth,
            paper=mnist.PAPER_DEPTH,
            columns=("layers",),
            figures={"least by layers": 5, "errors": None},
        ),
        Recipe(
            name=digits.NAME,
            dataset="digits",
            description="the same methods on small digits, in a minute and without a download",
            configs=digits.digits,
        ),
        Recipe(
            name=newsgroups.NAME,
            dataset="20news",
            description="Table 3 of the paper: 20 Newsgroups, 21566-1000-1000-20; rates as errors of 7,500",
            configs=newsgroups.table3,
            paper=by_method(newsgroups.PAPER_ERRORS),
            figures={"errors": 6},
        ),
        Recipe(
            name="cifar10-table4",
            dataset="cifar10",
            description="Table 4 of the paper: CIFAR-10 with augmentation, evaluated every 250 steps",
            configs=cifar.images("cifar10-table4", "cifar10", True),
            paper=cifar.PAPER_TABLE4,
            goal=cifar.GOAL_TABLE4,
            figures={"errors": 7},
        ),
        Recipe(
            name="cifar10-table5",
            dataset="cifar10",
            description="Table 5 of the paper: CIFAR-10 without augmentation, evaluated every 250 steps",
            configs=cifar.images("cifar10-table5", "cifar10", False),
            paper=cifar.PAPER_TABLE5,
            goal=cifar.GOAL_TABLE5,
            figures={"errors": 7},
        ),
        Recipe(
            name="cifar100",
            dataset="cifar100",
            description="the later version's data set: CIFAR-100, with and without augmentation",
            configs=cifar.images("cifar100", "cifar100", True, False),
            columns=("augmentation",),
            figures={"errors": None},
        ),
        Recipe(
            name="svhn",
            dataset="svhn",
            description="the later version's data set: house numbers, with and without augmentation",
            configs=cifar.images("svhn", "svhn", True, False),
            columns=("augmentation",),
            figures={"errors": None},
        ),
        Recipe(
            name=magnitude.NAME,
            dataset="mnist",
            description="the paper's central claim: errors when the test input is multiplied by 0.1 to 10",
            configs=magnitude.magnitude,
            figures={"magnitude": None, "errors": None},
        ),
        Recipe(
            name=magnitude.NEWS_NAME,
            dataset="20news",
            description="the same of documents: errors when their words' weights are multiplied by 0.1 to 10",
            configs=magnitude.magnitude_news,
            figures={"magnitude": None, "errors": None},
        ),
        Recipe(
            name=fair.NAME,
            dataset="mnist",
            description="every method at its own best learning rate, chosen on held-back images; three seeds",
            configs=fair.search,
            then=fair.final,
            figures={"errors": None},
        ),
        Recipe(
            name=drop_in.NAME,
            dataset="cifar10",
            description="usual networks, converted at their own learning rates; 8,000 images of 16×16 pixels",
            configs=drop_in.images,
            columns=("network", "optimizer", "batch_size"),
            across="right",
            figures={},
        ),
        Recipe(
            name=drop_in.TEXT_NAME,
            dataset="tinyshakespeare",
            description="a GPT of four blocks, converted at its own learning rates; 500 steps",
            configs=drop_in.text,
            columns=("optimizer",),
            across="test_loss",
            figures={},
        ),
        Recipe(
            name=own.NAME,
            dataset="own",
            description="all methods on your own data (--data-dir), each at its own best rate; MLP or CNN",
            configs=own.own,
            then=own.then,
            fit=own.fit,
        ),
        Recipe(
            name=simclr.NAME,
            dataset="mnist",
            description="contrastive training, linear probe: errors against the batch size",
            configs=simclr.simclr,
            columns=("batch_size",),
            figures={"by batch_size": None},
        ),
        Recipe(
            name=heads.MNIST_NAME,
            dataset="mnist",
            description="seven losses over embeddings of three dimensions, and their picture",
            configs=heads.heads_mnist,
            columns=("scale", "margin"),
            figures={"embeddings": None, "errors": None},
        ),
        Recipe(
            name=heads.FACES_NAME,
            dataset="faces",
            description="facial expressions from a folder (--data-dir): seven losses, sweeps of s and m",
            configs=heads.faces,
            columns=("scale", "margin"),
            figures={"by scale": None, "by margin": None},
        ),
        Recipe(
            name=retrieval.NAME,
            dataset="cifar100",
            description="neighbours of classes that were never seen: losses over embeddings; three seeds",
            configs=retrieval.retrieval,
            columns=("scale", "margin", "temperature"),
            further=("recall_at_1", "map_at_r"),
        ),
    )
}


def find(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        LabError: there is none.
    """
    if name not in RECIPES:
        raise LabError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)} (`cosnorm list`)")
    return RECIPES[name]


def columns(name: str) -> tuple[str, ...]:
    """Fields of the configuration that have a column of their own in this recipe's table."""
    return RECIPES[name].columns if name in RECIPES else ()


def published(config: RunConfig) -> Published:
    """What the paper prints of such a run; nothing but None where it prints nothing."""
    claims = RECIPES[config.recipe].paper if config.recipe in RECIPES else ()
    return next((claim for claim in claims if claim.speaks_of(config)), Published())
