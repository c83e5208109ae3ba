"""kill -9 at any moment: the same command goes on and ends with the same figures, bit for bit."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lab_data import write_files
from train_small import configuration

from cosnorm_lab import checkpoint as checkpoints
from cosnorm_lab.records import read, record_path

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("train_small.py")
EPOCHS = 60
TIMES = {"seconds", "evaluation_seconds"}

# Ends the process, as a kill does, in the middle of a write: after some bytes of the record line or of the
# checkpoint, between the checkpoint and the line, or before the finished checkpoint gets its name.
DEADLY = """
import os, pathlib, runpy, sys
moment, count = sys.argv[1], int(sys.argv[2])
sys.argv = sys.argv[3:]
calls = 0

def now():
    global calls
    calls += 1
    return calls == count

write, replace, path_open = os.write, pathlib.Path.replace, pathlib.Path.open

def deadly_write(descriptor, data):
    if b'"kind": "epoch"' in data:
        if moment == "before line" and now():
            os._exit(9)
        if moment == "inside line" and now():
            write(descriptor, data[: len(data) // 2])
            os._exit(9)
    return write(descriptor, data)

def deadly_replace(self, target):
    if moment == "before rename" and now():
        os._exit(9)
    result = replace(self, target)
    if moment == "after rename" and now():
        os._exit(9)
    return result

def deadly_open(self, mode="r", *arguments, **options):
    file = path_open(self, mode, *arguments, **options)
    if moment == "inside checkpoint" and self.name.endswith(".ckpt.partial") and now():
        file.write(b"half a checkpoint")
        file.flush()
        os._exit(9)
    return file

os.write, pathlib.Path.replace, pathlib.Path.open = deadly_write, deadly_replace, deadly_open
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(data, out):
    return [sys.executable, str(PROGRAM), str(data), str(out), "cosine", str(EPOCHS), "1"]


def finish(data, out):
    subprocess.run(command(data, out), check=True, timeout=120)


def result(out):
    """Everything a run leaves but its times, and its weights."""
    path = record_path(out, configuration("cosine", EPOCHS))
    run = read(path)
    assert run.status == "completed"
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in run.epochs]
    return lines, checkpoints.load(path.with_suffix(".ckpt")).model


def same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    data = write_files(out / "data")
    began = time.perf_counter()
    process = subprocess.Popen(command(data, out), stdout=subprocess.PIPE)
    process.stdout.readline()
    trained = time.perf_counter()
    assert process.wait(120) == 0
    return data, result(out), time.perf_counter() - trained, trained - began


def test_killed_at_twenty_random_moments(undisturbed, tmp_path):
    data, expected, training_seconds, _ = undisturbed
    moments = random.Random(0)
    kills = resumed = 0
    for _ in range(20):
        process = subprocess.Popen(command(data, tmp_path), stdout=subprocess.PIPE)
        process.stdout.readline()  # the imports are over: from here on it matters
        time.sleep(moments.uniform(0, training_seconds / 4))
        process.kill()
        kills += process.wait() == -9
        path = record_path(tmp_path, configuration("cosine", EPOCHS))
        if path.exists() and path.read_bytes().count(b"\n"):
            resumed = len(read(path).epochs)  # readable after every kill
    assert kills >= 5, "the runs ended before they were killed"
    finish(data, tmp_path)
    same(result(tmp_path), expected)
    assert resumed > 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "moment", ["before line", "inside line", "inside checkpoint", "before rename", "after rename"]
)
def test_killed_inside_a_write(undisturbed, tmp_path, moment, count):
    data, expected, _, _ = undisturbed
    killed = subprocess.run(
        [sys.executable, "-c", DEADLY, moment, str(count), *command(data, tmp_path)[1:]],
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parent)},
    )
    assert killed.returncode == 9
    assert len(read(record_path(tmp_path, configuration("cosine", EPOCHS))).epochs) == count - 1
    finish(data, tmp_path)
    same(result(tmp_path), expected)
