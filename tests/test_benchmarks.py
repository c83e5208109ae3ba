"""The benchmark's own parts: what it compares before the clock starts, its history, its tables."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from benchmarks import gpu, gpu_cases
from benchmarks.check import worse
from benchmarks.floors import milliseconds
from benchmarks.history import newest, steps
from benchmarks.layer_cases import CASES, Broadcast, ByHand, Unfolded
from benchmarks.registry import Case, Floor
from benchmarks.run import check_agreement
from benchmarks.tables import PAGES, ROOT, TABLES, filled, table

RECORDS = {
    "linear-training-2x3-4": {
        "plain": {"milliseconds": 2.0, "ratio": 1.0},
        "cosine": {"milliseconds": 2.5, "ratio": 1.25},
        "floor": {"milliseconds": 1.0},
        "record": "one.json",
    }
}


def test_steps_that_differ_are_not_timed():
    same = {"a": lambda: [torch.ones(2)], "b": lambda: [torch.ones(2)], "c": lambda: [torch.zeros(2) + 0.5]}
    case = Case("case", lambda: same)
    with pytest.raises(SystemExit, match="case: c differs by 5"):
        check_agreement(case, same)
    check_agreement(Case("case", lambda: same, different=("c",)), same)
    check_agreement(Case("case", lambda: same, groups=(("a", "b"), ("c",))), same)


def test_formulas_by_hand_are_the_cosine():
    """What stands beside ours in the benchmark computes what ours does."""
    from cosnorm.functional import cosine_conv2d, cosine_linear

    x, image = torch.randn(3, 7), torch.randn(2, 3, 5, 5)
    for layer in (ByHand(7, 4, bias=False), Broadcast(7, 4, bias=False)):
        torch.testing.assert_close(layer(x), cosine_linear(x, layer.weight))
    unfolded = Unfolded(3, 4, 3, padding=1, bias=False)
    torch.testing.assert_close(unfolded(image), cosine_conv2d(image, unfolded.weight, padding=1))


@pytest.mark.parametrize("name", ["linear-training", "linear-inference", "linear-bfloat16"])
def test_the_steps_of_a_case_pass_their_gate(name: str):
    case = next(case for case in CASES if case.name == f"{name}-100x784-1000")
    check_agreement(case, case.make())


def test_names_are_different_and_floors_are_there():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    floor = next(case.floor for case in CASES if case.name == "linear-inference-100x784-1000")
    assert floor == Floor(2 * 100 * 784 * 1000, 4 * (100 * 784 + 784_000 + 100_000))
    rates = {"products_per_second": 1e9, "bytes_per_second": 1e9}
    assert milliseconds(Floor(2e6, 1e6), rates) == pytest.approx(2)
    assert milliseconds(Floor(1e6, 3e6), rates) == pytest.approx(3)


def test_what_is_worse_than_the_record():
    before = {"plain": 1.0, "cosine": 1.2, "centered": 1.3, "weight norm": 1.1}
    assert worse({**before, "weight norm": 9.0}, before) == []
    assert worse({**before, "cosine": 1.31}, before) == []
    assert worse({**before, "cosine": 1.33}, before) == ["cosine: 1.330 × now, 1.200 × in the record"]


def test_the_newest_record_of_each_case_counts(tmp_path: Path):
    for name, ratio in (("2026-01-01", 1.5), ("2026-02-01", 1.2)):
        record = {"cases": {"a": {"plain": {"ratio": 1.0}, "cosine": {"ratio": ratio}}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    found = newest(tmp_path)
    assert found["a"]["cosine"]["ratio"] == 1.2
    assert list(steps(found["a"])) == ["plain", "cosine"]


def test_tables():
    lines = table("linear-training", RECORDS)
    assert lines[2] == "| 2x3-4 | 2.00 | 1.25 | – | – | – | – | – | one.json |"
    assert table("pairwise", RECORDS) == ["Not measured yet."]
    text = "a\n<!-- speed:linear-training -->\nold\n<!-- /speed:linear-training -->\nb\n"
    assert filled(text, RECORDS).splitlines()[2:5] == lines
    assert filled(filled(text, RECORDS), RECORDS) == filled(text, RECORDS)


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_are_what_the_records_say(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert any(f"<!-- speed:{name} -->" in text for name in TABLES)
    assert filled(text, newest()) == text, "run python -m benchmarks.tables"


@pytest.mark.parametrize("case", gpu_cases.cases("cpu", divisor=512), ids=lambda case: case.name)
def test_the_cases_of_a_gpu_pass_their_gate(case: Case):
    """In small, by the interpreter: they are ready where there is a GPU."""
    pytest.importorskip("triton", reason="triton is not installed")
    check_agreement(case, case.make())


def test_a_gpu_is_asked_everything_within_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    pytest.importorskip("triton", reason="triton is not installed")
    cases = gpu_cases.cases("cpu", divisor=512, quick=True)
    names = [case.name for case in cases]
    everything = [case.name for case in gpu_cases.cases("cpu", divisor=512)]
    assert set(names) < set(everything)
    assert len(set(everything)) == len(everything)
    asked = []

    def measured(case, seconds, peaks=True, device="cpu"):
        asked.append(case.name)
        if case.name == names[1]:
            raise RuntimeError("out of memory")
        return {"plain": {"ratio": 1.0}}

    monkeypatch.setattr(gpu, "measure_case", measured)
    monkeypatch.setattr(gpu, "kernels_tests", lambda seconds: {"said": "3 passed", "seconds": seconds})
    path = gpu.run(tmp_path, limit=60, quick=True, device="cpu", divisor=512)
    record = json.loads(path.read_text())
    assert asked == names
    assert set(record["cases"]) == set(names) - {names[1]}
    assert record["failed"] == {names[1]: "RuntimeError: out of memory"}
    assert "tests" not in record
    record = json.loads(gpu.run(tmp_path, limit=60, quick=False, device="cpu", divisor=512).read_text())
    assert record["tests"]["said"] == "3 passed"
    assert set(record["cases"]) | set(record["failed"]) == set(everything)
    record = json.loads(gpu.run(tmp_path, limit=0, quick=True, device="cpu", divisor=512).read_text())
    assert record["left_out"] == names


def test_what_the_kernels_tests_say(monkeypatch: pytest.MonkeyPatch):
    def stopped(*arguments, timeout, **options):
        raise subprocess.TimeoutExpired(arguments[0], timeout, output=b"FAILED tests/a.py::test_b - boom\n..")

    monkeypatch.setattr(subprocess, "run", stopped)
    said = gpu.kernels_tests(3)
    assert (said["failed"], said["stopped"]) == (["tests/a.py::test_b - boom"], True)
