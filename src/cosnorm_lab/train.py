"""The training loop, read top to bottom: set up, an epoch, evaluate, save; it goes on where it stopped."""

import contextlib
import math
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric

from cosnorm_lab import records
from cosnorm_lab.checkpoint import Checkpoint
from cosnorm_lab.config import RunConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.errors import LabError
from cosnorm_lab.fabric import make_fabric
from cosnorm_lab.host import commit, host, versions
from cosnorm_lab.records import FINAL, Line, Run, record_path
from cosnorm_lab.runlog import RunLog
from cosnorm_lab.tasks import Task, make_task
from cosnorm_lab.tasks.batches import chance, standardizes


class Progress(Protocol):
    """What wants to know how a training goes on; called by the first process only."""

    def run_started(self, config: RunConfig, epochs_done: int, record: str) -> None:
        """A run begins, or goes on after `epochs_done` epochs; `record` is the name of its record."""

    def epoch_finished(self, config: RunConfig, line: Line) -> None:
        """An epoch is on the disk; `line` is its line of the record."""

    def run_finished(self, run: Run) -> None:
        """A run has ended, now or in an earlier session."""


def train(
    config: RunConfig,
    dataset: Dataset,
    out: str | Path,
    *,
    fabric: Fabric | None = None,
    progress: Progress | None = None,
    keep_checkpoint: bool = False,
) -> Run:
    """Trains one run, or goes on with it, and returns its record.

    A run that was stopped, whatever stopped it, goes on from its last finished epoch. A run that has
    completed or diverged is not trained again: its record is returned at once.

    Args:
        config: the run.
        dataset: the data it names.
        out: folder of records; the record is `out`/recipe/name.jsonl, see `records.record_path`.
        fabric: devices and precision, see `cosnorm_lab.fabric.make_fabric`; by default one CPU process.
        progress: is told of each epoch.
        keep_checkpoint: leave the last checkpoint (name.ckpt, beside the record) when the run has ended.

    Raises:
        LabError: data that do not fit, a broken record or checkpoint, a disk that cannot be written.
    """
    fabric = fabric or make_fabric(precision=config.precision)
    _check(config, dataset, fabric)
    log: RunLog | None = None
    final = False
    if fabric.is_global_zero:
        start = _start_line(config, dataset, fabric)
        log = RunLog(record_path(out, config, start["data"]), start)
        final = log.run.status in FINAL
    try:
        if not fabric.broadcast(final):
            _train(config, dataset, fabric, log, progress)
            final = True
        run: Run = fabric.broadcast(records.read(log.path) if log else None)  # type: ignore[assignment]
    except Exception as error:
        if log and not isinstance(error, (LabError, OSError)):
            with contextlib.suppress(LabError):  # the error itself is the news, not that it cannot be noted
                log.append(
                    _end_line(
                        "failed", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", log.seconds
                    )
                )
        raise
    finally:
        if log:
            log.close(remove_checkpoint=final and not keep_checkpoint)
    if progress and fabric.is_global_zero:
        progress.run_finished(run)
    return run


def _train(
    config: RunConfig, dataset: Dataset, fabric: Fabric, log: RunLog | None, progress: Progress | None
) -> None:
    """All epochs that are left, and the end line."""
    task = make_task(config, dataset, fabric)
    done, before = _resume(task, fabric, log)
    if log and progress:
        progress.run_started(config, done, log.path.stem)
    began = time.perf_counter()
    for epoch in range(done + 1, config.epochs + 1):
        epoch_began = time.perf_counter()
        loss = task.epoch(epoch)
        trained = time.perf_counter()
        line: Line = {
            "kind": "epoch",
            "epoch": epoch,
            "loss": loss,
            **task.evaluate(last=epoch == config.epochs),
            "seconds": trained - epoch_began,
            "evaluation_seconds": time.perf_counter() - trained,
        }
        seconds = before + time.perf_counter() - began
        if not _finite(line):
            message = (
                f"the loss or a weight was no longer finite in epoch {epoch}; try a smaller learning rate"
            )
            if log:
                log.append(_end_line("diverged", message, seconds))
            return
        if log:
            log.save(_checkpoint(epoch, line, seconds, task, fabric))
            if progress:
                progress.epoch_finished(config, line)
    if log:
        log.append(_end_line("completed", "", before + time.perf_counter() - began))


def _check(config: RunConfig, dataset: Dataset, fabric: Fabric) -> None:
    if config.precision != fabric.strategy.precision.precision:
        raise LabError(
            f"the run has precision {config.precision!r}, "
            f"but its Fabric was made with {fabric.strategy.precision.precision!r}; make them alike"
        )
    if config.dataset != dataset.name:
        raise LabError(f"the run needs the data set {config.dataset!r}, got {dataset.name!r}")
    if config.validation >= len(dataset.train_images):
        raise LabError(
            f"validation must leave images to train on: got {config.validation} "
            f"of {len(dataset.train_images)} training images"
        )


def _resume(task: Task, fabric: Fabric, log: RunLog | None) -> tuple[int, float]:
    """Restores the last finished epoch in every process: its number, and the seconds so far."""
    if log and not log.begun:
        sha, _ = commit()
        machine = host(fabric.device, fabric.world_size)
        epoch = len(log.run.epochs)
        log.append({"kind": "resume", "epoch": epoch, "commit": sha, "host": machine, "time": _now()})
    saved: Checkpoint | None = fabric.broadcast(log.checkpoint if log else None)
    if saved is None:
        return 0, 0.0
    task.network.load_state_dict(saved.model)
    task.optimizer.load_state_dict(saved.optimizer)
    fabric.strategy.precision.load_state_dict(saved.precision)
    torch.set_rng_state(saved.random["cpu"])
    if "cuda" in saved.random and fabric.device.type == "cuda":
        torch.cuda.set_rng_state(saved.random["cuda"], fabric.device)
    return saved.epoch, saved.seconds


def _checkpoint(epoch: int, line: Line, seconds: float, task: Task, fabric: Fabric) -> Checkpoint:
    random = {"cpu": torch.get_rng_state()}
    if fabric.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(fabric.device)
    return Checkpoint(
        epoch=epoch,
        line=line,
        seconds=seconds,
        model={name: tensor.detach().cpu() for name, tensor in task.network.state_dict().items()},
        optimizer=task.optimizer.state_dict(),
        precision=fabric.strategy.precision.state_dict(),
        random=random,
    )


def _finite(value: Any) -> bool:
    """Whether every number inside is finite."""
    if isinstance(value, dict | list):
        return all(map(_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _start_line(config: RunConfig, dataset: Dataset, fabric: Fabric) -> Line:
    sha, dirty = commit()
    return {
        "kind": "start",
        "format": records.FORMAT,
        "recipe": config.recipe,
        "config": config.to_dict(),
        "commit": sha,
        "dirty": dirty,
        "versions": versions(),
        "host": host(fabric.device, fabric.world_size),
        "data": dataset.described(),
        **({"standardized": True} if standardizes(config, dataset) else {}),
        "chance": chance(config, dataset),
        "started": _now(),
    }


def _end_line(status: str, message: str, seconds: float) -> Line:
    return {"kind": "end", "status": status, "message": message, "seconds": seconds, "time": _now()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
