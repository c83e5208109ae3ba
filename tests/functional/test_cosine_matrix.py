"""The short way of matrices on a CPU: which inputs it takes, and that it declines the others."""

import pytest
import reference
import torch
from cosnorm.functional.cosine_matrix import matrix_cosine
from torch.nn import functional as F

from cosnorm.functional import cosine_linear

# Rows whose norms and products, and whose gradients, are taken in one pass; on one thread and on several.
FEW = [(1, 784, 100), (2, 63, 37), (4, 1100, 5), (7, 784, 100), (8, 513, 3), (9, 784, 100), (16, 31, 7)]


def _exact(x, w, g, **options):
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    output = reference.linear(x, w, **options)
    return output.detach(), *torch.autograd.grad(output, (x, w), g.double())


@pytest.mark.parametrize("shape", [(100, 123, 63), (63, 123, 507), (1, 507, 1), (200, 63, 37), *FEW])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("augment", [0.0, 0.3])
def test_values_and_gradients(shape: tuple[int, int, int], centered: bool, augment: float):
    rows, size, columns = shape
    x, w = torch.randn(rows, size), torch.randn(columns, size) + 0.2
    g = torch.randn(rows, columns)
    exact = _exact(x, w, g, centered=centered, augment=augment)
    with torch.no_grad():
        alone = matrix_cosine(x, w, centered, augment)
    assert alone is not None
    assert (alone - exact[0]).abs().max() < 1e-6
    x, w = x.requires_grad_(), w.requires_grad_()
    output = matrix_cosine(x, w, centered, augment)
    for own, other in zip((output, *torch.autograd.grad(output, (x, w), g)), exact, strict=True):
        assert (own - other).abs().max() < 3e-6 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("rows", [3, 9, 20])
@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_one_gradient_alone(needs: tuple[bool, bool], rows: int):
    x, w = torch.randn(rows, 63).requires_grad_(needs[0]), torch.randn(7, 63).requires_grad_(needs[1])
    g = torch.randn(rows, 7)
    leaf = x if needs[0] else w
    found = torch.autograd.grad(matrix_cosine(x, w, False, 0.0), leaf, g)[0]
    assert (found - _exact(x.detach(), w.detach(), g)[1 if needs[0] else 2]).abs().max() < 1e-5


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_unit_vectors_as_weights_for_few_rows(rows: int):
    x, w = torch.randn(rows, 784), F.normalize(torch.randn(100, 784))
    found = matrix_cosine(x, w, False, 0.0, folded=True)
    assert (found - _exact(x, w, torch.ones(rows, 100))[0]).abs().max() < 1e-6


@pytest.mark.parametrize("rows", [9, 20])
def test_what_it_declines(rows: int):
    x, w = torch.randn(rows, 63), torch.randn(7, 63)

    def taken(x, w, **options):
        return matrix_cosine(x, w, **{"centered": False, "augment": 0.0, **options}) is not None

    assert taken(x, w)
    assert not taken(x * 1e-12, w)
    assert not taken(x, w * 1e12)
    assert not taken(x.half(), w.half())
    assert not taken(x[:0], w)
    assert not taken(x, w + 30, centered=True)  # the weight's mean is larger than its deviations
    assert not taken(x * 1e-7 + 1, w, centered=True)  # nearly constant rows
    assert taken(x + 30, w, centered=True)
    x[3] = 0
    assert taken(x, w)
    x[3, 4] = 1e-30  # no zero row, though its square is 0
    assert not taken(x, w)
    x[3, 4] = torch.nan
    assert not taken(x, w)
    x[3, 4] = 0
    w[5] = 0
    assert taken(x, w)
    w[5, 6] = 1e-30  # the same of the weight
    assert not taken(x, w)


def test_cotangents_out_of_the_window_and_second_derivatives():
    x, w = torch.randn(9, 63), torch.randn(7, 63)
    g = torch.randn(9, 7) * 10.0 ** torch.arange(-36, 36, 8).unsqueeze(1)
    x, w = x.requires_grad_(), w.requires_grad_()
    found = torch.autograd.grad(matrix_cosine(x, w, False, 0.0), x, g)[0]
    exact = _exact(x.detach(), w.detach(), g)[1]
    assert ((found - exact).norm(dim=1) < 1e-5 * exact.norm(dim=1)).all()
    first = torch.autograd.grad(cosine_linear(x, w).square().sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), w)[0]
    xd, wd = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    first = torch.autograd.grad(reference.linear(xd, wd).square().sum(), xd, create_graph=True)[0]
    expected = torch.autograd.grad(first.square().sum(), wd)[0]
    assert (second - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_cotangent_that_would_lose_its_digits():
    x, w = torch.randn(9, 63), torch.randn(7, 63).mul_(2**26).requires_grad_()
    g = torch.randn(9, 7)
    g[4] *= 1e-32  # too small to be divided by the norm of the weight
    exact = _exact(x, w.detach(), g)[1]
    found = torch.autograd.grad(matrix_cosine(x.requires_grad_(), w, False, 0.0), x, g)[0]
    assert ((found - exact).norm(dim=1) < 1e-5 * exact.norm(dim=1)).all()


def test_the_cosine_of_a_row_with_itself_is_at_most_one():
    x = torch.randn(507, 63)
    norm = x.norm(dim=1, keepdim=True)
    assert (F.linear(x, x) / norm / norm.t()).max() > 1  # unless it is cut, rounding makes it more
    assert 1 - 1e-6 < matrix_cosine(x, x, False, 0.0).max() <= 1
    assert -1 <= matrix_cosine(x, -x, False, 0.0).min() < -1 + 1e-6
    w = x.clone().requires_grad_()
    assert matrix_cosine(x, w, False, 0.0).max() <= 1


def test_many_more_cosines_than_numbers():
    x, w = torch.randn(700, 8), torch.randn(2**14, 8)
    with torch.no_grad():
        output = cosine_linear(x, w, augment=0.1)
    assert (output[::233, ::997] - reference.linear(x[::233], w[::997], augment=0.1)).abs().max() < 1e-6
