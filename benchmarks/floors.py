"""The rates of this machine, measured beside what they are a floor of: matrix products and copies."""

import statistics
import time

import torch

from benchmarks.registry import Floor, Step

_SIDE, _COPIED = 1024, 2**24


def _seconds(step: Step, rounds: int = 15) -> float:
    step()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def rates() -> dict[str, float]:
    """Operations a second of a float32 product of 1024³, and bytes a second of a copy of 64 MiB."""
    a, b = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    c = torch.empty(_SIDE, _SIDE)
    source, target = torch.randn(_COPIED), torch.empty(_COPIED)
    return {
        "products_per_second": 2 * _SIDE**3 / _seconds(lambda: torch.mm(a, b, out=c)),
        "bytes_per_second": 2 * 4 * _COPIED / _seconds(lambda: target.copy_(source)),
    }


def milliseconds(floor: Floor, found: dict[str, float]) -> float:
    """The longer of both times: products and traffic may overlap."""
    products = floor.products / found["products_per_second"]
    return 1e3 * max(products, floor.bytes / found["bytes_per_second"])
