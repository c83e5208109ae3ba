"""Margins against mpmath: values, slopes, and the gradient of a loss through an angle."""

import math

import mpmath
import pytest
import torch

from cosnorm.functional import AdditiveAngle, AdditiveCosine, NoMargin, margin_cross_entropy

mpmath.mp.dps = 50
ANGLES = (0.0, 1e-7, 1e-3, 0.4, 1.0, math.pi / 2, 2.0, 2.6, 2.7, 3.0, math.pi - 1e-3, math.pi)
MARGINS = (NoMargin(), AdditiveCosine(0.35), AdditiveAngle(0.5), AdditiveAngle(0.0))
each_margin = pytest.mark.parametrize("margin", MARGINS, ids=repr)


def exact(margin, angle):
    """ψ(θ) in 50 digits."""
    if isinstance(margin, AdditiveCosine):
        return mpmath.cos(angle) - margin.margin
    if isinstance(margin, AdditiveAngle):
        if angle <= mpmath.mpf(math.pi) - margin.margin:
            return mpmath.cos(angle + margin.margin)
        return mpmath.cos(angle) - margin.margin * mpmath.sin(margin.margin)
    return mpmath.cos(angle)


@each_margin
@pytest.mark.parametrize("angle", ANGLES)
def test_value_and_slope(margin, angle: float):
    cosine, sine = (torch.tensor(float(f(angle)), dtype=torch.float64) for f in (mpmath.cos, mpmath.sin))
    value, slope = margin(cosine, sine)
    assert value.item() == pytest.approx(float(exact(margin, mpmath.mpf(angle))), abs=1e-14)
    derivative = mpmath.diff(lambda one: exact(margin, one), mpmath.mpf(angle))
    assert slope.item() == pytest.approx(-float(derivative), abs=1e-14)


@each_margin
@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.4, 1.5, 2.6, 2.7, math.pi - 1e-3, math.pi - 1e-6])
def test_gradient_through_the_angle(margin, angle: float):
    """Two classes in the plane; the embedding turns: ∂loss/∂x · tangent = (dloss/dθ) / |x|."""
    length, scale = 3.0, 4.0
    x = torch.tensor([[length * math.cos(angle), length * math.sin(angle)]], dtype=torch.float64)
    x.requires_grad_()
    weight = torch.tensor([[2.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    loss = margin_cross_entropy(x, weight, torch.tensor([0]), margin=margin, scale=scale)
    gradient = torch.autograd.grad(loss, x)[0][0]

    point = [mpmath.mpf(one) for one in x[0].tolist()]

    def turned(by):
        stored = mpmath.atan2(point[1], point[0]) + by
        own = scale * exact(margin, stored)
        other = scale * (mpmath.mpf(0.6) * mpmath.cos(stored) + mpmath.mpf(0.8) * mpmath.sin(stored))
        return mpmath.log(1 + mpmath.exp(other - own))

    norm = mpmath.sqrt(point[0] ** 2 + point[1] ** 2)
    expected = mpmath.diff(turned, 0) / norm
    tangent = torch.tensor([float(-point[1] / norm), float(point[0] / norm)], dtype=torch.float64)
    assert loss.item() == pytest.approx(float(turned(0)), rel=1e-9)
    assert (gradient @ tangent).item() == pytest.approx(float(expected), rel=1e-8)
    assert abs(gradient @ x.detach()[0]) < 1e-12  # turning only


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
