"""The compiled passes over images: which inputs they take, that they are right, and decline the others."""

import math

import pytest
import reference
import torch

from cosnorm import functional
from cosnorm.backends.c import fields as passes
from cosnorm.backends.c.library import library
from cosnorm.backends.geometry import Geometry
from cosnorm.operators.fields import cosine_fields

pytestmark = pytest.mark.skipif(library() is None, reason="the passes in C were not compiled here")


def image_cosine(x, w, geometry, augment, *, centered=False):
    """The operator where the passes take the input; None where they decline it."""
    if not passes.handles(x, w, geometry, centered):
        return None
    options = {"centered": centered, "augment": augment}
    with torch.no_grad():
        if passes.cosines(x, w, geometry, **options, keep=False) is None:
            return None
    places = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    return cosine_fields(x, w, *places, centered, augment, "c", False)[0]


# x, weight, stride, padding, dilation, groups
GEOMETRIES = [
    ((5, 3, 11, 9), (7, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((3, 4, 9, 13), (6, 2, 2, 5), (2, 3), (1, 2), (1, 1), 2),
    ((2, 6, 12, 10), (3, 2, 3, 2), (3, 1), (0, 2), (2, 3), 3),
    ((1, 1, 37, 41), (1, 1, 5, 5), (1, 1), (4, 4), (1, 1), 1),
    ((4, 3, 5, 5), (2, 3, 1, 1), (2, 2), (0, 0), (1, 1), 1),
    ((3, 2, 4, 4), (5, 2, 2, 2), (1, 1), (3, 3), (1, 1), 1),  # fields of padding alone
    ((40, 3, 20, 20), (8, 3, 3, 3), (2, 1), (2, 0), (1, 2), 1),  # enough for several threads
    ((3, 4, 17), (6, 2, 4), (2,), (1,), (1,), 2),
]

# With the channels last there is one group.
CASES = [(case, False) for case in GEOMETRIES]
CASES += [(case, True) for case in GEOMETRIES if len(case[0]) == 4 and case[-1] == 1]


def _exact(x, w, g, geometry, augment, centered=False):
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    places = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    names = ("stride", "padding", "dilation", "groups")
    options = dict(zip(names, places, strict=True))
    output = reference.conv(x, w, **options, centered=centered, augment=augment)
    return output.detach(), *torch.autograd.grad(output, (x, w), g(output))


def _close(found, exact, bound=3e-6):
    return (found - exact).abs().max() <= bound * exact.abs().max().clamp(min=1)


def _check(x, w, geometry, augment, centered, bound=3e-6):
    """Cosines and both gradients are the formula's, with and without gradients."""

    def cotangent(output):
        generator = torch.Generator().manual_seed(1)
        return torch.randn(output.shape, generator=generator).to(output)

    exact = _exact(x, w, cotangent, geometry, augment, centered)
    with torch.no_grad():
        alone = image_cosine(x, w, geometry, augment, centered=centered)
    assert alone is not None
    assert _close(alone, exact[0], bound)
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    output = image_cosine(x, w, geometry, augment, centered=centered)
    torch.testing.assert_close(output.detach(), alone, rtol=0, atol=2e-7)
    for own, other in zip(
        (output, *torch.autograd.grad(output, (x, w), cotangent(output))), exact, strict=True
    ):
        assert own.shape == other.shape
        assert _close(own, other, bound)


@pytest.mark.parametrize(("case", "last"), CASES, ids=str)
@pytest.mark.parametrize("augment", [0.0, 0.3])
@pytest.mark.parametrize("centered", [False, True])
def test_values_and_gradients(case: tuple, last: bool, augment: float, centered: bool):
    x_shape, w_shape, *places, groups = case
    if centered and math.prod(w_shape[1:]) == 1:
        pytest.skip("a filter of one value is nothing but its mean")
    geometry = Geometry(w_shape[2:], *places, groups)
    x, w = torch.randn(x_shape), torch.randn(w_shape)
    x[0] = 0  # zero fields
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    _check(x, w, geometry, augment, centered)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("augment", [0.0, 1e-4, 0.3])
def test_constant_fields(last: bool, groups: int, augment: float):
    x, w = torch.randn(3, 4, 12, 13), torch.randn(6, 4 // groups, 3, 3)
    x[1, :, 2:8, 3:11] = 3  # in float64, too, nothing is left of it
    x[2] = -2  # with zeros around it
    if last and groups == 1:
        x = x.contiguous(memory_format=torch.channels_last)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), groups)
    with torch.no_grad():
        x[2, ::2, 0, 0] = 0  # else it would be shifted first
    _check(x, w, geometry, augment, True, 1e-5)
    with torch.no_grad():
        inside = image_cosine(x, w, geometry, 0.0, centered=True)[1, :, 3:7, 4:10]
    assert bool((inside == 0).all())


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("deviation", [1.0, 1e-2, 1e-4, 1e-6])
def test_norms_of_nearly_constant_fields(last: bool, deviation: float):
    x = torch.randn(2, 3, 9, 8).mul_(deviation).add_(5)
    x[:, :, :, 6:] = 0  # so that it cannot be shifted
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    w = torch.randn(4, 3, 2, 3)
    geometry = Geometry((2, 3), (1, 1), (0, 0), (1, 1), 1)
    prepared = passes._Images(x, w, geometry).prepare(centered=True, augment=0.0, folded=False)
    fields = reference.unfold(x.double(), (2, 3), (1, 1), (0, 0), (1, 1)).flatten(1, 2)
    centered = fields - fields.mean(1, keepdim=True)
    constant = centered.abs().amax(1) <= 4 * 2.0**-23 * fields.mean(1).abs()
    found = prepared.factors[4:].reshape(2, 8, 6)
    assert bool((found[constant] == 0).all())
    right = centered.norm(dim=1).reciprocal()
    assert ((found / right - 1).abs()[~constant] <= 3e-7).all()
    torch.testing.assert_close(prepared.mean.reshape(2, 8, 6), fields.mean(1).float())
    assert (prepared.constant is not None) == bool(constant.logical_and(fields.norm(dim=1) > 0).any())


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("augment", [0.0, 0.3])
def test_one_gradient_alone(needs: tuple[bool, bool], centered: bool, augment: float):
    x, w = torch.randn(3, 2, 7, 7), torch.randn(4, 2, 3, 3, requires_grad=needs[1])
    x[0, :, :5, :5] = 2  # constant fields
    x.requires_grad_(needs[0])
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1)
    output = image_cosine(x, w, geometry, augment, centered=centered)
    g = torch.randn_like(output)
    exact = _exact(x.detach(), w.detach(), lambda _: g.double(), geometry, augment, centered)
    assert _close(torch.autograd.grad(output, x if needs[0] else w, g)[0], exact[1 if needs[0] else 2])


@pytest.mark.parametrize("last", [False, True])
def test_the_cosine_of_a_field_with_itself_is_at_most_one(last: bool):
    x = torch.randn(1, 63, 19, 20)
    w = x[0].flatten(1).t().contiguous().reshape(-1, 63, 1, 1)  # every position as a filter
    product, norm = x.double().square().sum(1).float(), x.norm(dim=1)
    assert (product / norm / norm).max() > 1  # unless it is cut, rounding makes it more
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    output = image_cosine(x, w, Geometry((1, 1), (1, 1), (0, 0), (1, 1), 1), 0.0)
    assert 1 - 1e-6 < output.max() <= 1
    assert output.min() >= -1


@pytest.mark.parametrize("centered", [False, True])
def test_an_in_place_relu_may_follow(centered: bool):
    x, w = torch.randn(3, 2, 7, 7), torch.randn(4, 2, 3, 3, requires_grad=True)
    (torch.relu_(functional.cosine_conv2d(x, w, centered=centered)) ** 2).sum().backward()
    (found, w.grad) = (w.grad, None)
    (torch.relu(functional.cosine_conv2d(x, w, centered=centered)) ** 2).sum().backward()
    torch.testing.assert_close(found, w.grad)


@pytest.mark.parametrize("last", [False, True])
def test_sums_over_many_fields_keep_their_digits(last: bool):
    x, w = torch.randn(4, 2, 600, 600).add_(3), torch.randn(3, 2, 1, 1, requires_grad=True)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    geometry = Geometry((1, 1), (1, 1), (0, 0), (1, 1), 1)
    output = image_cosine(x, w, geometry, 0.0)
    g = torch.rand_like(output)
    exact = _exact(x, w.detach(), lambda _: g.double(), geometry, 0.0)[2]
    found = (torch.autograd.grad(output, w, g)[0] - exact).abs().max() / exact.abs().max()
    # One thread and the channels last: the convolution's own sum has an error of 1e-4 (torch 2.13).
    plain = torch.nn.grad.conv2d_weight(x, w.shape, g)
    expected = torch.nn.grad.conv2d_weight(x.double(), w.shape, g.double())
    assert found < 4e-6 + (plain - expected).abs().max() / expected.abs().max()


def test_what_it_declines():
    x, w = torch.randn(3, 2, 7, 7), torch.randn(4, 2, 3, 3)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1)

    def taken(x, w):
        return image_cosine(x, w, geometry, 0.0) is not None

    assert taken(x, w)
    assert not taken(x * 1e-12, w)
    assert not taken(x, w * 1e12)
    assert not taken(x.double(), w.double())
    assert not taken(x[:0], w)
    assert taken(x.transpose(2, 3), w)  # as a copy
    x[1] = 0
    assert taken(x, w)
    x[1, 0, 3, 3] = 1e-30  # its square vanishes, and it is not zero
    assert not taken(x, w)
    x[1, 0, 3, 3] = torch.nan
    assert not taken(x, w)


def test_what_it_declines_centered():
    x, w = torch.randn(3, 2, 7, 7), torch.randn(4, 2, 3, 3)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1)

    def taken(x, w):
        return image_cosine(x, w, geometry, 0.0, centered=True) is not None

    assert taken(x, w)
    assert not taken(x * 1e-12, w)
    assert not taken(x, w * 1e12)
    assert not taken(x.double(), w.double())
    assert not taken(x, torch.ones_like(w))  # filters that count as zero
    assert not taken(x, w + 1e5)  # filters whose means would eat their digits
    for shift in (10, -10):  # subtracting it first is exact, and keeps the digits
        close = x.clone()
        close[1] += shift
        assert not taken(close, w)
    x[1, 0, 3, 3] = 2.0**31
    assert not taken(x, w)
    x[1, 0, 3, 3] = torch.nan
    assert not taken(x, w)
    x[1, 0, 3, 3] = torch.inf
    assert not taken(x, w)


def test_centered_filters_with_the_channels_last():
    x, w = torch.randn(3, 4, 9, 8), torch.randn(6, 4, 3, 3)
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1)
    last = {"memory_format": torch.channels_last}
    _check(x.contiguous(**last), w.contiguous(**last), geometry, 0.0, True)
    _check(x, w.contiguous(**last), geometry, 0.0, True)


def test_a_second_derivative_centered():
    x, w = torch.randn(2, 2, 5, 5), torch.randn(3, 2, 3, 3)

    def second(x, w, cosines):
        x = x.requires_grad_()
        gradient = torch.autograd.grad(cosines(x, w).square().sum(), x, create_graph=True)[0]
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    found = second(x, w, lambda x, w: functional.cosine_conv2d(x, w, centered=True))
    exact = second(x.detach().double(), w.double(), lambda x, w: reference.conv(x, w, centered=True))
    assert _close(found, exact, 1e-5)


def test_a_cotangent_out_of_its_window():
    x, w = torch.randn(3, 2, 7, 7, requires_grad=True), torch.randn(4, 2, 3, 3).mul_(2**26).requires_grad_()
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1)
    output = image_cosine(x, w, geometry, 0.0)
    g = torch.randn_like(output)
    g[1] *= 1e-32  # divided by the norm of the filters it would have no digits left
    exact = _exact(x.detach(), w.detach(), lambda _: g.double(), geometry, 0.0)
    into_x = torch.autograd.grad(output, x, g)[0]
    for sample in range(3):
        scale = exact[1][sample].abs().max()
        assert (into_x[sample] - exact[1][sample]).abs().max() < 1e-5 * scale
