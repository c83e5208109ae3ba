"""Intervals and tests beside scipy's own, and the words for what they support."""

import math

import numpy as np
import pytest
import scipy.stats

from cosnorm_lab.report.differences import Difference, compare, compare_with, holm, p_value, share_interval


def seeds(*values: float, first: int = 0) -> dict[int, float]:
    return dict(enumerate(values, start=first))


@pytest.mark.parametrize("number", range(5))
def test_the_same_seeds_are_paired(number):
    generator = np.random.default_rng(number)
    ours, theirs = generator.normal(150, 5, (2, 3 + number))
    found = compare(seeds(*ours), dict(reversed(seeds(*theirs).items())))
    expected = scipy.stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.how == f"paired over {3 + number} seeds"


@pytest.mark.parametrize("number", range(5))
def test_other_seeds_are_compared_by_welch(number):
    generator = np.random.default_rng(number)
    ours, theirs = generator.normal(150, 5, 3), generator.normal(145, 1, 2 + number)
    found = compare(seeds(*ours), seeds(*theirs, first=number + 1))
    expected = scipy.stats.ttest_ind(ours, theirs, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.how == f"Welch, 3 and {2 + number} seeds"


def test_a_fixed_figure_has_no_seeds():
    found = compare_with(seeds(1.0, 2.0, 4.0), 5.0)
    assert found.p == pytest.approx(scipy.stats.ttest_1samp([1, 2, 4], 5).pvalue)
    assert compare_with(seeds(1.0), 5.0).p is None


def test_one_seed_is_no_test():
    found = compare(seeds(10.0), seeds(1.0, 2.0, 3.0))
    assert (found.p, found.half) == (None, None)
    assert not found.supported
    assert (found.word, found.said) == ("behind, no test", "one seed: no test")
    with pytest.raises(ValueError, match="a seed on each side"):
        compare({}, seeds(1.0))


@pytest.mark.parametrize(
    ("mean", "p", "word", "said"),
    [
        (-3.0, 0.01, "ahead", "p = 0.01, how"),
        (3.0, 0.0002, "behind", "p < 0.001, how"),
        (-3.0, 0.05, "level", "ahead in the mean, p = 0.05: not supported; how"),
        (3.0, 0.21, "level", "behind in the mean, p = 0.21: not supported; how"),
        (0.0, 1.0, "level", "p = 1, how"),
        (-3.0, None, "ahead, no test", "how"),
        (0.0, None, "level, no test", "how"),
    ],
)
def test_words_say_no_more_than_the_test(mean, p, word, said):
    found = Difference(mean, None, p, "how")
    assert (found.word, found.said) == (word, said)


def test_seeds_that_agree_to_the_last_digit():
    assert compare(seeds(1.0, 1.0), seeds(2.0, 2.0)).p == 0
    assert compare(seeds(1.0, 2.0), seeds(2.0, 3.0)).p == 0
    assert compare(seeds(1.0, 2.0), seeds(1.0, 2.0)).p == 1
    assert compare(seeds(1.0, 1.0), seeds(1.0, 1.0, first=5)).p == 1


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.02}) == {"a": 0.02}
    assert holm({}) == {}


@pytest.mark.parametrize(("errors", "count"), [(20, 500), (0, 100), (100, 100), (1427, 10_000)])
def test_what_a_finite_test_set_leaves_open(errors, count):
    expected = scipy.stats.binomtest(errors, count).proportion_ci(method="wilson")
    assert share_interval(errors, count) == pytest.approx((expected.low, expected.high))


def test_p_as_papers_print_it():
    assert [p_value(p) for p in (0.0, 0.00099, 0.001, 0.0283, 0.21)] == [
        *("p < 0.001", "p < 0.001", "p = 0.001", "p = 0.028", "p = 0.21")
    ]
    assert not math.isnan(share_interval(3.5, 10)[0])
