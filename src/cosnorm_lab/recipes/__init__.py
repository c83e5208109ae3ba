"""Recipes: named comparisons of methods, each a list of frozen run configurations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes import digits, heads, mnist, simclr


@dataclass(frozen=True)
class Recipe:
    """One entry of the registry.

    Attributes:
        name: what `cosnorm run` is told.
        dataset: name of the data set.
        description: one line.
        configs: makes the configurations; see `cosnorm_lab.recipes.comparison.comparison` for its arguments.
        paper: the paper's mean and variance of the errors of each method, where it gives them.
        columns: fields that the runs of a method differ in: columns of the table, axes of figures.
        figures: what the report draws, of `cosnorm_lab.figures.FIGURES`.
    """

    name: str
    dataset: str
    description: str
    configs: Callable[..., list[RunConfig]]
    paper: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    figures: tuple[str, ...] = ("errors", "pre-activations")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name=mnist.NAME,
            dataset="mnist",
            description="Table 1 of the paper: 784-1000-1000-10, 200 epochs, eight methods",
            configs=mnist.table1,
            paper=mnist.PAPER_TABLE1,
        ),
        Recipe(
            name=digits.NAME,
            dataset="digits",
            description="the same methods on small digits, in a minute and without a download",
            configs=digits.digits,
        ),
        Recipe(
            name=simclr.NAME,
            dataset="mnist",
            description="contrastive training, linear probe: errors against the batch size",
            configs=simclr.simclr,
            columns=("batch_size",),
            figures=("by batch_size",),
        ),
        Recipe(
            name=heads.MNIST_NAME,
            dataset="mnist",
            description="seven losses over embeddings of three dimensions, and their picture",
            configs=heads.heads_mnist,
            columns=("scale", "margin"),
            figures=("embeddings", "errors"),
        ),
        Recipe(
            name=heads.FACES_NAME,
            dataset="faces",
            description="facial expressions from a folder (--data-dir): seven losses, sweeps of s and m",
            configs=heads.faces,
            columns=("scale", "margin"),
            figures=("by scale", "by margin"),
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
