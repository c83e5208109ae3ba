"""Margins against mpmath: values, slopes, and the gradient of a loss through an angle."""

import math

import mpmath
import pytest
import torch
from margin_laws import LAWS, InDigits

from cosnorm.functional import AdditiveAngle, AdditiveCosine, BatchMargin, Targets, margin_cross_entropy
from cosnorm.functional.named_margins import MARGINS

mpmath.mp.dps = 50
ANGLES = (0.0, 1e-7, 1e-3, 0.4, 1.0, math.pi / 2, 2.0, 2.6, 2.7, 3.0, math.pi - 1e-3, math.pi)
NORMS = (1e-38, 0.5, 3.0, 4.5, 20.0, 1e38)
each_margin = pytest.mark.parametrize("name", LAWS)


def test_every_margin_has_its_law():
    assert LAWS.keys() == MARGINS.keys()


def seen(margin, cosine, sine, norm):
    """Value and slope, also of margins that see more."""
    if not isinstance(margin, BatchMargin):
        return margin(cosine, sine)
    return margin(Targets(cosine, sine, norm, torch.ones(()).bool(), ""))[:2]


@each_margin
@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("norm", NORMS)
def test_value_and_slope(name: str, angle: float, norm: float):
    exact = LAWS[name].value
    cosine, sine = (torch.tensor(float(f(angle)), dtype=torch.float64) for f in (mpmath.cos, mpmath.sin))
    value, slope = seen(LAWS[name].make(), cosine, sine, torch.tensor(norm, dtype=torch.float64))
    at, norm = mpmath.mpf(angle), mpmath.mpf(norm)
    assert value.item() == pytest.approx(float(exact(InDigits, at, norm)), abs=1e-14)
    derivative = mpmath.diff(lambda one: exact(InDigits, one, norm), at)
    assert slope.item() == pytest.approx(-float(derivative), abs=1e-14)


@each_margin
@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.4, 1.5, 2.6, 2.7, math.pi - 1e-3, math.pi - 1e-6])
def test_gradient_in_an_embedding(name: str, angle: float):
    """Two classes in the plane; the embedding turns and stretches: ∂loss/∂θ and ∂loss/∂|x|."""
    law, length, scale = LAWS[name], 3.0, 4.0
    x = torch.tensor([[length * math.cos(angle), length * math.sin(angle)]], dtype=torch.float64)
    x.requires_grad_()
    weight = torch.tensor([[2.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    loss = margin_cross_entropy(x, weight, torch.tensor([0]), margin=law.make(), scale=scale)
    gradient = torch.autograd.grad(loss, x)[0][0]

    point = [mpmath.mpf(one) for one in x[0].tolist()]
    stored = mpmath.sqrt(point[0] ** 2 + point[1] ** 2)
    least = law.make().ease.item() if law.negatives else 0.0

    def moved(by, stretch):
        angle = mpmath.atan2(point[1], point[0]) + by
        norm = stored + stretch
        other = mpmath.mpf(0.6) * mpmath.cos(angle) + mpmath.mpf(0.8) * mpmath.sin(angle)
        if law.negatives and other > mpmath.cos(angle + 0.5):
            other *= least + other
        value = law.value(InDigits, angle, norm)
        loss = mpmath.log(1 + mpmath.exp(scale * (other - value)))
        return loss if law.penalty is None else loss + law.penalty(InDigits, norm)

    turning = float(mpmath.diff(lambda by: moved(by, 0), 0) / stored)
    stretching = float(mpmath.diff(lambda by: moved(0, by), 0)) if law.learns else 0.0
    along = torch.tensor([float(one / stored) for one in point], dtype=torch.float64)
    across = torch.stack([-along[1], along[0]])
    assert loss.item() == pytest.approx(float(moved(0, 0)), rel=1e-9)
    assert (gradient @ across).item() == pytest.approx(turning, rel=1e-8)
    assert (gradient @ along).item() == pytest.approx(stretching, rel=1e-8, abs=1e-12)


def test_beyond_pi_less_the_margin_an_angle_goes_on_falling():
    margin = AdditiveAngle(0.5)
    angles = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    value, slope = margin(angles.cos(), angles.sin())
    assert (value.diff() < 0).all()
    assert (slope >= -1e-15).all()
    just_before, just_after = ((math.pi - 0.5 + one) for one in (-1e-9, 1e-9))
    step = [
        margin(*(torch.tensor(f(one), dtype=torch.float64) for f in (math.cos, math.sin)))[0]
        for one in (just_before, just_after)
    ]
    assert (step[1] - step[0]).item() == pytest.approx(-math.cos(0.5) - 0.5 * math.sin(0.5) + 1, abs=1e-8)


@pytest.mark.parametrize("make", [lambda: AdditiveCosine(-0.1), lambda: AdditiveCosine(2.1)])
def test_a_cosine_margin_out_of_range(make):
    with pytest.raises(ValueError, match="between 0 and 2"):
        make()


def test_a_margin_in_degrees_says_how_to_mend_it():
    with pytest.raises(ValueError, match=r"radians, got 28.6; for degrees pass math.radians\(28.6\)"):
        AdditiveAngle(28.6)
