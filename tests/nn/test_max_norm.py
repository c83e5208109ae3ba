"""MaxNorm: the ball, extremes, shapes, optimizers."""

import copy

import pytest
import torch
from torch import nn

from cosnorm.nn import CosineLinear, MaxNorm


def _norms(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().double().flatten(1).norm(dim=1)


def _train(optimizer, layer, steps: int) -> list[float]:
    """The largest norm after each step."""
    found = []
    for seed in range(steps):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))

        def loss(x=x):
            optimizer.zero_grad()
            value = (layer(x) - 5 * x[:, :3]).square().mean()
            value.backward()
            return value

        optimizer.step(loss)
        found.append(_norms(layer.weight).max().item())
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, lr=1.0, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=1.0, amsgrad=True),
        lambda p: torch.optim.LBFGS(p, lr=1.0, max_iter=2),
        lambda p: torch.optim.SGD([{"params": [w], "lr": 1.0} for w in p]),
    ],
    ids=["nesterov", "adam", "adamw", "lbfgs", "groups"],
)
def test_attach_and_remove(make):
    layer = nn.Linear(6, 3)
    optimizer = make(list(layer.parameters()))
    handle = MaxNorm(layer, 0.5).attach(optimizer)
    assert max(_train(optimizer, layer, 4)) <= 0.5 * (1 + 1e-6)
    handle.remove()
    assert max(_train(optimizer, layer, 4)) > 0.5


def test_two_constraints_on_one_optimizer():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    first, second = MaxNorm(model[0], 0.5).attach(optimizer), MaxNorm(model[1], 0.25).attach(optimizer)
    model(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()
    assert _norms(model[0].weight).max() <= 0.5 * (1 + 1e-6)
    assert _norms(model[1].weight).max() <= 0.25 * (1 + 1e-6)
    assert first.id != second.id


def test_only_what_lies_outside_of_the_ball_moves_and_keeps_its_direction():
    layer = nn.Linear(3, 5)
    rows = torch.tensor([[3.0, 4.0, 0.0], [0.3, 0.4, 0.0], [0, 0, 0], [3e30, 4e30, 0], [3e-30, 4e-30, 0]])
    with torch.no_grad():
        layer.weight.copy_(rows)
    MaxNorm(layer, max_norm=2.0).project()
    expected = rows.clone()
    expected[0] = expected[3] = torch.tensor([1.2, 1.6, 0.0])
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-6, atol=0)
    assert torch.equal(layer.weight[[1, 2, 4]], rows[[1, 2, 4]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_at_the_ends_of_the_range(dtype: torch.dtype):
    limits = torch.finfo(dtype)
    # The norm of the first row exceeds the range; the second's squares vanish; the third is zero.
    weight = torch.zeros(4, 63, dtype=dtype)
    weight[0], weight[1], weight[3, 5] = limits.max, limits.tiny, -limits.max
    before = weight.clone()
    MaxNorm([weight], 2.0).project()
    assert torch.equal(weight[1:3], before[1:3])
    torch.testing.assert_close(
        _norms(weight)[[0, 3]], torch.full((2,), 2.0, dtype=torch.float64), rtol=2 * limits.eps, atol=0
    )
    torch.testing.assert_close(
        weight[0].double() * 63**0.5 / 2, torch.ones(63).double(), rtol=2 * limits.eps, atol=0
    )
    assert weight[3, 5] == -2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_touches_no_other_row(value: float):
    weight = torch.tensor([[value, 1.0], [0.3, 0.4], [30.0, 40.0]])
    MaxNorm([weight], 1.0).project()
    assert not weight[0].isfinite().all()
    torch.testing.assert_close(weight[1:], torch.tensor([[0.3, 0.4], [0.6, 0.8]]))


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(4, 6, 3, groups=2), nn.Conv2d(2, 6, 3), nn.Conv3d(2, 6, (1, 2, 3))]
)
def test_filters_of_every_rank_are_wholes(layer: nn.Module):
    layer = copy.deepcopy(layer)
    nn.init.normal_(layer.weight)
    with torch.no_grad():
        layer.weight[:3] *= 0.01
    before = layer.weight.detach().clone()
    bias = layer.bias.detach().clone()
    MaxNorm(layer, 0.5).project()
    assert torch.equal(layer.weight[:3], before[:3])
    expected = before[3:].double().flatten(1)
    expected = expected / expected.norm(dim=1, keepdim=True) / 2
    torch.testing.assert_close(layer.weight[3:].double().flatten(1), expected, rtol=1e-6, atol=1e-8)
    assert torch.equal(layer.bias, bias)


def test_projection_leaves_the_graph_the_memory_and_the_inside_alone():
    layer = nn.Linear(6, 3)
    nn.init.constant_(layer.weight, 3.0)
    address = layer.weight.data_ptr()
    MaxNorm(layer.parameters(), 1.0).project()
    assert layer.weight.data_ptr() == address
    assert layer.weight.is_leaf
    assert layer.weight.requires_grad
    once = layer.weight.detach().clone()
    MaxNorm(layer, 1.0 + 1e-6).project()
    assert torch.equal(layer.weight, once)


def test_strided_weights_and_empty_ones():
    weight = (10 * torch.randn(63, 5)).t()
    expected = weight / weight.norm(dim=1, keepdim=True)
    MaxNorm([weight, torch.ones(0, 3), torch.ones(3, 0)], 1.0).project()
    torch.testing.assert_close(weight, expected)


def test_scales_and_biases_are_not_weights():
    layer = CosineLinear(6, 5, True, scale="learned")
    assert [weight.shape for weight in MaxNorm(layer).weights] == [(5, 6)]


def test_a_cosine_layer_does_not_mind():
    layer, x = CosineLinear(6, 5), torch.randn(4, 6)
    before = layer(x)
    MaxNorm(layer, max_norm=0.01).project()
    torch.testing.assert_close(layer(x), before)
