"""Runs that differ only by their seed, seen as one line of a table and one line of a figure."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import METHODS
from cosnorm_lab.recipes import columns
from cosnorm_lab.records import Run, last_epochs

# A second series of the same method has the same colour and the next of these dashes.
DASHES = ("", "6 3", "2 2", "8 3 2 3")
COMPLETED = "completed"
AT_CHANCE = "at chance"
FOLLOWS = {"layers": ("hidden",)}  # fields that a property of the configuration is made of
LEAST_ERRORS = 0.5  # where no error at all is drawn on a logarithmic axis


@dataclass(frozen=True)
class Point:
    """The test errors after one epoch: their mean over the seeds, the least and the most."""

    epoch: int
    mean: float
    low: float
    high: float


class Final(NamedTuple):
    """Errors over the last epochs: their mean and variance, each averaged over the completed runs.

    Attributes:
        mean: Of the errors.
        variance: Over the epochs of a run.
        epochs: Over how many epochs.
        interval: Half the width of the 95 % interval of the mean over seeds (Student's t); None of one seed.
    """

    mean: float
    variance: float
    epochs: int
    interval: float | None


@dataclass(frozen=True)
class Series:
    """Runs of one configuration, apart from the seed.

    Attributes:
        runs: The runs, in the order of their seeds.
        label: The method, and those settings that tell it from other series of the method.
        name: The same without what stands beside it in a table: the learning rate, the recipe's columns.
        dashes: SVG's stroke-dasharray, which tells lines of one colour apart.
        planned: What would be run, where there are no runs.
    """

    runs: tuple[Run, ...]
    label: str
    name: str
    dashes: str
    planned: RunConfig | None = None

    @property
    def config(self) -> RunConfig:
        """The configuration of the first run."""
        if self.planned is not None:
            return self.planned
        return self.runs[0].config

    @property
    def method(self) -> str:
        """The normalization, as the recipes name it."""
        return self.config.method

    @property
    def method_name(self) -> str:
        """The normalization or loss, as tables name it."""
        return METHODS[self.method].title

    @property
    def colour(self) -> str:
        """The method's own colour, the same in every figure."""
        return METHODS[self.method].colour

    @property
    def name_with_settings(self) -> str:
        """The name, and the values of the recipe's columns."""
        values = ((name, getattr(self.config, name)) for name in columns(self.config.recipe))
        # 0 is an option that the method does not have.
        settings = (_setting(name, value) for name, value in values if value != 0 or value is False)
        return ", ".join([self.name, *settings])

    @property
    def at_chance(self) -> bool:
        """Whether some run came to its end and none is better than guessing, see `Run.at_chance`."""
        return bool(self.completed) and all(run.at_chance for run in self.completed)

    @property
    def status(self) -> str:
        """How the runs ended, in a word or two."""
        if self.at_chance:
            return AT_CHANCE
        if len(self.completed) == len(self.runs):
            return COMPLETED
        others = dict.fromkeys(run.status for run in self.runs if run.status != COMPLETED)
        done = f"{len(self.completed)} of {len(self.runs)} completed, " if self.completed else ""
        return f"{done}{' and '.join(others)}"

    @property
    def caption(self) -> str:
        """The label, and how the runs ended where none was completed."""
        return self.label if self.completed else f"{self.label} ({self.runs[-1].status})"

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return [run.config.seed for run in self.runs]

    @cached_property
    def completed(self) -> tuple[Run, ...]:
        """The runs that came to their end; final figures are of these only."""
        return tuple(run for run in self.runs if run.status == COMPLETED)

    @cached_property
    def curve(self) -> list[Point]:
        """Test errors for each epoch."""
        errors: dict[int, list[int]] = {}
        for run in self.runs:
            for record in run.epochs:
                errors.setdefault(record["epoch"], []).append(record["errors"])
        return [
            Point(epoch, statistics.fmean(values), min(values), max(values))
            for epoch, values in sorted(errors.items())
        ]

    @cached_property
    def percentiles(self) -> list[tuple[int, float, float, float]]:
        """Epoch and the 15, 50 and 85 percentiles of the first seed's neuron, as far as they are finite."""
        return [
            (record["epoch"], *record["pre_activation"])
            for record in self.runs[0].epochs
            if "pre_activation" in record and all(map(math.isfinite, record["pre_activation"]))
        ]

    @property
    def embedded(self) -> bool:
        """Whether the first run's record holds embeddings."""
        return bool(self.runs[0].epochs) and "embeddings" in self.runs[0].epochs[-1]

    def final(self) -> Final | None:
        """The errors over the last epochs, or None when no run was completed."""
        if not self.completed:
            return None
        means, variances, numbers = zip(*(last_epochs(run) for run in self.completed), strict=True)
        mean, interval = interval_of(means)
        return Final(mean, statistics.fmean(variances), max(numbers), interval)

    def least(self) -> tuple[float, float] | None:
        """The least errors of the completed runs and their epochs, both averaged over the runs."""
        if not self.completed:
            return None
        lowest = [min(run.errors) for run in self.completed]
        epochs = [run.errors.index(errors) + 1 for run, errors in zip(self.completed, lowest, strict=True)]
        return statistics.fmean(lowest), statistics.fmean(epochs)

    def mean_errors(self) -> float | None:
        """The mean of `final`."""
        final = self.final()
        return final.mean if final else None

    def least_errors(self) -> float | None:
        """The errors of `least`."""
        least = self.least()
        return least[0] if least else None

    def reached(self, goal: float) -> float | None:
        """The first epoch with `goal` errors or fewer, averaged; None unless every completed run has one."""
        first = [
            next((epoch for epoch, errors in enumerate(run.errors, start=1) if errors <= goal), None)
            for run in self.completed
        ]
        found = [epoch for epoch in first if epoch is not None]
        return statistics.fmean(found) if found and len(found) == len(first) else None


def interval_of(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval (Student's t); None of one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    import scipy.stats  # type: ignore[import-untyped, unused-ignore]

    spread = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(scipy.stats.t.ppf(0.975, len(values) - 1)) * spread


def is_search(run: Run) -> bool:
    """Whether the errors are those of held-back training images, to choose a learning rate by."""
    return run.config.validation > 0


def group(runs: Iterable[Run]) -> list[Series]:
    """Put runs of the same data that differ only by their seed together, in the order of the methods.

    Args:
        runs: Runs of one recipe on one data set, see `by_data`.

    Returns:
        The series.

    Raises:
        LabError: Two records are of the same run, or there are several data sets.
    """
    runs = list(runs)
    several = by_data(runs)
    if len(several) > 1:
        names = ", ".join(f"{one[0].data_name}: {one[0].path}" for one in several)
        raise LabError(f"expected runs of one data set, got {len(several)} ({names}); take each for itself")
    seen: dict[RunConfig, Run] = {}
    together: dict[RunConfig, list[Run]] = {}
    for run in runs:
        if (other := seen.setdefault(run.config, run)) is not run:
            raise LabError(
                f"two records of the same run: {other.path} and {run.path}; "
                "leave one of them out, or remove it"
            )
        together.setdefault(dataclasses.replace(run.config, seed=0), []).append(run)
    order = list(METHODS)
    settings = sorted(
        together,
        key=lambda config: (
            order.index(config.method),
            [getattr(config, name) for name in columns(config.recipe)],
            config.learning_rate,
        ),
    )
    series = []
    for config in settings:
        siblings = [other for other in settings if other.method == config.method]
        members = sorted(together[config], key=lambda run: (run.config.seed, str(run.path)))
        dashes = DASHES[siblings.index(config) % len(DASHES)]
        label = _label(config, siblings)
        name = _label(config, siblings, without=("learning_rate", *columns(config.recipe)))
        series.append(Series(tuple(members), label, name, dashes))
    return series


def by_data(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs of the same data together, in the order in which the data come first."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(run.data_key, []).append(run)
    return list(together.values())


def errors_range(drawn: Sequence[Series]) -> tuple[float, float]:
    """The range of Figure 2's axis of errors.

    A run that failed would squash all others, so that the axis ends at twelve times the least error; what
    lies above leaves the picture (`errors_caption` says so).

    Args:
        drawn: At least one series that has a curve.

    Returns:
        The least and the largest number of errors on the axis, both at least half an error.
    """
    lowest = max(min(point.low for series in drawn for point in series.curve), LEAST_ERRORS)
    values = (point.high for series in drawn for point in series.curve)
    return lowest, max([lowest, *(value for value in values if value <= 12 * lowest)]) * 1.05


def errors_caption(series: Series, highest: float) -> str:
    """What Figure 2's legend calls a series: with an arrow if all of it lies above the picture."""
    above = all(point.mean > highest for point in series.curve)
    return f"{series.caption} ↑" if above else series.caption


def errors_title(drawn: Sequence[Series]) -> str:
    """The name of the axis of errors: among how many images they are, where all series agree on it."""
    counts = {record["count"] for series in drawn for run in series.runs for record in run.epochs}
    held_back = any(is_search(run) for series in drawn for run in series.runs)
    if len(counts) != 1:
        return "errors on held-back samples" if held_back else "test errors"
    number = counts.pop()
    return f"errors among {number:,} held-back samples" if held_back else f"test errors among {number:,}"


def unit(config: RunConfig) -> tuple[str, int]:
    """What the reader counts a run's epochs in: ("epoch", 1), or ("step", steps between two evaluations)."""
    steps = getattr(config, "steps", 0)
    return ("step", steps) if steps else ("epoch", 1)


def _label(config: RunConfig, siblings: list[RunConfig], without: tuple[str, ...] = ()) -> str:
    """The method's name and those settings that tell it from its siblings."""
    kinds = {other.kind for other in siblings}
    kind = [config.kind.upper()] if len(kinds) > 1 else []
    siblings = [other for other in siblings if other.kind == config.kind]
    of_property = {field: name for name in columns(config.recipe) for field in FOLLOWS.get(name, ())}
    names = [of_property.get(name, name) for name in config.to_dict()]
    mine = {name: getattr(config, name) for name in dict.fromkeys(names) if name not in without}
    differing = [name for name in mine if any(getattr(other, name) != mine[name] for other in siblings)]
    title = METHODS[config.method].title
    return ", ".join([title, *kind, *(_setting(name, mine[name]) for name in differing)])


def setting(name: str) -> str:
    """A field's name in words."""
    return "lr" if name == "learning_rate" else name.replace("_", " ")


def _setting(name: str, value: object) -> str:
    words = setting(name)
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if isinstance(value, tuple):
        return f"{words} {'-'.join(map(str, value))}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"
