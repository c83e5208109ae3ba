"""Learning rates chosen on held-back samples: a grid a method, and more where the best is at its edge."""

import dataclasses
import math
from collections.abc import Sequence

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import Run, last_epochs

GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # the same for all methods
FURTHER = 4  # steps beyond the grid, on either side


def best_run(runs: Sequence[Run]) -> Run:
    """The run with the least mean of errors over the last epochs; of several the smallest learning rate.

    Args:
        runs: of one method, at several rates.

    Raises:
        LabError: none came to its end.
    """
    ended = [run for run in runs if run.status == "completed"]
    if not ended:
        raise LabError(
            f"no run of {runs[0].method} came to its end; try smaller rates: --sweep lr=0.001,0.01"
        )
    return min(ended, key=lambda run: (last_epochs(run)[0], run.config.learning_rate))


def by_method(runs: Sequence[Run], *, held_back: bool = True) -> dict[str, list[Run]]:
    """Runs on held-back samples (or on the test), by method."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if bool(run.config.validation) == held_back:
            found.setdefault(run.method, []).append(run)
    return found


def best_rates(runs: Sequence[Run]) -> dict[str, float]:
    """The best learning rate of each method that was searched."""
    return {method: best_run(mine).config.learning_rate for method, mine in by_method(runs).items()}


def edge(runs: Sequence[Run]) -> float | None:
    """The rate to try next: beyond the best if that is the least or the largest that was tried; else None.

    Args:
        runs: of one method, at two rates at least; no more than `FURTHER` steps beyond the grid are taken.
    """
    tried = sorted(run.config.learning_rate for run in runs)
    best = best_run(runs).config.learning_rate
    if len(tried) < 2 or best not in (tried[0], tried[-1]):
        return None
    further = neighbour(best, 1 if best == tried[-1] else -1)
    return further if _steps(GRID[0]) - FURTHER <= _steps(further) <= _steps(GRID[-1]) + FURTHER else None


def further(runs: Sequence[Run]) -> list[RunConfig]:
    """A run more of each method whose best learning rate lies at the edge of those that were tried."""
    return [
        dataclasses.replace(best_run(mine).config, learning_rate=rate)
        for mine in by_method(runs).values()
        if (rate := edge(mine)) is not None
    ]


def neighbour(rate: float, steps: int) -> float:
    """So many half decades away, of …, 0.1, 0.3, 1, 3, 10, … ."""
    return float(f"{10 ** ((_steps(rate) + steps) / 2):.0e}")


def _steps(rate: float) -> int:
    """The number of half decades from 1."""
    return round(2 * math.log10(rate))
