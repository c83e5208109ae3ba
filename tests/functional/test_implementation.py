"""`impl=`: a named implementation computes, or raises with the reason."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from cosnorm.functional import cosine_linear
from cosnorm.nn import CosineLinear

X, W = torch.randn(2, 5), torch.randn(3, 5)


def test_unknown_names():
    with pytest.raises(ValueError, match='impl must be "auto", "torch" or "triton", got \'cuda\''):
        cosine_linear(X, W, impl="cuda")
    with pytest.raises(TypeError, match="impl must be a string, got NoneType"):
        CosineLinear(5, 3, impl=None)


def test_what_the_kernels_do_not_take():
    with pytest.raises(RuntimeError, match=r"takes float32, bfloat16 and float16, got torch\.float64"):
        cosine_linear(X.double(), W.double(), impl="triton")
    with pytest.raises(RuntimeError, match="no kernel for a sparse x"):
        cosine_linear(X.to_sparse_csr(), W, impl="triton")


def test_without_triton(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
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
    assert 'impl="triton" needs tensors on a GPU, got cpu; use impl="torch"' in found.stderr.splitlines()[-1]


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


def test_auto_is_torch_on_a_cpu():
    assert torch.equal(cosine_linear(X, W), cosine_linear(X, W, impl="torch"))
