"""What other people's tools do with layers: replace parameters, wrap optimizers, look for batch norms."""

import numpy as np
import pytest
import torch
from torch import nn

from cosnorm import functional, losses
from cosnorm.nn import (
    CosineConv2d,
    CosineLinear,
    MaxNorm,
    MeanOnlyBatchNorm1d,
    MeanOnlyBatchNorm2d,
)


def test_max_norm_follows_parameters_that_were_replaced():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    limit = MaxNorm(model, 1.0)
    state = {name: torch.full(one.shape, 5.0) for name, one in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    limit.project()
    for layer in (model[0], model[2]):
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(2))
    assert [
        one is other for one, other in zip(limit.weights, (model[0].weight, model[2].weight), strict=True)
    ]
    fixed = MaxNorm([model[0].weight], 0.5)
    fixed.project()
    torch.testing.assert_close(model[0].weight.norm(dim=1), torch.full((2,), 0.5))


class Wrapper(torch.optim.Optimizer):
    """As Accelerate's: an optimizer by its class, without a constructor of one."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.step()


def test_max_norm_takes_an_optimizer_around_another():
    layer = nn.Linear(3, 2)
    optimizer = Wrapper(Wrapper(torch.optim.SGD(layer.parameters(), lr=100.0)))
    MaxNorm(layer, 1.0).attach(optimizer)
    layer(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    assert layer.weight.norm(dim=1).max() <= 1 + 1e-6
    with pytest.raises(TypeError, match=r"cannot hook into a Wrapper.*call project\(\) after each step"):
        MaxNorm(layer, 1.0).attach(Wrapper(None))


def test_update_bn_finds_mean_only_batch_norms():
    model = nn.Sequential(nn.Linear(3, 4), MeanOnlyBatchNorm1d(4))
    batches = [torch.randn(6, 3) for _ in range(3)]
    for batch in batches:
        model(batch + 100)
    torch.optim.swa_utils.update_bn([(batch,) for batch in batches], model)
    expected = torch.stack([model[0](batch).mean(0) for batch in batches]).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected.detach())
    assert model[1].momentum == 0.1
    assert model[1].num_batches_tracked == 3


def test_nothing_makes_a_batch_norm_that_divides_of_one_that_does_not():
    assert MeanOnlyBatchNorm2d(4).weight is None
    assert not hasattr(MeanOnlyBatchNorm2d(4), "eps")
    with pytest.raises(AttributeError, match=r"MeanOnlyBatchNorm2d.* has no attribute 'eps'"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(MeanOnlyBatchNorm2d(4)))


def test_numpy_numbers_where_torch_takes_them():
    three, two, half = np.int64(3), np.int32(2), np.float32(0.5)
    x = torch.randn(5, 3)
    layer = CosineLinear(three, two, augment=half, scale=np.float64(2.0))
    twin = CosineLinear(3, 2, augment=0.5, scale=2.0)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), twin(x))
    images = torch.randn(2, 3, 6, 6)
    conv = CosineConv2d(three, np.int64(6), two, stride=two, padding=np.int64(1), groups=three)
    twin = CosineConv2d(3, 6, 2, stride=2, padding=1, groups=3)
    twin.load_state_dict(conv.state_dict())
    assert torch.equal(conv(images), twin(images))
    assert functional.cosine_similarity(x, x, dim=np.int64(1)).shape == (5,)
    head = losses.ArcFaceLoss(np.int64(4), three, scale=np.float32(8.0))
    assert head(x, torch.arange(5) % 4).isfinite()
    assert losses.nt_xent_loss(x, x, temperature=half).isfinite()
    with pytest.raises(TypeError, match="in_features must be an int"):
        CosineLinear(np.float64(3.0), 2)
    with pytest.raises(TypeError, match="augment must be a number"):
        functional.cosine_linear(x, x, augment=np.bool_(True))
