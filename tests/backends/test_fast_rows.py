"""The fast forms of rows on a CPU, called as backends are: dtypes, threads, and what they decline."""

import subprocess
import sys
import threading
import time
from types import ModuleType

import pytest
import reference
import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.backends.c.library import library
from cosnorm.backends.look import rows as look
from cosnorm.backends.torch.contraction import MATRIX
from cosnorm.functional import cosine_linear

BACKENDS = [look]
if library() is not None:
    from cosnorm.backends.c import rows as passes

    BACKENDS.append(passes)
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda one: one.__name__.split(".")[2])

_ERRORS = {torch.float64: 1e-14, torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
_PLAIN = {"centered": False, "augment": 0.0}
BOTH = [True, True]


def _all(
    backend: ModuleType, x: Tensor, w: Tensor, g: Tensor, centered: bool = False, augment: float = 0.0
) -> tuple[Tensor, ...]:
    options = {"centered": centered, "augment": augment}
    assert backend.handles(x, w, MATRIX, True)
    found = backend.cosines(x, w, MATRIX, keep=True, **options)
    assert found is not None
    for one, empty in zip(found[1:], backend.saved(x, w, MATRIX, centered), strict=True):
        assert (one.shape, one.dtype) == (empty.shape, empty.dtype)
    return found[0], *backend.gradients(g, x, w, *found[1:], MATRIX, needs=BOTH, **options)


def _exact(x: Tensor, w: Tensor, g: Tensor, *options) -> tuple[Tensor, ...]:
    x, w = (one.detach().double().clone().requires_grad_() for one in (x, w))
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
@each_backend
@pytest.mark.parametrize("dtype", list(_ERRORS))
@pytest.mark.parametrize("shape", [(1, 507, 100), (3, 784, 90), (7, 63, 5), (16, 2100, 33), (100, 784, 90)])
@pytest.mark.parametrize(("centered", "augment"), [(False, 0.0), (True, 0.0), (False, 0.3), (True, 0.3)])
def test_cosines_and_gradients(
    backend: ModuleType, dtype: torch.dtype, shape: tuple[int, ...], centered: bool, augment: float
):
    inputs = _inputs(dtype, *shape)
    exact = _exact(*inputs, centered, augment)
    for own, other in zip(_all(backend, *inputs, centered, augment), exact, strict=True):
        assert own.dtype == dtype
        assert (own - other).abs().max() < _ERRORS[dtype] * max(1.0, other.abs().max().item())
    x, w, _ = inputs
    alone = backend.cosines(x, w, MATRIX, centered=centered, augment=augment, keep=False)
    assert (alone[0] - exact[0]).abs().max() < _ERRORS[dtype]


@each_backend
@pytest.mark.parametrize("dtype", list(_ERRORS))
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_unit_rows_as_weights(backend: ModuleType, dtype: torch.dtype, rows: int):
    x, w, g = _inputs(dtype, rows, 507, 100)
    w = F.normalize(w.double()).to(dtype)
    found = backend.folded(x, w, None, **_PLAIN)
    assert (found - _exact(x, w, g)[0]).abs().max() < 2 * _ERRORS[dtype]


@each_backend
@pytest.mark.parametrize("rows", [3, 9, 20])
@pytest.mark.parametrize("needs", [[True, False], [False, True]])
def test_one_gradient_alone(backend: ModuleType, needs: list[bool], rows: int):
    x, w, g = _inputs(torch.float32, rows, 63, 7)
    _, *saved = backend.cosines(x, w, MATRIX, keep=True, **_PLAIN)
    found = backend.gradients(g, x, w, *saved, MATRIX, needs=needs, **_PLAIN)
    which = needs.index(True)
    assert (found[which] - _exact(x, w, g)[1 + which]).abs().max() < 1e-5
    assert not found[1 - which].numel()


@each_backend
@pytest.mark.parametrize("dtype", list(_ERRORS))
@pytest.mark.parametrize("rows", [9, 20])
def test_what_they_decline(backend: ModuleType, dtype: torch.dtype, rows: int):
    x, w, g = _inputs(dtype, rows, 64, 9)
    info = torch.finfo(dtype)

    def taken(x: Tensor, w: Tensor, centered: bool = False) -> bool:
        options = {"centered": centered, "augment": 0.0, "keep": True}
        return backend.cosines(x.to(dtype), w.to(dtype), MATRIX, **options) is not None

    assert taken(x, w)
    for value in (torch.nan, torch.inf):
        for into_x in (True, False):
            bad = (x if into_x else w).clone()
            bad[2, 7] = value
            assert not taken(*((bad, w) if into_x else (x, bad)))
    if dtype != torch.float16:  # whose whole range is inside of the window of float32
        assert not taken(x.double() * info.max**0.5, w)
        assert not taken(x, w.double() * info.tiny**0.5)
    x[1] = 0
    w[1] = 0
    output, into_x, into_w = _all(backend, x, w, g)
    for zero in (output[1], output[:, 1], into_x[1], into_w[1]):
        assert not zero.any()
    if dtype in (torch.float32, torch.bfloat16):
        for rows in (x, w):
            rows[1, 4] = 1e-30  # no zero row, though its square is 0
            assert not taken(x, w)
            rows[1, 4] = 0
    _, *saved = backend.cosines(x, w, MATRIX, keep=True, **_PLAIN)
    g[0, 0] = torch.nan
    assert backend.gradients(g, x, w, *saved, MATRIX, needs=BOTH, **_PLAIN) is None


@pytest.mark.skipif(library() is None, reason="the passes in C were not built")
def test_rows_that_could_be_constant_and_means_that_would_eat_digits_are_left_to_others():
    x, w, _ = _inputs(torch.float32, 20, 64, 9)

    def taken(x: Tensor, w: Tensor) -> bool:
        return passes.cosines(x, w, MATRIX, centered=True, augment=0.0, keep=False) is not None

    assert taken(x + 30, w)
    assert not taken(torch.full_like(x, 3.0), w)
    assert not taken(x, torch.full_like(w, 3.0))
    assert not taken(x, w + 30)
    assert not taken(x * 1e-7 + 1, w)


def test_what_the_passes_do_not_handle():
    if library() is None:
        pytest.skip("the passes in C were not built")
    x, w, _ = _inputs(torch.float32, 9, 63, 7)
    assert passes.handles(x, w, MATRIX, True)
    assert not passes.handles(x[:0], w, MATRIX, True)
    assert not passes.handles(x.t().contiguous().t(), w, MATRIX, True)
    assert not passes.handles(x, w.half(), MATRIX, True)


@pytest.mark.parametrize("rows", [3, 20])
def test_cotangents_out_of_the_window(rows: int):
    x, w, _ = _inputs(torch.float32, rows, 63, 7)
    g = torch.randn(rows, 7) * 10.0 ** torch.linspace(-36, 36, rows).unsqueeze(1)
    leaf = x.clone().requires_grad_()
    found = torch.autograd.grad(cosine_linear(leaf, w.requires_grad_()), leaf, g)[0]
    exact = _exact(x, w.detach(), g)[1]
    assert ((found - exact).norm(dim=1) < 1e-5 * exact.norm(dim=1)).all()


def test_a_cotangent_that_would_lose_its_digits():
    x, w = torch.randn(9, 63), torch.randn(7, 63).mul_(2**26).requires_grad_()
    g = torch.randn(9, 7)
    g[4] *= 1e-32  # too small to be divided by the norm of the weight
    exact = _exact(x, w.detach(), g)[1]
    found = torch.autograd.grad(cosine_linear(x.requires_grad_(), w), x, g)[0]
    assert ((found - exact).norm(dim=1) < 1e-5 * exact.norm(dim=1)).all()


@each_backend
def test_the_cosine_of_a_row_with_itself_is_at_most_one(backend: ModuleType):
    x = torch.randn(507, 63)
    norm = x.norm(dim=1, keepdim=True)
    assert (F.linear(x, x) / norm / norm.t()).max() > 1  # unless it is cut, rounding makes it more
    for keep in (True, False):
        assert 1 - 1e-6 < backend.cosines(x, x, MATRIX, keep=keep, **_PLAIN)[0].max() <= 1
        assert -1 <= backend.cosines(x, -x, MATRIX, keep=keep, **_PLAIN)[0].min() < -1 + 1e-6


@each_backend
def test_an_expanded_cotangent_and_one_that_lies_across(backend: ModuleType):
    x, w, g = _inputs(torch.float32, 20, 63, 37)
    for own in (torch.ones(()).expand(20, 37), g.t().contiguous().t()):
        for one, other in zip(_all(backend, x, w, own), _all(backend, x, w, own.contiguous()), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@each_backend
@pytest.mark.parametrize("rows", [3, 100])
def test_several_threads_of_python_at_once(backend: ModuleType, rows: int):
    inputs = _inputs(torch.float32, rows, 784, 200)
    exact, differences = _exact(*inputs), []

    def work() -> None:
        for _ in range(20):
            found = _all(backend, *inputs)
            differences.append(max((a - b).abs().max().item() for a, b in zip(found, exact, strict=True)))

    running = [threading.Thread(target=work) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(differences) == 80
    assert max(differences) < 1e-5


@pytest.mark.slow
@each_backend
@pytest.mark.parametrize("rows", [7, 300])
def test_a_crowded_machine_gives_the_same_bits(backend: ModuleType, rows: int):
    inputs = _inputs(torch.float32, rows, 507, 211)
    quiet = _all(backend, *inputs)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        end = time.monotonic() + 3  # the passes look four times a second whether the machine is crowded
        while time.monotonic() < end:
            for found, expected in zip(_all(backend, *inputs), quiet, strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=0)
    finally:
        for other in others:
            other.kill()
            other.wait()
