import dataclasses
import json

import pytest

from cosnorm_lab.config import METHODS, RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes import RECIPES, find, mnist
from cosnorm_lab.recipes.digits import digits
from cosnorm_lab.recipes.mnist import table1

CONFIG = RunConfig("mnist-table1", "mnist", "cosine", (1000, 1000), 10.0, 200)


def test_name_is_readable_and_stable():
    assert CONFIG.name() == "cosine-lr10-seed0-d9a8bea2"  # records of this name are committed


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RunConfig)])
def test_every_field_changes_the_name(field):
    values = {
        "recipe": "other", "dataset": "digits", "method": "max", "hidden": (1000,), "precision": "16-mixed"
    }  # fmt: skip
    other = dataclasses.replace(CONFIG, **{field: values.get(field, 7)})
    assert other.name() != CONFIG.name()


def test_whole_and_decimal_numbers_are_one():
    assert dataclasses.replace(CONFIG, learning_rate=10).name() == CONFIG.name()


def test_round_trip_through_json():
    assert RunConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    assert RunConfig.from_dict({**CONFIG.to_dict(), "of a later version": 1}) == CONFIG


def test_from_dict_names_what_is_missing():
    values = CONFIG.to_dict()
    del values["epochs"]
    with pytest.raises(ValueError, match=r"not a run configuration.*'epochs'"):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "cosin", "method must be one of baseline, cosine.*got 'cosin'"),
        ("hidden", (), "at least one layer"),
        ("hidden", (10, 0), "at least one unit"),
        ("learning_rate", 0.0, "learning_rate must be positive; got 0.0"),
        ("learning_rate", float("nan"), "learning_rate must be positive; got nan"),
        ("epochs", 0, "epochs must be positive"),
        ("batch_size", -1, "batch_size must be positive"),
        ("init_std", 0.0, "init_std must be positive"),
        ("hidden_bias", False, "an option of baseline and max only, got cosine"),
        ("max_norm", 0.0, "max_norm must be positive"),
        ("seed", -1, "seed must not be negative"),
        ("augment", -1e-4, "augment must not be negative"),
        ("validation", -1, "validation must not be negative"),
    ],
)
def test_bad_values(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **{field: value})


def test_table1_is_the_papers():
    configs = {config.method: config for config in table1()}
    assert tuple(configs) == METHODS
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


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipe_options(recipe):
    configs = recipe.configs(
        ["max", "cosine"], epochs=3, seeds=2, init_std=0.3, learning_rates={"max": 0.25}, validation=9
    )
    assert [(c.method, c.seed) for c in configs] == [("max", 0), ("cosine", 0), ("max", 1), ("cosine", 1)]
    assert {(c.recipe, c.dataset, c.epochs, c.init_std, c.validation) for c in configs} == {
        (recipe.name, recipe.dataset, 3, 0.3, 9)
    }
    assert configs[0].learning_rate == 0.25


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
    with pytest.raises(LabError, match="unknown recipe 'mnist'; known are mnist-table1, digits"):
        find("mnist")
