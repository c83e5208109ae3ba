import dataclasses
import os

import pytest
import torch
import torch.nn.functional as F
from lab_data import record_of

from cosnorm_lab import checkpoint as checkpoints
from cosnorm_lab.config import MLPConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.fabric import make_fabric
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.models import mlp
from cosnorm_lab.records import read
from cosnorm_lab.tasks.batches import batches
from cosnorm_lab.train import train

CONFIG = MLPConfig(
    recipe="test",
    dataset="mnist",
    method="baseline",
    hidden=(16, 12),
    learning_rate=0.1,
    epochs=3,
    batch_size=10,
)
pytestmark = pytest.mark.usefixtures("one_thread")
TIMES = {"seconds", "evaluation_seconds"}


class Heard:
    """Notes what a training says; can interrupt it."""

    def __init__(self, stop_at=None):
        self.said = []
        self.stop_at = stop_at

    def run_started(self, config, epochs_done, record):
        self.said.append(("started", epochs_done))

    def epoch_finished(self, config, line):
        self.said.append(("epoch", line["epoch"]))
        if line["epoch"] == self.stop_at:
            raise KeyboardInterrupt

    def run_finished(self, run):
        self.said.append(("finished", run.status))


def without_times(lines):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def weights_of(out, config):
    return checkpoints.load(record_of(out, config).with_suffix(".ckpt")).model


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_learns(method, small_dataset, tmp_path):
    rate = {"cosine": 1.0, "centered": 1.0}.get(method, 0.3)
    run = train(
        dataclasses.replace(CONFIG, method=method, learning_rate=rate, epochs=12), small_dataset, tmp_path
    )
    assert run.status == "completed"
    assert run.epochs[-1]["loss"] < 0.6 * run.epochs[0]["loss"]
    assert run.errors[-1] < 16  # of 32; guessing among four classes gives 24


def test_the_record(small_dataset, tmp_path):
    heard = Heard()
    run = train(CONFIG, small_dataset, tmp_path, progress=heard)
    assert heard.said == [("started", 0), ("epoch", 1), ("epoch", 2), ("epoch", 3), ("finished", "completed")]
    name = f"{CONFIG.name()}-{run.data_key}.jsonl"
    assert run == read(tmp_path / "test" / name)
    assert [path.name for path in (tmp_path / "test").iterdir()] == [name]
    start = run.start
    assert (start["kind"], start["format"], start["recipe"], run.config) == ("start", 1, "test", CONFIG)
    assert set(start["versions"]) == {"python", "torch", "numpy", "cosnorm"}
    assert set(start["host"]) == {"cpu", "cores", "threads", "device", "processes"}
    assert (start["host"]["device"], start["host"]["processes"]) == ("cpu", 1)
    assert start["data"] == {
        "name": "mnist", "checksums": small_dataset.checksums, "exact": False, "train": 64, "test": 32,
    }  # fmt: skip
    assert {"commit", "dirty", "started"} <= set(start)
    for number, line in enumerate(run.epochs, start=1):
        assert set(line) == {
            "kind", "epoch", "loss", "errors", "count", "seconds", "evaluation_seconds", "layers",
            "pre_activation",
        }  # fmt: skip
        assert (line["epoch"], line["count"]) == (number, 32)
        assert [layer["name"] for layer in line["layers"]] == ["hidden1", "hidden2", "output"]
        assert line["pre_activation"] == sorted(line["pre_activation"])
        assert len(line["pre_activation"]) == 3
        assert line["seconds"] > 0
    assert set(run.end) == {"kind", "status", "message", "seconds", "time"}


@pytest.mark.parametrize("word", ["home", "root", "work", "tmp"])
def test_the_record_names_no_folders_or_users(word, small_dataset, tmp_path):
    run = train(dataclasses.replace(CONFIG, epochs=1), small_dataset, tmp_path)
    text = run.path.read_text()
    assert f"/{word}" not in text
    assert os.uname().nodename not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("method", ["baseline", "batch", "max"])
def test_one_epoch_is_plain_gradient_descent(method, small_dataset, tmp_path):
    """The whole loop against the same written with nothing but torch."""
    config = dataclasses.replace(CONFIG, method=method, epochs=1, learning_rate=0.5, max_norm=0.3)
    run = train(config, small_dataset, tmp_path, keep_checkpoint=True)
    model = mlp((64, 16, 12, 10), method)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    images, labels = small_dataset.train_images.flatten(1), small_dataset.train_labels
    total = 0.0
    for part, size in batches(config, 64, 1, make_fabric()):
        assert len(part) == size
        loss = F.cross_entropy(model(images[part]), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * size
        if method == "max":
            with torch.no_grad():
                for weight in (parameter for parameter in model.parameters() if parameter.ndim == 2):
                    weight *= (0.3 / weight.norm(dim=1, keepdim=True)).clamp(max=1)
    for name, tensor in weights_of(tmp_path, config).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], atol=1e-5, rtol=1e-4)
    line = run.epochs[0]
    assert line["loss"] == pytest.approx(total / 64, rel=1e-5)
    model.eval()
    x = small_dataset.test_images.flatten(1)
    with torch.no_grad():
        assert line["errors"] == int((model(x).argmax(1) != small_dataset.test_labels).sum())
        before = model.hidden[1](torch.relu(model.hidden[0](x)))[:, 0]
    expected = torch.quantile(before, torch.tensor([0.15, 0.5, 0.85])).tolist()
    assert line["pre_activation"] == pytest.approx(expected, abs=1e-4)
    weight = model.output.weight.detach()
    layer = line["layers"][-1]
    assert layer["weight_norm"] == pytest.approx(float(weight.norm(dim=1).mean()), rel=1e-4)
    rates = 0.5 / weight.square().sum(1)
    assert layer["effective_learning_rate"] == pytest.approx(float(rates.mean()), rel=1e-4)


def test_the_order_covers_all_and_follows_from_seed_and_epoch():
    fabric = make_fabric()

    def order(config, epoch):
        return [part.tolist() for part, _ in batches(config, 64, epoch, fabric)]

    first = order(CONFIG, 1)
    assert [len(part) for part in first] == [10] * 6 + [4]  # the last, incomplete batch is kept
    assert sorted(number for part in first for number in part) == list(range(64))
    assert order(CONFIG, 1) == first
    assert order(CONFIG, 2) != first
    assert order(dataclasses.replace(CONFIG, seed=1), 1) != first
    assert order(dataclasses.replace(CONFIG, method="cosine"), 1) == first


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_interrupted_and_gone_on_is_the_same_bit_for_bit(method, small_dataset, tmp_path):
    config = dataclasses.replace(CONFIG, method=method)
    whole = train(config, small_dataset, tmp_path / "whole", keep_checkpoint=True)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train(config, small_dataset, tmp_path / "parts", progress=Heard(stop_at=epoch))
        assert read(record_of(tmp_path / "parts", config)).status == "running"
    heard = Heard()
    parts = train(config, small_dataset, tmp_path / "parts", progress=heard, keep_checkpoint=True)
    assert heard.said == [("started", 2), ("epoch", 3), ("finished", "completed")]
    assert without_times(parts.epochs) == without_times(whole.epochs)
    expected = weights_of(tmp_path / "whole", config)
    found = weights_of(tmp_path / "parts", config)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert parts.path.read_text().count('"kind": "resume"') == 2


def test_a_completed_run_is_returned_at_once(small_dataset, tmp_path):
    run = train(CONFIG, small_dataset, tmp_path)
    before = run.path.read_bytes()
    heard = Heard()
    assert train(CONFIG, small_dataset, tmp_path, progress=heard) == run
    assert run.path.read_bytes() == before
    assert heard.said == [("finished", "completed")]


def test_divergence_ends_the_run_for_good(small_dataset, tmp_path):
    config = dataclasses.replace(CONFIG, learning_rate=1e30)
    run = train(config, small_dataset, tmp_path)
    assert run.status == "diverged"
    assert "no longer finite in epoch 1; try a smaller learning rate" in run.end["message"]
    before = run.path.read_bytes()
    assert "NaN" not in before.decode()
    assert train(config, small_dataset, tmp_path).path.read_bytes() == before
    assert [path.name for path in run.path.parent.iterdir()] == [run.path.name]


def test_divergence_keeps_the_epochs_before(small_dataset, tmp_path, monkeypatch):
    class Poison(Heard):
        def epoch_finished(self, config, line):
            small_dataset.train_images[0] = float("nan")  # the loss is NaN from now on

    run = train(CONFIG, small_dataset, tmp_path, progress=Poison())
    assert (run.status, len(run.epochs)) == ("diverged", 1)
    assert "in epoch 2" in run.end["message"]


def test_a_failure_is_noted_and_can_be_gone_on_from(small_dataset, tmp_path):
    class Breaks(Heard):
        def epoch_finished(self, config, line):
            if line["epoch"] == 2:
                raise RuntimeError("the device fell asleep\nand more")

    with pytest.raises(RuntimeError, match="fell asleep"):
        train(CONFIG, small_dataset, tmp_path, progress=Breaks())
    failed = read(record_of(tmp_path, CONFIG))
    assert (failed.status, failed.end["message"]) == ("failed", "RuntimeError: the device fell asleep")
    assert failed.end["seconds"] > 0
    heard = Heard()
    assert train(CONFIG, small_dataset, tmp_path, progress=heard).status == "completed"
    assert heard.said[0] == ("started", 2)


def test_full_disk_leaves_a_run_that_can_go_on(small_dataset, tmp_path, monkeypatch):
    real = os.fsync

    class Full(Heard):
        def epoch_finished(self, config, line):
            def full(descriptor):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(LabError, match=r"No space left on device.*stays valid; make room"):
        train(CONFIG, small_dataset, tmp_path, progress=Full())
    monkeypatch.setattr(os, "fsync", real)
    path = record_of(tmp_path, CONFIG)
    assert len(read(path).epochs) == 1
    assert not path.with_name(f"{path.stem}.ckpt.partial").exists()
    assert train(CONFIG, small_dataset, tmp_path).status == "completed"


def test_validation_never_sees_the_test_images(small_dataset, tmp_path):
    config = dataclasses.replace(CONFIG, validation=24, epochs=2)
    run = train(config, small_dataset, tmp_path / "a")
    assert [line["count"] for line in run.epochs] == [24, 24]
    nothing = torch.full_like(small_dataset.test_images, float("nan"))
    blind = dataclasses.replace(small_dataset, test_images=nothing)
    assert without_times(train(config, blind, tmp_path / "b").epochs) == without_times(run.epochs)
    # and the held-back images are not trained on
    changed = small_dataset.train_images.clone()
    changed[40:] = 0
    other = train(config, dataclasses.replace(small_dataset, train_images=changed), tmp_path / "c")
    assert [line["loss"] for line in other.epochs] == [line["loss"] for line in run.epochs]


def test_what_does_not_fit(small_dataset, tmp_path):
    with pytest.raises(LabError, match="needs the data set 'digits', got 'mnist'"):
        train(dataclasses.replace(CONFIG, dataset="digits"), small_dataset, tmp_path)
    with pytest.raises(LabError, match="must leave images to train on: got 64 of 64"):
        train(dataclasses.replace(CONFIG, validation=64), small_dataset, tmp_path)
    with pytest.raises(LabError, match=r"precision '64-true'.*'32-true'"):
        train(dataclasses.replace(CONFIG, precision="64-true"), small_dataset, tmp_path, fabric=make_fabric())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("method", ["baseline", "cosine", "batch", "weight"])
def test_other_precisions(precision, method, small_dataset, tmp_path):
    config = dataclasses.replace(CONFIG, method=method, precision=precision, epochs=6, learning_rate=0.5)
    run = train(config, small_dataset, tmp_path)
    assert run.status == "completed"
    assert run.epochs[-1]["loss"] < run.epochs[0]["loss"]


@pytest.mark.parametrize(("precision", "rounded"), [("32-true", False), ("bf16-mixed", True)])
def test_32_bits_are_not_rounded_to_fewer(precision, rounded, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not rounded)
    make_fabric(precision=precision)
    assert torch.backends.cudnn.allow_tf32 is rounded


def test_unknown_device_and_precision():
    with pytest.raises(LabError, match="cannot use --device abacus"):
        make_fabric("abacus")
    with pytest.raises(LabError, match="--precision 3-bit"):
        make_fabric(precision="3-bit")


@pytest.mark.parametrize("method", ["baseline", "cosine"])
def test_errors_by_factor_are_of_scaled_test_images(method, small_dataset, tmp_path):
    factors = (0.01, 1.0, 100.0)
    config = dataclasses.replace(CONFIG, method=method, factors=factors, learning_rate=0.5)
    run = train(config, small_dataset, tmp_path, keep_checkpoint=True)
    assert ["errors_by_factor" in line for line in run.epochs] == [False, False, True]
    model = mlp((64, 16, 12, 10), method)
    model.load_state_dict(weights_of(tmp_path, config))
    x = small_dataset.test_images.flatten(1)
    with torch.no_grad():
        wrong = [int((model(x * f).argmax(1) != small_dataset.test_labels).sum()) for f in factors]
    assert run.epochs[-1]["errors_by_factor"] == [list(pair) for pair in zip(factors, wrong, strict=True)]
    assert wrong[1] == run.errors[-1]
    if method == "cosine":  # but for the constant component of 1e-4
        assert len(set(wrong)) == 1


def test_dropout_follows_from_the_seed_and_is_for_training_only(small_dataset, tmp_path):
    config = dataclasses.replace(CONFIG, input_dropout=0.2, dropout=0.5, learning_rate=0.3)
    one = train(config, small_dataset, tmp_path / "one", keep_checkpoint=True)
    torch.rand(5)  # other random numbers are drawn in between
    with pytest.raises(KeyboardInterrupt):
        train(config, small_dataset, tmp_path / "two", progress=Heard(stop_at=1))
    torch.rand(5)
    two = train(config, small_dataset, tmp_path / "two")
    assert without_times(one.epochs) == without_times(two.epochs)
    plain = train(CONFIG, small_dataset, tmp_path / "plain")
    assert plain.epochs[0]["loss"] != one.epochs[0]["loss"]
    model = mlp((64, 16, 12, 10), "baseline")  # without dropout
    model.load_state_dict(weights_of(tmp_path / "one", config))
    with torch.no_grad():
        wrong = (model(small_dataset.test_images.flatten(1)).argmax(1) != small_dataset.test_labels).sum()
    assert int(wrong) == one.errors[-1]
