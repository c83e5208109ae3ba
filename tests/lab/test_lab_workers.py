"""Runs side by side: the same records as one after the other, whatever trains them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab_data import record_of, write_files

from cosnorm import installing
from cosnorm_lab.config import MLPConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import read, read_all
from cosnorm_lab.sources import Source
from cosnorm_lab.train import train
from cosnorm_lab.workers import available_cores, core_shares, train_side_by_side


def config(rate, **fields):
    run = {"recipe": "small", "dataset": "mnist", "method": "baseline", "hidden": (12,), "epochs": 2}
    return MLPConfig(**{**run, "learning_rate": rate, **fields})


@pytest.fixture
def source(tmp_path):
    return Source("mnist", write_files(tmp_path / "data"), allow_checksum_mismatch=True)


class Heard:
    def __init__(self):
        self.events = []

    def run_started(self, config, epochs_done, record):
        self.events.append(("started", config, epochs_done))

    def epoch_finished(self, config, line):
        self.events.append(("epoch", config, line["epoch"]))

    def run_finished(self, run):
        self.events.append(("finished", run.config, len(run.epochs)))


def outcome(run):
    return [(line["loss"], line["errors"]) for line in run.epochs]


def test_the_same_records_as_one_after_the_other(source, tmp_path, one_thread):
    configs = [config(rate) for rate in (0.1, 0.3, 1.0)]
    heard = Heard()
    runs = train_side_by_side(configs, source, tmp_path / "out", workers=2, threads=1, progress=heard)
    assert [run.config for run in runs] == configs
    for one in configs:
        alone = train(one, source.load(), tmp_path / "alone")
        assert outcome(read(record_of(tmp_path / "out", one))) == outcome(alone)
        mine = [event for event in heard.events if event[1] == one]
        assert [(event[0], event[2]) for event in mine] == [
            ("started", 0), ("epoch", 1), ("epoch", 2), ("finished", 2),
        ]  # fmt: skip
    again = train_side_by_side(configs, source, tmp_path / "out", workers=2)
    assert [run.epochs for run in again] == [run.epochs for run in runs]


def test_a_run_that_fails_stops_no_other(source, tmp_path):
    configs = [config(0.1, validation=64), config(0.2)]
    with pytest.raises(LabError, match=r"seed0-\w+: validation must leave images to train on"):
        train_side_by_side(configs, source, tmp_path / "out", workers=1)
    assert read(record_of(tmp_path / "out", configs[1])).status == "completed"


class Broken(Source):
    def load(self):
        raise RuntimeError("out of order")


def test_what_is_no_fault_of_the_users_shows_where_it_happened(tmp_path):
    configs = [config(rate) for rate in (0.1, 0.2, 0.3)]
    with pytest.raises(LabError, match=r"seed0-\w+ and 2 more: Traceback[^$]*out of order"):
        train_side_by_side(configs, Broken("mnist"), tmp_path / "out", workers=1)


def test_a_run_that_is_named_twice_is_trained_once(source, tmp_path):
    one, other = train_side_by_side([config(0.1)] * 2, source, tmp_path / "out", workers=1)
    assert one.path == other.path


def test_many_runs_that_nobody_takes_keep_no_program_from_its_end(source, tmp_path, monkeypatch):
    monkeypatch.setattr("cosnorm_lab.workers._work", _leave)
    with pytest.raises(LabError, match="ended with exit status 0 before all runs had"):
        train_side_by_side([config(0.1 + one) for one in range(400)], source, tmp_path / "out", workers=1)


def _leave(*_):
    pass


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "runs", "expected"),
    [
        ([0, 1], None, None, 5, [[0], [1]]),
        ([0, 1], None, 2, 5, [[0, 1]]),
        ([2, 3, 6, 7], 2, None, 5, [[2, 3], [6, 7]]),
        ([0, 1, 2], 2, None, 5, [[0], [1]]),
        ([0, 1], None, None, 1, [[0, 1]]),
        ([0, 1], 3, None, 3, [[0], [1], [0]]),
        ([0, 1], None, 8, 3, [[0, 1]]),
    ],
)
def test_core_shares(cores, workers, threads, runs, expected):
    assert core_shares(cores, workers, threads, runs) == expected


def test_the_cores_of_this_process():
    assert available_cores()
    assert len(available_cores()) <= os.cpu_count()


PROGRAM = """
import sys
from pathlib import Path
from test_lab_workers import config
from cosnorm_lab.sources import Source
from cosnorm_lab.workers import train_side_by_side

if __name__ == "__main__":
    runs = [config(rate, epochs=100_000) for rate in (0.001, 0.002)]
    train_side_by_side(runs, Source("mnist", Path(sys.argv[1]), True), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_workers_are_pinned_and_end_with_a_killed_program(source, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    folder = str(tmp_path / "out")
    program = subprocess.Popen(
        [sys.executable, str(script), str(source.data_dir), folder],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert program.poll() is None, "the program ended"
            paths = list((tmp_path / "out").rglob("*.jsonl")) if (tmp_path / "out").exists() else []
            if len(paths) == 2 and all(len(path.read_bytes().splitlines()) > 2 for path in paths):
                break
            time.sleep(0.2)
        else:
            pytest.fail("the workers trained nothing within two minutes")
        children = [
            int(place.name)
            for place in Path("/proc").iterdir()
            if place.name.isdigit() and _parent(place) == program.pid and "spawn_main" in _command(place)
        ]
        assert len(children) == 2
        shares = [os.sched_getaffinity(child) for child in children]
        if len(os.sched_getaffinity(0)) > 1:
            assert not shares[0] & shares[1]
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    for run in read_all(tmp_path / "out"):  # and the records can be read
        assert run.status == "running"


def _parent(process):
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1


def _command(process):
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def test_a_killed_worker_is_reported(source, tmp_path, monkeypatch):
    monkeypatch.setattr("cosnorm_lab.workers._work", _die)
    with pytest.raises(LabError, match="a worker process ended with exit status 3"):
        train_side_by_side([config(0.1)], source, tmp_path / "out")


def _die(*_):
    os._exit(3)


@pytest.mark.slow
def test_ray_trains_the_same(source, tmp_path, one_thread, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
    from cosnorm_lab.on_ray import train_on_ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    configs = [config(0.1), config(0.3), config(0.2, validation=64)]
    heard = Heard()
    with pytest.raises(LabError, match=r"^baseline-lr0.2-seed0-\w+: validation must leave images"):
        train_on_ray(configs, source, tmp_path / "out", progress=heard)
    assert not ray.is_initialized()
    for one in configs[:2]:
        alone = train(one, source.load(), tmp_path / "alone")
        assert outcome(read(record_of(tmp_path / "out", one))) == outcome(alone)
    assert sorted(event[0] for event in heard.events) == ["finished", "finished"]


def test_without_ray_it_says_what_to_install(source, tmp_path, monkeypatch):
    from cosnorm_lab.on_ray import train_on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LabError, match=re.escape(installing.command("ray"))):
        train_on_ray([config(0.1)], source, tmp_path)


class Once(Source):
    """Ends the process the first time that data are wanted."""

    def load(self):
        marker = self.data_dir.with_name("marker")
        if not marker.exists():
            marker.write_text("was here")
            os._exit(1)
        return super().load()


@pytest.mark.slow
def test_ray_begins_again_a_run_whose_process_died_and_says_what_it_cannot_have(
    tmp_path, source, monkeypatch
):
    pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
    from cosnorm_lab.on_ray import train_on_ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where its workers find `Once`
    with pytest.raises(LabError, match=r"each run asks Ray for 4096 cores and 0 GPUs"):
        train_on_ray([config(0.1)], source, tmp_path / "out", threads=4096)
    (run,) = train_on_ray([config(0.1)], Once("mnist", source.data_dir, True), tmp_path / "out")
    assert run.status == "completed"
    assert (tmp_path / "marker").exists()
