"""What multiplies the cosines: the option, its numbers, and how a learned one is stored."""

import math

import pytest
import torch
from torch import nn

from cosnorm import losses
from cosnorm.nn import CosineConv1d, CosineConv2d, CosineConv3d, CosineLinear

LAYERS = {
    "linear": (lambda **o: CosineLinear(50, 7, **o), (2000, 50), 50),
    "conv1d": (lambda **o: CosineConv1d(3, 7, 4, **o), (200, 3, 11), 12),
    "conv2d": (lambda **o: CosineConv2d(6, 8, 3, groups=2, **o), (200, 6, 5, 5), 27),
    "conv3d": (lambda **o: CosineConv3d(2, 7, 2, **o), (200, 2, 4, 4, 4), 16),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("centered", [False, True])
def test_unit_is_the_root_of_what_enters_a_cosine(layer: str, centered: bool):
    make, shape, fan_in = LAYERS[layer]
    plain, scaled = make(centered=centered), make(centered=centered, scale="unit")
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(shape)
    torch.testing.assert_close(scaled(x), math.sqrt(fan_in) * plain(x))
    # Pre-activations of random rows have variance 1; centered ones live in one dimension less.
    variance = fan_in / (fan_in - 1) if centered else 1
    assert scaled(x).square().mean().item() == pytest.approx(variance, rel=0.1)
    assert not scaled.scale.state_dict()


def test_what_is_no_scale():
    for scale in ("units", "", "None"):
        with pytest.raises(ValueError, match='scale must be None, a number, "unit" or "learned"'):
            CosineLinear(3, 2, scale=scale)
    with pytest.raises(TypeError, match='scale must be None, a number, "unit" or "learned"'):
        CosineLinear(3, 2, scale=True)
    assert CosineLinear(0, 2, scale="unit")(torch.ones(1, 0)).tolist() == [[0.0, 0.0]]


LEARNED = {
    "layer": (lambda: CosineLinear(3, 2, scale="learned"), {"scale.log_scale"}),
    "conv": (lambda: CosineConv2d(3, 2, 1, scale="learned"), {"scale.log_scale"}),
    "temperature": (lambda: losses.NTXentLoss(learn_temperature=True), {"temperature.log_temperature"}),
    "clip": (losses.CLIPLoss, {"logit_scale"}),
    "siglip": (losses.SigLIPLoss, {"logit_scale", "logit_bias"}),
}


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_numbers_have_a_dimension_and_load_without_one(kind: str):
    make, names = LEARNED[kind]
    module = make()
    numbers = {name: one for name, one in module.named_parameters() if name in names}
    assert {name: one.shape for name, one in numbers.items()} == dict.fromkeys(names, (1,))
    state = module.state_dict()
    for name in names:
        state[name] = torch.tensor(0.125)
    module.load_state_dict(state)
    assert all(one.tolist() == [0.125] for one in numbers.values())
    assert state[next(iter(names))].shape == ()  # a checkpoint stays as it is
    assert make().load_state_dict(module.state_dict()).missing_keys == []


def test_a_scale_that_no_checkpoint_has_begins_at_its_first_value():
    with torch.device("meta"):
        layer = CosineLinear(3, 2, bias=True, scale="learned", dtype=torch.float64)
    layer.load_state_dict(nn.Linear(3, 2, dtype=torch.float64).state_dict(), assign=True)
    assert layer.scale.log_scale.tolist() == [math.log(10)]
    assert layer(torch.ones(1, 3, dtype=torch.float64)).isfinite().all()
