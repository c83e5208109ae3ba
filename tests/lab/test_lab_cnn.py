"""The convolutional network, its moving average and its task, on small made images."""

import dataclasses

import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from test_lab_train import Heard, weights_of, without_times
from torch import nn

from cosnorm_lab.augmentation import middle
from cosnorm_lab.config import CNNConfig, MLPConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.data.sparse import SparseRows
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.models import cnn, mlp, trained_weights
from cosnorm_lab.sparse_linear import SparseLinear
from cosnorm_lab.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
RATES = {"cosine": 3.0, "centered": 3.0, "batch": 0.2, "layer": 0.2, "weight": 1.0, "mean-only": 0.05}


def config(method: str = "cosine", **changes) -> CNNConfig:
    values = {"recipe": "test", "dataset": "cifar10", "epochs": 3, "batch_size": 16, "steps": 8}
    small = {"filters": (6, 8), "hidden": (16, 12), "average_decay": 0.9}
    rate = {"learning_rate": RATES.get(method, 0.1)}
    return CNNConfig(method=method, **{**values, **small, **rate, **changes})


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_learns(method, colours, tmp_path):
    run = train(config(method, epochs=6, init_std=0.1), colours, tmp_path)
    assert run.status == "completed"
    assert run.epochs[-1]["loss"] < 0.9 * run.epochs[0]["loss"]
    assert run.errors[-1] < 24  # of 48; guessing gives 36
    names = [layer["name"] for layer in run.epochs[-1]["layers"]]
    assert names == ["conv1", "conv2", "hidden1", "hidden2", "output"]
    assert len(run.epochs[0]["pre_activation"]) == 3


@pytest.mark.parametrize("augmentation", [False, True])
@pytest.mark.parametrize("method", ["cosine", "batch"])
def test_a_stopped_run_goes_on_as_if_it_had_not(method, augmentation, colours, tmp_path):
    """The moving average, batch normalization's buffers and the random views among it."""
    settings = config(method, augmentation=augmentation, steps=7)  # a pass over the images has 6 batches
    whole = train(settings, colours, tmp_path / "whole", keep_checkpoint=True)
    with pytest.raises(KeyboardInterrupt):
        train(settings, colours, tmp_path / "parts", progress=Heard(stop_at=1))
    parts = train(settings, colours, tmp_path / "parts", keep_checkpoint=True)
    assert without_times(parts.epochs) == without_times(whole.epochs)
    one, other = (weights_of(tmp_path / name, settings) for name in ("whole", "parts"))
    assert any(name.startswith("averaged.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("steps", [1, 6])  # after a few more, the first average is forgotten
def test_the_loop_is_gradient_descent_and_its_moving_average(steps, colours, tmp_path):
    """Everything again with nothing but torch: steps, decay min(0.9, (1 + n)/(10 + n)), errors."""
    settings = config("baseline", epochs=2, steps=steps)
    run = train(settings, colours, tmp_path, keep_checkpoint=True)
    model = cnn((3, 24, 24), (6, 8), (16, 12), 4, "baseline", init_std=settings.init_std)
    averaged = [parameter.detach().clone() for parameter in model.parameters()]
    images = middle(colours.train_images)
    for step in range(2 * steps):
        generator = torch.Generator().manual_seed(step // 6)
        part = torch.randperm(96, generator=generator)[step % 6 * 16 :][:16]
        model.zero_grad()
        F.cross_entropy(model(images[part]), colours.train_labels[part]).backward()
        decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0  # the first one is copied
        with torch.no_grad():
            for mean, parameter in zip(averaged, model.parameters(), strict=True):
                parameter -= settings.learning_rate * parameter.grad
                mean.copy_(decay * mean + (1 - decay) * parameter)
    found = weights_of(tmp_path, settings)
    for (name, parameter), mean in zip(model.named_parameters(), averaged, strict=True):
        torch.testing.assert_close(found[f"trained.{name}"], parameter.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[f"averaged.{name}"], mean, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        for parameter, mean in zip(model.parameters(), averaged, strict=True):
            parameter.copy_(mean)
        wrong = (model(middle(colours.test_images)).argmax(1) != colours.test_labels).sum()
    assert run.errors[-1] == int(wrong)


def test_every_step_draws_views_of_its_own(colours, tmp_path, monkeypatch):
    seeds = []

    def noted(images, generator, crop):
        seeds.append(generator.initial_seed())
        return middle(images)

    monkeypatch.setattr("cosnorm_lab.tasks.cnn.augmented", noted)
    for seed in (0, 1):
        train(config(augmentation=True, seed=seed, epochs=2, steps=4), colours, tmp_path)
    assert len(set(seeds)) == len(seeds) == 16


def test_without_average_the_trained_parameters_are_evaluated(colours, tmp_path):
    settings = config("baseline", average_decay=0.0, epochs=1)
    run = train(settings, colours, tmp_path, keep_checkpoint=True)
    model = cnn((3, 24, 24), (6, 8), (16, 12), 4, "baseline")
    weights = weights_of(tmp_path, settings)
    state = {name.removeprefix("trained."): w for name, w in weights.items() if name.startswith("trained.")}
    model.load_state_dict(state)
    with torch.no_grad():
        wrong = (model(middle(colours.test_images)).argmax(1) != colours.test_labels).sum()
    assert run.errors == [int(wrong)]


def test_the_network_is_the_papers():
    model = cnn((3, 24, 24), (64, 64), (384, 192), 10, "baseline")
    shapes = {name: tuple(weight.shape) for name, weight in trained_weights(model).items()}
    assert shapes == {
        "conv1": (64, 75),
        "conv2": (64, 1600),
        "hidden1": (384, 2304),
        "hidden2": (192, 384),
        "output": (10, 192),
    }
    assert model(torch.rand(2, 3, 24, 24)).shape == (2, 10)


def test_convolutions_are_followed_by_relu_and_pooling():
    """In that order, as the paper's network has them."""
    network = cnn((3, 9, 7), (4, 5), (6,), 10, "baseline", init_std=0.5).double()
    x = torch.randn(8, 3, 9, 7, dtype=torch.float64)
    first, second, hidden = network.hidden
    expected = F.max_pool2d(first(x).relu(), 3, stride=2, padding=1)
    expected = F.max_pool2d(second(expected).relu(), 3, stride=2, padding=1)
    expected = network.output(hidden(expected.flatten(1)).relu())
    torch.testing.assert_close(network(x), expected)


def test_every_method_begins_with_the_same_weights():
    first = trained_weights(cnn((3, 24, 24), (4,), (5,), 3, "baseline", seed=3))
    for method in NORMALIZATIONS:
        found = trained_weights(cnn((3, 24, 24), (4,), (5,), 3, method, seed=3))
        assert all(torch.equal(found[name], first[name]) for name in first)
    other = trained_weights(cnn((3, 24, 24), (4,), (5,), 3, "baseline", seed=4))
    assert not torch.equal(other["conv1"], first["conv1"])


def test_normalizations_of_convolutions():
    layers = {method: cnn((3, 24, 24), (4,), (5,), 3, method).hidden[0] for method in NORMALIZATIONS}
    assert isinstance(layers["batch"][1], nn.BatchNorm2d)
    assert isinstance(layers["layer"][1], nn.GroupNorm)
    assert layers["layer"][1].num_groups == 1
    assert layers["weight"].weight.flatten(1).norm(dim=1).allclose(torch.ones(4))
    assert layers["cosine"].augment == 1e-4
    assert layers["centered"].centered
    assert layers["baseline"].bias is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be positive"),
        ({"filters": ()}, "filters must name at least one layer"),
        ({"hidden": (3, 0)}, "hidden must name at least one layer"),
        ({"average_decay": 1.0}, "average_decay must be below 1"),
        ({"average_decay": -0.1}, "average_decay must not be negative"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def sparse_set() -> tuple[Dataset, Dataset]:
    """The same documents as sparse rows and as a dense tensor."""
    generator = torch.Generator().manual_seed(0)
    parts, dense_parts = [], []
    for count in (80, 40):
        labels = torch.arange(count) % 4
        rows = torch.rand(count, 30, generator=generator)
        rows[torch.rand(count, 30, generator=generator) < 0.8] = 0
        rows[torch.arange(count), labels * 3] = 1.0
        rows[7] = 0  # an empty document
        parts += [SparseRows(scipy.sparse.csr_matrix(rows.numpy())), labels]
        dense_parts += [rows, labels]
    options = {"num_classes": 4, "checksums": {}, "exact": False}
    return Dataset("20news", *parts, **options), Dataset("20news", *dense_parts, **options)


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_sparse_documents_train_as_dense_ones(method, tmp_path):
    sparse, dense = sparse_set()
    settings = MLPConfig(
        recipe="test", dataset="20news", method=method, hidden=(16, 12), epochs=4, batch_size=20,
        learning_rate=RATES.get(method, 0.3),
    )  # fmt: skip
    run = train(settings, sparse, tmp_path / "sparse", keep_checkpoint=True)
    train(settings, dense, tmp_path / "dense", keep_checkpoint=True)
    assert run.status == "completed"
    assert run.epochs[-1]["loss"] < run.epochs[0]["loss"]
    weights, expected = (weights_of(tmp_path / name, settings) for name in ("sparse", "dense"))
    for name, weight in weights.items():
        # Sparse weight normalization is a layer of the laboratory, the dense one torch's parametrization.
        torchs = name.replace("weight", "parametrizations.weight.original1")
        own = expected[name] if name in expected else expected[torchs]
        torch.testing.assert_close(weight, own, atol=2e-4, rtol=1e-3)
    held = train(dataclasses.replace(settings, validation=20, epochs=1), sparse, tmp_path)
    assert held.epochs[0]["count"] == 20


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("by_feature", [False, True])
def test_a_sparse_linear_layer(bias, by_feature):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 14, generator=generator)
    x[torch.rand(9, 14, generator=generator) < 0.7] = 0
    layer = SparseLinear(14, 5, bias=bias)
    if by_feature:
        layer.weight.data = layer.weight.data.t().contiguous().t()
    cotangent = torch.randn(9, 5, generator=generator)
    gradients = []
    for given in (x, x.to_sparse_csr()):
        layer.zero_grad()
        output = layer(given)
        torch.testing.assert_close(output, F.linear(x, layer.weight, layer.bias))
        output.backward(cotangent)
        gradients.append([parameter.grad.clone() for parameter in layer.parameters()])
    torch.testing.assert_close(*gradients)


def test_the_first_weight_of_a_sparse_network_lies_feature_by_feature():
    for method in NORMALIZATIONS:
        plain, sparse = mlp((30, 16, 12, 4), method), mlp((30, 16, 12, 4), method, sparse=True)
        weight = trained_weights(sparse)["hidden1"]
        assert weight.t().is_contiguous()
        assert torch.equal(weight, trained_weights(plain)["hidden1"])


def test_validation_must_leave_images(colours, tmp_path):
    with pytest.raises(LabError, match="validation must leave images to train on: got 96 of 96"):
        train(config(validation=96), colours, tmp_path)
