import re
import subprocess
import sys

import pytest
import torch
from lab_data import write_files
from typer.testing import CliRunner

from cosnorm import installing
from cosnorm_lab import __main__, data
from cosnorm_lab.cli import app
from cosnorm_lab.errors import LabError
from cosnorm_lab.options import parse_rates
from cosnorm_lab.records import read_all


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Calls the command as a shell does: (exit status, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    threads = torch.get_num_threads()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cosnorm", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            __main__.main()
        output = capsys.readouterr()
        return exit_.value.code or 0, output.out, output.err

    yield run
    torch.set_num_threads(threads)


def small(tmp_path):
    return ("--data-dir", write_files(tmp_path / "data"), "--allow-checksum-mismatch", "--device", "cpu")


def test_run_trains_records_and_prints_the_table(call, tmp_path):
    status, out, err = call(
        "run", "mnist-table1", "--methods", "cosine,baseline", "--epochs", 2, *small(tmp_path)
    )
    assert status == 0
    cosine, baseline = read_all("runs")[::-1]
    assert (cosine.method, cosine.status, len(cosine.epochs)) == ("cosine", "completed", 2)
    row = next(line for line in out.splitlines() if re.match("(★ )? *cosine", line.strip()))
    assert row.replace("★", "").split()[:4] == ["cosine", "10", "1", "2"]
    assert f"{cosine.errors[-1]:.1f}" in row
    assert f"{100 * cosine.errors[-1] / 32:.2f}" in row
    assert "143.922" in row
    assert "0.074" in row
    assert baseline.epochs[0]["count"] == 32
    assert "last quarter of the epochs" in " ".join(out.split())
    assert "lr/|w|²" in out
    assert f"{cosine.epochs[-1]['layers'][0]['weight_norm']:.3g}" in out
    assert "epoch 2/2  loss" in err


def test_run_again_goes_on_or_returns_at_once(call, tmp_path):
    arguments = ("run", "mnist-table1", "--methods", "max", "--epochs", 1, *small(tmp_path))
    assert call(*arguments)[0] == 0
    before = read_all("runs")[0].path.read_bytes()
    status, out, err = call(*arguments)
    assert status == 0
    assert read_all("runs")[0].path.read_bytes() == before
    assert "completed after 1 epochs" in err
    assert "epoch 1/1  loss" not in err
    assert "150.588" in out


def test_run_options_reach_the_record(call, tmp_path):
    options = (
        "--methods max --epochs 1 --seeds 2 --set init_std=0.2 --lr max=0.25 --validation 24 --threads 1"
        " --set hidden_bias=false"
    )
    status, out, _ = call("run", "mnist-table1", *options.split(), "--out", "there", *small(tmp_path))
    assert status == 0
    runs = read_all("there")
    assert [run.config.seed for run in runs] == [0, 1]
    for run in runs:
        config = run.config
        assert (config.init_std, config.learning_rate, config.validation) == (0.2, 0.25, 24)
        assert config.hidden_bias is False
        assert (run.epochs[0]["count"], run.start["host"]["threads"]) == (24, 1)
        assert run.start["data"]["exact"] is False
    assert "24 held-back training samples" in " ".join(out.split())


def test_a_diverged_run_is_shown_so(call, tmp_path):
    status, out, _ = call(
        "run",
        "mnist-table1",
        "--methods",
        "baseline",
        "--lr",
        "baseline=1e30",
        "--epochs",
        2,
        *small(tmp_path),
    )
    assert status == 0
    assert "diverged" in out
    assert "try a smaller learning rate" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "mnist"), "unknown recipe 'mnist'; known are mnist-table1, mnist-table2"),
        (("run", "digits", "--methods", "cosin"), "unknown method cosin; known are baseline"),
        (
            ("run", "digits", "--lr", "max"),
            "--lr expects METHOD=VALUE with a number, such as cosine=10, a number for all methods, or paper; "
            "got 'max'",
        ),
        (("run", "digits", "--methods", "max", "--lr", "max=-1"), "learning_rate must be positive"),
        (("run", "digits", "--device", "abacus"), "cannot use --device abacus"),
        (("run", "mnist-table1", "--data-dir", "nowhere"), "train-images-idx3-ubyte is missing"),
        (("fetch", "mnits"), "unknown data set 'mnits'"),
        (("report", "nowhere"), "no such file or folder: nowhere"),
    ],
)
def test_errors_are_one_line(call, arguments, message):
    status, out, err = call(*arguments)
    assert status == 1
    assert err.startswith("Error: ")
    assert message in err
    assert "Traceback" not in err + out
    assert err.count("\n") == 1


def test_a_wrong_checksum_says_how_to_go_on(call, tmp_path):
    status, _, err = call("run", "mnist-table1", "--data-dir", write_files(tmp_path / "data"))
    assert status == 1
    assert "is not the official file" in err
    assert "--allow-checksum-mismatch" in err


@pytest.mark.parametrize(
    "arguments", [("run", "digits", "--epochs", "0"), ("run",), ("run", "digits", "--threads", "x"), ("rum",)]
)
def test_wrong_usage_is_status_two(call, arguments):
    status, _, err = call(*arguments)
    assert status == 2
    assert "Usage: cosnorm" in err


def test_ctrl_c_says_how_to_go_on(call, tmp_path, monkeypatch):
    import cosnorm_lab.train

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cosnorm_lab.train, "train", interrupted)
    status, _, err = call("run", "mnist-table1", "--methods", "max", *small(tmp_path))
    assert status == 130
    assert "The same command goes on" in err


def test_list_shows_recipes_and_what_is_on_disk(call, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "default_folder", lambda name: tmp_path / name)
    status, out, _ = call("list")
    assert status == 0
    for word in ("mnist-table1", "digits", "mnist", "shipped"):
        assert word in out
    assert "4 of 4 files" not in out
    write_files(tmp_path / "mnist", packed=True)
    assert "4 of 4 files" in call("list")[1]


@pytest.mark.parametrize("command", [[], ["list"], ["fetch"], ["run"], ["report"], ["demo"], ["bench"]])
def test_help_reads_well(command):
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == 0
    if command != ["list"]:
        assert "xample" in result.output
        assert f"cosnorm {' '.join(command)}".strip() in result.output
    assert "`" not in re.sub(r"[│┃]", "", result.output)  # the markup was rendered
    assert "Raises" not in result.output


def test_bench_runs_in_a_checkout_alone(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = call("bench")
    assert status == 1
    assert "run it in a checkout of the project" in err
    seen = []

    def run(command, check):
        seen.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "run.py").touch()
    assert call("bench", "--only", "linear", "--seconds", "2", "--threads", "1")[0] == 3
    assert seen[0][1:] == ["-m", "benchmarks.run", "--only", "linear", "--seconds", "2.0", "--threads", "1"]


def test_parse_rates():
    assert parse_rates(["cosine=10", "mean-only = 0.5"]) == ({"cosine": 10.0, "mean-only": 0.5}, None)
    assert parse_rates([]) == ({}, None)
    assert parse_rates(["0.1"]) == ({}, 0.1)
    assert parse_rates(["paper"]) == ("paper", None)
    for wrong in ("cosine", "cosine=", "cosine=ten", "=x"):
        with pytest.raises(LabError, match="METHOD=VALUE"):
            parse_rates([wrong])
    for both in (["0.1", "cosine=1"], ["0.1", "0.2"], ["paper", "0.1"], ["paper", "cosine=1"]):
        with pytest.raises(LabError, match="for all methods and once more"):
            parse_rates(both)


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    real = __main__.importlib.util.find_spec
    missing = {"typer", "lightning_fabric"}
    monkeypatch.setattr(
        __main__.importlib.util, "find_spec", lambda name: None if name in missing else real(name)
    )
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == 2
    assert (
        f"needs typer, lightning_fabric; install them with: {installing.command('lab')}"
        in capsys.readouterr().err
    )


def test_the_library_does_not_import_the_laboratory():
    program = (
        "import sys, cosnorm, cosnorm.nn; print([m for m in sys.modules if m.startswith('cosnorm_lab')])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_command_starts_without_torch():
    program = "import sys, cosnorm_lab.cli; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_a_sweep_trains_a_grid_side_by_side(call, tmp_path):
    status, out, err = call(
        "run", "mnist-table1", "--methods", "cosine,baseline", "--epochs", 1, "--validation", 24,
        "--sweep", "lr=0.1,0.3,1", "--workers", 2, "--threads", 1, *small(tmp_path),
    )  # fmt: skip
    assert status == 0, err
    runs = read_all("runs")
    assert sorted((run.method, run.config.learning_rate) for run in runs) == [
        (method, rate) for method in ("baseline", "cosine") for rate in (0.1, 0.3, 1.0)
    ]
    assert {run.status for run in runs} == {"completed"}
    assert {run.start["host"]["threads"] for run in runs} == {1}
    assert "held-back training samples" in " ".join(out.split())
    assert call("report", "runs")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "Learning-rate search" in page
    assert (tmp_path / "report-by-learning-rate.png").exists()


def test_fair_searches_and_trains_with_what_it_found(call, tmp_path):
    status, out, err = call(
        "run", "fair", "--methods", "cosine,baseline", "--epochs", 2, "--seeds", 2,
        "--sweep", "lr=0.03,0.1,1",
        "--workers", 1, "--set", "hidden=12", "--set", "validation=24", *small(tmp_path),
    )  # fmt: skip
    assert status == 0, err
    runs = read_all("runs")
    searched = [run for run in runs if run.config.validation]
    final = [run for run in runs if not run.config.validation]
    assert len(searched) >= 6  # and more where the best was at an edge
    assert sorted((run.method, run.config.seed) for run in final) == [
        (method, seed) for method in ("baseline", "cosine") for seed in (0, 1)
    ]
    for run in final:
        assert run.epochs[-1]["count"] == 32
        tried = {one.config.learning_rate: one.errors[-1] for one in searched if one.method == run.method}
        assert tried[run.config.learning_rate] == min(tried.values())
    assert "held-back training samples" in " ".join(out.split())
    assert "32 test samples" in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--validation", 0), "validation must be positive"),
        (("--set", "batch_size=4,64"), "got several values of batch_size"),
    ],
)
def test_fair_chooses_on_held_back_samples_and_rates_alone(call, tmp_path, options, message):
    status, _, err = call("run", "fair", *options, *small(tmp_path))
    assert status == 1
    assert message in err


def test_event_files_go_on_where_the_run_does(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (extra `tensorboard`)")
    from report_records import config, write_record
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from cosnorm_lab.event_files import EventFiles

    run = write_record(tmp_path / "records", config(epochs=4), errors=[9, 8, 7, 6])
    killed = EventFiles(tmp_path)
    killed.run_started(run.config, 0, run.path.stem)
    for line in run.epochs[:3]:
        killed.epoch_finished(run.config, {**line, "errors": 99} if line["epoch"] == 3 else line)
    going_on = EventFiles(tmp_path)
    going_on.run_started(run.config, 2, run.path.stem)  # the third epoch never reached the record
    for line in run.epochs[2:]:
        going_on.epoch_finished(run.config, line)
    going_on.run_finished(run)
    whole = EventFiles(tmp_path / "whole")  # of a run that it was told nothing of, as Ray's are
    whole.run_finished(run)
    whole.run_finished(run)
    for folder in (tmp_path, tmp_path / "whole"):
        events = EventAccumulator(str(folder / run.config.recipe / run.config.name()))
        events.Reload()
        found = [(event.step, event.value) for event in events.Scalars("errors")]
        assert found == [(1, 9), (2, 8), (3, 7), (4, 6)]


def test_live_curves_lie_beside_the_records(call, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (extra `tensorboard`)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = ("run", "mnist-table1", "--methods", "cosine", "--epochs", 3, "--tensorboard")
    assert call(*arguments, *small(tmp_path))[0] == 0
    (run,) = read_all("runs")
    events = EventAccumulator(f"runs/tensorboard/mnist-table1/{run.path.stem}")
    events.Reload()
    assert [event.step for event in events.Scalars("errors")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("errors")] == run.errors
    assert events.Scalars("loss")[-1].value == pytest.approx(run.epochs[-1]["loss"])
    assert "weight_norm/hidden1" in events.Tags()["scalars"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--executor", "slurm"), "--executor must be local or ray; got 'slurm'"),
        (("--devices", 2, "--workers", 2), "exclude each other"),
        (("--devices", 2, "--sweep", "lr=1,2"), "exclude each other"),
        (("--sweep", "rate=1,2"), "these runs have no field 'rate'"),
        (("--sweep", "lr"), "--sweep expects FIELD=VALUE"),
        (("--set", "lr=1", "--sweep", "lr=1,2"), "given twice: learning_rate"),
        (("--validation", 5, "--set", "validation=6"), "given twice: validation"),
        (("--lr", "cosine=10", "--sweep", "lr=1,2"), "learning rates were given twice"),
        (("--executor", "ray", "--workers", 2), "--workers is of --executor local"),
    ],
)
def test_what_cannot_be_executed(call, tmp_path, options, message):
    status, _, err = call("run", "mnist-table1", *options, *small(tmp_path))
    assert status == 1
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_tensorboard_that_is_not_there(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    status, _, err = call("run", "mnist-table1", "--epochs", 1, "--tensorboard", *small(tmp_path))
    assert status == 1
    assert installing.command("tensorboard") in err
