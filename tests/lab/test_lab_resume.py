"""A process that ends in the middle of a write: the same command goes on, with the same figures, bit for bit.

Kills at random moments, of every recipe, are in test_lab_recipes.py.
"""

import os
from pathlib import Path

import pytest
import torch
from lab_data import record_of
from small_recipes import forks, small_runs, train_small
from test_lab_train import weights_of, without_times

from cosnorm_lab.records import read

EPOCHS = 6


def die_at(moment, count, config, out):
    """Trains, and ends as a kill does when `moment` comes for the `count`-th time."""
    calls = 0

    def now():
        nonlocal calls
        calls += 1
        return calls == count

    write, replace, path_open = os.write, Path.replace, Path.open

    def deadly_write(descriptor, data):
        if b'"kind": "epoch"' in data:
            if moment == "before line" and now():
                os._exit(9)
            if moment == "inside line" and now():
                write(descriptor, data[: len(data) // 2])
                os._exit(9)
        return write(descriptor, data)

    def deadly_replace(self, target):
        if moment == "before rename" and now():
            os._exit(9)
        result = replace(self, target)
        if moment == "after rename" and now():
            os._exit(9)
        return result

    def deadly_open(self, mode="r", *arguments, **options):
        file = path_open(self, mode, *arguments, **options)
        if moment == "inside checkpoint" and self.name.endswith(".ckpt.partial") and now():
            file.write(b"half a checkpoint")
            file.flush()
            os._exit(9)
        return file

    os.write, Path.replace, Path.open = deadly_write, deadly_replace, deadly_open
    train_small(config, out)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    (config,) = small_runs("mnist-table1", epochs=EPOCHS, methods=["cosine"])
    assert _run(train_small, config, out) == 0
    return config, out


def _run(target, *arguments):
    process = forks().Process(target=target, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "moment", ["before line", "inside line", "inside checkpoint", "before rename", "after rename"]
)
def test_killed_inside_a_write(undisturbed, tmp_path, moment, count):
    config, expected = undisturbed
    assert _run(die_at, moment, count, config, tmp_path) == 9
    path = record_of(tmp_path, config)
    assert len(read(path).epochs) == count - 1
    assert _run(train_small, config, tmp_path) == 0
    run = read(path)
    assert run.status == "completed"
    assert without_times(run.epochs) == without_times(read(record_of(expected, config)).epochs)
    weights, again = weights_of(expected, config), weights_of(tmp_path, config)
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
