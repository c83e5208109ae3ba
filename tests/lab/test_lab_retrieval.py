"""The retrieval recipe: classes apart, neighbours against a plain search, every loss, and its report."""

import dataclasses

import pytest
import torch
from small_recipes import small_data, small_runs
from torch.nn import functional as F

from cosnorm_lab.config import RetrievalConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.errors import LabError
from cosnorm_lab.fabric import make_fabric
from cosnorm_lab.methods import RETRIEVAL
from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.report.page import write_report
from cosnorm_lab.report.readme import markdown_table
from cosnorm_lab.tasks.batches import chance, split
from cosnorm_lab.tasks.retrieval import RetrievalTask, moved
from cosnorm_lab.train import train

CPU = torch.device("cpu")


def config(method: str = "softmax", **changes) -> RetrievalConfig:
    (run, *_) = small_runs("retrieval", methods=[method])
    return dataclasses.replace(run, **changes)


def data(classes: int = 6, each: int = 8) -> Dataset:
    labels = torch.arange(classes * each) % classes
    images = torch.randint(0, 256, (len(labels), 3, 16, 16), dtype=torch.uint8)
    return Dataset("cifar100", images, labels, images, labels, num_classes=classes, checksums={}, exact=False)


def test_no_class_is_on_both_sides():
    _, labels, images, judged = split(config(seen=4), data(), CPU)
    assert labels.unique().tolist() == [0, 1, 2, 3]
    assert judged.unique().tolist() == [4, 5]
    assert len(images) == 16
    assert chance(config(seen=4), data()) == 16


def test_validation_holds_back_whole_classes():
    for images in (8, 15):
        _, labels, _, judged = split(config(seen=4, validation=images), data(), CPU)
        assert labels.unique().tolist() == [0, 1, 2]
        assert judged.unique().tolist() == [3]
    for images in (7, 32):
        with pytest.raises(LabError, match="the last one has 8 images"):
            split(config(seen=4, validation=images), data(), CPU)
    with pytest.raises(LabError, match="seen must leave classes to look for: got 6 of 6"):
        split(config(seen=6), data(), CPU)


@pytest.mark.parametrize("method", RETRIEVAL)
def test_every_loss_learns_and_is_judged_by_neighbours(method: str, one_thread):
    torch.manual_seed(0)
    run = config(method, learning_rate=0.01, epochs=20)
    task = RetrievalTask(run, small_data("cifar100"), make_fabric(precision="32-true"))
    first = task.epoch(1)
    for epoch in range(2, 15):
        last = task.epoch(epoch)
    assert last < 0.9 * first
    line = task.evaluate(last=True)
    images = task.test_images.float()
    images = (images - images.mean((1, 2, 3), keepdim=True)) / images.std(
        (1, 2, 3), correction=0, keepdim=True
    )
    with torch.no_grad():
        embeddings = F.normalize(task.network.embedding(images), dim=1).double()
    cosines = (embeddings @ embeddings.T).fill_diagonal_(-2)
    nearest = task.test_labels[cosines.argmax(1)]
    assert line["errors"] == int((nearest != task.test_labels).sum())
    assert line["count"] == len(task.test_labels)
    assert 0 < line["map_at_r"] <= 1


def test_images_are_moved_and_mirrored_each_for_itself():
    images = torch.randint(0, 256, (64, 3, 12, 12), dtype=torch.uint8)
    one, two = (moved(images, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert one.shape == images.shape
    assert not torch.equal(one, two)
    again = moved(images, torch.Generator().manual_seed(0))
    assert torch.equal(one, again)
    same = moved(images[:1].repeat(64, 1, 1, 1), torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in same}) > 30


def test_the_recipe():
    runs = RECIPES["retrieval"].configs()
    assert len(runs) == 3 * len(RETRIEVAL)
    assert {run.seen for run in runs} == {50}
    assert {run.method: (run.scale, run.margin, run.temperature) for run in runs}["arcface"] == (16.0, 0.2, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"margin": 0.1}, "margin is an option of arcface"),
        ({"temperature": 0.1}, "temperature is an option of sup-con only, got softmax"),
        ({"method": "arcface", "scale": 0.0}, "scale must be positive for arcface"),
        ({"seen": 0}, "seen must be positive"),
        ({"filters": ()}, "filters must name at least one"),
    ],
)
def test_wrong_configurations(changes: dict, words: str):
    with pytest.raises(ValueError, match=words):
        config(**changes)


def test_the_report_shows_recall_and_map_with_intervals(tmp_path, one_thread):
    runs = [
        train(dataclasses.replace(config(method), seed=seed), small_data("cifar100"), tmp_path)
        for method in ("softmax", "arcface")
        for seed in (0, 1)
    ]
    table = markdown_table(runs)
    assert "| recall@1 | MAP@R |" in table.replace("variance | ", "| ")
    assert table.count(" ± ") >= 6
    write_report(runs, tmp_path / "report.html")
    assert "MAP@R" in (tmp_path / "report.html").read_text()
