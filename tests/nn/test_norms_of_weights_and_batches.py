"""MaxNorm and mean-only batch normalization."""

import copy

import pytest
import torch
from torch import nn

from cosnorm.nn import CosineLinear, MaxNorm, MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, MeanOnlyBatchNorm3d

RANKS = [
    (MeanOnlyBatchNorm1d, nn.BatchNorm1d, (9, 3)),
    (MeanOnlyBatchNorm1d, nn.BatchNorm1d, (5, 3, 7)),
    (MeanOnlyBatchNorm2d, nn.BatchNorm2d, (4, 3, 5, 6)),
    (MeanOnlyBatchNorm3d, nn.BatchNorm3d, (4, 3, 2, 3, 5)),
]
each_rank = pytest.mark.parametrize(("ours", "torchs", "shape"), RANKS)


def test_projection_onto_the_ball():
    layer = nn.Linear(3, 5)
    rows = torch.tensor([[3.0, 4.0, 0.0], [0.3, 0.4, 0.0], [0, 0, 0], [3e30, 4e30, 0], [3e-30, 4e-30, 0]])
    with torch.no_grad():
        layer.weight.copy_(rows)
    bias = layer.bias.clone()
    MaxNorm(layer, max_norm=2.0).project()
    expected = rows.clone()
    expected[0] = expected[3] = torch.tensor([1.2, 1.6, 0.0])
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-6, atol=0)
    assert torch.equal(layer.weight[[1, 2, 4]], rows[[1, 2, 4]])
    assert torch.equal(layer.bias, bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_filters_are_projected_as_wholes(dtype: torch.dtype):
    conv = nn.Conv2d(3, 8, 3).to(dtype)
    with torch.no_grad():
        conv.weight.mul_(20)
    before = conv.weight.detach().double().flatten(1).clone()
    MaxNorm(conv, max_norm=1.5).project()
    after = conv.weight.detach().double().flatten(1)
    assert before.norm(dim=1).min() > 1.5
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        after.norm(dim=1), torch.full((8,), 1.5, dtype=torch.float64), rtol=2 * eps, atol=0
    )
    torch.testing.assert_close(after / 1.5, before / before.norm(dim=1, keepdim=True), rtol=0, atol=2 * eps)


def test_nan_stays_in_its_row():
    weight = torch.tensor([[float("nan"), 1.0], [30.0, 40.0], [1.0, 0.0]])
    MaxNorm([weight], max_norm=1.0).project()
    assert weight[0].isnan().any()
    torch.testing.assert_close(weight[1:], torch.tensor([[0.6, 0.8], [1.0, 0.0]]))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_attach_projects_after_every_step_of_any_optimizer(optimizer):
    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3))
    steps = optimizer(model.parameters(), lr=3.0)
    handle = MaxNorm(model, max_norm=0.7).attach(steps)

    def step() -> float:
        steps.zero_grad()
        model(torch.randn(5, 6)).square().sum().backward()
        steps.step()
        return max(layer.weight.norm(dim=1).max().item() for layer in model if isinstance(layer, nn.Linear))

    for _ in range(3):
        assert step() <= 0.7 * (1 + 1e-6)
    handle.remove()
    assert step() > 0.7


def test_a_cosine_layer_does_not_mind():
    layer, x = CosineLinear(6, 5), torch.randn(4, 6)
    before = layer(x)
    MaxNorm(layer, max_norm=0.01).project()
    torch.testing.assert_close(layer(x), before)


@each_rank
@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_mean_and_running_mean_are_those_of_batch_norm(ours, torchs, shape, momentum):
    own, other = ours(3, momentum=momentum), torchs(3, momentum=momentum)
    nn.init.normal_(own.bias)
    for seed in range(4):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 5
        output = own(x)
        other(x)
        dimensions = (0, *range(2, x.ndim))
        torch.testing.assert_close(output.mean(dimensions), own.bias, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output.std(dimensions), x.std(dimensions))  # nothing is divided
        torch.testing.assert_close(own.running_mean, other.running_mean)
        assert own.num_batches_tracked == other.num_batches_tracked
    own.eval()
    view = (1, 3, *[1] * (x.ndim - 2))
    torch.testing.assert_close(own(x), x - own.running_mean.view(view) + own.bias.view(view))
    twin = copy.deepcopy(own)
    twin.reset_parameters()
    assert not twin.running_mean.any()
    twin.load_state_dict(own.state_dict())
    assert torch.equal(twin(x), own(x))


@each_rank
def test_gradients(ours, torchs, shape):
    layer = ours(3, dtype=torch.float64)
    x = torch.randn(shape[0], 3, *[2] * (len(shape) - 2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, b: torch.func.functional_call(layer, {"bias": b}, x), (x, layer.bias)
    )
    layer.eval()
    assert torch.autograd.gradcheck(layer, (x,))


def test_options():
    layer = MeanOnlyBatchNorm1d(3, affine=False, track_running_stats=False)
    assert not list(layer.parameters())
    assert not list(layer.buffers())
    x = torch.randn(5, 3) + 2
    layer.eval()
    torch.testing.assert_close(layer(x), x - x.mean(0))
    assert "affine=False" in repr(layer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_values_and_dtypes(dtype: torch.dtype):
    limit = torch.finfo(dtype).max
    x = torch.full((300, 2), limit / 2, dtype=dtype)
    x[0] = limit / 4
    layer = MeanOnlyBatchNorm1d(2).to(dtype)
    output = layer(x)
    assert output.dtype == dtype
    assert output.isfinite().all()
    assert layer.running_mean.isfinite().all()


def test_an_empty_batch_passes_and_teaches_nothing():
    layer = MeanOnlyBatchNorm1d(3)
    layer(torch.ones(4, 3))
    before = layer.running_mean.clone()
    assert layer(torch.empty(0, 3)).shape == (0, 3)
    assert torch.equal(layer.running_mean, before)
    with pytest.raises(ValueError, match="more than one value"):
        layer(torch.ones(1, 3))
    layer.eval()
    layer(torch.ones(1, 3))
