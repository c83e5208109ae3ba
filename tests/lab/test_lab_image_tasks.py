"""The contrastive recipe and the heads: views, probe, networks, and that trainings learn and go on."""

import dataclasses

import numpy as np
import pytest
import torch
from test_lab_train import Heard, weights_of, without_times

from cosnorm_lab.config import ContrastiveConfig, HeadsConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.data.drawn_faces import load_drawn_faces
from cosnorm_lab.methods import CONTRASTIVE, HEADS, taking
from cosnorm_lab.networks import build
from cosnorm_lab.probe import probe_errors
from cosnorm_lab.train import train
from cosnorm_lab.views import random_view

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def faces() -> Dataset:
    return load_drawn_faces(12, 6)


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    """A row, a column, both or nothing on noise: 16 by 16 pixels, four classes that a view keeps apart."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (160, 80):
        labels = torch.arange(count) % 4
        images = 0.2 * torch.rand(count, 16, 16, generator=generator)
        for image, label in zip(images, labels, strict=True):
            place = int(torch.randint(5, 11, (1,), generator=generator))
            if label in (0, 2):
                image[place - 1 : place + 1] += 0.7
            if label in (1, 2):
                image[:, place - 1 : place + 1] += 0.7
        parts += [images, labels]
    return Dataset("mnist", *parts, num_classes=4, checksums={}, exact=False)


def contrastive(method: str = "nt-xent", **changes) -> ContrastiveConfig:
    values = {"epochs": 3, "learning_rate": 2e-3, "batch_size": 40, "embedding_size": 8, **changes}
    return ContrastiveConfig(recipe="test", dataset="mnist", method=method, **values)


def heads(method: str, **changes) -> HeadsConfig:
    values = {"recipe": "test", "dataset": "faces", "learning_rate": 3e-3, "epochs": 3, "batch_size": 21}
    scale = {"scale": 10.0} if method in taking("scale") else {}
    margin = {"margin": 0.35} if method in taking("margin") else {}
    return HeadsConfig(method=method, **{**values, **scale, **margin, **changes})


@pytest.mark.parametrize("method", CONTRASTIVE)
def test_contrastive_runs_record_probe_errors(method, shapes, tmp_path):
    run = train(contrastive(method), shapes, tmp_path)
    assert run.status == "completed"
    for line in run.epochs:
        assert set(line) == {"kind", "epoch", "loss", "errors", "count", "seconds", "evaluation_seconds"}
        assert line["count"] == 80
    losses = [line["loss"] for line in run.epochs]
    if method == "untrained":
        assert losses == [0, 0, 0]
        assert len(set(run.errors)) == 1
    else:
        assert losses[-1] < losses[0]
        assert run.errors[-1] < 60  # guessing among four classes


def test_every_epoch_and_seed_draws_views_of_its_own(shapes, tmp_path, monkeypatch):
    states = []

    def noted(images, generator):
        states.append(generator.get_state().numpy().tobytes())
        return random_view(images, generator)

    monkeypatch.setattr("cosnorm_lab.tasks.contrastive.random_view", noted)
    for seed in (0, 1):
        train(contrastive(seed=seed), shapes, tmp_path)
    assert len(set(states)) == len(states) == 2 * 3 * 4 * 2  # seeds, epochs, batches, views


@pytest.mark.parametrize("make", [contrastive, lambda: heads("cosine-distance", dataset="mnist")])
def test_a_stopped_run_goes_on_as_if_it_had_not(make, shapes, tmp_path):
    config = make()
    whole = train(config, shapes, tmp_path / "whole", keep_checkpoint=True)
    with pytest.raises(KeyboardInterrupt):
        train(config, shapes, tmp_path / "parts", progress=Heard(stop_at=2))
    parts = train(config, shapes, tmp_path / "parts", keep_checkpoint=True)
    assert without_times(parts.epochs) == without_times(whole.epochs)
    one, other = (weights_of(tmp_path / name, config) for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("network", ["small-cnn", "mini-xception"])
@pytest.mark.parametrize("method", HEADS)
def test_heads_learn(method, network, shapes, tmp_path):
    config = heads(method, network=network, embedding_size=16, epochs=8, dataset="mnist")
    run = train(config, shapes, tmp_path)
    assert run.status == "completed"
    assert run.epochs[-1]["loss"] < 0.8 * run.epochs[0]["loss"]
    assert run.errors[-1] < 30  # of 80; guessing among four classes gives 60
    assert all("embeddings" not in line for line in run.epochs)


@pytest.mark.parametrize("size", [2, 3])
def test_the_last_line_keeps_embeddings_that_give_the_errors(size, faces, tmp_path):
    config = heads("softmax", embedding_size=size)
    run = train(config, faces, tmp_path, keep_checkpoint=True)
    assert ["embeddings" in line for line in run.epochs] == [False, False, True]
    recorded = run.epochs[-1]["embeddings"]
    assert recorded["labels"] == faces.test_labels.tolist()
    points = torch.tensor(recorded["points"])
    assert points.shape == (42, size)
    weights = weights_of(tmp_path, config)
    logits = points @ weights["head.linear.weight"].T + weights["head.linear.bias"]
    wrong = int((logits.argmax(dim=1) != faces.test_labels).sum())
    assert abs(wrong - run.errors[-1]) <= 1  # points are rounded to four digits


def test_validation_never_sees_the_test_images(faces, tmp_path):
    config = heads("normface", validation=7, epochs=1)
    shuffled = torch.randperm(len(faces.train_labels), generator=torch.Generator().manual_seed(0))
    mixed = dataclasses.replace(
        faces, train_images=faces.train_images[shuffled], train_labels=faces.train_labels[shuffled]
    )
    blind = dataclasses.replace(mixed, test_images=mixed.test_images * float("nan"))
    run = train(config, blind, tmp_path)
    assert (run.status, run.epochs[0]["count"]) == ("completed", 7)


def test_the_probe_finds_a_linear_map_at_every_scale():
    generator = np.random.default_rng(0)
    features = torch.from_numpy(generator.normal(size=(300, 6)).astype(np.float32))
    labels = (features @ torch.from_numpy(generator.normal(size=(6, 3)).astype(np.float32))).argmax(dim=1)
    scales = torch.tensor([1e-4, 1e3, 1.0, 1.0, 1e5, 1.0])
    train, test = features[:200] * scales + 7, features[200:] * scales + 7
    assert probe_errors(train, labels[:200], test, labels[200:]) <= 5
    constant = torch.cat([train, torch.ones(200, 1)], dim=1), torch.cat([test, torch.ones(100, 1)], dim=1)
    assert probe_errors(constant[0], labels[:200], constant[1], labels[200:]) <= 5
    noise = torch.from_numpy(generator.normal(size=(200, 6)).astype(np.float32))
    assert probe_errors(noise, labels[:200], test, labels[200:]) > 40


def test_a_view_without_randomness_is_the_image():
    images = torch.rand(3, 1, 12, 9)
    still = {"smallest_crop": 1.0, "rotation": 0.0, "shift": 0.0, "brightness": 0.0, "noise": 0.0}
    torch.testing.assert_close(random_view(images, torch.Generator(), **still), images, atol=1e-5, rtol=0)


def test_views_differ_repeat_and_stay_near_the_image():
    images = torch.zeros(64, 1, 20, 20)
    images[:, :, 6:14, 6:14] = 1.0
    views = [random_view(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert len(views[0].flatten(1).unique(dim=0)) == 64
    assert (views[0].mean(dim=(1, 2, 3)) > 0.05).all()  # the square never leaves the view
    noiseless = random_view(images, torch.Generator().manual_seed(0), noise=0.0)
    torch.testing.assert_close((views[0] - noiseless).std(), torch.tensor(0.1), rtol=0.05, atol=0)
    assert noiseless.min() >= 0
    assert noiseless.max() <= 1.3 + 1e-6


def test_a_crop_stretches():
    """A crop of half the side, in the middle, doubles what it sees."""
    images = torch.zeros(200, 1, 32, 32)
    images[:, :, 14:18, 14:18] = 1.0
    options = {"rotation": 0.0, "shift": 0.0, "brightness": 0.0, "noise": 0.0}
    views = random_view(images, torch.Generator().manual_seed(0), smallest_crop=0.5, **options)
    areas = views.sum(dim=(1, 2, 3))
    assert areas.min() >= 15.9
    assert 55 < areas.max() <= 64.1


def test_crops_lie_anywhere_inside_the_image():
    images = torch.ones(400, 1, 32, 32)
    images[:, :, 15:17, 15:17] = 9.0
    options = {"rotation": 0.0, "shift": 0.0, "brightness": 0.0, "noise": 0.0}
    views = random_view(images, torch.Generator().manual_seed(0), smallest_crop=0.6, **options)[:, 0]
    assert views.min() > 0.49  # half a pixel at the edge is interpolated with what lies outside
    places = views.flatten(1).argmax(dim=1)
    for place in (places // 32, places % 32):
        assert 4 <= place.min() < 12
        assert 19 < place.max() <= 27


@pytest.mark.parametrize("network", ["small-cnn", "mini-xception"])
@pytest.mark.parametrize("size", [(28, 28), (48, 48), (33, 50)])
def test_networks(network, size):
    state = torch.random.get_rng_state()
    model = build(network, size, 5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model(torch.rand(2, 1, *size)).shape == (2, 5)
    same, other = build(network, size, 5, seed=3), build(network, size, 5, seed=4)
    weights = [next(iter(one.parameters())) for one in (model, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_networks_refuse_what_they_cannot_take():
    with pytest.raises(ValueError, match="small-cnn wants images of at least 8x8 pixels"):
        build("small-cnn", (7, 20), 2, 0)
    with pytest.raises(ValueError, match="mini-xception wants images of at least 16x16"):
        build("mini-xception", (28, 15), 2, 0)
    with pytest.raises(ValueError, match="small-cnn or mini-xception, got 'vgg'"):
        build("vgg", (28, 28), 2, 0)
