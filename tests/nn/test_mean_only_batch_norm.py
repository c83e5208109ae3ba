"""Mean-only batch normalization: which mean, running mean, gradients, extremes, state."""

import copy
import pickle

import pytest
import torch
from torch import nn

from cosnorm.nn import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, MeanOnlyBatchNorm3d

CASES = [
    (MeanOnlyBatchNorm1d, nn.BatchNorm1d, (63, 3)),
    (MeanOnlyBatchNorm1d, nn.BatchNorm1d, (1, 3, 123)),
    (MeanOnlyBatchNorm2d, nn.BatchNorm2d, (2, 3, 1, 7)),
    (MeanOnlyBatchNorm3d, nn.BatchNorm3d, (2, 3, 5, 1, 3)),
]
each_case = pytest.mark.parametrize(("own", "torchs", "shape"), CASES)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean((0, *range(2, x.ndim)), keepdim=True)


@each_case
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_which_mean_is_taken(own, torchs, shape, affine: bool, track: bool, training: bool):
    layer = own(3, affine=affine, track_running_stats=track).train(training)
    if affine:
        nn.init.normal_(layer.bias)
    if track:
        layer.running_mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
    x = torch.randn(shape) + 2
    view = [1, 3, *[1] * (x.ndim - 2)]
    mean = _mean(x.double()) if training or not track else torch.tensor([1.0, -2.0, 3.0]).view(view)
    bias = layer.bias.view(view) if affine else 0
    assert (layer(x) - (x.double() - mean + bias)).abs().max() < 2e-6
    counted = layer.num_batches_tracked
    assert (counted is not None) is track
    if track:
        assert counted == int(training)


@each_case
@pytest.mark.parametrize("momentum", [0.1, None, 0.0, 1.0])
def test_the_running_mean_is_batch_norms(own, torchs, shape, momentum):
    layer, other = own(3, momentum=momentum), torchs(3, momentum=momentum)
    for _ in range(3):
        x = 10 * torch.randn(shape)
        layer(x)
        other(x)
        torch.testing.assert_close(layer.running_mean, other.running_mean, rtol=1e-5, atol=1e-6)
    learned = layer.running_mean.clone()
    layer.eval()
    layer(x)
    assert torch.equal(layer.running_mean, learned)
    assert layer.num_batches_tracked == 3


@each_case
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_input_and_bias(own, torchs, shape, training: bool):
    layer = own(3).train(training)
    x = torch.randn(shape, requires_grad=True)
    cotangent = torch.randn(shape)
    found = torch.autograd.grad(layer(x), (x, layer.bias), cotangent)
    expected = cotangent.double() - (_mean(cotangent.double()) if training else 0)
    assert (found[0] - expected).abs().max() < 2e-6
    sums = cotangent.double().sum((0, *range(2, x.ndim)))
    assert (found[1] - sums).abs().max() < 1e-5 * max(1.0, sums.abs().max().item())


def test_gradcheck_twice():
    layer = MeanOnlyBatchNorm2d(2, dtype=torch.float64)
    x = torch.randn(2, 2, 2, 1, dtype=torch.float64, requires_grad=True)

    def call(x, bias):
        return torch.func.functional_call(layer, {"bias": bias}, (x,)).square()

    assert torch.autograd.gradcheck(call, (x, layer.bias))
    assert torch.autograd.gradgradcheck(call, (x, layer.bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_a_large_mean_leaves_no_error_in_half_types(dtype: torch.dtype, training: bool):
    """A mean rounded to bfloat16 would be wrong by up to 0.25 at 100, in every value."""
    x = (100.3 + torch.randn(507, 3)).to(dtype)
    layer = MeanOnlyBatchNorm1d(3).train(training)
    layer.running_mean.copy_(x.double().mean(0))
    exact = x.double() - x.double().mean(0)
    output = layer(x)
    assert output.dtype == dtype
    bound = torch.finfo(dtype).eps * exact.abs() + 1e-5
    assert ((output - exact).abs() <= bound).all()


def test_the_sum_does_not_overflow():
    x = torch.full((123, 2), 1e38)
    x[0] = 3e38
    layer = MeanOnlyBatchNorm1d(2, momentum=1.0)
    expected = x.double() - x.double().mean(0)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-6, atol=1e32)
    torch.testing.assert_close(layer.running_mean.double(), x.double().mean(0), rtol=1e-6, atol=0)
    half = MeanOnlyBatchNorm1d(2, momentum=1.0, dtype=torch.float16)
    values = torch.full((123, 2), 6e4, dtype=torch.float16)
    assert not half(values).any()
    assert torch.equal(half.running_mean, values[0])


@each_case
def test_an_empty_batch(own, torchs, shape):
    layer = own(3)
    before = copy.deepcopy(layer.state_dict())
    x = torch.empty(0, *shape[1:], requires_grad=True)
    output = layer(x)
    assert output.shape == x.shape
    output.sum().backward()
    assert x.grad.shape == x.shape
    assert not layer.bias.grad.any()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


@each_case
def test_copies_and_state(own, torchs, shape):
    layer, x = own(3, momentum=None), torch.randn(shape)
    nn.init.normal_(layer.bias)
    layer(x)
    assert set(layer.state_dict()) == {"bias", "running_mean", "num_batches_tracked"}
    fresh = own(3, momentum=None)
    fresh.load_state_dict(pickle.loads(pickle.dumps(layer.state_dict())))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        twin(x + 1)  # its own running mean
        assert twin.num_batches_tracked == 2
    assert layer.num_batches_tracked == 1
    assert "momentum=None" in repr(layer)


@pytest.mark.parametrize("layer", [MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, MeanOnlyBatchNorm3d])
def test_one_value_for_each_feature_is_refused_only_in_training(layer):
    x = torch.randn(1, 3, *[1] * (min(layer._ranks) - 2))
    with pytest.raises(ValueError, match="larger batch"):
        layer(3)(x)
    assert torch.equal(layer(3).eval()(x), x)


def test_channels_last():
    x = torch.randn(4, 3, 5, 6)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(MeanOnlyBatchNorm2d(3)(last), MeanOnlyBatchNorm2d(3)(x))


@pytest.mark.slow
def test_compile_keeps_the_running_mean():
    torch._dynamo.reset()
    layer = MeanOnlyBatchNorm2d(3, momentum=None)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True)
    for _ in range(3):
        x = torch.randn(2, 3, 4, 4) + 3
        torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(compiled.running_mean, layer.running_mean)
