"""How far steps turn weights: predicted, measured, and by hand; temperatures at their bounds."""

import math

import pytest
import torch
from torch import nn

from cosnorm import losses
from cosnorm.diagnostics import AngularSteps, diagnose, effective_rates, learned_temperatures
from cosnorm.nn import CosineConv2d, CosineLinear


def network() -> nn.Sequential:
    return nn.Sequential(CosineConv2d(2, 3, 3), nn.Flatten(), CosineLinear(3 * 16, 5, scale="learned"))


def angles(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    one, two = before.flatten(1).double(), after.flatten(1).double()
    return (one * two).sum(1).div(one.norm(dim=1) * two.norm(dim=1)).clamp(-1, 1).acos()


def test_a_step_of_gradient_descent_turns_weights_as_predicted():
    model = network().double()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[2].parameters(), "lr": 0.7}], lr=1.0
    )
    model(torch.randn(6, 2, 6, 6, dtype=torch.float64)).square().sum().backward()
    predicted = effective_rates(model, optimizer)
    measure = AngularSteps(model)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    optimizer.step()
    measured = measure()
    for name, rate in (("0.weight", 0.3), ("2.weight", 0.7)):
        expected = angles(before[name], dict(model.named_parameters())[name]).mean().item()
        assert predicted[f"angular_step/{name}"].item() == pytest.approx(expected, rel=1e-6)
        assert measured[f"angular_step/{name}"].item() == pytest.approx(expected, rel=1e-6)
        inverse = before[name].flatten(1).square().sum(1).reciprocal().mean().item()
        assert predicted[f"effective_rate/{name}"].item() == pytest.approx(rate * inverse)
    assert measure()["angular_step/0.weight"] == 0  # nothing has moved since


def test_small_angles_are_not_lost_in_float32():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0]])
    measure = AngularSteps(layer)
    layer.weight.data = torch.tensor([[1.0, 1e-5]])
    assert measure()["angular_step/weight"].item() == pytest.approx(1e-5, rel=1e-4)


def test_without_a_gradient_or_in_no_optimizer():
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with torch.no_grad():
        model[0].weight[0] = 0
    found = effective_rates(model, optimizer)
    assert list(found) == ["effective_rate/0.weight"]
    assert found["effective_rate/0.weight"].isfinite()


def test_learned_temperatures():
    model = nn.ModuleDict(
        {
            "clip": losses.CLIPLoss(0.07),
            "at": losses.CLIPLoss(0.01),
            "ntxent": losses.NTXentLoss(temperature=0.2, learn_temperature=True),
            "siglip": losses.SigLIPLoss(),
            "layer": CosineLinear(3, 2, scale="learned"),
        }
    )
    with torch.no_grad():
        model["at"].logit_scale += 1
        next(model["ntxent"].parameters()).fill_(math.log(1e-9))
    found = learned_temperatures(model)
    short = {name.split("/")[0] + "/" + name.split("/")[1].split(".")[0]: one for name, one in found.items()}
    assert short["temperature/clip"].item() == pytest.approx(0.07)
    assert short["at_bound/clip"] == 0
    assert short["temperature/at"].item() == pytest.approx(0.01)
    assert short["at_bound/at"] == 1
    assert short["temperature/ntxent"].item() == pytest.approx(1e-4)
    assert short["at_bound/ntxent"] == 1
    assert short["temperature/layer"].item() == pytest.approx(0.1)
    assert "at_bound/layer" not in short


def test_all_in_one_call_for_any_logger():
    model, criterion = network(), losses.CLIPLoss()
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()])
    images = torch.randn(8, 2, 6, 6)
    one, two = model(images), model(images + 0.1 * torch.randn(8, 2, 6, 6))
    criterion(one, two).backward()
    found = diagnose(
        one,
        two,
        temperature=0.07,
        above=0.8,
        labels=torch.arange(8) % 3,
        model=nn.ModuleList([model, criterion]),
        optimizer=optimizer,
    )
    assert all(value.ndim == 0 and math.isfinite(value.item()) for value in found.values())
    assert not any(value.requires_grad for value in found.values())
    assert {"alignment", "saturation/saturated", "false_negatives/caught", "at_bound/1.logit_scale"} <= set(
        found
    )
    assert {"effective_rate/0.0.weight", "angular_step/0.2.weight", "norm/max"} <= set(found)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: effective_rates(None, None), "model must be a torch.nn.Module, got NoneType"),
        (lambda: effective_rates(network(), None), "optimizer must be a torch.optim.Optimizer"),
        (lambda: AngularSteps([]), "model must be a torch.nn.Module, got list"),
        (lambda: learned_temperatures(3), "model must be a torch.nn.Module, got int"),
    ],
)
def test_errors(call, words: str):
    with pytest.raises(TypeError, match=words):
        call()
