"""Autocast: the dtype that torch's own layers would take, and none inside our formulas."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def _is_on(device: str) -> bool:
    # Some types of device, meta among them, know no autocast.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def autocast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the dtype in which torch's own layers would compute under the autocast in force."""
    device = tensors[0].device.type
    if not _is_on(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Our formulas choose their own dtypes."""
    return torch.autocast(device.type, enabled=False) if _is_on(device.type) else nullcontext()
