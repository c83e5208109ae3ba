"""`make bench`: times every case, ours and the plain one in turn, and prints medians as ratios.

The steps of a case run interleaved (A B C A B C ...), so that a machine that drifts drifts for all alike.
A record with machine, versions, date and every median is written to `benchmarks/results/`.
"""

import argparse
import json
import statistics
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from benchmarks import caffe2_cases, cases, lab_cases, loss_cases
from benchmarks.memory import peak_bytes
from benchmarks.registry import Step
from cosnorm_lab.host import commit, host, versions
from cosnorm_lab.memory import keep_freed_memory

ALL_CASES = [*cases.CASES, *loss_cases.CASES, *lab_cases.CASES, *caffe2_cases.CASES]


def check_agreement(steps: dict[str, Step]) -> None:
    """Stop unless all steps that give tensors give the same, to 1e-4 of the largest."""
    found = {name: step() for name, step in steps.items()}
    found = {
        name: values
        for name, values in found.items()
        if isinstance(values, list) and name not in loss_cases.DIFFERENT
    }
    expected = next(iter(found.values()), None)
    for name, values in found.items():
        for one, other in zip(values, expected, strict=True):
            difference = float((one - other).abs().max() / other.abs().max())
            if not difference < 1e-4:
                raise SystemExit(f"{name} differs by {difference:.1e}: nothing is timed before they agree")


def time_steps(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """The seconds of each round of each step: at least five rounds, fewer of steps that take very long."""
    check_agreement(steps)  # every step has run once now
    times: dict[str, list[float]] = {name: [] for name in steps}
    rounds, began = 0, time.perf_counter()
    while time.perf_counter() - began < (seconds if rounds >= 5 else 10 * seconds):
        rounds += 1
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def measure(seconds: float, only: str) -> dict[str, dict[str, dict[str, float]]]:
    """Median milliseconds, and the median over the rounds of the ratio to the plain step."""
    results = {}
    for case in ALL_CASES:
        if only not in case.name:
            continue
        times = time_steps(case.make(), seconds)
        plain = times.get("plain") or next(iter(times.values()))
        results[case.name] = {
            name: {
                "milliseconds": 1e3 * statistics.median(values),
                "ratio": statistics.median(a / b for a, b in zip(values, plain, strict=True)),
                "spread": (max(values) - min(values)) / statistics.median(values),
                "peak_mib": peak_bytes(case.name, name) / 2**20,
                "rounds": len(values),
            }
            for name, values in times.items()
        }
        print(case.name)
        for name, result in results[case.name].items():
            print(
                f"  {name:28s} {result['milliseconds']:9.2f} ms  {result['ratio']:6.3f} ×  "
                f"{result['peak_mib']:8.1f} MiB",
                flush=True,
            )
    return results


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="time for each case")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory, as `cosnorm run` does")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # Without it each large gradient is fresh memory, which costs more than the arithmetic of sparse rows.
    kept = arguments.keep_memory and keep_freed_memory()
    torch.manual_seed(0)
    now = datetime.now(timezone.utc)
    record = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit()[0],
        "versions": versions(),
        "host": host(torch.device("cpu"), 1),
        "freed_memory_kept": kept,
        "cases": measure(arguments.seconds, arguments.only),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{now:%Y-%m-%dT%H%M%S}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
