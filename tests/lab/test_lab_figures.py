import io
import json
import sys

import matplotlib.image
import numpy
import pytest
from matplotlib.figure import Figure
from report_records import config, every_method, write_record

from cosnorm_lab.config import HeadsConfig
from cosnorm_lab.methods import METHODS, NORMALIZATIONS
from cosnorm_lab.report.figures import embeddings, errors_by_epoch, make_pictures, pre_activations
from cosnorm_lab.report.png import draw
from cosnorm_lab.report.scales import asinh_ticks, count_ticks, label, linear_ticks, log_ticks
from cosnorm_lab.report.series import group


def pixels(figure: Figure) -> numpy.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return (matplotlib.image.imread(buffer)[..., :3] * 255).round().astype(int)


def drawn_of(make, runs) -> Figure:
    picture = make(group(runs))
    assert picture is not None
    return draw(picture)


def contains(image: numpy.ndarray, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((abs(image - wanted).max(axis=-1) <= 2).any())


def test_error_curves_draw_the_recorded_errors(tmp_path):
    runs = every_method(tmp_path, epochs=8)
    axes = drawn_of(errors_by_epoch, runs).axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {METHODS[run.method].title: run.errors for run in runs}
    assert axes.get_ylabel() == "test errors among 10,000"


@pytest.mark.parametrize("make", [errors_by_epoch, pre_activations])
def test_every_method_can_be_seen(tmp_path, make):
    image = pixels(drawn_of(make, every_method(tmp_path, epochs=8)))
    assert all(contains(image, METHODS[method].colour) for method in NORMALIZATIONS)
    assert image.shape[1] >= 1600


@pytest.mark.parametrize(
    "fields",
    [{}, {"input_dropout": 0.2, "dropout": 0.5}, {"init_std": 0.316, "input_dropout": 0.2, "dropout": 0.5}],
)
def test_names_leave_the_lines_their_room(tmp_path, fields):
    """Short, longer and long: beside the lines, below them in two columns, and in one."""
    runs = [
        write_record(tmp_path, config(method=method), errors=[200, 150]) for method in ("cosine", "mean-only")
    ]
    if fields:
        runs += [write_record(tmp_path, config(epochs=3, **fields), errors=[250, 180, 160])]
    figure = drawn_of(errors_by_epoch, runs)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    width, height = figure.get_size_inches() * figure.dpi
    lines = axes.get_window_extent()
    assert lines.width > 0.6 * width
    assert lines.height > 0.6 * height
    legend = (axes.get_legend() or figure.legends[0]).get_window_extent()
    assert not legend.overlaps(axes.get_tightbbox()) if figure.legends else legend.x0 >= lines.x1
    assert min(legend.x0, legend.y0) >= 0
    assert legend.x1 <= width


def test_seeds_are_one_line_in_a_band(tmp_path):
    runs = [
        write_record(tmp_path, config(epochs=2, seed=seed), errors=errors)
        for seed, errors in enumerate([(200, 140), (210, 150), (220, 130)])
    ]
    axes = drawn_of(errors_by_epoch, runs).axes[0]
    (line,) = axes.lines
    assert list(line.get_ydata()) == [210, 140]
    (band,) = axes.collections
    assert {130, 150, 200, 220} <= set(band.get_paths()[0].vertices[:, 1])


def test_pre_activations_draw_the_recorded_percentiles_on_shared_axes(tmp_path):
    runs = every_method(tmp_path, epochs=5)
    panels = [axes for axes in drawn_of(pre_activations, runs).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [METHODS[run.method].title for run in runs]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in panels}) == 1
    for axes, run in zip(panels, runs, strict=True):
        lines = [list(line.get_ydata()) for line in axes.lines][::-1]
        assert lines == [[record["pre_activation"][which] for record in run.epochs] for which in range(3)]


def test_a_diverged_run_does_not_squash_the_others(tmp_path):
    runs = [
        write_record(tmp_path, config("cosine", epochs=20)),
        write_record(tmp_path, config("baseline", epochs=20), status="diverged", errors=[9020] * 3),
    ]
    axes = drawn_of(errors_by_epoch, runs).axes[0]
    assert axes.get_ylim()[1] < 2000
    assert "baseline (diverged) ↑" in [line.get_label() for line in axes.lines]
    chart = errors_by_epoch(group(runs)).charts[0]
    (diverged,) = (line for line in chart.lines if line.caption == "baseline (diverged) ↑")
    assert all(chart.y.place(value) > 1 for value in diverged.ys)


@pytest.mark.parametrize("errors", [[], [0], [0, 0], [5, 0]])
def test_short_runs_and_no_errors_at_all_can_be_drawn(tmp_path, errors):
    run = write_record(tmp_path, config(epochs=3), status=None, errors=errors)
    pictures = make_pictures({"errors": None, "pre-activations": None}, group([run]))
    assert len(pictures) == (2 if errors else 0)
    assert all(pixels(draw(picture)).min() < 128 for picture in pictures)


def test_chart_shows_on_hover_what_was_recorded(tmp_path):
    run = write_record(tmp_path, config(epochs=3), errors=[400, 200, 100])
    chart = errors_by_epoch(group([run])).charts[0]
    (line,) = chart.lines
    hover = json.loads(chart.hover)
    assert hover["x"] == "epoch"
    points = hover["lines"][0]["points"]
    assert [(name, x, text) for name, x, _, text in points] == [
        ("1", 33.33, "400"), ("2", 66.67, "200"), ("3", 100, "100")
    ]  # fmt: skip
    first, second, third = (y for _, _, y, _ in points)
    assert second - first == pytest.approx(third - second, abs=0.02)  # equal ratios, equal steps
    assert 0 <= first < third <= 100
    assert chart.path(line).startswith("M333.3,")
    assert chart.x.places == [
        (0.0, "0"),
        (pytest.approx(100 / 3), "1"),
        (pytest.approx(200 / 3), "2"),
        (100, "3"),
    ]


def head(method="am-softmax", **changes):
    scale = {"scale": 10.0, "margin": 0.35} if method == "am-softmax" else {}
    values = {"recipe": "faces", "dataset": "faces", "method": method, "learning_rate": 0.001, "epochs": 4}
    return HeadsConfig(**{**values, **scale, **changes})


def test_errors_against_a_field_are_the_last_epochs_of_completed_runs(tmp_path):
    runs = [
        write_record(tmp_path, head(scale=scale), errors=[90, 80, 70, last])
        for scale, last in ((2.0, 60), (10.0, 40), (30.0, 50))
    ]
    runs.append(write_record(tmp_path, head(scale=20.0), status=None, errors=[1]))
    runs.append(write_record(tmp_path, head(margin=0.5), errors=[90, 80, 70, 20]))
    runs.append(write_record(tmp_path, head("softmax"), errors=[90, 80, 70, 45]))
    by_scale, by_margin = make_pictures({"by scale": None, "by margin": 9}, group(runs))
    (line,) = by_scale.charts[0].lines
    assert (list(line.xs), list(line.ys)) == ([2, 10, 30], [60, 40, 50])
    (line,) = by_margin.charts[0].lines
    assert (list(line.xs), list(line.ys)) == ([0.35, 0.5], [40, 20])
    for picture in (by_scale, by_margin):
        for axis in (picture.charts[0].x, picture.charts[0].y):
            assert len(axis.ticks) >= 2
            assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)
    image = pixels(draw(by_scale))
    assert contains(image, METHODS["am-softmax"].colour)
    assert (by_scale.name, by_scale.heading) == ("by-scale", "test errors among 10,000, against scale")
    assert (by_margin.name, by_margin.heading) == (
        "figure9",
        "Figure 9: test errors among 10,000, against margin",
    )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_embeddings_are_drawn_by_class(tmp_path, size):
    points = [[float(number + axis) for axis in range(size)] for number in range(4)]
    extra = {"embeddings": {"labels": [0, 1, 1, 9], "points": points}}
    runs = [write_record(tmp_path, head(embedding_size=size, epochs=1), errors=[7], extra=extra)]
    picture = embeddings(group(runs))
    (chart,) = picture.charts
    assert chart.title == "AM-Softmax: 7 errors"
    assert [(cloud.caption, len(cloud.points)) for cloud in chart.clouds] == [("0", 1), ("1", 2), ("9", 1)]
    assert all(contains(pixels(draw(picture)), cloud.colour) for cloud in chart.clouds)
    second = chart.clouds[1].points
    if size == 1:
        assert second == [(1.0, 0.0), (2.0, 0.0)]
    if size == 2:
        assert second == [(1.0, 2.0), (2.0, 3.0)]
    if size == 3:  # the direction (1, 2, 3) is on the front, its opposite would be on the back
        assert second[0] == (pytest.approx(14**-0.5 - 1.1), pytest.approx(2 * 14**-0.5))
    assert chart.dots(chart.clouds[1].points).count("h0") == 2


def test_errors_against_the_factor_of_the_input(tmp_path):
    pairs = [[[0.1, 900], [1.0, 150], [10.0, 500]], [[0.1, 800], [1.0, 160], [10.0, 600]]]
    runs = [
        write_record(
            tmp_path,
            config("baseline", recipe="magnitude", epochs=1, factors=(0.1, 1.0, 10.0), seed=seed),
            extra={"errors_by_factor": pair},
        )
        for seed, pair in enumerate(pairs)
    ]
    runs.append(write_record(tmp_path, config("cosine", recipe="magnitude", epochs=1)))  # without factors
    (picture,) = make_pictures({"magnitude": None}, group(runs))
    (line,) = picture.charts[0].lines
    assert (line.xs, line.ys) == ([0.1, 1.0, 10.0], [850, 155, 550])
    assert contains(pixels(draw(picture)), METHODS["baseline"].colour)


def test_figures_leave_pyplot_alone(tmp_path):
    sys.modules.pop("matplotlib.pyplot", None)
    drawn_of(errors_by_epoch, every_method(tmp_path, epochs=2))
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
def test_count_ticks_are_few_whole_numbers(last):
    ticks = count_ticks(last)
    assert ticks[0] == 0
    assert ticks[-1] <= last
    assert 2 <= len(ticks) <= 7


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-37.0, 37.0), (0.001, 0.004), (-5e8, 1.0)])
def test_linear_ticks_lie_in_the_range_and_are_few(low, high):
    ticks = linear_ticks(low, high)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)
    assert low > 0 or 0.0 in ticks


def test_labels():
    assert [label(value) for value in (-30.0, 0.0, 1.5, 1000.0, 20000.0)] == [
        "−30",
        "0",
        "1.5",
        "1,000",
        "20,000",
    ]


def test_least_errors_against_depth_stand_beside_the_papers(tmp_path):
    runs = [
        write_record(tmp_path, config(recipe="mnist-depth", epochs=3, hidden=(1000,) * hidden), errors=errors)
        for hidden, errors in ((1, [200, 150, 180]), (2, [150, 141, 138]), (3, [180, 130, 139]))
    ]
    (picture,) = make_pictures({"least by layers": 5}, group(runs))
    assert picture.heading == "Figure 5: least test errors among 10,000, against layers"
    ours, papers = picture.charts[0].lines
    assert (list(ours.xs), list(ours.ys)) == ([2, 3, 4], [150, 138, 130])
    assert (papers.caption, list(papers.ys)) == ("cosine in the paper", [155, 143, 140])
    assert [series.label for series in group(runs)] == [f"cosine, layers {layers}" for layers in (2, 3, 4)]
