"""What every launch needs: whether kernels can run, tensors as they take them, and the launch itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

# Cotangents within [1/limit, limit] leave the sums of the products in the range of float32, whatever their
# number, with all of their digits, and behind two norms within theirs (`cosnorm.norms.NORM_LIMIT`), too.
COTANGENT_LIMIT = 2.0**60

# Registers that a thread can have; and those with which eight blocks of 128 threads fit on a multiprocessor.
MOST, PASS = 255, 64

# Products of half types that come back as float32: torch 2.8 has them, and no CPU.
_OUT_DTYPE = "dtype" in torch.ops.aten.mm.overloads()


class Launch(NamedTuple):
    """One launch: what is asked of a device, and what a compiler needs to know of it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, int]


_seen: list[Launch] | None = None
_held = False


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    warps: int = 4,
    registers: int = PASS,
    **constants: Any,
) -> None:
    """Launch a kernel: the only place that does, so that launches can be counted and compiled elsewhere.

    Args:
        kernel: a function of `triton.jit`.
        grid: programs in each dimension.
        arguments: what changes from call to call, in the kernel's order.
        warps: of a program.
        registers: the most that a thread may take; if not given, as a pass that only moves memory. Told of
            no number, NVIDIA's assembler aims at fewer than it needs for some kernels, and spills.
        constants: what the kernel is compiled for, by name.
    """
    options = {"num_warps": warps}
    if not torch.version.hip:
        options["maxnreg"] = registers
    if _seen is not None:
        _seen.append(Launch(kernel, grid, arguments, constants, options))
    if not _held:
        kernel[grid](*arguments, **options, **constants)


@contextmanager
def launches(*, held: bool = False) -> Iterator[list[Launch]]:
    """The launches within a block; `held`: none runs, so that tensors need no memory and no device."""
    global _seen, _held
    before = _seen, _held
    _seen, _held = [], held
    try:
        yield _seen
    finally:
        _seen, _held = before


def interpreting() -> bool:
    """Whether Triton runs its kernels in the interpreter, which takes tensors of the CPU."""
    knobs = getattr(triton, "knobs", None)
    if knobs is None:  # before triton 3.4
        return os.environ.get("TRITON_INTERPRET") == "1"
    return bool(knobs.runtime.interpret)


def readable(x: Tensor) -> Tensor:
    """The tensor as a kernel reads it: contiguous.

    The interpreter turns subnormal bfloat16 numbers into others, so that it gets them as float32.
    """
    x = x.detach().contiguous()
    return x.float() if x.dtype == torch.bfloat16 and interpreting() else x


def writable(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for a result of that dtype; in the interpreter often float32, so that what comes back is cast.

    The interpreter rounds to bfloat16 and to 8 bits in other ways than the hardware.
    """
    if dtype not in (torch.float32, torch.float16) and interpreting():
        dtype = torch.float32
    return torch.empty(shape, dtype=dtype, device=device)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product a @ b by the vendor's library, summed in float32.

    float16 comes back as float32, for a sum may exceed its range; bfloat16 is rounded once.
    """
    if a.dtype != torch.float16:
        return a @ b
    if a.device.type != "cpu" and _OUT_DTYPE:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def product_into(a: Tensor, b: Tensor, into: Tensor, *, add: bool = False) -> None:
    """The same, all of it in float32, in memory that is there; `add`: to what stands there."""
    if a.dtype != torch.float32 and not (a.device.type != "cpu" and _OUT_DTYPE):
        a, b = a.float(), b.float()
    if add and a.dtype == torch.float32:
        into.addmm_(a, b)
    elif add:
        into.add_(torch.mm(a, b, out_dtype=torch.float32))
    elif a.dtype == torch.float32:
        torch.mm(a, b, out=into)
    else:
        torch.mm(a, b, out_dtype=torch.float32, out=into)


def precision(dtype: torch.dtype) -> str:
    """That of a kernel's float32 products: TF32 where the user has allowed torch that, too."""
    allowed = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 and not interpreting()
    return "tf32" if allowed else "ieee"
