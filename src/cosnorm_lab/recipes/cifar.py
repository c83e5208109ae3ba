"""CIFAR-10 and CIFAR-100: Tables 4 and 5 of Luo et al., and the later version's data set."""

from collections.abc import Callable

from cosnorm_lab.config import CNNConfig, RunConfig
from cosnorm_lab.methods import rates
from cosnorm_lab.recipes.comparison import recipe
from cosnorm_lab.recipes.published import Published

# Tables 4 and 5: least errors of 10,000, and the step at which the baseline's least is reached.
GOAL_TABLE4, GOAL_TABLE5 = 1900, 3510
_SHORT = "ours ends while the errors still fall"
PAPER_TABLE4 = (
    Published({"method": "baseline"}, least=1900, step=234_000, note=_SHORT),
    Published({"method": "cosine"}, least=1520, step=11_000, note=_SHORT),
)
PAPER_TABLE5 = (
    Published({"method": "baseline"}, least=3510, step=66_000, note=_SHORT),
    Published({"method": "cosine"}, least=2700, step=2000),
)


def images(name: str, dataset: str, *augmentations: bool) -> Callable[..., list[RunConfig]]:
    """The runs of one table: the convolutional network, batches of 128, moving average of the parameters.

    The weights begin with a standard deviation of 0.1, the paper's "0.1 variance" as Table 1 wants it read
    (`init_std=0.05` is that of the tutorial whose network this is).

    Args:
        name: of the recipe.
        dataset: "cifar10", "cifar100" (or "cifar100-coarse") or "svhn".
        augmentations: whether the images are cropped, mirrored and so on at random; several are run each.
    """
    base = {"recipe": name, "dataset": dataset, "init_std": 0.1}
    variants = [{"augmentation": augmentation} for augmentation in augmentations]
    return recipe(CNNConfig, base, rates("cifar"), epochs=44, variants=variants)
