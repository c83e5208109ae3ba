"""A record belongs to its data: other data make other records, and never one row."""

import dataclasses
import shutil

import pytest
from report_records import config, write_record
from small_recipes import small_data, small_runs

from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.records import read_all
from cosnorm_lab.report.page import write_report
from cosnorm_lab.report.readme import update_readme
from cosnorm_lab.report.rows import make_rows
from cosnorm_lab.report.series import group
from cosnorm_lab.train import train

A = {"exact": False, "checksums": {"file": "aa"}, "file": "letters.csv", "train": 16_000, "test": 4_000}
B = {**A, "checksums": {"file": "bb"}, "file": "faces.csv"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_other_data_are_another_run_finished_or_not(recipe, tmp_path):
    one = small_runs(recipe, epochs=1)[0]
    first = small_data(one.dataset)
    other = dataclasses.replace(first, checksums={"of": "other bytes"})
    runs = [train(one, data, tmp_path) for data in (first, other, first)]
    assert runs[0].path == runs[2].path != runs[1].path
    assert [len(run.epochs) for run in runs] == [1, 1, 1]
    assert runs[0].start == runs[2].start
    assert runs[1].start["data"]["checksums"] == {"of": "other bytes"}
    assert len(read_all(tmp_path)) == 2


def test_official_data_need_no_more_than_the_configuration_and_old_names_are_found(tmp_path):
    one = small_runs("mnist-table1", epochs=1)[0]
    official = dataclasses.replace(small_data("mnist"), exact=True)
    assert train(one, official, tmp_path).path.name == f"{one.name()}.jsonl"
    mine = dataclasses.replace(official, exact=False)
    named = train(one, mine, tmp_path / "mine").path
    old = named.with_name(f"{one.name()}.jsonl")
    shutil.move(named, old)  # as versions before wrote it
    assert train(one, mine, tmp_path / "mine").path == old
    assert train(one, dataclasses.replace(mine, checksums={"a": "b"}), tmp_path / "mine").path != old


def test_what_a_record_says_of_its_data(tmp_path):
    one = small_runs("mnist-table1", epochs=1)[0]
    data = dataclasses.replace(small_data("mnist"), file="letters.csv", classes=("a", "b"))
    run = train(one, data, tmp_path)
    assert run.start["data"] == {
        **{"name": "mnist", "checksums": data.checksums, "exact": False, "file": "letters.csv"},
        **{"train": len(data.train_labels), "test": len(data.test_labels), "classes": ["a", "b"]},
    }
    assert run.data_name == "letters.csv (64 training and 32 test samples of 2 classes: a, b)"


def test_the_report_keeps_data_sets_apart_and_names_them(tmp_path):
    runs = [
        write_record(
            tmp_path / "runs", config(recipe="own", epochs=4, seed=seed), data=data, errors=[errors] * 4
        )
        for data, errors in ((A, 100), (B, 900))
        for seed in (0, 1)
    ]
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for name in ("letters.csv", "faces.csv"):
        assert f"{name} (16,000 training and 4,000 test samples)" in page
    assert "<b>100.0 ± 0.0</b>" in page
    assert "<b>900.0 ± 0.0</b>" in page
    assert "<b>500" not in page
    assert str(tmp_path) not in page
    pictures = {path.name for path in tmp_path.glob("report-*-errors.png")}
    assert pictures == {f"report-{run.data_key}-errors.png" for run in runs}
    readme = tmp_path / "README.md"
    readme.write_text("<!-- own -->\n<!-- /own -->\n")
    update_readme(runs, readme)
    assert readme.read_text().count("| method |") == 2
    assert "**faces.csv (16,000" in readme.read_text()


def test_rows_of_several_data_sets_are_refused(tmp_path):
    runs = [write_record(tmp_path, config(epochs=4), data=data) for data in (A, B)]
    with pytest.raises(LabError, match=r"expected runs of one data set, got 2 \(letters.csv"):
        make_rows(group(runs))


def test_two_records_of_the_same_run_are_an_error_that_names_both(tmp_path):
    runs = [write_record(tmp_path / name, config(epochs=4)) for name in ("one", "other")]
    with pytest.raises(LabError, match=r"two records of the same run: .*one.*jsonl and .*other.*jsonl"):
        write_report(runs, tmp_path / "report.html")


def test_a_record_that_is_named_twice_is_read_once(tmp_path, monkeypatch):
    run = write_record(tmp_path / "runs", config(epochs=4))
    monkeypatch.chdir(tmp_path)
    assert len(read_all(["runs", tmp_path / "runs", run.path, "./runs"])) == 1


@pytest.mark.parametrize(("errors", "guess"), [(30, False), (61, False), (62, True), (99, True)])
def test_errors_not_below_the_most_frequent_classs_are_chance(tmp_path, errors, guess):
    run = write_record(tmp_path, config(epochs=1), errors=[errors])
    line = {**run.epochs[0], "count": 100}
    # 70 - 1.96 · √(100 · 0.7 · 0.3) = 61.02
    found = dataclasses.replace(run, start={**run.start, "chance": 70}, epochs=[line])
    assert found.at_chance is guess
    assert not run.at_chance  # an older record


def test_chance_is_that_of_the_samples_the_errors_are_of(tmp_path):
    one = small_runs("mnist-table1", epochs=1)[0]
    data = small_data("mnist")
    run = train(one, data, tmp_path)
    usual = data.train_labels.bincount().argmax()
    assert run.start["chance"] == sum(label != usual for label in data.test_labels)
    held_back = train(dataclasses.replace(one, validation=30), data, tmp_path)
    usual = data.train_labels[:-30].bincount().argmax()
    assert held_back.start["chance"] == sum(label != usual for label in data.train_labels[-30:])


@pytest.mark.parametrize(("errors", "guess"), [(0, False), (1, True), (2, True)])
def test_a_perfect_network_is_not_at_chance_however_rare_a_class_is(tmp_path, errors, guess):
    run = write_record(tmp_path, config(epochs=1), errors=[errors])
    found = dataclasses.replace(
        run, start={**run.start, "chance": 2}, epochs=[{**run.epochs[0], "count": 100}]
    )
    assert found.at_chance is guess
