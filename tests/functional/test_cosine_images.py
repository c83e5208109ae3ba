"""The compiled way of images: which inputs it takes, that it is right, and that it declines the others."""

from unittest import mock

import pytest
import reference
import torch

from cosnorm import functional
from cosnorm.functional.cosine_images import image_cosine
from cosnorm.functional.fields import Geometry
from cosnorm.kernels.compiled import library

pytestmark = pytest.mark.skipif(library() is None, reason="the passes in C were not compiled here")

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


def _exact(x, w, g, geometry, augment):
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    places = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    names = ("stride", "padding", "dilation", "groups")
    output = reference.conv(x, w, **dict(zip(names, places, strict=True)), augment=augment)
    return output.detach(), *torch.autograd.grad(output, (x, w), g(output))


def _close(found, exact):
    return (found - exact).abs().max() <= 3e-6 * exact.abs().max().clamp(min=1)


@pytest.mark.parametrize(("case", "last"), CASES, ids=str)
@pytest.mark.parametrize("augment", [0.0, 0.3])
def test_values_and_gradients(case: tuple, last: bool, augment: float):
    x_shape, w_shape, *places, groups = case
    geometry = Geometry(w_shape[2:], *places, groups)
    x, w = torch.randn(x_shape), torch.randn(w_shape)
    x[0] = 0  # zero fields
    if last:
        x = x.contiguous(memory_format=torch.channels_last)

    def cotangent(output):
        generator = torch.Generator().manual_seed(1)
        return torch.randn(output.shape, generator=generator).to(output)

    exact = _exact(x, w, cotangent, geometry, augment)
    with torch.no_grad():
        alone = image_cosine(x, w, geometry, augment)
    assert alone is not None
    assert _close(alone, exact[0])
    x, w = x.requires_grad_(), w.requires_grad_()
    output = image_cosine(x, w, geometry, augment)
    torch.testing.assert_close(output.detach(), alone, rtol=0, atol=2e-7)
    for own, other in zip(
        (output, *torch.autograd.grad(output, (x, w), cotangent(output))), exact, strict=True
    ):
        assert own.shape == other.shape
        assert _close(own, other)


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_one_gradient_alone(needs: tuple[bool, bool]):
    x, w = torch.randn(3, 2, 7, 7, requires_grad=needs[0]), torch.randn(4, 2, 3, 3, requires_grad=needs[1])
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1)
    output = image_cosine(x, w, geometry, 0.0)
    g = torch.randn_like(output)
    exact = _exact(x.detach(), w.detach(), lambda _: g.double(), geometry, 0.0)
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


def test_an_in_place_relu_may_follow():
    x, w = torch.randn(3, 2, 7, 7), torch.randn(4, 2, 3, 3, requires_grad=True)
    (torch.relu_(functional.cosine_conv2d(x, w)) ** 2).sum().backward()
    (found, w.grad) = (w.grad, None)
    (torch.relu(functional.cosine_conv2d(x, w)) ** 2).sum().backward()
    torch.testing.assert_close(found, w.grad)


@pytest.mark.parametrize("last", [False, True])
def test_sums_over_many_fields_keep_their_digits(last: bool):
    x, w = torch.randn(4, 2, 600, 600).add_(3), torch.randn(3, 2, 1, 1, requires_grad=True)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    geometry = Geometry((1, 1), (1, 1), (0, 0), (1, 1), 1)
    output = image_cosine(x, w, geometry, 0.0)
    g = torch.rand_like(output)
    exact = _exact(x, w.detach(), lambda _: g.double(), geometry, 0.0)[2]
    assert (torch.autograd.grad(output, w, g)[0] - exact).abs().max() < 4e-6 * exact.abs().max()


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
    assert not taken(x.transpose(2, 3), w)
    x[1] = 0
    assert taken(x, w)
    x[1, 0, 3, 3] = 1e-30  # its square vanishes, and it is not zero
    assert not taken(x, w)
    x[1, 0, 3, 3] = torch.nan
    assert not taken(x, w)


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


def test_without_the_library_the_result_is_the_same():
    x, w = torch.randn(3, 2, 7, 7), torch.randn(4, 2, 3, 3)
    found = functional.cosine_conv2d(x, w)
    with mock.patch("cosnorm.functional.cosine_images.library", return_value=None) as asked:
        torch.testing.assert_close(functional.cosine_conv2d(x, w), found, rtol=0, atol=1e-6)
    assert asked.called
