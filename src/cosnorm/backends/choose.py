"""The one place that decides what computes.

    c       compiled passes around torch's products, on a CPU
    look    the same in torch's operators, on a CPU: one look at the norms, then factors on the products
    triton  kernels, on a GPU
    torch   torch's operators, anywhere, without a look at the data

`impl="auto"` takes the first that there is for a device: the kernels where they were written for, tensors of
float32, bfloat16 and float16 on NVIDIA's GPUs of compute capability 8.0 and more; on other accelerators, and
without triton, the torch form. One that is named computes, or the call raises. A backend declines what its
form could get wrong (it returns None: extreme norms), and the torch form computes then. `COSNORM_IMPL` in the
environment forces one for a whole program: set it before that begins, as each operation reads it once.
"""

import functools
import importlib
import importlib.util
import os
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

IMPLEMENTATIONS = ("auto", "c", "torch", "triton")
_AUTO = {"cpu": ("c", "look", "torch"), "cuda": ("triton", "torch")}
_LEAST_CAPABILITY = (8, 0)
_TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_impl(where: str, impl: str) -> None:
    """Raise unless `impl` is the name of an implementation."""
    if not isinstance(impl, str):
        raise TypeError(f"{where}: impl must be a string, got {type(impl).__name__}")
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f'{where}: impl must be "auto", "c", "torch" or "triton", got {impl!r}')


def backend(operation: str, impl: str, tensor: Tensor, *others: Any) -> ModuleType:
    """The first module that handles the shapes and the layout of the tensors; the torch form handles all."""
    for module in _order(operation, impl, tensor.device, tensor.dtype):
        if module.handles(tensor, *others):
            return module
    raise AssertionError("the torch form handles everything")


def backends(operation: str, impl: str, tensor: Tensor) -> tuple[ModuleType, ...]:
    """The modules that may compute an operation on such a tensor, in the order in which they are asked.

    Args:
        operation: the name of the file of the operation in each backend that has it: "rows", "fields", ….
        impl: as the user named it.
        tensor: its device and dtype decide.

    Raises:
        RuntimeError: the named one cannot compute here; the message says why.
    """
    return _order(operation, impl, tensor.device, tensor.dtype)


@functools.cache
def _order(operation: str, impl: str, place: torch.device, dtype: torch.dtype) -> tuple[ModuleType, ...]:
    device, forced = place.type, os.environ.get("COSNORM_IMPL", "auto")
    names: tuple[str, ...] = _AUTO.get(device, ("torch",))
    if "triton" in names and not _takes_kernels(place, dtype):
        names = ("torch",)
    if forced != "auto":
        if forced not in (*IMPLEMENTATIONS, "look"):
            raise ValueError(f'COSNORM_IMPL must be "auto", "c", "look", "torch" or "triton", got {forced!r}')
        # What it cannot do is left to torch's form: a whole program has more operations than one.
        names = ("torch",) if _obstacle(operation, forced, device, dtype) else (forced, "torch")
    elif impl != "auto":
        obstacle = _obstacle(operation, impl, device, dtype)
        if obstacle:
            raise RuntimeError(f'impl="{impl}" {obstacle}; use impl="torch" or "auto"')
        names = impl, "torch"
    modules = (_module(name, operation) for name in names)
    return tuple(module for module in modules if module is not None)


@functools.cache
def _module(name: str, operation: str) -> ModuleType | None:
    """The module of an operation in a backend; None if it has none, or if nothing of it runs here."""
    path = f"cosnorm.backends.{name}.{operation}"
    if importlib.util.find_spec(path) is None:
        return None
    if name == "c":
        from cosnorm.backends.c.library import library

        if library() is None:
            return None
    return importlib.import_module(path)


def _obstacle(operation: str, name: str, device: str, dtype: torch.dtype) -> str:
    """Why a backend cannot compute on such tensors; empty if it can."""
    if name == "torch":
        return ""
    if name == "triton":
        return _triton_obstacle(operation, device, dtype)
    if device != "cpu":
        return f"needs tensors on a CPU, got {device}"
    if _module(name, operation) is None:
        return f"has no compiled passes for {operation} here"
    return ""


def _takes_kernels(place: torch.device, dtype: torch.dtype) -> bool:
    """Whether "auto" takes the Triton kernels on a GPU; where only triton is missing, it says so, once."""
    if (
        dtype not in _TRITON_DTYPES
        or torch.version.hip is not None  # compiled for it in the tests, never run there
        or not torch.cuda.is_available()
        or torch.cuda.get_device_capability(place) < _LEAST_CAPABILITY
    ):
        return False
    found = importlib.util.find_spec("triton") is not None
    if not found:
        _say_what_is_missing()
    return found


@functools.cache
def _say_what_is_missing() -> None:
    warnings.warn(
        "cosnorm's kernels for GPUs need triton, which is not installed (pip install triton); without it "
        "torch's operators compute the same, in more launches",
        RuntimeWarning,
        stacklevel=2,
    )


def _triton_obstacle(operation: str, device: str, dtype: torch.dtype) -> str:
    if dtype not in _TRITON_DTYPES:
        return f"takes float32, bfloat16 and float16, got {dtype}"
    if importlib.util.find_spec("triton") is None:
        return "needs triton, which is not installed: pip install triton"
    from cosnorm.backends.triton.launch import interpreting

    # Tensors without data stand for those of a GPU: launches are counted on them.
    if device not in ("cuda", "meta") and not (device == "cpu" and interpreting()):
        return (
            f"needs tensors on a GPU, got {device} (TRITON_INTERPRET=1, set before triton is imported, runs "
            "the kernels in its interpreter)"
        )
    return "" if _module("triton", operation) else f"has no kernel for {operation}"
