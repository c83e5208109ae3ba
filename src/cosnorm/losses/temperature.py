"""A temperature, fixed or learned; positive in either case."""

import math
from typing import Any

from torch import Tensor, nn

from cosnorm.functional.checks import is_number
from cosnorm.learned import number, reshape_loaded


def bounded(value: Tensor, low: float, high: float) -> Tensor:
    """The value cut to [low, high], with the gradient of the bound: what went too far can come back."""
    return value + (value.clamp(low, high) - value).detach()


class Temperature(nn.Module):
    """τ = exp(log τ): no step of an optimizer makes it negative.

    Args:
        temperature: τ > 0 at the start.
        learn: make log τ a parameter, `log_temperature`.

    Raises:
        ValueError: τ is not positive.

    Example:
        >>> Temperature(0.5)()
        0.5
        >>> Temperature(0.5, learn=True)().item()
        0.5
    """

    # A learned temperature keeps to what exp and the softmax can bear.
    LOWEST, HIGHEST = 1e-4, 1e4

    def __init__(self, temperature: float, *, learn: bool = False) -> None:
        super().__init__()
        if not is_number(temperature):
            raise TypeError(
                f"temperature must be a number, got {type(temperature).__name__}; learn_temperature=True "
                "makes a parameter of it"
            )
        if not self.LOWEST <= temperature <= self.HIGHEST:
            raise ValueError(
                f"temperature must be a number between {self.LOWEST:g} and {self.HIGHEST:g}, "
                f"got {temperature}"
            )
        self.initial = float(temperature)
        self.log_temperature = nn.Parameter(number(math.log(temperature))) if learn else None

    def forward(self) -> float | Tensor:
        """τ: a number, or a tensor of one element if it learns."""
        if self.log_temperature is None:
            return self.initial
        return bounded(self.log_temperature, math.log(self.LOWEST), math.log(self.HIGHEST)).exp()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        reshape_loaded(state_dict, prefix + "log_temperature")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The temperature at the start, for `print`."""
        return f"{self.initial:g}, learn={self.log_temperature is not None}"
