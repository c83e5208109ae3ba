"""The numerics contract: what zero, extremes, constant rows and half precision mean, and every number of it.

All backends and operators take these from here; the kernels in C and Triton receive the numbers and repeat
none.
"""

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# With norms of rows within [1/limit, limit], and sums of magnitudes of a cotangent within theirs, no product
# of the plain form (rows as they are, factors 1/|x| behind the products) can overflow or lose its digits.
NORM_LIMIT = {torch.float32: 2.0**30, torch.float64: 2.0**200}
COTANGENT_LIMIT = {torch.float32: 2.0**40, torch.float64: 2.0**300}

# A centered row counts as zero where max|x − μ| is at most so many eps of its stored dtype times |μ|.
CONSTANT_EPS = 4


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are taken: float32 for the half types, else `dtype` itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which large products are taken: float16 only where the hardware has it."""
    return torch.float32 if dtype == torch.float16 and device.type == "cpu" else dtype


def constant_bound(mean: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest deviation from its mean that a row of zero deviation may have by rounding."""
    return mean.abs() * (CONSTANT_EPS * torch.finfo(dtype).eps)


def saturate(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a finished gradient; what exceeds the range becomes the largest number (float16: inf).

    float16 is left to overflow, because gradient scalers look for inf to lower their scale.
    """
    if dtype == torch.float16:
        return gradient.to(dtype)
    limit = min(torch.finfo(dtype).max, torch.finfo(gradient.dtype).max)
    return gradient.clamp(-limit, limit).to(dtype)


def check_one_dtype(x: Tensor, y: Tensor) -> None:
    """Raise unless both have one dtype: below autocast, which may have made them so."""
    if x.dtype != y.dtype:
        raise TypeError(
            f"x and the weight (or y) must have one dtype, got {x.dtype} and {y.dtype}; convert one of them, "
            "for instance weight.to(x.dtype)"
        )
