"""Round numbers for the axes of both kinds of figure, the PNG's and the report's."""

import math


def log_ticks(low: float, high: float, at_most: int = 9) -> list[float]:
    """Round numbers for a logarithmic axis.

    Args:
        low: The least value; anything below 0.5 counts as 0.5.
        high: The largest value.
        at_most: Take the finest of the known divisions of a decade that gives no more than this many.

    Returns:
        Ticks between `low` and `high`.
    """
    low = max(low, 0.5)
    high = max(high, low)
    ticks: list[float] = []
    for division in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        # Errors are counted: below 10 only whole numbers.
        every = sorted(step * 10.0**decade for decade in decades for step in division)
        ticks = [tick for tick in every if low <= tick <= high and (tick >= 10 or tick == round(tick))]
        if len(ticks) <= at_most:
            break
    return ticks


def count_ticks(last: int, at_most: int = 6) -> list[int]:
    """Round whole numbers from 0 on.

    Args:
        last: The last number.
        at_most: The most ticks, that at 0 not counted.

    Returns:
        Ticks up to `last`, 0 among them.
    """
    steps = (digit * 10**power for power in range(12) for digit in (1, 2, 5))
    step = next(step for step in steps if last / step <= at_most)
    return list(range(0, last + 1, step))


def linear_ticks(low: float, high: float, at_most: int = 5) -> list[float]:
    """Round numbers for a linear axis.

    Args:
        low: The least value.
        high: The largest value, above `low`.
        at_most: The most ticks.

    Returns:
        Ticks between `low` and `high`, zero among them where it lies between.
    """
    steps = (digit * 10.0**power for power in range(-12, 39) for digit in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= at_most - 1)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def asinh_ticks(low: float, high: float) -> list[float]:
    """Round numbers for an axis that is linear near zero and logarithmic far from it.

    Args:
        low: The least value.
        high: The largest value.

    Returns:
        Ticks within the range widened to at least [-1, 1], zero among them.
    """
    low, high = min(low, -1.0), max(high, 1.0)
    top = max(-low, high)
    sizes = [1.0, 3.0, 10.0, 30.0] if top < 100 else [1.0] + [10.0**power for power in range(1, 39)]
    positive = [size for size in sizes if size <= top]
    return [-size for size in reversed(positive) if -size >= low] + [0.0, *(s for s in positive if s <= high)]


def label(value: float) -> str:
    """A number as a reader would write it on an axis."""
    if abs(value) >= 1e6:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e").replace("-", "−")
    return f"{value:,.4g}".replace("-", "−") if abs(value) < 1000 else f"{value:,.0f}".replace("-", "−")
