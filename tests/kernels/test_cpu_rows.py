"""The compiled passes over rows, called as a backend is: dtypes, numbers of threads, what they decline."""

import threading

import pytest
import reference
import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.kernels import cpu_rows
from cosnorm.kernels.compiled import library

pytestmark = pytest.mark.skipif(library() is None, reason="the passes were not built")

_ERRORS = {torch.float64: 1e-14, torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
_PLAIN = {"centered": False, "augment": 0.0, "folded": False, "keep": True}


def _all(x: Tensor, w: Tensor, g: Tensor, centered: bool = False, augment: float = 0.0) -> tuple[Tensor, ...]:
    found = cpu_rows.cosines(x, w, centered=centered, augment=augment, folded=False, keep=True)
    assert found is not None
    output, products, statistics = found
    options = {"centered": centered, "augment": augment, "needs_x": True, "needs_w": True}
    return output, *cpu_rows.gradients(g, x, w, products, statistics, **options)


def _exact(x: Tensor, w: Tensor, g: Tensor, *options) -> tuple[Tensor, ...]:
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    output = reference.linear(x, w, *options)
    return output.detach(), *torch.autograd.grad(output, (x, w), g.double())


def _inputs(dtype: torch.dtype, rows: int, size: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = (rows, size), (columns, size), (rows, columns)
    x, w, g = (torch.randn(shape, generator=generator) for shape in shapes)
    return x.add_(0.3).to(dtype), w.add_(0.2).to(dtype), g.to(dtype)


@pytest.fixture(params=[1, 2, 7])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", list(_ERRORS))
@pytest.mark.parametrize("shape", [(1, 507, 100), (3, 784, 90), (7, 63, 5), (16, 2100, 33), (100, 784, 90)])
@pytest.mark.parametrize(("centered", "augment"), [(False, 0.0), (True, 0.0), (False, 0.3), (True, 0.3)])
def test_cosines_and_gradients(dtype: torch.dtype, shape: tuple[int, ...], centered: bool, augment: float):
    inputs = _inputs(dtype, *shape)
    exact = _exact(*inputs, centered, augment)
    for own, other in zip(_all(*inputs, centered, augment), exact, strict=True):
        assert own.dtype == dtype
        assert (own - other).abs().max() < _ERRORS[dtype] * max(1.0, other.abs().max().item())
    x, w, _ = inputs
    alone = cpu_rows.cosines(x, w, centered=centered, augment=augment, folded=False, keep=False)
    assert (alone[0] - exact[0]).abs().max() < _ERRORS[dtype]


@pytest.mark.parametrize("dtype", list(_ERRORS))
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_unit_rows_as_weights(dtype: torch.dtype, rows: int):
    x, w, g = _inputs(dtype, rows, 507, 100)
    w = F.normalize(w.double()).to(dtype)
    found = cpu_rows.cosines(x, w, **{**_PLAIN, "folded": True, "keep": False})
    assert (found[0] - _exact(x, w, g)[0]).abs().max() < 2 * _ERRORS[dtype]


@pytest.mark.parametrize("dtype", list(_ERRORS))
@pytest.mark.parametrize("rows", [3, 20])
def test_what_they_decline(dtype: torch.dtype, rows: int):
    x, w, g = _inputs(dtype, rows, 64, 9)
    info = torch.finfo(dtype)

    def taken(x: Tensor, w: Tensor, **options) -> bool:
        return cpu_rows.cosines(x.to(dtype), w.to(dtype), **{**_PLAIN, **options}) is not None

    assert taken(x, w)
    for value in (torch.nan, torch.inf):
        for into_x in (True, False):
            bad = (x if into_x else w).clone()
            bad[2, 7] = value
            assert not taken(*((bad, w) if into_x else (x, bad)))
    if dtype != torch.float16:  # whose whole range is inside of the window of float32
        assert not taken(x.double() * info.max**0.5, w)
        assert not taken(x, w.double() * info.tiny**0.5)
    assert not taken(torch.full_like(x, 3.0), w, centered=True)
    assert not taken(x, torch.full_like(w, 3.0), centered=True)
    x[1] = 0
    w[1] = 0
    output, into_x, into_w = _all(x, w, g)
    assert not output[1].any()
    assert not output[:, 1].any()
    assert not into_x[1].any()
    assert not into_w[1].any()
    found = cpu_rows.cosines(x, w, **_PLAIN)
    options = {"centered": False, "augment": 0.0, "needs_x": True, "needs_w": True}
    g[0, 0] = torch.nan
    assert cpu_rows.gradients(g, x, w, *found[1:], **options) is None


def test_an_expanded_cotangent_and_one_that_lies_across():
    x, w, g = _inputs(torch.float32, 20, 63, 37)
    for own in (torch.ones(()).expand(20, 37), g.t().contiguous().t()):
        for one, other in zip(_all(x, w, own), _all(x, w, own.contiguous()), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("rows", [3, 20])
def test_the_default_dtype_and_device_change_nothing(rows: int):
    inputs = _inputs(torch.float32, rows, 63, 37)
    expected = _all(*inputs, True)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = _all(*inputs, True)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rows", [3, 100])
def test_several_threads_of_python_at_once(rows: int):
    inputs = _inputs(torch.float32, rows, 784, 200)
    exact, differences = _exact(*inputs), []

    def work() -> None:
        for _ in range(20):
            found = _all(*inputs)
            differences.append(max((a - b).abs().max().item() for a, b in zip(found, exact, strict=True)))

    running = [threading.Thread(target=work) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(differences) == 80
    assert max(differences) < 1e-5
