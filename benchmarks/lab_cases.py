"""A few training steps of each recipe, as the laboratory does them: every method beside the plain network."""

import dataclasses
from typing import Any

import scipy.sparse
import torch
from torch import Tensor, nn

import cosnorm
from benchmarks.registry import Case, Step
from cosnorm_lab.config import RunConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.data.sparse import SparseRows
from cosnorm_lab.fabric import make_fabric
from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.sparse_linear import SparseLinear
from cosnorm_lab.tasks import make_task

STEPS = 3
WORDS, OF_A_DOCUMENT = 21_566, 124  # of 20 Newsgroups


def _documents(count: int) -> Any:
    """Sparse rows whose words are as unevenly frequent as those of a language."""
    frequency = 1 / torch.arange(1, WORDS + 1).float() ** 0.9
    columns = torch.stack([torch.multinomial(frequency, OF_A_DOCUMENT).sort().values for _ in range(count)])
    starts = torch.arange(count + 1) * OF_A_DOCUMENT
    values = torch.rand(count * OF_A_DOCUMENT)
    return scipy.sparse.csr_matrix(
        (values.numpy(), columns.flatten().numpy(), starts.numpy()), (count, WORDS)
    )


def _dataset(name: str, count: int) -> Dataset:
    """Noise in the form that the data set of that name has."""
    labels = torch.arange(count) % 7
    match name:
        case "20news":
            images: Any = SparseRows(_documents(count))
        case "cifar10":
            images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        case "faces":
            images = torch.rand(count, 48, 48)
        case _:
            images = torch.rand(count, 28, 28)
    return Dataset(name, images, labels, images, labels, num_classes=10, checksums={}, exact=False)


def _steps(recipe: str, methods: dict[str, str], **fields: Any) -> dict[str, Step]:
    """One "epoch" of so few images that it has three steps."""

    def step(config: RunConfig) -> Step:
        if hasattr(config, "steps"):
            config = dataclasses.replace(config, steps=STEPS)
        dataset = _dataset(config.dataset, STEPS * config.batch_size)
        task = make_task(config, dataset, make_fabric())
        return lambda: task.epoch(1)

    configs = {name: RECIPES[recipe].configs([method], **fields)[0] for name, method in methods.items()}
    return {name: step(config) for name, config in configs.items()}


def _sparse_layer() -> dict[str, Step]:
    """Forward and backward of the first layer alone: a dense one on dense rows, and ours on sparse rows."""
    documents = _documents(100)
    dense = torch.from_numpy(documents.toarray())
    sparse = SparseRows(documents)[torch.arange(100)]
    cotangent = torch.randn(100, 1000)

    weight = torch.randn(1000, WORDS)

    def training(layer: Any, x: Tensor, compared: bool = False) -> Step:
        layer.weight.data = weight.t().contiguous().t() if x is sparse else weight

        def step() -> object:
            layer.zero_grad()
            output = layer(x)
            output.backward(cotangent)
            return [output.detach(), layer.weight.grad] if compared else None

        return step

    return {
        "plain": training(nn.Linear(WORDS, 1000, bias=False), dense, True),
        "plain on sparse rows": training(SparseLinear(WORDS, 1000, bias=False), sparse, True),
        "cosine": training(cosnorm.nn.CosineLinear(WORDS, 1000), sparse),
        "centered": training(cosnorm.nn.CosineLinear(WORDS, 1000, centered=True), sparse),
    }


NORMALIZATIONS = {"plain": "baseline", "cosine": "cosine", "centered": "centered"}
NORMALIZATIONS |= {"batch norm": "batch", "layer norm": "layer", "weight norm": "weight"}
LOSSES = {"plain": "softmax", "NormFace": "normface", "AM-Softmax": "am-softmax", "ArcFace": "arcface"}
LOSSES |= {"center": "center", "island": "island", "cosine distance": "cosine-distance"}

CASES = [
    Case("sparse-100x21566-1000", _sparse_layer),
    Case("recipe-mnist-table1", lambda: _steps("mnist-table1", NORMALIZATIONS)),
    Case("recipe-mnist-table2", lambda: _steps("mnist-table2", {"plain": "baseline", "cosine": "cosine"})),
    Case(
        "recipe-mnist-table2-single-images",
        lambda: _steps(
            "mnist-table1", {"plain": "baseline", "cosine": "cosine"}, batch_size=1, learning_rate=0.1
        ),
    ),
    Case(
        "recipe-mnist-depth",
        lambda: _steps("mnist-depth", dict(list(NORMALIZATIONS.items())[:3]), hidden=(1000,) * 4),
    ),
    Case("recipe-news-table3", lambda: _steps("news-table3", NORMALIZATIONS)),
    Case("recipe-cifar10-table4", lambda: _steps("cifar10-table4", NORMALIZATIONS)),
    Case("recipe-cifar10-table5", lambda: _steps("cifar10-table5", NORMALIZATIONS)),
    Case(
        "recipe-simclr-mnist",
        lambda: _steps("simclr-mnist", {"plain": "nt-xent", "decoupled": "decoupled"}, batch_size=256),
    ),
    Case("recipe-heads-mnist", lambda: _steps("heads-mnist", LOSSES)),
    Case("recipe-faces", lambda: _steps("faces", LOSSES)),
]
