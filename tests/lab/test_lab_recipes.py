"""Every recipe: two epochs of every method on small made data; kill -9 and resume."""

import random
import time

import pytest
import torch
from lab_data import record_of
from small_recipes import forks, small_data, small_runs, train_small
from test_lab_train import weights_of, without_times

from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.records import read
from cosnorm_lab.report.page import write_report
from cosnorm_lab.report.readme import markdown_table
from cosnorm_lab.train import train

EPOCHS = 16


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_epochs_of_every_method(recipe, tmp_path, one_thread):
    configs = small_runs(recipe, epochs=2)
    data = small_data(RECIPES[recipe].dataset)
    runs = [train(config, data, tmp_path) for config in configs]
    for run in runs:
        assert run.status == "completed", run.end
        assert len(run.epochs) == 2
        assert 0 <= run.errors[-1] <= run.epochs[-1]["count"]
        if factors := getattr(run.config, "factors", ()):
            scaled = dict(run.epochs[-1]["errors_by_factor"])
            assert tuple(scaled) == factors
            assert scaled[1.0] == run.errors[-1]
            if run.method == "cosine":
                assert len(set(scaled.values())) == 1
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(run.path.name in page for run in runs)
    if any(not run.config.validation for run in runs):
        assert markdown_table(runs).count("\n") >= 2


def chosen(recipe):
    """The run of a recipe that has most to remember: random state, moving average, batch statistics."""
    runs = small_runs(recipe, epochs=4 * EPOCHS if recipe == "mnist-table1" else EPOCHS)
    return max(
        runs,
        key=lambda run: (
            getattr(run, "dropout", 0),
            getattr(run, "augmentation", 0),
            run.method in ("batch", "island"),
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_again_and_again(recipe, tmp_path, one_thread):
    """kill -9 at random moments: the run goes on, and ends with the same figures, bit for bit."""
    config = chosen(recipe)
    context = forks()

    def begin(out):
        process = context.Process(target=train_small, args=(config, out))
        process.start()
        return process

    undisturbed = begin(tmp_path / "undisturbed")
    undisturbed.join(120)
    assert undisturbed.exitcode == 0
    moments = random.Random(recipe)
    kills = 0
    for kill in range(20 if recipe == "mnist-table1" else 5):
        process = begin(tmp_path / "killed")
        path = record_of(tmp_path / "killed", config)
        while process.is_alive() and (not path.exists() or path.read_bytes().count(b"\n") < 2 * kill):
            time.sleep(0.001)
            path = record_of(tmp_path / "killed", config)
        time.sleep(moments.uniform(0, 0.02))  # anywhere within an epoch, or in the next ones
        process.kill()
        process.join()
        kills += process.exitcode == -9
        if path.exists() and path.read_bytes().count(b"\n"):
            read(path)  # readable after every kill
    assert kills >= 4, "the runs ended before they were killed"
    last = begin(tmp_path / "killed")
    last.join(120)
    assert last.exitcode == 0
    one, other = (read(record_of(tmp_path / name, config)) for name in ("undisturbed", "killed"))
    assert other.status == "completed"
    assert without_times(one.epochs) == without_times(other.epochs)
    weights, again = (weights_of(tmp_path / name, config) for name in ("undisturbed", "killed"))
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert b'"kind": "resume"' in path.read_bytes()
