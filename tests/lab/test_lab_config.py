import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from cosnorm_lab.config import HeadsConfig, MLPConfig, RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.options import parse_fields, parse_rates
from cosnorm_lab.recipes import RECIPES, find, mnist, published
from cosnorm_lab.recipes.digits import digits
from cosnorm_lab.recipes.heads import heads_mnist
from cosnorm_lab.recipes.mnist import table1
from cosnorm_lab.recipes.simclr import simclr
from cosnorm_lab.records import read, record_path
from cosnorm_lab.report.rows import command

CONFIG = MLPConfig(
    recipe="mnist-table1",
    dataset="mnist",
    method="cosine",
    hidden=(1000, 1000),
    learning_rate=10.0,
    epochs=200,
)


def test_name_is_readable_and_stable():
    assert CONFIG.name() == "cosine-lr10-seed0-d9a8bea2"  # records of this name are committed


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(MLPConfig)])
def test_every_field_changes_the_name(field):
    values = {
        "recipe": "other", "dataset": "digits", "method": "max", "hidden": (1000,), "precision": "16-mixed",
        "input_dropout": 0.2, "dropout": 0.5, "factors": (2.0,),
    }  # fmt: skip
    other = dataclasses.replace(CONFIG, **{field: values.get(field, 7)})
    assert other.name() != CONFIG.name()


def test_whole_and_decimal_numbers_are_one():
    assert dataclasses.replace(CONFIG, learning_rate=10).name() == CONFIG.name()


def test_round_trip_through_json():
    assert MLPConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    assert MLPConfig.from_dict({**CONFIG.to_dict(), "of a later version": 1}) == CONFIG


def test_from_dict_names_what_is_missing():
    values = CONFIG.to_dict()
    del values["epochs"]
    with pytest.raises(ValueError, match=r"not a run configuration.*'epochs'"):
        MLPConfig.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "cosin", "method must be one of baseline, cosine.*got 'cosin'"),
        ("hidden", (), "at least one layer"),
        ("hidden", (10, 0), "at least one unit"),
        ("learning_rate", 0.0, "learning_rate must be positive and finite; got 0.0"),
        ("learning_rate", float("nan"), "learning_rate must be positive and finite; got nan"),
        ("epochs", 0, "epochs must be positive"),
        ("batch_size", -1, "batch_size must be positive"),
        ("init_std", 0.0, "init_std must be positive"),
        ("hidden_bias", False, "an option of baseline and max only, got cosine"),
        ("max_norm", 0.0, "max_norm must be positive"),
        ("factors", (1.0, 0.0), "factors must be positive"),
        ("dropout", 1.0, "dropout must be at least 0 and below 1; got 1.0"),
        ("input_dropout", -0.1, "input_dropout must be at least 0"),
        ("seed", -1, "seed must not be negative"),
        ("augment", -1e-4, "augment must not be negative"),
        ("validation", -1, "validation must not be negative"),
    ],
)
def test_bad_values(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **{field: value})


def test_kinds_are_told_apart():
    config = HeadsConfig(
        recipe="faces", dataset="faces", method="arcface", learning_rate=1e-3, epochs=1, scale=10, margin=0.5
    )
    assert config.to_dict()["kind"] == "heads"
    assert "kind" not in CONFIG.to_dict()  # as in the oldest records
    with pytest.raises(
        ValueError, match="unknown kind of run 'tails'; known are mlp, cnn, contrastive, heads"
    ):
        RunConfig.from_dict({**config.to_dict(), "kind": "tails"})
    for changes, message in (
        ({"method": "center"}, "scale is an option of normface"),
        ({"method": "normface"}, "margin is an option of am-softmax"),
        ({"scale": 0.0}, "scale must be positive for arcface"),
        ({"network": "resnet"}, "network must be small-cnn or mini-xception; got 'resnet'"),
        ({"embedding_size": 0}, "embedding_size must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config, **changes)


def test_committed_records_have_the_names_of_their_configurations():
    paths = [*Path("results").rglob("*.jsonl"), *Path("experiments").rglob("*.jsonl")]
    assert paths
    for path in paths:
        run = read(path)
        names = {f"{run.config.name()}.jsonl", record_path("", run.config, run.start["data"]).name}
        assert path.name in names


def test_table1_is_the_papers():
    configs = {config.method: config for config in table1()}
    assert tuple(configs) == tuple(NORMALIZATIONS)
    rates = {"baseline": 0.1, "cosine": 10, "batch": 5, "weight": 5, "max": 1}
    assert {method: configs[method].learning_rate for method in rates} == rates
    assert mnist.PAPER_TABLE1 == {
        "baseline": (196.588, 0.887),
        "cosine": (143.922, 0.074),
        "batch": (151.647, 85.753),
        "weight": (193, 0),
        "max": (150.588, 10.727),
    }
    for config in configs.values():
        assert (config.hidden, config.batch_size, config.epochs) == ((1000, 1000), 100, 200)
        assert (config.augment, config.max_norm, config.init_std) == (1e-4, 2.0, 0.1)
    assert len({config.name() for config in configs.values()}) == 8


def test_the_other_reading_of_the_variance_stands_beside_the_same_figures():
    for config in table1():
        found = published(config), published(dataclasses.replace(config, init_std=0.316))
        assert found[0].mean == found[1].mean
        if found[0].mean is not None:
            assert "at its word" in found[1].note
            assert "at its word" not in found[0].note


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipe_options(recipe):
    two = list(dict.fromkeys(config.method for config in recipe.configs()))[:2][::-1]
    variants = [  # one learning rate makes one run of those that differ in nothing else
        dataclasses.replace(c, learning_rate=0.25) if c.method == two[0] else c
        for c in recipe.configs(two, seeds=1)
    ]
    configs = recipe.configs(two, epochs=3, seeds=2, learning_rates={two[0]: 0.25}, validation=9)
    found = [(c.method, c.seed) for c in configs]
    if (
        recipe.then and not recipe.fit
    ):  # the seeds are of the runs after a search, whose grid one learning rate replaces
        assert set(found) == {(method, 0) for method in two}
    else:
        assert found == [(c.method, seed) for seed in (0, 1) for c in dict.fromkeys(variants)]
    assert {(c.recipe, c.dataset, c.validation) for c in configs} == {(recipe.name, recipe.dataset, 9)}
    assert {c.epochs for c in configs if c.method != "untrained"} == {3}
    assert {c.learning_rate for c in configs if c.method == two[0]} == {0.25}
    assert len({c.name() for c in configs}) == len(configs)
    assert all(RunConfig.from_dict(json.loads(json.dumps(c.to_dict()))) == c for c in configs)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_report_tells_the_command_of_every_run_of_every_recipe(recipe):
    for config in recipe.configs(seeds=2):
        words = shlex.split(command(config, 2))
        options = dict(zip(words[3::2], words[4::2], strict=True))
        sets = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        again = recipe.configs(
            [options["--methods"]],
            epochs=int(options["--epochs"]),
            seeds=int(options["--seeds"]),
            learning_rates=parse_rates([options["--lr"]] if "--lr" in options else [])[0],
            **parse_fields(sets),
        )
        assert words[:3] == ["cosnorm", "run", recipe.name]
        assert config in again
        assert len(again) == (1 if recipe.then and not recipe.fit else 2)


def test_a_list_of_values_makes_a_run_of_each():
    configs = simclr(["nt-xent"], batch_size=[64, 128], temperature=[0.1, 0.2])
    assert sorted((c.batch_size, c.temperature, c.learning_rate) for c in configs) == [
        (64, 0.1, 5e-4), (64, 0.2, 5e-4), (128, 0.1, 0.000707), (128, 0.2, 0.000707)
    ]  # fmt: skip
    with pytest.raises(LabError, match="no field 'temprature'; known are dataset, learning_rate"):
        simclr(temprature=0.1)
    with pytest.raises(LabError, match=r"scale is an option of normface.* only, got softmax"):
        heads_mnist(scale=3.0)


@pytest.mark.parametrize("make", [table1, digits])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["cosin"]}, "unknown method cosin; known are baseline"),
        ({"methods": []}, "unknown method .none given"),
        (
            {"methods": ["max"], "learning_rates": {"cosine": 1.0}},
            "learning rate was given for cosine, but only max",
        ),
        ({"learning_rates": {"cosin": 1.0}}, "unknown method cosin"),
        ({"learning_rates": {"max": -1.0}}, "learning_rate must be positive"),
        ({"seeds": 0}, "number of seeds must be at least 1"),
        ({"epochs": 0}, "epochs must be positive"),
    ],
)
def test_bad_recipe_options(make, arguments, message):
    with pytest.raises(LabError, match=message):
        make(**arguments)


def test_unknown_recipe():
    with pytest.raises(LabError, match="unknown recipe 'mnist'; known are mnist-table1, mnist-table2"):
        find("mnist")
