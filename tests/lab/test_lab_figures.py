import io
import sys

import matplotlib.image
import numpy
import pytest
from matplotlib.figure import Figure
from report_records import config, every_method, write_record

from cosnorm_lab.charts import error_chart, percentile_charts
from cosnorm_lab.config import METHODS
from cosnorm_lab.figures import error_curves, pre_activations
from cosnorm_lab.scales import asinh_ticks, epoch_ticks, label, log_ticks
from cosnorm_lab.series import COLOURS, NAMES, group


def pixels(figure: Figure) -> numpy.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return (matplotlib.image.imread(buffer)[..., :3] * 255).round().astype(int)


def contains(image: numpy.ndarray, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((abs(image - wanted).max(axis=-1) <= 2).any())


def test_every_method_has_a_colour_and_a_name_of_its_own():
    assert set(COLOURS) == set(NAMES) == set(METHODS)
    assert len(set(COLOURS.values())) == len(METHODS)


def test_error_curves_draw_the_recorded_errors(tmp_path):
    runs = every_method(tmp_path, epochs=8)
    axes = error_curves(runs).axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {NAMES[run.method]: run.errors for run in runs}
    assert axes.get_ylabel() == "test errors among 10,000"


@pytest.mark.parametrize("draw", [error_curves, pre_activations])
def test_every_method_can_be_seen(tmp_path, draw):
    image = pixels(draw(every_method(tmp_path, epochs=8)))
    assert all(contains(image, colour) for colour in COLOURS.values())
    assert image.shape[1] >= 1600


def test_seeds_are_one_line_in_a_band(tmp_path):
    runs = [
        write_record(tmp_path, config(epochs=2, seed=seed), errors=errors)
        for seed, errors in enumerate([(200, 140), (210, 150), (220, 130)])
    ]
    axes = error_curves(runs).axes[0]
    (line,) = axes.lines
    assert list(line.get_ydata()) == [210, 140]
    (band,) = axes.collections
    assert {130, 150, 200, 220} <= set(band.get_paths()[0].vertices[:, 1])


def test_pre_activations_draw_the_recorded_percentiles_on_shared_axes(tmp_path):
    runs = every_method(tmp_path, epochs=5)
    panels = [axes for axes in pre_activations(runs).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [NAMES[run.method] for run in runs]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in panels}) == 1
    for axes, run in zip(panels, runs, strict=True):
        lines = [list(line.get_ydata()) for line in axes.lines]
        assert lines == [[record["pre_activation"][which] for record in run.epochs] for which in range(3)]


def test_a_diverged_run_does_not_squash_the_others(tmp_path):
    runs = [
        write_record(tmp_path, config("cosine", epochs=20)),
        write_record(tmp_path, config("baseline", epochs=20), status="diverged", errors=[9020] * 3),
    ]
    axes = error_curves(runs).axes[0]
    assert axes.get_ylim()[1] < 2000
    assert "baseline (diverged) ↑" in [line.get_label() for line in axes.lines]
    chart = error_chart(group(runs))
    assert chart is not None
    (diverged,) = (line for line in chart.lines if line.caption == "baseline (diverged) ↑")
    assert all(place < 0 for _, place, _ in diverged.points)


@pytest.mark.parametrize("errors", [[], [0], [0, 0], [5, 0]])
def test_short_runs_and_no_errors_at_all_can_be_drawn(tmp_path, errors):
    run = write_record(tmp_path, config(epochs=3), status=None, errors=errors)
    assert pixels(error_curves([run])).min() < 128
    assert pixels(pre_activations([run])).min() < 128
    assert (error_chart(group([run])) is None) == (errors == [])
    assert len(percentile_charts(group([run]))) == (1 if errors else 0)


def test_chart_shows_on_hover_what_was_recorded(tmp_path):
    run = write_record(tmp_path, config(epochs=3), errors=[400, 200, 100])
    chart = error_chart(group([run]))
    assert chart is not None
    (line,) = chart.lines
    assert [(epoch, text) for epoch, _, text in line.points] == [(1, "400"), (2, "200"), (3, "100")]
    first, second, third = (place for _, place, _ in line.points)
    assert second - first == pytest.approx(third - second, abs=0.02)  # equal ratios, equal steps
    assert 0 <= first < third <= 100
    assert line.path.startswith("M333.3,")
    assert chart.x_ticks == [
        (0.0, "0"),
        (pytest.approx(100 / 3), "1"),
        (pytest.approx(200 / 3), "2"),
        (100, "3"),
    ]


def test_figures_leave_pyplot_alone(tmp_path):
    sys.modules.pop("matplotlib.pyplot", None)
    error_curves(every_method(tmp_path, epochs=2))
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 40), (6, 6), (130, 700), (133, 200), (3, 9000)])
def test_log_ticks_lie_in_the_range_and_are_few(low, high):
    ticks = log_ticks(low, high)
    assert all(max(low, 0.5) <= tick <= high for tick in ticks)
    assert len(ticks) <= 9
    assert len(ticks) >= 2 or high < 2 * max(low, 1)


@pytest.mark.parametrize(("low", "high"), [(-0.2, 0.3), (-2, 90), (-1e6, 3.0), (5.0, 6.0)])
def test_asinh_ticks_hold_zero_and_increase(low, high):
    ticks = asinh_ticks(low, high)
    assert 0.0 in ticks
    assert ticks == sorted(set(ticks))
    assert max(ticks) <= max(high, 1)
    assert min(ticks) >= min(low, -1)


@pytest.mark.parametrize("last", [1, 3, 20, 40, 200, 1000])
def test_epoch_ticks_are_few_whole_numbers(last):
    ticks = epoch_ticks(last)
    assert ticks[0] == 0
    assert ticks[-1] <= last
    assert 2 <= len(ticks) <= 7


def test_labels():
    assert [label(value) for value in (-30.0, 0.0, 1.5, 1000.0, 20000.0)] == [
        "−30",
        "0",
        "1.5",
        "1,000",
        "20,000",
    ]
