"""Where cosine loses: every setting in which a method without cosines comes out ahead of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from cosnorm_lab.recipes import columns
from cosnorm_lab.report.claims import CLAIMS
from cosnorm_lab.report.differences import Difference, compare
from cosnorm_lab.report.headlines import rivals_of, setting_of
from cosnorm_lab.report.quantities import Figure, figure
from cosnorm_lab.report.series import Series, setting


@dataclass(frozen=True)
class Behind:
    """One method that is ahead of cosine, in one setting.

    Attributes:
        label: Of the experiment.
        anchor: Of its section.
        setting: Which setting of the experiment; "" where it has one.
        ours: Our figure.
        other: The method's.
        difference: Ours less the other's.
        centered: That of centered cosine, where it is not behind.
    """

    label: str
    anchor: str
    setting: str
    ours: Figure
    other: Figure
    difference: Difference
    centered: Figure | None = None

    @property
    def decided(self) -> bool:
        """Whether the difference is supported, or there is no test that could say that it is not."""
        return self.difference.p is None or self.difference.supported

    @property
    def where(self) -> str:
        """The experiment and the setting."""
        return f"{self.label} ({self.setting})" if self.setting else self.label

    @property
    def text(self) -> str:
        """The figures."""
        line = (
            f"{self.other.name} {self.other.text}; {self.ours.name} {self.ours.text} "
            f"{self.ours.quantity.what.replace('{count}', f'{self.ours.count:,}')} ({self.difference.said})"
        )
        return line if self.centered is None else f"{line}; centered cosine is not: {self.centered.text}"


def where_behind(series: Sequence[Series], anchor: str) -> list[Behind]:
    """The methods that are ahead of cosine among series of one recipe on one data set."""
    if not series:
        return []
    recipe = series[0].config.recipe
    claim = next((one for one in CLAIMS if one.recipe == recipe), None)
    quantity = claim.quantity if claim else "errors"
    label = claim.label.partition(",")[0] if claim else series[0].runs[0].data_name.partition(" (")[0]
    found = []
    for mine in _best_of_each_setting(series):
        ours = figure(mine, quantity)
        if ours is None:
            continue
        if mine.method == "cosine":
            rivals = rivals_of(mine, series)
        else:
            rate = mine.config.learning_rate
            rivals = [one for one in rivals_of(mine, series) if one.config.learning_rate == rate]
        for rival in rivals:
            other = figure(rival, quantity)
            if other is None or other.mean >= ours.mean:
                continue
            centered = _centered(mine, series, quantity)
            found.append(
                Behind(
                    label=label,
                    anchor=anchor,
                    setting=_where(mine),
                    ours=ours,
                    other=other,
                    difference=compare(ours.values, other.values),
                    centered=centered if centered and centered.mean < other.mean else None,
                )
            )
    return found


def _best_of_each_setting(series: Sequence[Series]) -> list[Series]:
    """Series with cosines, the paper's or a conversion's; of several learning rates of the first the best."""
    found: dict[tuple[object, ...], Series] = {}
    for one in series:
        if one.completed and one.method in ("cosine", "converted", "converted-all"):
            rate = None if one.method == "cosine" else one.config.learning_rate
            best = found.setdefault((one.method, rate, setting_of(one.config)), one)
            if (one.mean_errors() or 0.0) < (best.mean_errors() or 0.0):
                found[one.method, rate, setting_of(one.config)] = one
    return list(found.values())


def _centered(mine: Series, series: Sequence[Series], quantity: str) -> Figure | None:
    same = [
        one
        for one in series
        if one.method == "centered" and setting_of(one.config) == setting_of(mine.config)
    ]
    found = [numbers for one in same if (numbers := figure(one, quantity))]
    return min(found, key=lambda one: one.mean, default=None)


def _where(series: Series) -> str:
    config = series.config
    parts = []
    for name in columns(config.recipe):
        value = getattr(config, name)
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, bool):
            parts.append(setting(name) if value else f"no {setting(name)}")
        else:
            parts.append(f"{setting(name)} {value:g}")
    if series.method not in ("cosine",):
        parts.append(f"lr {config.learning_rate:g}")
    return ", ".join(parts)
