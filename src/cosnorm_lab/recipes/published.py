"""What the paper prints of a run, to be set beside ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cosnorm_lab.config import RunConfig


@dataclass(frozen=True)
class Published:
    """Figures of the paper for the runs whose configuration has certain fields.

    Attributes:
        fields: values that a configuration must have.
        mean: of the errors over the last epochs.
        variance: of the errors over the last epochs.
        least: smallest number of errors of any epoch.
        step: at which the recipe's goal is reached (`cosnorm_lab.recipes.Recipe.goal`).
        note: why ours may differ, where something is known of it.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    mean: float | None = None
    variance: float | None = None
    least: float | None = None
    step: int | None = None
    note: str = ""

    def speaks_of(self, config: RunConfig) -> bool:
        """Whether the figures are of such a run; those on held-back images are never the paper's."""
        return not config.validation and all(
            getattr(config, name, None) == value for name, value in self.fields.items()
        )


def by_method(
    table: Mapping[str, tuple[float, float]], notes: Mapping[str, str] | None = None
) -> tuple[Published, ...]:
    """A table of mean and variance by method, with notes by method."""
    return tuple(
        Published({"method": method}, mean=mean, variance=variance, note=(notes or {}).get(method, ""))
        for method, (mean, variance) in table.items()
    )
