"""What the recipes share: one configuration for each method and seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import METHODS, RunConfig
from cosnorm_lab.errors import LabError


def comparison(
    base: Mapping[str, Any],
    default_rates: Mapping[str, float],
    *,
    methods: Sequence[str] | None = None,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
) -> list[RunConfig]:
    """Configurations, one for each method and seed: all methods of the first seed come first.

    Args:
        base: the fields that the runs have in common.
        default_rates: learning rate of each method.
        methods: the methods to compare; by default all.
        seeds: number of seeds: 0, 1, …
        learning_rates: other learning rates, by method.

    Raises:
        LabError: an unknown method, a learning rate of a method that does not run, or a number out of range.
    """
    methods = list(dict.fromkeys(methods if methods is not None else METHODS))
    unknown = sorted({*methods, *(learning_rates or {})} - set(METHODS))
    if unknown or not methods:
        raise LabError(
            f"unknown method {', '.join(unknown) or '(none given)'}; known are {', '.join(METHODS)}"
        )
    unused = sorted(set(learning_rates or {}) - set(methods))
    if unused:
        raise LabError(
            f"a learning rate was given for {', '.join(unused)}, but only {', '.join(methods)} run"
        )
    if seeds < 1:
        raise LabError(f"the number of seeds must be at least 1, got {seeds}")
    rates = {**default_rates, **(learning_rates or {})}
    try:
        return [
            RunConfig(**base, method=method, learning_rate=rates[method], seed=seed)
            for seed in range(seeds)
            for method in methods
        ]
    except ValueError as error:
        raise LabError(str(error)) from error
