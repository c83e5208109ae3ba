"""Every Triton kernel compiles, without a GPU, for the GPUs it is meant for; nothing spills."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cosnorm

triton = pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(
    tuple(int(one) for one in triton.__version__.split(".")[:2]) < (3, 6),
    reason="compiles ahead by what triton 3.6 has",
)

# Products, and what is computed again for rare rows: they may take any number of registers.
FREE = {"few_rows", "_log_sums", "_weights", "sigmoid_pass", "products_again", "gradients_again"}
FREE |= {"fields_again", "images_again", "filters_again"}
# KiB of shared memory that a program may have: the CUDA programming guide's table, and AMD's of the MI300.
SHARED = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64}


def _compiled(cache: Path, *arguments: str) -> dict:
    """What `ahead.py` reports, in a process without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "TRITON_CACHE_DIR": str(cache),
        "PYTHONPATH": str(Path(cosnorm.__file__).parents[1]),
    }
    program = str(Path(__file__).with_name("ahead.py"))
    found = subprocess.run(
        [sys.executable, program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def _check(report: dict) -> None:
    assert set(report["kernels"]) <= set(report["called"]), (
        "give what launches a new kernel a case in ahead.py"
    )
    for one in report["compiled"]:
        assert one["stack"] == 0, one
        assert one["shared"] <= SHARED[one["target"]] * 1024, one
        # AMD's counting is another: half of its registers' width, and 512 for a thread.
        if one["kernel"] not in FREE and one["target"] != "gfx942":
            assert one["registers"] <= 64, one


def test_each_kernel_once(tmp_path: Path):
    _check(_compiled(tmp_path, "--once"))


@pytest.mark.slow
def test_each_form_of_each_kernel_somewhere(tmp_path: Path):
    """All of them everywhere take minutes: `python tests/backends/ahead.py --table`."""
    report = _compiled(tmp_path, "--chosen")
    _check(report)
    names = {one["kernel"] for one in report["compiled"]}
    for what, values in (("dtype", ("float32", "bfloat16", "float16")), ("target", SHARED)):
        missed = {(name, value) for name in names for value in values}
        missed -= {(one["kernel"], one[what]) for one in report["compiled"]}
        assert missed <= {tuple(one) for one in report["absent"]}
