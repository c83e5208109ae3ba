"""What a run trains, one file a kind of run: the network, an epoch, and what is measured after it."""

from typing import Any, Protocol

from lightning_fabric import Fabric
from torch import nn

from cosnorm_lab.config import (
    CNNConfig,
    ContrastiveConfig,
    DropInConfig,
    HeadsConfig,
    MLPConfig,
    RetrievalConfig,
    RunConfig,
)
from cosnorm_lab.data import Dataset
from cosnorm_lab.records import Line


class Task(Protocol):
    """What `cosnorm_lab.train.train` needs of a kind of run.

    Attributes:
        network: everything that learns or is remembered from epoch to epoch; a checkpoint holds its state.
        optimizer: the optimizer, set up by Fabric.
    """

    @property
    def network(self) -> nn.Module: ...  # noqa: D102

    @property
    def optimizer(self) -> Any: ...  # noqa: D102

    def epoch(self, number: int) -> float:
        """Trains for one epoch; random choices follow from the seed and `number` alone. The mean loss."""

    def evaluate(self, last: bool) -> Line:
        """What goes into the epoch's line: "errors" among "count", and more; `last` in the last epoch."""


def make_task(config: RunConfig, dataset: Dataset, fabric: Fabric) -> Task:
    """The task of a configuration, its network at its initial weights."""
    match config:
        case MLPConfig():
            from cosnorm_lab.tasks.mlp import MLPTask

            return MLPTask(config, dataset, fabric)
        case CNNConfig():
            from cosnorm_lab.tasks.cnn import CNNTask

            return CNNTask(config, dataset, fabric)
        case ContrastiveConfig():
            from cosnorm_lab.tasks.contrastive import ContrastiveTask

            return ContrastiveTask(config, dataset, fabric)
        case HeadsConfig():
            from cosnorm_lab.tasks.heads import HeadsTask

            return HeadsTask(config, dataset, fabric)
        case DropInConfig():
            from cosnorm_lab.tasks.drop_in import DropInTask

            return DropInTask(config, dataset, fabric)
        case RetrievalConfig():
            from cosnorm_lab.tasks.retrieval import RetrievalTask

            return RetrievalTask(config, dataset, fabric)
    raise TypeError(f"no task for {type(config).__name__}; `cosnorm_lab.tasks.make_task` lists them")
