"""The registry of methods: one entry says all that the laboratory knows of a method."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import torch
from small_recipes import small_data
from torch import nn

from cosnorm_lab import methods
from cosnorm_lab.config import KINDS
from cosnorm_lab.methods import METHODS, Method, rates, taking
from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.records import read_all
from cosnorm_lab.report.page import write_report
from cosnorm_lab.train import train

GROUPS = (
    methods.NORMALIZATIONS,
    methods.CONTRASTIVE,
    methods.HEADS,
    methods.RETRIEVAL,
    methods.CONVERSIONS,
)


def test_entries_have_names_and_colours_of_their_own_and_builders_that_are_there():
    shared = set(methods.HEADS) & set(methods.RETRIEVAL)  # one loss, in two recipes
    assert len(METHODS) == sum(map(len, GROUPS)) - len(shared)
    for name in shared:
        pair = methods.HEADS[name], methods.RETRIEVAL[name]
        assert len({(method.title, method.colour, method.takes) for method in pair}) == 1
    for group in GROUPS:
        assert len({method.colour for method in group.values()}) == len(group)
        assert len({method.title for method in group.values()}) == len(group)
    for name, method in METHODS.items():
        assert name == method.name
        assert all(callable(pkgutil.resolve_name(one)) for one in (method.build, method.constraint) if one)
    assert {name for config in KINDS.values() for name in config.methods} == set(METHODS)


def test_every_normalization_has_a_rate_for_digits_and_for_own_data():
    for families in (("digits",), ("mnist",), ("cifar", "cnn")):
        assert set(rates(*families)) == set(methods.NORMALIZATIONS)
    assert rates("cifar", "cnn") == {**rates("cifar"), "max": 0.01, "mean-only": 0.01}


def test_what_methods_take():
    assert taking("hidden_bias") == ["baseline", "max"]
    faces = ["adaface", "curricularface", "proxy-anchor"]
    assert taking("margin") == ["am-softmax", "arcface", "cosine-distance", *faces]


def double(weight: torch.Tensor, **_: object) -> nn.Module:
    layer = nn.Linear(*reversed(weight.shape), bias=False)
    layer.weight = nn.Parameter(2 * weight)
    return layer


def test_one_entry_makes_a_method_everywhere(tmp_path, monkeypatch):
    new = Method(
        name="double",
        title="doubled weights",
        colour="#123456",
        build=f"{__name__}:double",
        rates={"mnist": 0.05},
    )
    for registry in (methods.NORMALIZATIONS, METHODS):
        monkeypatch.setitem(registry, new.name, new)
    monkeypatch.setattr(KINDS["mlp"], "methods", tuple(methods.NORMALIZATIONS))
    (run,) = RECIPES["mnist-table1"].configs(["double"], epochs=1, hidden=(8,))
    assert run.learning_rate == 0.05
    train(run, small_data("mnist"), tmp_path / "runs")
    write_report(read_all(tmp_path / "runs"), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "doubled weights" in page
    assert "#123456" in page


def test_choosing_methods_imports_no_torch():
    code = "import sys; from cosnorm_lab import recipes, methods, config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
