"""Every recipe in small: made data for each data set, and runs that take a fraction of a second."""

import dataclasses
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import scipy.sparse
import torch
from lab_data import made_dataset

from cosnorm_lab.config import DropInConfig, MLPConfig, RunConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.data.drawn_faces import load_drawn_faces
from cosnorm_lab.data.sparse import SparseRows
from cosnorm_lab.recipes import RECIPES, fair
from cosnorm_lab.train import train

SMALL = {
    "mlp": {"hidden": (10, 8), "batch_size": 16},
    "cnn": {"hidden": (8,), "filters": (4, 4), "batch_size": 16, "steps": 3, "average_decay": 0.9},
    "contrastive": {},
    "heads": {"batch_size": 32},
    "drop-in": {"batch_size": 16, "length": 8},
    "retrieval": {"batch_size": 16, "seen": 2, "filters": (4, 4), "embedding_size": 8},
}


KINDS = ("mlp", "cnn", "contrastive", "heads", "drop_in", "retrieval")


def small_runs(recipe: str, *, epochs: int = 2, methods: Sequence[str] | None = None) -> list[RunConfig]:
    """The runs of a recipe, small: of a sweep the first and the last of each method."""
    runs = RECIPES[recipe].configs(methods, epochs=epochs)
    if recipe == fair.NAME:  # the held-back images and the grid are large
        runs = [dataclasses.replace(run, validation=16) for run in runs]
    small = []
    for run in runs:
        fields = dict(SMALL[run.kind])
        if run.batch_size == 1 or run.kind == "contrastive":
            fields |= {"batch_size": max(1, run.batch_size // 64)}
        if isinstance(run, DropInConfig) and run.steps:
            fields |= {"steps": 3}
        if isinstance(run, MLPConfig):
            fields |= {"hidden": run.hidden and tuple(8 for _ in run.hidden)}
        small.append(dataclasses.replace(run, epochs=epochs, learning_rate=run.learning_rate / 10, **fields))
    families: dict[str, list[RunConfig]] = {}
    for run in dict.fromkeys(small):
        families.setdefault(run.method, []).append(run)
    return [run for family in families.values() for run in dict.fromkeys([family[0], family[-1]])]


def small_data(name: str) -> Dataset:
    """Made samples that can be learned, in the form that the data set of that name has."""
    match name:
        case "faces":
            return load_drawn_faces(5, 2)
        case "20news":
            return _documents()
        case "tinyshakespeare":
            return _text()
        case "cifar10" | "cifar100" | "svhn":
            return _colours(name)
        case _:
            return dataclasses.replace(made_dataset(), name=name)


def _colours(name: str) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (48, 24):
        labels = torch.arange(count) % 4
        images = torch.randint(0, 120, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        images[labels < 2, 0, :, :16] += 110
        images[labels % 2 == 0, 1, 16:] += 110
        parts += [images, labels]
    return Dataset(name, *parts, num_classes=4, checksums={}, exact=False)


def _text() -> Dataset:
    train, test = (torch.arange(length) ** 2 % 7 for length in (400, 120))
    return Dataset(
        "tinyshakespeare",
        train[:-1],
        train[1:],
        test[:-1],
        test[1:],
        num_classes=7,
        checksums={},
        exact=False,
    )


def _documents() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (48, 24):
        labels = torch.arange(count) % 4
        rows = torch.rand(count, 30, generator=generator)
        rows[torch.rand(count, 30, generator=generator) < 0.8] = 0
        rows[torch.arange(count), labels * 3] = 1.0
        parts += [SparseRows(scipy.sparse.csr_matrix(rows.numpy())), labels]
    return Dataset("20news", *parts, num_classes=4, checksums={}, exact=False)


def train_small(run: RunConfig, out: Path) -> None:
    """A process of its own for one run; it tells by its exit status how it ended."""
    torch.set_num_threads(1)
    train(run, small_data(run.dataset), out, keep_checkpoint=True)
    os._exit(0)  # nothing of the process that it was forked from is to be taken down


def forks() -> multiprocessing.context.ForkServerContext:
    """Processes that begin with everything imported, in milliseconds: for tests that kill many."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_recipes", *(f"cosnorm_lab.tasks.{kind}" for kind in KINDS)])
    return context
