"""Two processes train as one does: the same order of the data, the same weights."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lab_data import record_of, write_files
from train_small import BATCH_STATISTICS, configuration

from cosnorm_lab import checkpoint as checkpoints
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.records import read
from cosnorm_lab.tasks.batches import batches

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]  # one worker has the fixture

PROGRAM = Path(__file__).with_name("train_small.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """The record and the last state of a method, trained by so many processes."""
    folder = tmp_path_factory.mktemp("processes")
    data = write_files(folder / "data", train=500, test=101)
    for processes in ("1", "2"):
        program = [sys.executable, str(PROGRAM), str(data), str(folder / processes), processes]
        subprocess.run(program, check=True, timeout=300, capture_output=True)

    def of(method: str, processes: int):
        path = record_of(folder / str(processes), configuration(method))
        return read(path), checkpoints.load(path.with_suffix(".ckpt"))

    return of


@pytest.mark.parametrize("method", [method for method in NORMALIZATIONS if method not in BATCH_STATISTICS])
def test_same_weights_after_twenty_steps(method: str, trained: Callable):
    (one, one_end), (two, two_end) = trained(method, 1), trained(method, 2)
    assert (one.start["host"]["processes"], two.start["host"]["processes"]) == (1, 2)
    assert one_end.model.keys() == two_end.model.keys()
    for name, weight in one_end.model.items():
        torch.testing.assert_close(two_end.model[name], weight, atol=1e-5, rtol=0, msg=name)
    assert two.epochs[0]["loss"] == pytest.approx(one.epochs[0]["loss"], rel=1e-5)
    assert two.errors == one.errors
    assert two.epochs[0]["count"] == 101
    assert two.epochs[0]["pre_activation"] == pytest.approx(one.epochs[0]["pre_activation"], abs=1e-4)


@pytest.mark.parametrize("method", BATCH_STATISTICS)
def test_batch_statistics_train_too(method: str, trained: Callable):
    run, _ = trained(method, 2)
    assert run.status == "completed"
    assert run.epochs[-1]["loss"] < run.epochs[0]["loss"]


class Rank:
    """What the order of the data asks a Fabric for."""

    device = torch.device("cpu")

    def __init__(self, rank, size):
        self.global_rank, self.world_size = rank, size


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_the_processes_parts_are_the_order_of_one(processes):
    config = configuration("cosine")
    alone = [(part.tolist(), size) for part, size in batches(config, 510, 1, Rank(0, 1))]
    split = [list(batches(config, 510, 1, Rank(rank, processes))) for rank in range(processes)]
    together = [
        ([index for part, _ in parts for index in part.tolist()], parts[0][1])
        for parts in zip(*split, strict=True)
    ]
    assert together == alone
