"""The factor behind a cosine: nothing, a number, or one that is learned and stays positive."""

import math
from typing import Any

import torch
from torch import Tensor, nn

# Cosines of high-dimensional vectors are small; a learned scale begins at 10, as in Swin Transformer V2.
_INITIAL_SCALE = 10.0


class Scale(nn.Module):
    """Multiplies its input by `scale`; "learned" keeps its logarithm, so that it stays positive."""

    log_scale: nn.Parameter | None

    def __init__(
        self,
        scale: float | str | None,
        where: str,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        learned = isinstance(scale, str) and scale == "learned"
        if scale is not None and not learned:
            if isinstance(scale, (bool, str)) or not isinstance(scale, (int, float)):
                raise TypeError(f'{where}: scale must be None, a number or "learned", got {scale!r}')
            if not 0 < scale < math.inf:
                raise ValueError(f"{where}: scale must be finite and positive, got {scale}")
        self.scale = scale
        parameter = nn.Parameter(torch.empty((), device=device, dtype=dtype)) if learned else None
        self.register_parameter("log_scale", parameter)
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
        """The input times the scale, in the dtype of the input."""
        if self.log_scale is not None:
            return x * self.log_scale.exp().to(x.dtype)
        return x if self.scale is None else x * float(self.scale)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A checkpoint of torch's own layer knows no scale: the learned one then begins at its present value.
        if self.log_scale is not None:
            state_dict.setdefault(prefix + "log_scale", self.log_scale.detach())
        super()._load_from_state_dict(state_dict, prefix, *args)
