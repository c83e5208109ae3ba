"""Figures over seeds, and whether two of them differ: intervals, tests, words for what they support."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

SUPPORTED = 0.05  # below it a difference counts as supported
NO_TEST = "one seed: no test"


@dataclass(frozen=True)
class Difference:
    """One figure less another, of which fewer is better.

    Attributes:
        mean: The difference of the means.
        half: Half the width of its 95 % interval; None where there is no test.
        p: Of the hypothesis that there is none; None where there is no test.
        how: The test in words.
    """

    mean: float
    half: float | None
    p: float | None
    how: str

    @property
    def supported(self) -> bool:
        """Whether there is a test and it finds a difference."""
        return self.p is not None and self.p < SUPPORTED

    @property
    def word(self) -> str:
        """Verdict: "ahead" or "behind" if supported, else "level"; without a test, the side and that."""
        side = "ahead" if self.mean < 0 else "behind"
        if self.p is None:
            return f"{side}, no test" if self.mean else "level, no test"
        return side if self.supported else "level"

    @property
    def tested(self) -> str:
        """P and the test, whatever they support."""
        return self.how if self.p is None else f"{p_value(self.p)}, {self.how}"

    @property
    def said(self) -> str:
        """P and the test; of what is not supported, which side the mean is on."""
        if self.p is None:
            return self.how
        if self.supported or not self.mean:
            return self.tested
        side = "ahead" if self.mean < 0 else "behind"
        return f"{side} in the mean, {p_value(self.p)}: not supported; {self.how}"


def p_value(p: float) -> str:
    """A p as papers print it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Two figures by seed: paired where both have the same seeds, else Welch's t-test.

    Args:
        ours: A number of each seed.
        theirs: The same of the other.

    Raises:
        ValueError: One of them has no seed.
    """
    if not ours or not theirs:
        raise ValueError("a comparison needs a seed on each side, got none")
    mean = statistics.fmean(ours.values()) - statistics.fmean(theirs.values())
    if min(len(ours), len(theirs)) < 2:
        return Difference(mean, None, None, NO_TEST)
    if ours.keys() == theirs.keys():
        half, p = _t(mean, [ours[seed] - theirs[seed] for seed in ours])
        return Difference(mean, half, p, f"paired over {len(ours)} seeds")
    parts = [(statistics.variance(one.values()) / len(one), len(one) - 1) for one in (ours, theirs)]
    square = sum(part for part, _ in parts)
    freedom = square**2 / sum(part**2 / degrees for part, degrees in parts) if square else 1.0
    half, p = _of_error(mean, math.sqrt(square), freedom)
    return Difference(mean, half, p, f"Welch, {len(ours)} and {len(theirs)} seeds")


def compare_with(ours: Mapping[int, float], figure: float) -> Difference:
    """A figure by seed against a fixed one, such as the paper's.

    Raises:
        ValueError: There is no seed.
    """
    if not ours:
        raise ValueError("a comparison needs a seed, got none")
    mean = statistics.fmean(ours.values()) - figure
    if len(ours) < 2:
        return Difference(mean, None, None, NO_TEST)
    half, p = _t(mean, [value - figure for value in ours.values()])
    return Difference(mean, half, p, f"t over {len(ours)} seeds")


def _t(mean: float, values: list[float]) -> tuple[float, float]:
    """Half the width of the mean's 95 % interval, and p of the mean being 0."""
    return _of_error(mean, statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1)


def _of_error(mean: float, error: float, freedom: float) -> tuple[float, float]:
    import scipy.stats  # type: ignore[import-untyped, unused-ignore]

    if error <= 1e-12 * abs(mean):  # seeds that agree to the last digit
        return 0.0, 0.0 if mean else 1.0
    distribution = scipy.stats.t(freedom)
    return float(distribution.ppf(0.975)) * error, float(2 * distribution.sf(abs(mean) / error))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Several p of one question, corrected by Holm's method: each no smaller than it was."""
    corrected: dict[str, float] = {}
    most = 0.0
    for place, (name, p) in enumerate(sorted(ps.items(), key=lambda one: one[1])):
        most = max(most, min(1.0, p * (len(ps) - place)))
        corrected[name] = most
    return corrected


def share_interval(errors: float, count: int) -> tuple[float, float]:
    """The 95 % interval of an error rate that so many test samples leave open (Wilson's), as shares.

    It speaks of the finite test set alone: other test samples of the same kind, the same trained network.
    """
    import scipy.stats

    share, square = errors / count, float(scipy.stats.norm.ppf(0.975)) ** 2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(square * (share * (1 - share) / count + square / (4 * count**2))) / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)
