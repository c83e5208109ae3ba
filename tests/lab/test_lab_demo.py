import pytest
import torch

from cosnorm_lab.demo import run_demo
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.records import read_all


def test_demo_trains_every_method_and_shows_it(tmp_path, capsys):
    threads = torch.get_num_threads()
    run_demo(tmp_path, epochs=2)
    assert torch.get_num_threads() == threads
    runs = read_all(tmp_path / "runs")
    assert {run.method for run in runs} == set(NORMALIZATIONS)
    assert {run.status for run in runs} == {"completed"}
    # A network that has learned nothing makes 450 errors among 500.
    assert max(run.errors[-1] for run in runs) < 250
    printed = capsys.readouterr().out
    assert str(tmp_path / "report.html") in printed.replace("\n", "")
    assert all(method in printed for method in NORMALIZATIONS)
    text = (tmp_path / "report.html").read_text()
    assert text.count('class="chart small"') == len(NORMALIZATIONS)


def test_a_finished_demo_is_trained_anew_and_other_files_stay(tmp_path):
    run_demo(tmp_path, epochs=1)
    first = {run.path: run for run in read_all(tmp_path / "runs")}
    (tmp_path / "mine.txt").write_text("mine")
    path = next(iter(first))
    path.write_text(path.read_text().replace('"epoch": 1, "loss": ', '"epoch": 1, "loss": 9'))
    run_demo(tmp_path, epochs=1)
    again = {run.path: run for run in read_all(tmp_path / "runs")}
    assert {key: run.epochs[0]["loss"] for key, run in again.items()} == {
        key: run.epochs[0]["loss"] for key, run in first.items()
    }
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_stopped_demo_goes_on(tmp_path, monkeypatch):
    import cosnorm_lab.demo

    trained = []
    train = cosnorm_lab.demo.train

    def stopping(config, *arguments, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(config)
        return train(config, *arguments, **options)

    monkeypatch.setattr(cosnorm_lab.demo, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, epochs=1)
    monkeypatch.undo()
    kept = {run.path: run.path.read_bytes() for run in read_all(tmp_path / "runs")}
    assert len(kept) == 2
    run_demo(tmp_path, epochs=1)
    assert len(read_all(tmp_path / "runs")) == len(NORMALIZATIONS)
    assert {path: path.read_bytes() for path in kept} == kept
