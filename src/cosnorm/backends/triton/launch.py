"""What every launch needs: whether kernels can run, and tensors as they take them."""

import os

import torch
import triton
from torch import Tensor

# Beyond 2^±30 for rows, and 2^±90 for cotangents, raw products could leave the range of float32 or lose their
# digits; the kernels compute such rows again, scaled.
ROW_WINDOW = 30
COTANGENT_WINDOW = 90


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
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
