"""Mean and deviation of a number for each embedding, over the batch of all processes: `statistics_of`."""

from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.distributed import sum_over
from cosnorm.operators.define import define


class Statistics(NamedTuple):
    """How many numbers there are, their mean, and their deviation (over n − 1); 0 where there are too few."""

    number: Tensor
    mean: Tensor
    deviation: Tensor


def _compute(values: Tensor, counted: Tensor, group: str) -> Statistics:
    counted = counted & values.isfinite()  # what is not finite spoils its own row alone
    kept = values.masked_fill(~counted, 0)
    number, total = sum_over(torch.stack([counted.sum(dtype=values.dtype), kept.sum()]), group)
    mean = total / number.clamp(min=1)
    squares = sum_over((kept - mean).masked_fill_(~counted, 0).square_().sum(), group)
    return Statistics(number.clone(), mean, (squares / (number - 1).clamp(min=1)).sqrt())


def _shapes(values: Tensor, counted: Tensor, group: str) -> Statistics:
    return Statistics(*(values.new_empty(()) for _ in range(3)))


statistics_of = define(
    "statistics_of(Tensor values, Tensor counted, str group) -> "
    "(Tensor number, Tensor mean, Tensor deviation)",
    _compute,
    _shapes,
    is_constant=True,  # running statistics are constants of a loss
)
