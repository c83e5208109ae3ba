"""`make bench-check`: measure again, and fail where a ratio is worse than in the last committed record.

Ratios are compared, never times: both steps of a ratio ran in turn on the same machine. Only ours are looked
at, the steps whose names begin as those of `OURS` do; a ratio may be worse by `MARGIN`.
"""

import argparse

import torch

from benchmarks.history import newest, steps
from benchmarks.run import measure

MARGIN = 0.10
OURS = ("cosine", "centered", "folded", "ours", "RunNet", "FeedBlob", "FetchBlob")


def worse(now: dict[str, float], before: dict[str, float], margin: float = MARGIN) -> list[str]:
    """The steps of ours whose ratio grew by more than the margin, each in words."""
    return [
        f"{name}: {now[name]:.3f} × now, {before[name]:.3f} × in the record"
        for name in now
        if name in before and name.startswith(OURS) and now[name] > (1 + margin) * before[name]
    ]


def main() -> None:
    """Measure the cases that have a record, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="time for each case")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--margin", type=float, default=MARGIN)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    records = newest()
    failures = []
    for case, results in measure(arguments.seconds, arguments.only, peaks=False).items():
        if case not in records:
            print(f"{case}: no record yet")
            continue
        now, before = (
            {name: value["ratio"] for name, value in steps(one).items()} for one in (results, records[case])
        )
        failures += [f"{case}, {line}" for line in worse(now, before, arguments.margin)]
    if failures:
        raise SystemExit("\n".join(["worse than the last committed record:", *failures]))
    print(f"no ratio is worse than its record by more than {arguments.margin:.0%}")


if __name__ == "__main__":
    main()
