import pytest
import torch
from torch import nn

import cosnorm.nn
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.models import mlp, trained_weights

SIZES = (12, 9, 7, 4)


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_forward_and_backward(method):
    model = mlp(SIZES, method)
    out = model(torch.randn(5, 12))
    assert out.shape == (5, 4)
    out.square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained_weights(model).values()
    )


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_all_methods_begin_with_the_same_weights(method):
    expected = trained_weights(mlp(SIZES, "baseline", seed=3))
    found = trained_weights(mlp(SIZES, method, seed=3))
    assert list(found) == ["hidden1", "hidden2", "output"]
    for name, weight in found.items():
        assert torch.equal(weight, expected[name]), name
    other = trained_weights(mlp(SIZES, method, seed=4))
    assert not torch.equal(other["hidden1"], found["hidden1"])


def test_weights_are_normal_with_that_deviation():
    weight = trained_weights(mlp((500, 400, 10), "cosine", init_std=0.3))["hidden1"]
    assert weight.shape == (400, 500)
    assert float(weight.detach().std()) == pytest.approx(0.3, rel=0.01)
    assert abs(float(weight.detach().mean())) < 0.003


def test_the_weights_do_not_depend_on_torchs_own_seed():
    torch.manual_seed(1)
    first = mlp(SIZES, "batch").state_dict()
    torch.manual_seed(2)
    second = mlp(SIZES, "batch").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_layers_are_the_papers():
    layers = {method: mlp(SIZES, method, augment=0.5).hidden[0] for method in NORMALIZATIONS}
    for method, centered in (("cosine", False), ("centered", True)):
        layer = layers[method]
        assert isinstance(layer, cosnorm.nn.CosineLinear)
        assert (layer.centered, layer.augment, layer.bias) == (centered, 0.5, None)
    kinds = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "mean-only": cosnorm.nn.MeanOnlyBatchNorm1d}
    for method, kind in kinds.items():
        linear, normalization = layers[method]
        assert linear.bias is None
        assert isinstance(normalization, kind)
    for method in ("baseline", "max"):
        assert type(layers[method]) is nn.Linear
        assert torch.count_nonzero(layers[method].bias) == 0


@pytest.mark.parametrize("method", ["baseline", "max"])
def test_hidden_layers_without_bias(method):
    model = mlp(SIZES, method, hidden_bias=False)
    assert all(layer.bias is None for layer in model.hidden)
    assert model.output.bias is not None


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_the_output_layer_is_plain(method):
    output = mlp(SIZES, method).output
    assert type(output) is nn.Linear
    assert torch.count_nonzero(output.bias) == 0


def test_weight_normalization_has_gain_one_for_good():
    model = mlp(SIZES, "weight")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = trained_weights(model)["hidden1"].clone()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 12)).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(model.hidden[0].weight.norm(dim=1), torch.ones(9))
    assert not torch.equal(trained_weights(model)["hidden1"], before)


def test_what_enters_the_relu_is_a_cosine():
    model = mlp(SIZES, "cosine")
    x = torch.randn(50, 12)
    expected = nn.functional.cosine_similarity(x[:, None], model.hidden[0].weight[None], dim=-1)
    torch.testing.assert_close(model.hidden[0](x), expected, atol=1e-5, rtol=1e-4)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"method must be one of .*got 'cosin'"):
        mlp(SIZES, "cosin")
    with pytest.raises(ValueError, match="at least three; got"):
        mlp((3, 4), "cosine")
