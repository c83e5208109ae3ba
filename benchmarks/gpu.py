"""`make gpu`: all that there is to ask of a GPU, in minutes: the kernels' tests on it, then the benchmark.

One JSON in `benchmarks/results/` holds the machine, what the tests said, and the medians; it is written
again after each case, so that a run that is cut off leaves what it had. It needs torch with CUDA, triton and
pytest, no network, and no installation of this package: `PYTHONPATH=src python -m benchmarks.gpu`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_cases
from benchmarks.run import measure_case
from cosnorm_lab.host import commit, host, versions

ROOT = Path(__file__).parents[1]
TESTS = ("tests/backends", "tests/functional", "tests/losses")
CHOICE = "triton or fp8 or ahead"


def kernels_tests(seconds: float) -> dict[str, Any]:
    """What the kernels' tests say on the GPU: pytest's last line, and the names of those that failed.

    Args:
        seconds: after so many it is stopped; what was printed until then is looked at.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOICE, *TESTS]
    environment = {**os.environ, "COSNORM_TEST_DEVICE": "cuda"}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        text, stopped = done.stdout, False
    except subprocess.TimeoutExpired as error:
        text, stopped = (error.stdout or b"").decode(errors="replace"), True
    lines = text.strip().splitlines()
    return {
        "said": lines[-1] if lines else "nothing",
        "failed": re.findall(r"^(?:FAILED|ERROR) (.*)$", text, re.MULTILINE),
        "stopped": stopped,
        "seconds": time.perf_counter() - began,
        "end": text[-4000:],
    }


def run(out: Path, *, limit: float, quick: bool, device: str = "cuda", divisor: int = 1) -> Path:
    """Asks everything that the time allows, and returns the record's file.

    Args:
        out: folder of the record.
        limit: seconds of all together; what does not begin in time is noted as left out.
        quick: the cases that matter most, and no tests.
        device: "cpu" with a `divisor` is for tests.
        divisor: of the sizes.
    """
    began = time.perf_counter()

    def left() -> float:
        return limit - (time.perf_counter() - began)

    now = datetime.now(timezone.utc)
    record: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit()[0],
        "versions": versions(),
        "host": host(torch.device(device), 1),
        "cases": {},
        "failed": {},
        "left_out": [],
    }
    path = out / f"{now:%Y-%m-%dT%H%M%S}-gpu.json"

    def write() -> None:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    write()
    cases = gpu_cases.cases(device, divisor, quick)
    for number, case in enumerate(cases):
        if left() < 0.05 * limit:
            record["left_out"] += [case.name]
            continue
        share = min(3.0, left() / (2 * (len(cases) - number)))
        try:
            record["cases"][case.name] = measure_case(case, share, device=device)
        except (Exception, SystemExit) as error:  # one case that fails leaves the others
            record["failed"][case.name] = f"{type(error).__name__}: {error}"[:2000]
            print(f"{case.name} failed: {record['failed'][case.name]}", flush=True)
        if device != "cpu":
            torch.cuda.empty_cache()
        write()
    if not quick and left() > 20:
        record["tests"] = kernels_tests(left() - 5)
        print(record["tests"]["said"], flush=True)
    record["seconds"] = time.perf_counter() - began
    write()
    print(f"wrote {path}")
    return path


def main() -> None:
    """Ask, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=480, help="seconds of all together")
    parser.add_argument("--quick", action="store_true", help="the cases that matter most, no tests")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no GPU; run this on a machine with one")
    run(arguments.out, limit=arguments.limit, quick=arguments.quick)


if __name__ == "__main__":
    main()
