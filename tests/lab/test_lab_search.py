"""The search for learning rates, and the comparison on own data that stands on it."""

import dataclasses
import io
import re
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from lab_data import record_of
from report_records import config, write_record
from rich.console import Console
from test_lab_cli import call  # noqa: F401  (a fixture)

from cosnorm_lab.config import KINDS, MLPConfig
from cosnorm_lab.data import load
from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes import RECIPES, own
from cosnorm_lab.recipes.comparison import check_types
from cosnorm_lab.recipes.search import GRID, best_rates, edge, further, neighbour
from cosnorm_lab.records import read_all
from cosnorm_lab.report.figures import embeddings
from cosnorm_lab.report.series import group
from cosnorm_lab.tables import print_best, print_results
from cosnorm_lab.tasks.batches import split, standardized
from cosnorm_lab.train import train


def searched(folder: Path, errors: dict[float, int], method: str = "cosine", **options):
    return [
        write_record(
            folder, config(method, learning_rate=rate, validation=100, epochs=1), errors=[count], **options
        )
        for rate, count in errors.items()
    ]


@pytest.mark.parametrize(
    ("rate", "steps", "expected"),
    [(30, 1, 100), (0.03, -1, 0.01), (1, 1, 3), (3, -1, 1), (0.1, 3, 3), (9, 1, 30)],
)
def test_half_decades(rate, steps, expected):
    assert neighbour(rate, steps) == expected
    assert all(neighbour(one, 1) == other for one, other in pairwise(GRID))


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({0.1: 9, 0.3: 5, 1.0: 7}, None),
        ({0.1: 9, 0.3: 5, 1.0: 4}, 3.0),
        ({0.1: 2, 0.3: 5, 1.0: 4}, 0.03),
        ({0.1: 4, 0.3: 4, 1.0: 4}, 0.03),  # of equal ones the smallest
        ({0.3: 4}, None),  # a rate that was given
        ({1000.0: 4, 300.0: 5}, 3000.0),
        ({3000.0: 4, 1000.0: 5}, None),  # far enough
    ],
)
def test_the_rate_beyond_an_edge(tmp_path, errors, expected):
    assert edge(searched(tmp_path, errors)) == expected


def test_a_diverged_run_ends_the_grid(tmp_path):
    runs = searched(tmp_path, {0.1: 9, 0.3: 5}) + searched(tmp_path, {1.0: 1}, status="diverged")
    assert edge(runs) is None
    assert best_rates(runs) == {"cosine": 0.3}
    with pytest.raises(LabError, match="no run of cosine came to its end; try smaller rates"):
        best_rates(runs[2:])


def test_only_the_methods_at_an_edge_go_on(tmp_path):
    runs = searched(tmp_path, {0.1: 9, 0.3: 5, 1.0: 7}, "batch") + searched(tmp_path, {0.1: 9, 0.3: 5})
    (more,) = further(runs)
    assert (more.method, more.learning_rate, more.validation) == ("cosine", 1.0, 100)


def test_stages_of_own(tmp_path):
    arguments = {"methods": ["cosine", "batch"], "epochs": 40, "seeds": 2, "held_back": 50}
    search = own.own(**arguments)
    assert {(one.method, one.learning_rate) for one in search} == {
        (method, rate) for method in ("cosine", "batch") for rate in GRID
    }
    assert {(one.validation, one.epochs, one.seed) for one in search} == {(50, 10, 0)}
    order = list(GRID)

    def trained(configs, best):
        return [
            write_record(tmp_path, one, errors=[10 + abs(order.index(one.learning_rate) - best)] * one.epochs)
            for one in configs
        ]

    runs = trained(search, len(GRID) - 1)
    order.append(100.0)
    more = own.then(runs, **arguments)
    assert [(one.method, one.learning_rate, one.validation) for one in more] == [
        ("cosine", 100.0, 50), ("batch", 100.0, 50),
    ]  # fmt: skip
    runs += trained(more, len(GRID) - 1)
    final = own.then(runs, **arguments)
    assert {(one.method, one.learning_rate, one.validation, one.epochs, one.seed) for one in final} == {
        (method, 30.0, 0, 40, seed) for method in ("cosine", "batch") for seed in (0, 1)
    }
    runs += [write_record(tmp_path / "final", one, errors=[5] * 40) for one in final]
    assert own.then(runs, **arguments) == []


@pytest.mark.parametrize(
    ("arguments", "searches"),
    [
        ({"learning_rates": "paper", "held_back": 50}, False),
        ({"learning_rate": 0.1, "held_back": 50}, False),
        ({"learning_rates": {"cosine": 3.0, "batch": 1.0}, "held_back": 50}, False),
        ({"learning_rates": {"cosine": 3.0}, "held_back": 50}, True),
        ({"validation": 60}, False),
    ],
)
def test_what_stands_for_a_search(tmp_path, arguments, searches):
    methods = ["cosine", "batch"]
    configs = own.own(methods, **arguments)
    assert (len({one.learning_rate for one in configs}) == len(GRID)) == searches
    if searches:
        assert {one.method for one in configs} == {"batch"}
    else:
        assert {one.validation for one in configs} == {arguments.get("validation", 0)}
        final = write_record(tmp_path, config("cosine", epochs=1), errors=[1])
        assert own.then([final], methods, **arguments) == []


def test_options_that_a_search_does_not_take():
    with pytest.raises(LabError, match="the search sweeps the learning rate; give one value of batch_size"):
        own.own(held_back=50, batch_size=[10, 20])
    with pytest.raises(LabError, match="a learning rate was given for max, which does not run"):
        own.own(["cosine"], held_back=50, learning_rates={"max": 1.0})


# Standardizing.


def test_features_are_standardized_by_the_training_part(tmp_path):
    x = np.random.default_rng(0).normal(5, 3, (100, 4)).astype(np.float32) * [1e-3, 1, 1e3, 0]
    x[:, 3] = 0.1  # constant
    y = np.arange(100) % 2
    np.savez(tmp_path / "data.npz", x=x, y=y)
    data = load("own", tmp_path / "data.npz")
    (one,) = own.own(["baseline"], seeds=1, epochs=1, learning_rates="paper", hidden=(4,))
    assert one.standardize
    for validation in (0, 17):
        images, _, test_images, _ = split(
            dataclasses.replace(one, validation=validation), data, torch.device("cpu")
        )
        raw = data.train_images[: len(images)].double()
        torch.testing.assert_close(images[:, :3].double().mean(0), torch.zeros(3).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            images[:, :3].double().std(0, correction=0), torch.ones(3).double(), atol=1e-6, rtol=0
        )
        assert not images[:, 3].any()
        assert not test_images[:, 3].any()
        expected = (data.train_images[-1] if validation else data.test_images[-1]).double()
        expected = ((expected - raw.mean(0)) / raw.std(0, correction=0))[:3]
        torch.testing.assert_close(test_images[-1, :3].double(), expected, atol=1e-5, rtol=1e-5)
    run = train(one, data, tmp_path)
    assert run.start["standardized"] is True
    raw_run = train(dataclasses.replace(one, standardize=False), data, tmp_path)
    assert "standardized" not in raw_run.start
    assert record_of(tmp_path, one) != raw_run.path


def test_pictures_that_are_no_pixels_have_one_mean_a_channel():
    images = torch.randn(50, 3, 4, 4) * torch.tensor([1.0, 10, 100]).view(3, 1, 1) + 7
    found, test = (part.float() for part in standardized(images, images[:5] + 1))
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert (test[:, 0] - found[:5, 0]).mean() == pytest.approx(
        1 / float(images[:, 0].std(correction=0)), rel=1e-3
    )
    flat, _ = standardized(images[:, 0], images[:5, 0])
    assert float(flat.mean()) == pytest.approx(0, abs=1e-6)


def test_pixels_and_sparse_rows_stay_as_they_are(tmp_path):
    y = np.arange(40) % 2
    np.savez(
        tmp_path / "pixels.npz", x=np.random.default_rng(0).integers(0, 256, (40, 6, 6)).astype(np.uint8), y=y
    )
    lines = (f"{label} {1 + row}:{1 + row}" for row, label in enumerate(y))
    (tmp_path / "sparse").write_text("\n".join(lines))
    for name in ("pixels.npz", "sparse"):
        data = load("own", tmp_path / name)
        (one,) = own.own(["baseline"], seeds=1, epochs=1, learning_rates="paper", hidden=(4,))
        images = split(one, data, torch.device("cpu"))[0]
        rows = images[torch.arange(3)]
        expected = data.train_images[torch.arange(3)]
        assert torch.equal(rows.to_dense(), expected.to_dense())
        assert "standardized" not in train(one, data, tmp_path).start


# The command.


def letters(path: Path, rows: int = 400) -> None:
    random = np.random.default_rng(0)
    y = np.arange(rows) % 4
    x = random.normal(size=(rows, 6))
    x[np.arange(rows), y] += 2
    x *= np.logspace(-3, 3, 6)
    lines = [
        ",".join([*(f"{value:.5g}" for value in row), "ABCD"[label]]) for row, label in zip(x, y, strict=True)
    ]
    path.write_text("\n".join(["a,b,c,d,e,f,letter", *lines]))


def test_own_without_options_on_a_table(call, tmp_path):  # noqa: F811
    pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    letters(tmp_path / "letters.csv")
    command = (
        "run", "own", "--data-dir", "letters.csv", "--methods", "cosine,batch,baseline", "--workers", 1,
        "--epochs", 8, "--seeds", 3, "--set", "hidden=16",
    )  # fmt: skip
    status, out, err = call(*command)
    assert status == 0, err
    assert "letters.csv: 320 training and 80 test samples of 4 classes, 6 features" in out
    assert "the classes are the column 'letter', the only one of words" in out
    assert "Best learning rates" in out
    rows = [line.split() for line in out.splitlines() if "completed" in line]
    assert [row[0] for row in rows].count("★") == 1
    errors = [float(re.search(r"(\d+\.\d) ±", " ".join(row)).group(1)) for row in rows]
    assert errors == sorted(errors)
    assert errors[0] < 40  # guessing has 60
    table = out.partition("has the fewest errors")[0].rpartition("\n")[0]
    assert max(map(len, table.splitlines())) <= 100
    assert re.search(r"has the fewest errors( in the mean)?: (ahead|level) \(.*p .*paired over 3 seeds", out)
    assert "80 test samples alone leave" in out
    assert "Learning rates were chosen on held-back training samples." in out
    before = {run.path: run.path.read_bytes() for run in read_all("runs")}
    assert {run.start["standardized"] for run in read_all("runs")} == {True}
    assert call(*command)[0] == 0  # nothing is trained again
    assert {run.path: run.path.read_bytes() for run in read_all("runs")} == before
    letters(tmp_path / "letters.csv", 396)  # other data at the same place
    status, out, err = call(*command)
    assert status == 0
    assert re.search(
        r"runs/own holds \d+ records of other data \(letters.csv\); these runs are kept apart", out
    )
    assert len(read_all("runs")) >= 2 * len(before) - 4
    assert call("report", "runs")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "letters.csv (320 training and 80 test samples of 4 classes: A, B, C, D)" in page
    assert re.search(r"letters.csv \(31\d training and \d+ test samples of 4 classes", page)


def test_a_run_that_only_guesses_says_so(call, tmp_path):  # noqa: F811
    x = np.random.default_rng(0).normal(size=(200, 3))
    np.savez(tmp_path / "noise.npz", x=x, y=np.arange(200) % 2)
    status, out, _ = call(
        "run",
        "own",
        "--data-dir",
        "noise.npz",
        "--methods",
        "baseline",
        "--lr",
        1e-9,
        "--epochs",
        2,
        "--seeds",
        1,
    )
    assert status == 0
    assert "at chance" in out
    assert "not clearly fewer errors than by always answering the most frequent class" in " ".join(
        out.split()
    )


def test_a_sweep_ends_with_the_best_and_its_command(call, tmp_path):  # noqa: F811
    pytest.importorskip("pandas", reason="pandas is not installed (extra `tables`)")
    letters(tmp_path / "letters.csv")
    status, out, _ = call(
        "run", "own", "--data-dir", "letters.csv", "--methods", "baseline,cosine", "--sweep", "lr=0.001,0.01",
        "--validation", 80, "--epochs", 2, "--seeds", 1, "--workers", 1,
    )  # fmt: skip
    assert status == 0
    assert "at the edge" in out
    assert "A best rate at the edge of those tried may not be the best" in out
    assert "To train each at its best rate:" in out
    assert "cosnorm run own --methods cosine --epochs 2 --lr cosine=0.01" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sweep", "lr=a"), "lr expects a number, got 'a'"),
        (("--set", "hidden=x"), "hidden expects whole numbers, such as 512-256, got 'x'"),
        (("--set", "batch_size=1.5"), "batch_size expects a whole number, got 1.5"),
        (("--set", "hidden_bias=3"), "hidden_bias expects true or false, got 3"),
        (("--set", "epochs=a"), "epochs expects a whole number, got 'a'"),
        (("--sweep", "seeds=a"), "seeds expects a whole number, got 'a'"),
        (("--methods", "cosin"), "unknown method cosin; known are baseline, cosine"),
        (("--device", "cuda"), "cannot use --device cuda: torch"),
    ],
)
def test_wrong_values_are_one_line_at_once(call, tmp_path, options, message):  # noqa: F811
    if options == ("--device", "cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    np.savez(tmp_path / "data.npz", x=np.ones((20, 3)), y=np.arange(20) % 2)
    began = time.perf_counter()
    status, _, err = call("run", "own", "--data-dir", "data.npz", "--workers", 1, *options)
    assert (status, err.count("\n")) == (1, 1)
    assert message in err
    assert time.perf_counter() - began < 5


def test_every_field_of_every_kind_knows_its_type():
    for recipe in RECIPES.values():
        kind = type(recipe.configs()[0])
        for field in dataclasses.fields(kind):
            if field.name in ("recipe", "dataset", "method", "seed", "epochs"):
                continue
            with pytest.raises(LabError, match="expects"):
                check_types(kind, {field.name: {"never": "fits"}})
            check_types(kind, {field.name: [getattr(recipe.configs()[0], field.name)]})
        assert kind in KINDS.values()
    assert MLPConfig in KINDS.values()


def test_what_the_help_lists(call):  # noqa: F811
    status, out, _ = call("run", "--help")
    assert status == 0
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", out).split())
    assert all(
        name in text for name in ("mnist-table1", "own", "drop-in-text", "mean-only", "arcface", "nt-xent")
    )
    status, out, _ = call("--version")
    assert (status, out.split()[0]) == (0, "cosnorm")


def test_embeddings_of_own_pictures_carry_the_names_of_their_classes(tmp_path):
    made = config(epochs=1)
    points = {"embeddings": {"points": [[1.0, 0.0], [0.0, 1.0]], "labels": [0, 1]}}
    named = {"exact": False, "checksums": {"files": "a"}, "file": "faces", "classes": ["happy", "sad"]}
    run = write_record(tmp_path, made, errors=[3], extra=points, data=named)
    picture = embeddings(group([run]))
    assert [cloud.caption for cloud in picture.charts[0].clouds] == ["happy", "sad"]


@pytest.mark.parametrize("recipe", ["mnist-table1", "mnist-table2", "faces", "drop-in", "own"])
def test_nothing_is_cut_at_100_columns(tmp_path, recipe):
    configs = RECIPES[recipe].configs(seeds=1)
    runs = [
        write_record(tmp_path, one, errors=[1234 + number] * one.epochs) for number, one in enumerate(configs)
    ]
    texts = {}
    for width in (100, 180):
        console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
        print_results(runs, console)
        print_best(runs, console)
        texts[width] = console.file.getvalue()
    tables = texts[100].partition("To train each")[0]
    assert "…" not in tables
    assert max(map(len, tables.splitlines())) <= 100
    whole = texts[180].partition("Best learning rates")[0]
    rows = [line for line in whole.splitlines() if re.search(r"1[23]\d\d\.0", line)]
    assert len(rows) == len(runs)
    assert len({" ".join(line.split()[:-5]) for line in rows}) == len(rows)
