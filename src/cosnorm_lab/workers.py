"""Several runs side by side on one machine, each in a worker process on its own share of the cores."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import Line, Run
from cosnorm_lab.sources import Source
from cosnorm_lab.train import Progress


def train_side_by_side(
    configs: Sequence[RunConfig],
    source: Source,
    out: Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Run]:
    """Trains runs in worker processes, as `cosnorm_lab.train.train` does one after the other.

    A run that fails does not stop the others. Each worker is pinned to its share of the cores (where the
    system can do that) and reads the data for itself.

    Args:
        configs: the runs.
        source: their data.
        out: folder of records.
        workers: number of processes; by default as many as there are cores for `threads` each.
        threads: threads of each; by default its share of the cores.
        device: Fabric's name of an accelerator.
        progress: is told of each epoch of every run.

    Returns:
        The records, in the order of `configs`.

    Raises:
        LabError: of one or more runs, after all others have ended; or a worker was killed.
    """
    wanted = list(dict.fromkeys(configs))
    shares = core_shares(available_cores(), workers, threads, len(wanted))
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in mid-air
    jobs: Any = context.Queue()
    events: Any = context.Queue()
    jobs.cancel_join_thread()  # after a failure nobody may be left to read them
    for job in [*wanted, *([None] * len(shares))]:
        jobs.put(job)
    processes = [
        context.Process(
            target=_work,
            args=(jobs, events, share, threads or len(share), source, out, device),
            daemon=True,
        )
        for share in shares
    ]
    for process in processes:
        process.start()
    runs: dict[RunConfig, Run] = {}
    failures: dict[str, list[str]] = {}  # by message: what is wrong with the data is wrong for all
    try:
        while len(runs) + sum(map(len, failures.values())) < len(wanted):
            for name, arguments in _next(events, processes):
                if name == "failed":
                    config, message = arguments
                    failures.setdefault(message, []).append(config.name())
                    continue
                if name == "run_finished":
                    runs[arguments[0].config] = arguments[0]
                if progress:
                    getattr(progress, name)(*arguments)
    finally:
        for process in processes:
            process.terminate()  # an epoch that is on the disk stays there
            process.join()
    if failures:
        raise LabError(describe(failures))
    return [runs[config] for config in configs]


def describe(failures: Mapping[str, Sequence[str]]) -> str:
    """Each message once, behind the names of the runs it is of."""
    return "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {message}"
        for message, names in failures.items()
    )


def available_cores() -> list[int]:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_shares(cores: Sequence[int], workers: int | None, threads: int | None, runs: int) -> list[list[int]]:
    """Each worker's cores: neighbours, nobody else's as long as there are enough of them.

    Args:
        cores: all there are.
        workers: how many; by default as many as have `threads` cores each, or one core.
        threads: cores of each worker; by default all are handed out evenly.
        runs: never more workers than this.
    """
    count = max(1, min(workers or len(cores) // (threads or 1), runs))
    share = min(threads or max(1, len(cores) // count), len(cores))
    return [[cores[(first * share + place) % len(cores)] for place in range(share)] for first in range(count)]


def _next(events: Any, processes: Sequence[Any]) -> list[Any]:
    """The next event, or none after a while; raises if a worker is gone, or all are, with runs left."""
    ended = [process.exitcode for process in processes if process.exitcode is not None]
    try:
        return [events.get(timeout=0.5)]
    except queue.Empty:  # so what had ended before has nothing left to say
        if any(ended) or len(ended) == len(processes):
            raise LabError(
                f"a worker process ended with exit status {max(ended, key=abs)} before all runs had, perhaps "
                "for want of memory; the same command, perhaps with fewer --workers, goes on where they were"
            ) from None
        return []


class _Reporter:
    """Sends what `cosnorm_lab.train.Progress` is told to the first process."""

    def __init__(self, events: Any) -> None:
        self.events = events

    def run_started(self, config: RunConfig, epochs_done: int, record: str) -> None:
        self.events.put(("run_started", (config, epochs_done, record)))

    def epoch_finished(self, config: RunConfig, line: Line) -> None:
        self.events.put(("epoch_finished", (config, line)))

    def run_finished(self, run: Run) -> None:
        self.events.put(("run_finished", (run,)))


def _work(
    jobs: Any, events: Any, share: Sequence[int], threads: int, source: Source, out: Path, device: str
) -> None:
    """A worker: takes runs until there are no more."""
    # Ctrl-C reaches workers too; what they were doing is on the disk up to the last epoch.
    with contextlib.suppress(KeyboardInterrupt):
        threading.Thread(target=_end_with_parent, daemon=True).start()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, share)
        import torch

        from cosnorm_lab.fabric import make_fabric
        from cosnorm_lab.memory import keep_freed_memory
        from cosnorm_lab.train import train

        torch.set_num_threads(threads)
        keep_freed_memory()
        while (config := jobs.get()) is not None:
            try:
                fabric = make_fabric(device, precision=config.precision)
                train(config, source.load(), out, fabric=fabric, progress=_Reporter(events))
            except LabError as error:
                events.put(("failed", (config, str(error))))
            except Exception:
                events.put(("failed", (config, traceback.format_exc())))


def _end_with_parent() -> None:
    """Nobody is left to read the events of a program that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
