"""A user's own data, in each of the forms that are read."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from lab_data import write_files
from test_lab_cli import call  # noqa: F401  (a fixture)

from cosnorm_lab.data import load
from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes.search import GRID, best_run
from cosnorm_lab.records import read_all


def samples(count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    y = np.arange(count) % 3
    x = generator.normal(size=(count, 4)).round(3)
    x[np.arange(count), y] += 3
    return x, y


def test_npz_is_split_evenly_and_always_alike(tmp_path):
    x, y = samples()
    np.savez(tmp_path / "data.npz", x=x, y=np.array(["a", "b", "c"])[y])
    data = load("own", tmp_path / "data.npz")
    assert (data.train_images.shape, data.test_images.shape) == ((40, 4), (10, 4))
    assert (data.num_classes, data.classes) == (3, ("a", "b", "c"))
    assert data.test_labels.bincount().min() >= 3
    together = torch.cat([data.train_images, data.test_images])
    assert sorted(together.tolist()) == sorted(x.tolist())
    assert torch.equal(data.train_images, load("own", tmp_path / "data.npz").train_images)


def test_npz_with_a_test_part_and_more_axes(tmp_path):
    x, y = samples()
    np.savez(
        tmp_path / "data.npz",
        x=x.reshape(50, 2, 2),
        y=y * 10,
        x_test=x[:7].reshape(7, 2, 2),
        y_test=y[:7] * 10,
    )
    data = load("own", tmp_path / "data.npz")
    assert (data.train_images.shape, data.test_images.shape) == ((50, 2, 2), (7, 2, 2))
    assert data.test_labels.tolist() == y[:7].tolist()


def svmlight(x: np.ndarray, y: np.ndarray) -> str:
    lines = []
    for row, label in zip(x, y, strict=True):
        fields = " ".join(f"{place + 1}:{value}" for place, value in enumerate(row) if abs(value) > 0.5)
        lines.append(f"{label * 2 - 1} {fields}\n")
    return "".join(lines)


def test_svmlight_is_sparse(tmp_path):
    x, y = samples()
    (tmp_path / "data").write_text(svmlight(x, y))
    data = load("own", tmp_path / "data")
    assert (data.train_images.shape, data.test_images.shape) == ((40, 4), (10, 4))
    (tmp_path / "data.t").write_text(svmlight(x[:9], y[:9]))
    data = load("own", tmp_path / "data")
    assert (len(data.train_images), len(data.test_images)) == (50, 9)
    assert data.test_labels.tolist() == y[:9].tolist()
    expected = torch.from_numpy(np.where(abs(x) > 0.5, x, 0)[:9].astype(np.float32))
    assert torch.equal(data.test_images[torch.arange(9)].to_dense(), expected)


def test_idx_files_of_any_content(tmp_path):
    folder = write_files(tmp_path / "data")
    data = load("own", folder)
    assert (data.name, data.exact, len(data.train_images)) == ("own", False, 64)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((3, 2))}, "holds x; expected x and y"),
        ({}, "holds no array"),
        (
            {"x": np.ones((3, 2)), "X_train": np.ones((3, 2)), "y": np.ones(3)},
            "holds x and X_train, which say",
        ),
        ({"x": np.ones((3, 2)), "y": np.ones(3), "groups": np.ones(2)}, r"expected groups of shape \(3,\)"),
        ({"x": np.ones((9, 2)), "y": np.linspace(0, 1, 9)}, "9 different values.*Is that the right"),
        ({"x": np.ones((9, 2)), "y": np.array([0, np.nan] + [1] * 7)}, r"y\[1\] is nan"),
        ({"x": np.ones((9, 2)), "y": np.ones((9, 2))}, r"expected y of shape .*got \(9, 2\)"),
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, r"got \(3, 2\) and \(4,\)"),
        ({"x": np.ones(3), "y": np.ones(3)}, r"expected x and y of shapes \(N, …\)"),
        ({"x": np.ones((3, 2)), "y": np.ones(3), "x_test": np.ones((1, 2))}, "expected x and y"),
        (
            {"x": np.where(np.arange(18) > 6, np.nan, 1.0).reshape(9, 2), "y": np.arange(9)},
            r"x\[3, 1\] is nan, and 10 more; fill",
        ),
        ({"x": np.full((9, 2), -np.inf), "y": np.arange(9)}, r"x\[0, 0\] is -inf"),
        ({"x": np.array([["a"], ["b"]]), "y": np.arange(2)}, "x must hold numbers, got <U1"),
        ({"x": np.ones((10, 2)), "y": np.zeros(10)}, "one class only"),
        ({"x": np.ones((10, 2)), "y": np.arange(10) > 8}, "cannot be split into training and test samples"),
        (
            {"x": np.ones((4, 2)), "y": np.arange(4), "x_test": np.ones((4, 3)), "y_test": np.arange(4)},
            "x and x_test must agree",
        ),
    ],
)
def test_wrong_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(LabError, match=f"data.npz.*{message}"):
        load("own", tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("line", "text"), [(2, "1 3:x"), (1, "one 1:2"), (3, "1 2:3 4"), (2, "1 -2:1"), (3, "\x00\xff")]
)
def test_a_line_that_is_not_svmlight_is_named(tmp_path, line, text):
    lines = ["0 1:1", "1 2:1", "0 1:2", "1 2:2"]
    lines[line - 1] = text
    (tmp_path / "data.txt").write_text("\n".join(lines) + "\n", encoding="latin-1")
    with pytest.raises(LabError, match=f"data.txt, line {line}: expected `label index:value"):
        load("own", tmp_path / "data.txt")


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(LabError, match=r"is not there; name, by --data-dir, an .npz"):
        load("own", tmp_path / "none")
    with pytest.raises(LabError, match="own data need --data-dir"):
        load("own")
    (tmp_path / "data.npz").write_bytes(gzip.compress(b"no zip"))
    with pytest.raises(LabError, match=r"cannot be read as .npz"):
        load("own", tmp_path / "data.npz")
    (tmp_path / "empty").write_text("")
    with pytest.raises(LabError, match=r"empty.*"):
        load("own", tmp_path / "empty")


@pytest.mark.parametrize("form", ["npz", "svmlight"])
def test_the_comparison_on_own_data(call, tmp_path: Path, form):  # noqa: F811
    x, y = samples()
    path = tmp_path / ("data.npz" if form == "npz" else "data")
    if form == "npz":
        np.savez(path, x=x, y=y)
    else:
        path.write_text(svmlight(x, y))
    options = [
        "--methods",
        "baseline,cosine",
        "--epochs",
        "3",
        "--set",
        "hidden=8",
        "--set",
        "batch_size=10",
        "--device",
        "cpu",
        "--workers",
        "1",
        "--seeds",
        "2",
    ]
    status, _, err = call("run", "own", *options, "--data-dir", path)
    assert status == 0, err
    runs = read_all("runs")
    final = [run for run in runs if not run.config.validation]
    assert [run.status for run in final] == ["completed"] * 4
    assert final[0].config.hidden == (8,)
    for run in final:
        tried = [one for one in runs if one.config.validation and one.method == run.method]
        assert {one.config.validation for one in tried} == {8}
        assert len(tried) >= len(GRID)
        assert run.config.learning_rate == best_run(tried).config.learning_rate
    assert call("report", "runs", "-o", "report.html")[0] == 0
    assert "<h2>own</h2>" in Path("report.html").read_text()


CNN = [
    *("--lr", "paper", "--seeds", 1),
    *("--set", "network=cnn", "--set", "filters=4-4", "--set", "hidden=8"),
    *("--set", "steps=3", "--epochs", "2"),
]


def pictures(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(count) % 2
    x = np.random.default_rng(0).integers(0, 90, (count, 3, 11, 9)).astype(np.uint8)
    x[y == 1, 0, :5] += 120
    return x, y


@pytest.mark.parametrize("form", ["bytes", "numbers", "grey", "augmented"])
def test_the_small_cnn_on_own_images(call, tmp_path, form):  # noqa: F811
    x, y = pictures()
    x = {"numbers": x / 255, "grey": x[:, 0]}.get(form, x)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    options = ["--set", "augmentation=true", "--set", "crop=8"] if form == "augmented" else []
    status, _, err = call(
        "run", "own", "--methods", "baseline,cosine", *CNN, *options, "--data-dir", tmp_path / "data.npz"
    )
    assert status == 0, err
    runs = read_all("runs")
    assert [run.status for run in runs] == ["completed"] * 2
    assert runs[0].config.kind == "cnn"
    assert runs[0].epochs[0]["layers"][0]["name"] == "conv1"


def test_bytes_of_pixels_are_scaled_for_an_mlp(call, tmp_path):  # noqa: F811
    x, y = pictures()
    np.savez(tmp_path / "bytes.npz", x=x, y=y)
    np.savez(tmp_path / "numbers.npz", x=(x / np.float32(255)), y=y)
    np.savez(tmp_path / "rows.npz", x=x.reshape(len(x), -1), y=y)
    for name in ("bytes", "numbers", "rows"):
        where = ("--data-dir", tmp_path / f"{name}.npz", "--out", name)
        options = ("--methods", "baseline", "--epochs", 2, "--threads", 1, "--lr", "paper", "--seeds", 1)
        assert call("run", "own", *options, *where)[0] == 0
    losses = [[line["loss"] for line in read_all(name)[0].epochs] for name in ("bytes", "numbers", "rows")]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] == losses[2]


def test_both_networks_stand_in_one_report(call, tmp_path):  # noqa: F811
    x, y = pictures()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    for network in (("--lr", "paper", "--seeds", 1), CNN[:-2]):
        options = ("--methods", "baseline", "--epochs", "2", "--data-dir", tmp_path / "data.npz")
        assert call("run", "own", *network, *options)[0] == 0
    assert call("report", "runs")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "baseline, CNN" in page
    assert "baseline, MLP" in page
    assert "against epoch or step" in page


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.ones((20, 4)), (), "but these samples have the shape (16, 4); an MLP takes them"),
        (np.ones((20, 4, 9)), ("--set", "crop=5"), "images of 4×9 pixels cannot be cropped to 5"),
        (np.ones((20, 9, 9)), ("--set", "augmentation=true"), "these images are float32"),
        (np.ones((20, 9, 9)), ("--set", "network=rnn"), "network must be mlp or cnn; got 'rnn'"),
        (np.ones((20, 9, 9)), ("--set", "network=mlp,cnn"), "network must be mlp or cnn"),
        (np.ones((20, 9, 8, 3)), (), "as if channels came last"),
        (np.ones((20, 9, 8), np.uint8), ("--set", "augmentation=true"), "have 9×8 pixels; give a crop"),
    ],
)
def test_what_the_cnn_cannot_take(call, tmp_path, x, options, message):  # noqa: F811
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(20) % 2)
    network = ("--lr", "paper") if any("network" in option for option in options) else CNN
    arguments = ("--methods", "cosine", *network, *options, "--data-dir", tmp_path / "data.npz")
    status, _, err = call("run", "own", *arguments)
    assert status == 1
    assert message in err
