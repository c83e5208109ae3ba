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

from benchmarks.cases import CASES, Step
from cosnorm_lab.host import commit, host, versions


def time_steps(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """The seconds of each round of each step: at least five rounds, then until the time is over."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    began = time.perf_counter()
    while len(times["plain"]) < 5 or time.perf_counter() - began < seconds:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def measure(seconds: float, only: str) -> dict[str, dict[str, dict[str, float]]]:
    """Median milliseconds, and the median over the rounds of the ratio to the plain step."""
    results = {}
    for case in CASES:
        if only not in case.name:
            continue
        times = time_steps(case.make(), seconds)
        results[case.name] = {
            name: {
                "milliseconds": 1e3 * statistics.median(values),
                "ratio": statistics.median(a / b for a, b in zip(values, times["plain"], strict=True)),
                "rounds": len(values),
            }
            for name, values in times.items()
        }
        print(case.name)
        for name, result in results[case.name].items():
            print(
                f"  {name:28s} {result['milliseconds']:9.2f} ms  {result['ratio']:6.3f} × plain", flush=True
            )
    return results


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="time for each case")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    now = datetime.now(timezone.utc)
    record = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit()[0],
        "versions": versions(),
        "host": host(torch.device("cpu"), 1),
        "cases": measure(arguments.seconds, arguments.only),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{now:%Y-%m-%dT%H%M%S}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
