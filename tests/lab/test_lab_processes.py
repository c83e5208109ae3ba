"""Two processes train as one does: the same order of the data, the same weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lab_data import write_files
from train_small import configuration

from cosnorm_lab import checkpoint as checkpoints
from cosnorm_lab.config import METHODS
from cosnorm_lab.records import read, record_path
from cosnorm_lab.tasks.batches import batches

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("train_small.py")
BATCH = 25  # 500 images: 20 steps an epoch; odd, so that the two parts of a batch are uneven
WITHOUT_BATCH_STATISTICS = [method for method in METHODS if method not in ("batch", "mean-only")]


def trained(data, out, method, processes, epochs=1):
    subprocess.run(
        [sys.executable, str(PROGRAM), str(data), str(out), method, str(epochs), str(processes), str(BATCH)],
        check=True,
        timeout=180,
        capture_output=True,
    )
    path = record_path(out, configuration(method, epochs, BATCH))
    return read(path), checkpoints.load(path.with_suffix(".ckpt"))


@pytest.mark.parametrize("method", WITHOUT_BATCH_STATISTICS)
def test_same_weights_after_twenty_steps(method, tmp_path):
    data = write_files(tmp_path / "data", train=500, test=101)
    one, one_end = trained(data, tmp_path / "one", method, 1)
    two, two_end = trained(data, tmp_path / "two", method, 2)
    assert (one.start["host"]["processes"], two.start["host"]["processes"]) == (1, 2)
    assert one_end.model.keys() == two_end.model.keys()
    for name, weight in one_end.model.items():
        torch.testing.assert_close(two_end.model[name], weight, atol=1e-5, rtol=0, msg=name)
    assert two.epochs[0]["loss"] == pytest.approx(one.epochs[0]["loss"], rel=1e-5)
    assert two.errors == one.errors
    assert two.epochs[0]["count"] == 101
    assert two.epochs[0]["pre_activation"] == pytest.approx(one.epochs[0]["pre_activation"], abs=1e-4)


@pytest.mark.parametrize("method", ["batch", "mean-only"])
def test_batch_statistics_train_too(method, tmp_path):
    run, _ = trained(write_files(tmp_path / "data", train=500), tmp_path / "two", method, 2, epochs=3)
    assert run.status == "completed"
    assert run.epochs[-1]["loss"] < run.epochs[0]["loss"]


class Rank:
    """What the order of the data asks a Fabric for."""

    device = torch.device("cpu")

    def __init__(self, rank, size):
        self.global_rank, self.world_size = rank, size


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_the_processes_parts_are_the_order_of_one(processes):
    config = configuration("cosine", 1, BATCH)
    alone = [(part.tolist(), size) for part, size in batches(config, 510, 1, Rank(0, 1))]
    split = [list(batches(config, 510, 1, Rank(rank, processes))) for rank in range(processes)]
    together = [
        ([index for part, _ in parts for index in part.tolist()], parts[0][1])
        for parts in zip(*split, strict=True)
    ]
    assert together == alone
