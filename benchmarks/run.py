"""`make bench`: times every case, ours and the plain one in turn, and prints medians as ratios.

The steps of a case run interleaved, each round in another order: a machine that drifts drifts for all alike,
and none runs always behind the same one, whose leavings in the caches it would find.
A record with machine, versions, date and every median is written to `benchmarks/results/`.
"""

import argparse
import json
import random
import statistics
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_cases
from benchmarks.cases import ALL_CASES
from benchmarks.floors import milliseconds, rates
from benchmarks.memory import peak_bytes
from benchmarks.registry import Case, Step
from cosnorm_lab.host import commit, host, versions
from cosnorm_lab.memory import keep_freed_memory


def check_agreement(case: Case, steps: dict[str, Step]) -> None:
    """Run each step once, and stop unless those that compute the same give the same."""
    found = {name: _copies(step()) for name, step in steps.items()}
    for group in case.groups or (tuple(name for name in found if name not in case.different),):
        results = {name: found[name] for name in group if found.get(name)}
        expected = next(iter(results.values()), [])
        for name, values in results.items():
            for one, other in zip(values, expected, strict=True):
                difference = float((one - other).abs().max() / other.abs().max())
                if not difference < case.tolerance:
                    raise SystemExit(
                        f"{case.name}: {name} differs by {difference:.1e}: nothing is timed before they agree"
                    )


def _copies(result: object) -> list[Tensor]:
    return [value.clone() for value in result] if isinstance(result, list) else []


def seconds_of(step: Step, device: str) -> float:
    """How long one step takes; on a GPU by its own clock, from the first kernel to the last."""
    if device == "cpu":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    step()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1e3


def gpu_peak_bytes(step: Step) -> int:
    """The largest memory of the GPU during one step, beyond that before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def time_steps(
    case: Case, steps: dict[str, Step], seconds: float, device: str = "cpu"
) -> dict[str, list[float]]:
    """The seconds of each round of each step: at least five rounds, fewer of steps that take very long."""
    check_agreement(case, steps)  # every step has run once now
    for _ in range(2):  # compiled ones settle
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    shuffled, rounds, began = random.Random(0), 0, time.perf_counter()
    while time.perf_counter() - began < (seconds if rounds >= 5 else 10 * seconds):
        rounds += 1
        for name, step in shuffled.sample(list(steps.items()), len(steps)):
            times[name].append(seconds_of(step, device))
    return times


def _peak(case: Case, name: str, step: Step, device: str) -> int:
    return peak_bytes(case.name, name) if device == "cpu" else gpu_peak_bytes(step)


def _quartiles(ratios: list[float]) -> list[float]:
    first, _, third = statistics.quantiles(ratios, n=4)
    return [first, third]


def measure(seconds: float, only: str, peaks: bool = True, device: str = "cpu") -> dict[str, dict[str, Any]]:
    """Median milliseconds, and the median over the rounds of the ratio to the plain step, of every case."""
    cases = ALL_CASES if device == "cpu" else gpu_cases.cases(device)
    return {case.name: measure_case(case, seconds, peaks, device) for case in cases if only in case.name}


def measure_case(case: Case, seconds: float, peaks: bool = True, device: str = "cpu") -> dict[str, Any]:
    """The same of one case, printed too."""
    torch.manual_seed(0)
    found = rates() if case.floor else {}
    made = case.make()
    with case.surroundings():
        times = time_steps(case, made, seconds, device)
    plain = times.get("plain") or next(iter(times.values()))
    results: dict[str, Any] = {
        name: {
            "milliseconds": 1e3 * statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, plain, strict=True)),
            "quartiles": _quartiles([a / b for a, b in zip(values, plain, strict=True)]),
            "peak_mib": _peak(case, name, made[name], device) / 2**20 if peaks else None,
            "rounds": len(values),
        }
        for name, values in times.items()
    }
    floor = milliseconds(case.floor, found) if case.floor else None
    print(case.name if floor is None else f"{case.name}  (floor {floor:.2f} ms)")
    for name, result in results.items():
        low, high = result["quartiles"]
        peak = "" if result["peak_mib"] is None else f"{result['peak_mib']:8.1f} MiB"
        print(
            f"  {name:28s} {result['milliseconds']:9.2f} ms  {result['ratio']:6.3f} × "
            f"({low:.2f} to {high:.2f})  {peak}",
            flush=True,
        )
    if floor is not None:
        results["floor"] = {"milliseconds": floor, **found}
    return results


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="time for each case")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the cases of a GPU")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory, as `cosnorm run` does")
    parser.add_argument("--no-peaks", dest="peaks", action="store_false", help="leave out the peak memory")
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
        "host": host(torch.device(arguments.device), 1),
        "freed_memory_kept": kept,
        "cases": measure(arguments.seconds, arguments.only, arguments.peaks, arguments.device),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{now:%Y-%m-%dT%H%M%S}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
