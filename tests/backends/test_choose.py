"""`impl=`: a named implementation computes, or raises with the reason."""

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from cosnorm.backends import choose
from cosnorm.backends.c.library import library
from cosnorm.backends.look import rows as look_rows
from cosnorm.backends.torch import rows as torch_rows
from cosnorm.functional import cosine_linear
from cosnorm.nn import CosineLinear

X, W = torch.randn(2, 5), torch.randn(3, 5)
KERNELS = {
    "rows",
    "fields",
    "softmax",
    "classes",
    "sigmoid",
    "unit_rows",
    "units",
    "fp8",
}  # what backends/triton has


def test_unknown_names():
    with pytest.raises(ValueError, match='impl must be "auto", "c", "torch" or "triton", got \'cuda\''):
        cosine_linear(X, W, impl="cuda")
    with pytest.raises(TypeError, match="impl must be a string, got NoneType"):
        CosineLinear(5, 3, impl=None)


def test_what_the_kernels_do_not_take():
    with pytest.raises(RuntimeError, match=r"takes float32, bfloat16 and float16, got torch\.float64"):
        cosine_linear(X.double(), W.double(), impl="triton")
    with pytest.raises(RuntimeError, match="no kernel for sparse"):
        cosine_linear(X.to_sparse_csr(), W, impl="triton")


def test_without_triton(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    choose._order.cache_clear()
    with pytest.raises(RuntimeError, match="needs triton, which is not installed: pip install triton"):
        cosine_linear(X, W, impl="triton")
    assert cosine_linear(X, W, impl="auto").shape == (2, 3)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """As if there were a GPU of that capability, as far as the choice goes."""

    def of(capability: tuple[int, int] = (9, 0), available: bool = True, hip: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.version, "hip", hip)
        choose._order.cache_clear()
        choose._say_what_is_missing.cache_clear()

    yield of
    choose._order.cache_clear()
    choose._say_what_is_missing.cache_clear()


class OnGPU:
    """What the choice looks at of a tensor."""

    device = torch.device("cuda", 0)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def names(operation: str, dtype: torch.dtype, impl: str = "auto") -> list[str]:
    return [module.__name__.split(".")[2] for module in choose.backends(operation, impl, OnGPU(dtype))]


OPERATIONS = sorted(
    path.stem for path in Path(torch_rows.__file__).parent.glob("*.py") if path.stem in KERNELS | {"sparse"}
)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_gpu_takes_the_kernels_by_itself(gpu, operation: str, dtype: torch.dtype):
    gpu()
    kernels = operation in KERNELS and dtype != torch.float64
    assert names(operation, dtype) == (["triton", "torch"] if kernels else ["torch"])


@pytest.mark.parametrize(
    "machine",
    [{"capability": (7, 5)}, {"available": False}, {"capability": (9, 4), "hip": "6.4"}],
    ids=["old", "no GPU", "AMD"],
)
def test_other_gpus_take_the_torch_form(gpu, machine: dict):
    gpu(**machine)
    assert names("rows", torch.bfloat16) == ["torch"]


def test_a_gpu_without_triton_says_so_once(gpu, monkeypatch: pytest.MonkeyPatch):
    gpu()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    with pytest.warns(RuntimeWarning, match=r"need triton, which is not installed \(pip install triton\)"):
        assert names("rows", torch.float32) == ["torch"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names("rows", torch.bfloat16) == ["torch"]
        assert names("fields", torch.float32) == ["torch"]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_on_a_cpu_without_the_interpreter():
    program = (
        "import torch, cosnorm\n"
        "cosnorm.functional.cosine_linear(torch.ones(1, 2), torch.ones(1, 2), impl='triton')"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], env={}, capture_output=True, text=True, check=False
    )
    assert 'impl="triton" needs tensors on a GPU, got cpu' in found.stderr.splitlines()[-1]
    assert 'use impl="torch"' in found.stderr.splitlines()[-1]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_it_compiles():
    call = torch.compile(lambda x, w: cosine_linear(x, w, impl="triton"), backend="aot_eager", fullgraph=True)
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    for found, expected in zip(
        torch.autograd.grad(call(x, w).sin().sum(), (x, w)),
        torch.autograd.grad(cosine_linear(x, w).sin().sum(), (x, w)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["c", "torch"])
def test_named_ones_agree(name: str):
    if name == "c" and library() is None:
        with pytest.raises(RuntimeError, match="no compiled passes"):
            cosine_linear(X, W, impl=name)
    else:
        torch.testing.assert_close(cosine_linear(X, W, impl=name), cosine_linear(X, W), rtol=1e-6, atol=1e-6)


def test_the_environment_forces_one(monkeypatch: pytest.MonkeyPatch, force):
    taken = []
    for backend in (look_rows, torch_rows):
        compute = backend.cosines
        name = backend.__name__.split(".")[2]
        monkeypatch.setattr(
            backend, "cosines", lambda *a, n=name, f=compute, **o: taken.append(n) or f(*a, **o)
        )
    for name in ("look", "torch"):
        force(name)
        cosine_linear(X, W, impl="auto")
    assert taken == ["look", "torch"]
    force("gpu")
    with pytest.raises(ValueError, match=r'COSNORM_IMPL must be "auto", "c", "look", "torch" or "triton"'):
        cosine_linear(X, W)
