"""What a headline counts: a number of each seed of a series, fewer being better, and how it is written."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cosnorm_lab.records import Run, last_epochs
from cosnorm_lab.report.series import Series, interval_of


def _least(run: Run) -> float:
    return min(run.errors)


def _share(run: Run) -> float:
    return 100 * last_epochs(run)[0] / run.epochs[-1]["count"]


def _worst_factor(run: Run) -> float:
    found = dict(run.epochs[-1].get("errors_by_factor", ()))
    return max(found.values()) if found else last_epochs(run)[0]


@dataclass(frozen=True)
class Quantity:
    """One number of a run.

    Attributes:
        of: Gives the number.
        what: What it counts; "{count}" stands for the number of test samples.
        digits: After the point.
        turned: Whether 100 less the number is written: right answers in place of wrong ones.
        unit: What stands behind it.
        percent: Whether it counts errors, whose percentage can stand beside it.
    """

    of: Callable[[Run], float]
    what: str
    digits: int = 1
    turned: bool = False
    unit: str = ""
    percent: bool = False

    def written(self, mean: float, half: float | None = None) -> str:
        """A mean and half its interval."""
        value = 100 - mean if self.turned else mean
        interval = "" if half is None else f" ± {half:.{self.digits}f}"
        return f"{value:.{self.digits}f}{interval}{self.unit}"


QUANTITIES: Mapping[str, Quantity] = {
    "errors": Quantity(lambda run: last_epochs(run)[0], "errors of {count}", percent=True),
    "least": Quantity(_least, "least errors of {count}", percent=True),
    "right": Quantity(_share, "right of {count}", turned=True, unit=" %"),
    "test_loss": Quantity(lambda run: float(run.epochs[-1]["test_loss"]), "loss on the test text", digits=3),
    "recall_at_1": Quantity(_share, "recall@1", turned=True, unit=" %"),
    "map_at_r": Quantity(
        lambda run: 100 * (1 - float(run.epochs[-1]["map_at_r"])), "MAP@R", digits=2, turned=True, unit=" %"
    ),
    "worst factor": Quantity(_worst_factor, "errors of {count} at the worst factor", percent=True),
}


@dataclass(frozen=True)
class Figure:
    """A number over seeds.

    Attributes:
        name: Of the method or setting it is of.
        quantity: What it counts.
        values: By seed.
        count: Test samples, where they are the same everywhere.
    """

    name: str
    quantity: Quantity
    values: Mapping[int, float]
    count: int

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval over seeds; None of one seed."""
        return interval_of(list(self.values.values()))[1]

    @property
    def text(self) -> str:
        """Mean and interval."""
        return self.quantity.written(self.mean, self.half)

    @property
    def whole(self) -> str:
        """The text, and the percentage behind it where there is one."""
        return f"{self.text} ({self.percent})" if self.percent else self.text

    @property
    def named(self) -> str:
        """The same behind the name."""
        return f"{self.name}{':' if ',' in self.name else ''} {self.whole}"

    @property
    def percent(self) -> str:
        """The mean and its interval in percent of the test samples; "" of what is no number of errors."""
        if not self.quantity.percent:
            return ""
        share, digits = 100 / self.count, 2 if self.count >= 1000 else 1
        interval = "" if self.half is None else f" ± {share * self.half:.{digits}f}"
        return f"{share * self.mean:.{digits}f}{interval} %"


def figure(series: Series, quantity: str, name: str | None = None) -> Figure | None:
    """A series' number, or None where no run of it was completed.

    Args:
        series: The runs.
        quantity: A key of `QUANTITIES`.
        name: What it is called; by default the method's name.
    """
    if not series.completed:
        return None
    found = QUANTITIES[quantity]
    values = {run.config.seed: found.of(run) for run in series.completed}
    count = series.completed[0].epochs[-1]["count"]
    return Figure(name or series.method_name, found, values, count)
