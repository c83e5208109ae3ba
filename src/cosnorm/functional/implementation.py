"""Which implementation computes: torch's operators, or the Triton kernels of `cosnorm.kernels`."""

import importlib.util

import torch
from torch import Tensor

IMPLEMENTATIONS = ("auto", "torch", "triton")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_impl(where: str, impl: str) -> None:
    """Raise unless `impl` is the name of an implementation."""
    if not isinstance(impl, str):
        raise TypeError(f"{where}: impl must be a string, got {type(impl).__name__}")
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f'{where}: impl must be "auto", "torch" or "triton", got {impl!r}')


def check_precision(where: str, precision: str | None) -> None:
    """Raise unless `precision` is one of products."""
    if precision is not None and not isinstance(precision, str):
        raise TypeError(f"{where}: precision must be None or a string, got {type(precision).__name__}")
    if precision not in (None, "fp8"):
        raise ValueError(f'{where}: precision must be None or "fp8", got {precision!r}')


def choose(where: str, impl: str, *tensors: Tensor) -> bool:
    """Whether the Triton kernels compute.

    "auto" takes torch's operators, until a committed benchmark shows the kernels to be faster on a device.

    Raises:
        TypeError: `impl` is no string.
        ValueError: `impl` is no name of an implementation.
        RuntimeError: "triton" cannot run here; the message says why.
    """
    check_impl(where, impl)
    if impl != "triton":
        return False
    for tensor in tensors:
        if tensor.dtype not in _DTYPES:
            raise RuntimeError(
                f'{where}: impl="triton" takes float32, bfloat16 and float16, got {tensor.dtype}; use '
                'impl="torch"'
            )
    if torch.compiler.is_compiling():
        return True  # compiled code cannot look into triton; the operator that it calls imports it
    obstacle = _obstacle(tensors[0].device.type)
    if obstacle:
        raise RuntimeError(f'{where}: impl="triton" {obstacle}')
    return True


def _obstacle(device: str) -> str:
    """Why the kernels cannot run on tensors of that device; empty if they can."""
    if importlib.util.find_spec("triton") is None:
        return 'needs triton, which is not installed: pip install triton, or use impl="torch"'
    from cosnorm.kernels.launch import interpreting

    if device != "cuda" and not (device == "cpu" and interpreting()):
        return (
            f'needs tensors on a GPU, got {device}; use impl="torch", or set TRITON_INTERPRET=1 before '
            "triton is imported to run the kernels in its interpreter"
        )
    return ""
