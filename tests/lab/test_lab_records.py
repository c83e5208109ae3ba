import json

import pytest

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import Run, last_epochs, read, read_all

CONFIG = MLPConfig(
    recipe="mnist-table1", dataset="mnist", method="cosine", hidden=(10,), learning_rate=10.0, epochs=4
)
START = {"kind": "start", "format": 1, "recipe": CONFIG.recipe, "config": CONFIG.to_dict()}
RESUME = {"kind": "resume", "epoch": 1}
END = {"kind": "end", "status": "completed", "message": "", "seconds": 1.0}


def epoch(number, errors=5):
    return {"kind": "epoch", "epoch": number, "errors": errors}


def write(path, *lines, tail=b""):
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + tail)
    return path


def test_reads_a_whole_record(tmp_path):
    path = write(tmp_path / "a.jsonl", START, epoch(1, 7), RESUME, epoch(2, 6), END)
    run = read(path)
    assert run.config == CONFIG
    assert (run.method, run.status, run.errors, run.path) == ("cosine", "completed", [7, 6], path)
    assert run.start == START
    assert run.end == END


def test_without_end_it_is_running(tmp_path):
    assert read(write(tmp_path / "a.jsonl", START, epoch(1))).status == "running"


def test_an_end_that_was_gone_on_from_is_no_end(tmp_path):
    failed = {**END, "status": "failed"}
    assert read(write(tmp_path / "a.jsonl", START, epoch(1), failed)).status == "failed"
    assert read(write(tmp_path / "b.jsonl", START, epoch(1), failed, RESUME)).status == "running"


@pytest.mark.parametrize("kept", range(1, len(json.dumps(epoch(2))) + 1, 7))
def test_an_unfinished_last_line_is_not_seen(tmp_path, kept):
    tail = json.dumps(epoch(2)).encode()[:kept]
    assert read(write(tmp_path / "a.jsonl", START, epoch(1), tail=tail)).errors == [5]


def test_a_broken_line_names_file_and_line(tmp_path):
    path = write(tmp_path / "a.jsonl", START, epoch(1))
    path.write_bytes(path.read_bytes() + b'{"kind": "epo\n' + json.dumps(epoch(2)).encode() + b"\n")
    with pytest.raises(LabError, match=r"a\.jsonl, line 3: not JSON"):
        read(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no finished line"),
        ([epoch(1)], "line 1: expected a start line"),
        ([{**START, "format": 99}], "line 1: expected a start line of format 1.*format 99"),
        ([{"kind": "start", "format": 1}], "line 1: the start line holds no valid config"),
        ([{**START, "config": {}}], "line 1: the start line holds no valid config"),
        ([["kind"]], "line 1: expected an object with a kind"),
        ([{"name": "x"}], "line 1: expected an object with a kind"),
        ([START, epoch(2)], "line 2: expected epoch 1, got 2"),
        ([START, epoch(1), epoch(1)], "line 3: expected epoch 2, got 1"),
        ([START, {"kind": "epok"}], "line 2: unknown kind of line 'epok'"),
    ],
)
def test_foreign_and_broken_files(tmp_path, lines, message):
    with pytest.raises(LabError, match=message):
        read(write(tmp_path / "a.jsonl", *lines))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\x1f\x8b\xff\xfe\n")
    with pytest.raises(LabError, match="line 1: not JSON"):
        read(path)


def test_unreadable_file(tmp_path):
    with pytest.raises(LabError, match=r"cannot read the record .*none\.jsonl: No such file"):
        read(tmp_path / "none.jsonl")


def test_read_all_searches_folders_and_takes_files(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path / "deep" / "b.jsonl", START, epoch(1))
    write(tmp_path / "deep" / "er" / "c.jsonl", START)
    one = write(tmp_path / "a.jsonl", START)
    (tmp_path / "deep" / "b.ckpt").write_bytes(b"no record")
    assert [run.path.name for run in read_all(tmp_path)] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert [run.path.name for run in read_all([tmp_path / "deep", one, one])] == [
        "b.jsonl",
        "c.jsonl",
        "a.jsonl",
    ]
    assert [run.path.name for run in read_all(str(one))] == ["a.jsonl"]


def test_read_all_says_what_is_not_there(tmp_path):
    with pytest.raises(LabError, match="no record"):
        read_all(tmp_path)
    with pytest.raises(LabError, match=r"no such file or folder: .*nowhere"):
        read_all([tmp_path / "nowhere"])


def run_of(errors):
    return Run(start=START, epochs=[epoch(i + 1, e) for i, e in enumerate(errors)])


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([9], (9, 0, 1)),
        ([100, 9, 9, 8], (8, 0, 1)),
        ([100] * 6 + [1, 4], (2.5, 2.25, 2)),
        ([1000] * 150 + [130] * 49 + [180], (131, 49.0, 50)),
        ([1000] * 350 + [1, 3] * 25, (2, 1, 50)),
        ([1000] * 150 + [3] * 49, (3, 0, 49)),
    ],
)
def test_last_epochs(errors, expected):
    assert last_epochs(run_of(errors)) == pytest.approx(expected)


def test_last_epochs_of_none():
    with pytest.raises(LabError, match="no finished epoch"):
        last_epochs(run_of([]))
