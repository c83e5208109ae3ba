"""Usual networks, converted: what is compared is alike but for what it is called after."""

import dataclasses

import pytest
import torch
from small_recipes import small_data
from torch import nn

from cosnorm.nn import CosineConv2d, CosineLinear
from cosnorm_lab.config import DropInConfig
from cosnorm_lab.data import load
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import CONVERSIONS
from cosnorm_lab.recipes import drop_in
from cosnorm_lab.records import Run
from cosnorm_lab.report.across import across_table
from cosnorm_lab.tasks.drop_in import network
from cosnorm_lab.train import train

NETWORKS = ("mlp", "cnn", "resnet", "vit", "gpt")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def config(name: str, method: str, **fields) -> DropInConfig:
    text = {"batch_size": 4, "length": 8, "steps": 2} if name == "gpt" else {"batch_size": 16}
    return DropInConfig(
        recipe="drop-in",
        dataset="tinyshakespeare" if name == "gpt" else "cifar10",
        method=method,
        network=name,
        optimizer="sgd",
        learning_rate=0.01,
        epochs=2,
        **{**text, **fields},
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_all_methods_begin_with_the_same_weights(name: str):
    inputs, outputs = ((8,), 7) if name == "gpt" else ((3, 16, 16), 10)
    found = {method: network(config(name, method), inputs, outputs) for method in CONVERSIONS}
    kinds = {method: [type(layer) for layer in model.modules()] for method, model in found.items()}
    cosine = (CosineConv2d, CosineLinear)
    for method, layers in kinds.items():
        assert any(kind in cosine for kind in layers) == method.startswith("converted")
    norms = {method: sum(kind in NORMS for kind in layers) for method, layers in kinds.items()}
    assert norms["plain"] == 0 < norms["norm"] == norms["converted-norm"]
    # The layer norms in front of attention and of the last layer, which stay plain, stay too.
    transformer = name in ("vit", "gpt")
    assert norms["converted"] == (5 if transformer else 0)
    assert norms["converted-all"] == (1 if transformer else 0)
    plain = [one for one, layer in found["converted-all"].named_modules() if type(layer) is nn.Linear]
    assert len(plain) == 1
    weights = {
        method: {name: one for name, one in model.state_dict().items() if one.ndim > 1}
        for method, model in found.items()
    }
    for method in CONVERSIONS:
        assert weights[method].keys() == weights["plain"].keys()
        assert all(torch.equal(one, weights["plain"][name]) for name, one in weights[method].items())


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_and_counts(name: str, tmp_path, one_thread):
    rates = {"learning_rate": 0.003, "optimizer": "adamw", "seed": 1}
    made = dataclasses.replace(config(name, "converted"), epochs=12, **rates)
    if name == "gpt":
        made = dataclasses.replace(made, steps=20)
    data = small_data(made.dataset)
    run = train(made, data, tmp_path)
    last = run.epochs[-1]
    assert last["count"] == (14 * 8 if name == "gpt" else len(data.test_labels))
    assert last["errors"] < 0.4 * last["count"]
    assert last["test_loss"] < run.epochs[0]["test_loss"]


def made_run(method: str, seed: int, **last) -> Run:
    run = dataclasses.replace(config("cnn", method), seed=seed)
    return Run(
        start={"config": run.to_dict(), "data": {"name": "cifar10", "checksums": {}, "exact": True}},
        epochs=[{"epoch": 1, "errors": 90, "count": 100, "test_loss": 2.0}, {"epoch": 2, **last}],
        end={"status": "completed"},
    )


def test_a_table_with_a_column_for_each_method():
    runs = [
        made_run("plain", 0, errors=60, count=100, test_loss=1.5),
        *(made_run("converted", seed, errors=30 + 2 * seed, count=100, test_loss=1.0) for seed in range(3)),
        dataclasses.replace(made_run("norm", 0, errors=10, count=100, test_loss=0.1), end=None),
    ]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in across_table(runs).splitlines()]
    assert lines[0] == [
        *("network", "optimizer", "batch size", "lr"),
        *("plain", "batch or layer norm", "converted", "seeds", "converted beside the norm"),
    ]
    norms = [made_run("norm", seed, errors=40 + seed, count=100, test_loss=1.0) for seed in range(3)]
    row = across_table([*runs[:4], *norms]).splitlines()[2]
    # 10, 9, 8 fewer errors: t is 9 / (1 / √3), and p = 0.0041 of two degrees of freedom.
    assert row.endswith("| 68.0 ± 5.0 | 1 to 3 | ahead (p = 0.0041) |")
    # 70, 68, 66: the deviation is 2, Student's t of two degrees of freedom 4.303.
    assert lines[2] == ["cnn", "sgd", "16", "0.01", "40.0", "not run", "68.0 ± 5.0", "0 to 3", "not run"]


def test_rates_follow_the_batch():
    rates = {
        (run.network, run.optimizer, run.batch_size): run.learning_rate for run in drop_in.images(seeds=1)
    }
    assert rates["cnn", "sgd", 100] == 0.05
    assert rates["cnn", "sgd", 2] == pytest.approx(0.05 * 2 / 100)
    assert rates["resnet", "adamw", 2] == pytest.approx(0.002 * (2 / 100) ** 0.5, rel=1e-3)


def test_text_is_that_of_the_official_file(tmp_path):
    (tmp_path / "input.txt").write_text("to be, or not to be: that is the question\n" * 3)
    with pytest.raises(LabError, match="not the official file"):
        load("tinyshakespeare", tmp_path)
    data = load("tinyshakespeare", tmp_path, allow_checksum_mismatch=True)
    text = "".join(data.classes[one] for one in data.train_images.tolist())
    assert text.startswith("to be, or not")
    assert torch.equal(data.train_images[1:], data.train_labels[:-1])
    assert len(data.train_images) + len(data.test_images) + 2 == 3 * 42
    (tmp_path / "input.txt").write_text("short")
    with pytest.raises(LabError, match="has 5 characters; expected a text"):
        load("tinyshakespeare", tmp_path, allow_checksum_mismatch=True)


def test_what_is_wrong_is_said(tmp_path):
    for fields, message in (
        ({"network": "rnn"}, "network must be one of mlp, cnn, resnet, vit, gpt; got 'rnn'"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adamw"),
        ({"pooling": 0}, "pooling must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config("mlp", "plain"), **fields)
    with pytest.raises(LabError, match="the network mlp wants images"):
        train(dataclasses.replace(config("mlp", "plain"), dataset="20news"), small_data("20news"), tmp_path)
