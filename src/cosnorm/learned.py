"""Numbers that learn: parameters of shape (1,), as sharding (FSDP) splits the first dimension of each."""

from typing import Any

import torch
from torch import Tensor


def number(value: float, device: Any = None, dtype: torch.dtype | None = None) -> Tensor:
    """One number as a parameter holds it."""
    return torch.full((1,), float(value), device=device, dtype=dtype or torch.get_default_dtype())


def reshape_loaded(state_dict: dict[str, Any], key: str) -> None:
    """Let a number of shape (), as OpenCLIP's checkpoints have it, load as one of shape (1,)."""
    loaded = state_dict.get(key)
    if isinstance(loaded, Tensor) and loaded.ndim == 0:
        state_dict[key] = loaded.reshape(1)
