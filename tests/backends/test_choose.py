"""`impl=`: a named implementation computes, or raises with the reason."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from cosnorm.backends import choose
from cosnorm.backends.c.library import library
from cosnorm.backends.look import rows as look_rows
from cosnorm.backends.torch import rows as torch_rows
from cosnorm.functional import cosine_linear
from cosnorm.nn import CosineLinear

X, W = torch.randn(2, 5), torch.randn(3, 5)


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
