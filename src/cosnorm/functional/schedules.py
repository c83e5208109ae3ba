"""Numbers of a loss that may change while it trains: margins and scales that follow the step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cosnorm.functional.checks import is_number

# What a margin or a scale may be given as.
Number = float | Tensor | Callable[[Tensor], float | Tensor]


class Schedule(nn.Module):
    """A number that follows the step: each call gives it, and in training counts one step on.

    Args:
        function: gives the number, or a tensor of one, from the step, a whole number in a tensor of shape ().
            With torch's operators (`step.clamp(max=1000) / 2000`) nobody waits for a GPU, and it compiles; a
            tensor it also gives may be changed in place from outside.

    Attributes:
        step: how many steps there were, an int64 buffer of shape (), in `state_dict`.

    In `eval` the step stays.

    Raises:
        TypeError: not a function.

    Example:
        >>> schedule = Schedule(lambda step: 0.1 * step)
        >>> schedule(), schedule(), schedule.eval()(), schedule()
        (tensor(0.), tensor(0.1000), tensor(0.2000), tensor(0.2000))
    """

    step: Tensor

    def __init__(self, function: Callable[[Tensor], float | Tensor]) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(f"Schedule: function must be one of the step, got {type(function).__name__}")
        self.function = function
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def at_step(self) -> float | Tensor:
        """The number at this step, which is not counted on."""
        number = self.function(self.step.clone())
        if isinstance(number, Tensor) and not number.is_floating_point():
            return number.to(torch.float32)
        return number

    def forward(self) -> float | Tensor:
        """The number at this step."""
        number = self.at_step()
        if self.training:
            self.step += 1
        return number

    def extra_repr(self) -> str:
        """The function, for `print`."""
        return getattr(self.function, "__name__", repr(self.function))


def hold(module: nn.Module, name: str, value: Number, low: float, high: float) -> None:
    """Keep a number as an attribute: as it is, as a parameter, as a buffer, or as a `Schedule`.

    Only a number that does not change is looked at: it must be in [low, high]. A buffer is the tensor that
    was given until the module is copied or moved; from then on the buffer is what may be changed in place.
    """
    where = type(module).__name__
    if isinstance(value, nn.Parameter | nn.Module):
        setattr(module, name, value)
    elif isinstance(value, Tensor):
        check_one(where, name, value)
        module.register_buffer(name, value, persistent=False)
    elif is_number(value):
        check_between(where, name, value, low, high)
        setattr(module, name, float(value))  # type: ignore[arg-type]
    elif callable(value):
        setattr(module, name, Schedule(value))
    else:
        raise TypeError(
            f"{where}: {name} must be a number, a tensor of one, or a function of the step, got "
            f"{type(value).__name__}"
        )


def now(held: Any) -> Any:
    """A number that `hold` keeps, as it is at this step; a tensor has shape ()."""
    value = held() if isinstance(held, nn.Module) else held
    return value.reshape(()) if isinstance(value, Tensor) else value


def shown(held: Any) -> str:
    """A number that `hold` keeps, for `print`."""
    if isinstance(held, Tensor | nn.Module):
        return type(held).__name__
    return f"{held:g}" if is_number(held) else repr(held)


def check_one(where: str, name: str, value: Tensor) -> None:
    """Raise unless a tensor has one element, a floating-point number."""
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(
            f"{where}: {name} must have one element, a floating-point number; got shape {tuple(value.shape)} "
            f"and {value.dtype}"
        )


def check_between(where: str, name: str, value: Any, low: float, high: float) -> None:
    """Raise unless a number lies between two."""
    if not low <= value <= high:
        raise ValueError(f"{where}: {name} must be between {low:g} and {high:g}, got {value}")
