import json
import os
from pathlib import Path

import pytest
import torch

from cosnorm_lab import checkpoint as checkpoints
from cosnorm_lab.checkpoint import Checkpoint
from cosnorm_lab.config import MLPConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import read
from cosnorm_lab.runlog import RunLog

CONFIG = MLPConfig(
    recipe="mnist-table1", dataset="mnist", method="cosine", hidden=(10,), learning_rate=10.0, epochs=4
)
START = {"kind": "start", "format": 1, "config": CONFIG.to_dict(), "data": {"checksums": {"train": "abc"}}}
END = {"kind": "end", "status": "completed", "message": "", "seconds": 1.0}


def made(epoch):
    return Checkpoint(
        epoch=epoch,
        line={"kind": "epoch", "epoch": epoch, "errors": 10 - epoch, "loss": 0.1},
        seconds=1.5 * epoch,
        model={"weight": torch.full((3, 2), float(epoch))},
        optimizer={"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        precision={},
        random={"cpu": torch.get_rng_state()},
    )


def equal(one, other):
    return (
        (one.epoch, one.line, one.seconds, one.optimizer)
        == (other.epoch, other.line, other.seconds, other.optimizer)
        and torch.equal(one.model["weight"], other.model["weight"])
        and torch.equal(one.random["cpu"], other.random["cpu"])
    )


def test_round_trip(tmp_path):
    path = tmp_path / "a.ckpt"
    assert checkpoints.load(path) is None
    checkpoints.save(path, made(1))
    checkpoints.save(path, made(2))
    assert equal(checkpoints.load(path), made(2))
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_an_error(tmp_path, share):
    path = tmp_path / "a.ckpt"
    checkpoints.save(path, made(1))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(LabError, match=r"a\.ckpt cannot be read .* remove it and the record"):
        checkpoints.load(path)


def test_a_changed_byte_is_an_error(tmp_path):
    path = tmp_path / "a.ckpt"
    checkpoints.save(path, made(1))
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(LabError, match="cannot be read"):
            checkpoints.load(path)


@pytest.mark.parametrize("foreign", [b"hello", b"PK\x03\x04", b"\x80\x04N."])
def test_a_foreign_file_is_an_error(tmp_path, foreign):
    path = tmp_path / "a.ckpt"
    path.write_bytes(foreign)
    with pytest.raises(LabError, match="cannot be read"):
        checkpoints.load(path)


def test_a_checkpoint_of_another_format_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    checkpoints.save(path, made(1))
    monkeypatch.undo()
    with pytest.raises(LabError, match="cannot be read"):
        checkpoints.load(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch, call):
    path = tmp_path / "a.ckpt"
    checkpoints.save(path, made(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(path, made(2))
    monkeypatch.undo()
    assert equal(checkpoints.load(path), made(1))
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def log_of(tmp_path):
    return RunLog(tmp_path / "recipe" / "a.jsonl", START)


def test_a_new_record_begins_with_the_start_line(tmp_path):
    log = log_of(tmp_path)
    assert log.begun
    assert log.checkpoint is None
    log.save(made(1))
    log.append(END)
    log.close(remove_checkpoint=True)
    run = read(log.path)
    assert (run.errors, run.status) == ([9], "completed")
    assert [file.name for file in log.path.parent.iterdir()] == ["a.jsonl"]


def test_going_on(tmp_path):
    log = log_of(tmp_path)
    log.save(made(1))
    log.close()
    log = log_of(tmp_path)
    assert not log.begun
    assert equal(log.checkpoint, made(1))
    assert log.run.errors == [9]
    log.close()


def test_every_cut_of_the_record_line_is_mended_from_the_checkpoint(tmp_path):
    log = log_of(tmp_path)
    log.save(made(1))
    before = log.path.read_bytes()
    log.save(made(2))
    log.close()
    whole = log.path.read_bytes()
    for size in range(len(before), len(whole)):
        log.path.write_bytes(whole[:size])
        log_of(tmp_path).close()
        assert log.path.read_bytes() == whole, size


def test_every_cut_of_the_start_line_begins_anew(tmp_path):
    log = log_of(tmp_path)
    log.close()
    whole = log.path.read_bytes()
    for size in range(0, len(whole), 9):
        log.path.write_bytes(whole[:size])
        again = log_of(tmp_path)
        assert again.begun, size
        again.close()
        assert log.path.read_bytes() == whole, size


def test_half_a_checkpoint_beside_the_old_one_is_not_read(tmp_path):
    log = log_of(tmp_path)
    log.save(made(1))
    log.close()
    log.checkpoint_path.with_name("a.ckpt.partial").write_bytes(b"half")
    log = log_of(tmp_path)
    assert log.checkpoint.epoch == 1
    log.save(made(2))
    log.close(remove_checkpoint=True)
    assert [file.name for file in log.path.parent.iterdir()] == ["a.jsonl"]


def test_a_missing_or_foreign_checkpoint_never_restarts_silently(tmp_path):
    log = log_of(tmp_path)
    log.save(made(1))
    log.save(made(2))
    log.close()
    record = log.path.read_bytes()
    checkpoints.save(log.checkpoint_path, made(4))
    with pytest.raises(LabError, match="holds 2 epochs but its checkpoint holds 4"):
        log_of(tmp_path)
    log.checkpoint_path.unlink()
    with pytest.raises(LabError, match="holds 2 epochs but its checkpoint holds 0"):
        log_of(tmp_path)
    assert log.path.read_bytes() == record
    checkpoints.save(log.checkpoint_path, made(2))
    log.path.unlink()
    with pytest.raises(LabError, match=r"a\.ckpt has no record beside it"):
        log_of(tmp_path)


def test_other_data_are_an_error(tmp_path):
    log_of(tmp_path).close()
    other = {**START, "data": {"checksums": {"train": "xyz"}}}
    with pytest.raises(LabError, match=r"begun on other data: expected checksums .*abc.*got .*xyz"):
        RunLog(tmp_path / "recipe" / "a.jsonl", other)


def test_one_writer_at_a_time(tmp_path):
    log = log_of(tmp_path)
    with pytest.raises(LabError, match="another process is writing"):
        log_of(tmp_path)
    log.close()
    log_of(tmp_path).close()


def test_full_disk_in_the_record(tmp_path, monkeypatch):
    log = log_of(tmp_path)
    log.save(made(1))
    before = log.path.read_bytes()
    real = os.write
    monkeypatch.setattr(
        os, "write", lambda descriptor, data: real(descriptor, data[:20])
    )  # 20 bytes were free
    with pytest.raises(LabError, match=r"cannot write .*a\.jsonl: No space left.*make room.*same command"):
        log.save(made(2))
    monkeypatch.undo()
    assert log.path.read_bytes() == before
    log.close()
    log = log_of(tmp_path)
    assert log.run.errors == [9, 8]  # the checkpoint had it
    log.close()


def test_full_disk_in_the_checkpoint(tmp_path):
    always_full = Path("/dev/full")
    if not always_full.exists():
        pytest.skip("this system has no /dev/full, the device that is always full")
    log = log_of(tmp_path)
    log.save(made(1))
    log.checkpoint_path.with_name("a.ckpt.partial").symlink_to(always_full)
    with pytest.raises(LabError, match=r"cannot write .*a\.ckpt: No space left.*make room"):
        log.save(made(2))
    log.close()
    log = log_of(tmp_path)
    assert (log.checkpoint.epoch, log.run.errors) == (1, [9])
    log.close()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "recipe").write_text("a file where a folder should be")
    with pytest.raises(LabError, match="cannot write the record"):
        log_of(tmp_path)


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    log = log_of(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        log.append({"kind": "epoch", "epoch": 1, "loss": float("nan")})
    log.close()
    assert len(log.path.read_text().splitlines()) == 1
    assert json.loads(log.path.read_text())["kind"] == "start"
