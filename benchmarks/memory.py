"""Peak memory of one step in a process of its own: `python -m benchmarks.memory CASE STEP` prints bytes.

What is counted is the largest resident size during the step less that before it: temporaries, what is saved
for the backward pass, and the gradients.
"""

import argparse
import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.cases import ALL_CASES


def peak_bytes(case: str, step: str) -> int:
    """Run one step in a fresh process, and return its extra peak memory.

    Freed memory is always given back there: what a process keeps would hide what the step takes.
    """
    command = [sys.executable, "-m", "benchmarks.memory", case, step]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return int(done.stdout.split()[-1])


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"no {name} in /proc/self/status; memory is measured on Linux only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case")
    parser.add_argument("step")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = torch.randn(64, 16, requires_grad=True)
    (rows @ rows.t()).logsumexp(1).sum().backward()  # libraries and threads are there before the measurement
    case = next(case for case in ALL_CASES if case.name == arguments.case)
    step = case.make()[arguments.step]
    # What making the case has freed is given back, and the peak begins anew.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    step()
    print(_resident("VmHWM") - before)


if __name__ == "__main__":
    main()
