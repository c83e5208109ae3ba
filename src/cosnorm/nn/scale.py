"""The factor behind a cosine: nothing, a number, or one that is learned and stays positive."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cosnorm.functional.checks import is_number
from cosnorm.learned import number, reshape_loaded

# Cosines of high-dimensional vectors are small; a learned scale begins at 10, as in Swin Transformer V2.
_INITIAL_SCALE = 10.0


class Scale(nn.Module):
    """Multiplies its input by a factor.

    Args:
        scale: None: by nothing. A positive number: by that. "unit": by √fan_in. "learned": by exp of a
            parameter `log_scale`, of shape (1,), that begins at log 10: no step makes the factor negative.
        fan_in: numbers that enter each cosine.
        where: whose option it is, for errors.
        device: of the parameter.
        dtype: of the parameter.
    """

    log_scale: nn.Parameter | None

    def __init__(
        self,
        scale: float | str | None,
        fan_in: int,
        where: str,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.factor = scale, None
        if isinstance(scale, str):
            if scale not in ("unit", "learned"):
                raise ValueError(f'{where}: scale must be None, a number, "unit" or "learned", got {scale!r}')
            if scale == "unit":
                self.factor = math.sqrt(max(1, fan_in))
        elif scale is not None:
            if not is_number(scale):
                raise TypeError(f'{where}: scale must be None, a number, "unit" or "learned", got {scale!r}')
            if not 0 < scale < math.inf:
                raise ValueError(f"{where}: scale must be finite and positive, got {scale}")
            self.factor = float(scale)
        learned = nn.Parameter(number(0, device, dtype)) if scale == "learned" else None
        self.register_parameter("log_scale", learned)
        self.reset_parameters()

    @property
    def is_one(self) -> bool:
        """Whether there is nothing to multiply by: the layers then spare the call."""
        return self.scale is None

    def reset_parameters(self) -> None:
        """Set a learned scale back to its first value, 10."""
        if self.log_scale is not None:
            nn.init.constant_(self.log_scale, math.log(_INITIAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """The input times the factor, in the dtype of the input."""
        if self.log_scale is not None:
            return x * self.log_scale.exp().to(x.dtype)
        return x if self.factor is None else x * self.factor

    def extra_repr(self) -> str:
        """The option as it was given, for `print`."""
        return repr(self.scale)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key = prefix + "log_scale"
        if self.log_scale is not None and key not in state_dict:
            # A checkpoint of torch's own layer knows no scale: it stays, or begins where there is none yet.
            first = number(math.log(_INITIAL_SCALE), dtype=self.log_scale.dtype)
            state_dict[key] = first if self.log_scale.is_meta else self.log_scale.detach()
        reshape_loaded(state_dict, key)
        super()._load_from_state_dict(state_dict, prefix, *args)
