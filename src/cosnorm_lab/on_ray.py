"""Several runs side by side on a Ray cluster, or on a Ray of this machine alone."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosnorm import installing
from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import Run, read
from cosnorm_lab.sources import Source
from cosnorm_lab.train import Progress
from cosnorm_lab.workers import describe

RETRIES = 3  # of a run whose process died: it goes on from its last epoch


def train_on_ray(
    configs: Sequence[RunConfig],
    source: Source,
    out: Path,
    *,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Run]:
    """Trains runs as Ray's tasks, each on `threads` cores, wherever there is room.

    The cluster is the one of the environment variable RAY_ADDRESS, or a new one on this machine. All its
    machines must have cosnorm installed and see the same folders of data and records.

    Args:
        configs: the runs.
        source: their data.
        out: folder of records.
        threads: cores of each run; 1 if not given.
        device: Fabric's name of an accelerator; each run on "cuda" asks Ray for a GPU.
        progress: is told when a run has ended.

    Returns:
        The records, in the order of `configs`.

    Raises:
        LabError: Ray is not installed, runs failed (after all others have ended), or records are not seen.
    """
    try:
        import ray
    except ImportError:
        raise LabError(f"--executor ray needs Ray: {installing.command('ray')}") from None
    cores, cards = threads or 1, int(device == "cuda")
    folder = out.resolve()
    data = dataclasses.replace(source, data_dir=source.data_dir and source.data_dir.resolve())
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        there = ray.cluster_resources()
        if there.get("CPU", 0) < cores or there.get("GPU", 0) < cards:
            raise LabError(
                f"each run asks Ray for {cores} cores and {cards} GPUs (--threads, --device); its machines "
                f"have {there.get('CPU', 0):g} and {there.get('GPU', 0):g} together"
            )
        task: Any = ray.remote(num_cpus=cores, num_gpus=cards, max_retries=RETRIES)(train_one)
        waiting = {task.remote(config, data, folder, cores, device): config for config in configs}
        failures: dict[str, list[str]] = {}
        runs: dict[RunConfig, Run] = {}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            config = waiting.pop(done)
            path, failure = _outcome(ray, done)
            if failure:
                failures.setdefault(failure, []).append(config.name())
                continue
            runs[config] = _record(path, config)
            if progress:
                progress.run_finished(runs[config])
    finally:
        if started:
            ray.shutdown()
    if failures:
        raise LabError(describe(failures))
    return [runs[config] for config in configs]


def train_one(config: RunConfig, source: Source, out: Path, threads: int, device: str) -> tuple[str, str]:
    """One run, on the machine that Ray chose: its record's file, and what is wrong with it, or nothing."""
    import torch

    from cosnorm_lab.fabric import make_fabric
    from cosnorm_lab.memory import keep_freed_memory
    from cosnorm_lab.train import train

    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        run = train(config, source.load(), out, fabric=make_fabric(device, precision=config.precision))
    except LabError as error:
        return "", str(error)
    return str(run.path), ""


def _outcome(ray: Any, done: object) -> tuple[str, str]:
    try:
        path, failure = ray.get(done)
        return str(path), str(failure)
    except Exception as error:  # whatever was raised there, and what Ray itself raises
        return "", f"{type(error).__name__}: {error}"


def _record(file: str, config: RunConfig) -> Run:
    path = Path(file)
    if not path.exists():
        raise LabError(
            f"Ray has run {config.name()}, but {path} is not seen here; --out must be a folder that all "
            "machines of the cluster share"
        )
    return read(path)
