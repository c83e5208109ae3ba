"""The training loop, read top to bottom: set up, an epoch, evaluate, save; it goes on where it stopped."""

import contextlib
import math
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

import cosnorm.nn
from cosnorm_lab import records
from cosnorm_lab.checkpoint import Checkpoint
from cosnorm_lab.config import RunConfig
from cosnorm_lab.data import Dataset
from cosnorm_lab.errors import LabError
from cosnorm_lab.fabric import make_fabric
from cosnorm_lab.host import commit, host, versions
from cosnorm_lab.models import MLP, mlp, trained_weights
from cosnorm_lab.records import FINAL, Line, Run, record_path
from cosnorm_lab.runlog import RunLog

EVALUATION_BATCH = 2000
PERCENTILES = (0.15, 0.5, 0.85)


class Progress(Protocol):
    """What wants to know how a training goes on; called by the first process only."""

    def run_started(self, config: RunConfig, epochs_done: int) -> None:
        """A run begins, or goes on after `epochs_done` epochs."""

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
        out: folder of records; the record is `out`/recipe/name.jsonl.
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
        log = RunLog(record_path(out, config), _start_line(config, dataset, fabric))
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
    images, labels, test_images, test_labels = _tensors(config, dataset, fabric.device)
    sizes = (images.shape[1], *config.hidden, dataset.num_classes)
    network = mlp(
        sizes,
        config.method,
        init_std=config.init_std,
        augment=config.augment,
        hidden_bias=config.hidden_bias,
        seed=config.seed,
    )
    optimizer: Any = torch.optim.SGD(network.parameters(), lr=config.learning_rate)
    model, optimizer = fabric.setup(network, optimizer)
    max_norm = cosnorm.nn.MaxNorm(network, max_norm=config.max_norm) if config.method == "max" else None

    done, before = _resume(network, optimizer, fabric, log)
    if log and progress:
        progress.run_started(config, done)
    began = time.perf_counter()
    for epoch in range(done + 1, config.epochs + 1):
        epoch_began = time.perf_counter()
        model.train()
        total_loss = torch.zeros((), device=fabric.device)
        for part, size in batches(config, len(images), epoch, fabric):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[part]), labels[part], reduction="sum")
            # Fabric averages gradients over processes; this weight makes them the whole batch's.
            fabric.backward(loss * (fabric.world_size / size))
            optimizer.step()
            if max_norm:
                max_norm.project()
            total_loss += loss.detach()
        mean_loss = float(fabric.all_reduce(total_loss, reduce_op="sum")) / len(images)  # type: ignore[arg-type]
        trained = time.perf_counter()
        errors, percentiles = _evaluate(model, network, test_images, test_labels, fabric)
        line: Line = {
            "kind": "epoch",
            "epoch": epoch,
            "loss": mean_loss,
            "errors": errors,
            "count": len(test_labels),
            "seconds": trained - epoch_began,
            "evaluation_seconds": time.perf_counter() - trained,
            "pre_activation": percentiles,
            "layers": _layers(network, config.learning_rate),
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
            log.save(_checkpoint(epoch, line, seconds, network, optimizer, fabric))
            if progress:
                progress.epoch_finished(config, line)
    if log:
        log.append(_end_line("completed", "", before + time.perf_counter() - began))


def batches(config: RunConfig, count: int, epoch: int, fabric: Fabric) -> Iterator[tuple[Tensor, int]]:
    """An epoch's batches: the indices this process takes of each, and the size of the whole batch.

    The order follows from seed and epoch alone, so it is the same in every process and after a resume.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator).to(fabric.device)
    for batch in order.split(config.batch_size):
        yield batch.tensor_split(fabric.world_size)[fabric.global_rank], len(batch)


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


def _tensors(config: RunConfig, dataset: Dataset, device: torch.device) -> tuple[Tensor, ...]:
    """Images and labels to train on, then those to count errors on, on the device; images flat."""
    train = len(dataset.train_images) - config.validation
    tensors = [dataset.train_images[:train].flatten(1), dataset.train_labels[:train]]
    if config.validation:
        tensors += [dataset.train_images[train:].flatten(1), dataset.train_labels[train:]]
    else:
        tensors += [dataset.test_images.flatten(1), dataset.test_labels]
    return tuple(tensor.to(device) for tensor in tensors)


def _resume(network: MLP, optimizer: Any, fabric: Fabric, log: RunLog | None) -> tuple[int, float]:
    """Restores the last finished epoch in every process: its number, and the seconds so far."""
    if log and not log.begun:
        sha, _ = commit()
        machine = host(fabric.device, fabric.world_size)
        epoch = len(log.run.epochs)
        log.append({"kind": "resume", "epoch": epoch, "commit": sha, "host": machine, "time": _now()})
    saved: Checkpoint | None = fabric.broadcast(log.checkpoint if log else None)
    if saved is None:
        return 0, 0.0
    network.load_state_dict(saved.model)
    optimizer.load_state_dict(saved.optimizer)
    fabric.strategy.precision.load_state_dict(saved.precision)
    torch.set_rng_state(saved.random["cpu"])
    if "cuda" in saved.random and fabric.device.type == "cuda":
        torch.cuda.set_rng_state(saved.random["cuda"], fabric.device)
    return saved.epoch, saved.seconds


def _checkpoint(
    epoch: int, line: Line, seconds: float, network: MLP, optimizer: Any, fabric: Fabric
) -> Checkpoint:
    random = {"cpu": torch.get_rng_state()}
    if fabric.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(fabric.device)
    return Checkpoint(
        epoch=epoch,
        line=line,
        seconds=seconds,
        model={name: tensor.detach().cpu() for name, tensor in network.state_dict().items()},
        optimizer=optimizer.state_dict(),
        precision=fabric.strategy.precision.state_dict(),
        random=random,
    )


@torch.no_grad()
def _evaluate(
    model: Any, network: MLP, images: Tensor, labels: Tensor, fabric: Fabric
) -> tuple[int, list[float]]:
    """Errors, and percentiles of what enters the ReLU of the first unit of the last hidden layer."""
    model.eval()
    wrong = torch.zeros((), dtype=torch.int64, device=fabric.device)
    unit = torch.zeros(len(images), device=fabric.device)  # each process fills its own part of it
    seen: list[Tensor] = []
    hook = network.hidden[-1].register_forward_hook(lambda _, __, output: seen.append(output[:, 0].float()))
    try:
        everything = torch.arange(len(images), device=fabric.device)
        mine = everything.tensor_split(fabric.world_size)[fabric.global_rank]
        # All processes make the same number of calls: a model over several processes may wait in each.
        for part in mine.tensor_split(math.ceil(len(images) / (EVALUATION_BATCH * fabric.world_size))):
            wrong += (model(images[part]).argmax(dim=1) != labels[part]).sum()
            unit[part] = seen.pop()
    finally:
        hook.remove()
    unit = fabric.all_reduce(unit, reduce_op="sum")  # type: ignore[assignment]
    wrong = fabric.all_reduce(wrong, reduce_op="sum")  # type: ignore[assignment]
    percentiles = torch.quantile(unit, torch.tensor(PERCENTILES, device=unit.device))
    return int(wrong), percentiles.tolist()


@torch.no_grad()
def _layers(network: MLP, learning_rate: float) -> list[dict[str, Any]]:
    """|w| of each linear layer, and lr/|w|², the step in angle of a weight whose length does not matter."""
    layers = []
    for name, weight in trained_weights(network).items():
        norms = torch.linalg.vector_norm(weight.cpu().double(), dim=1)
        rates = learning_rate / norms[norms != 0].square()
        layers.append(
            {
                "name": name,
                "weight_norm": float(norms.mean()),
                "effective_learning_rate": float(rates.mean()) if len(rates) else 0.0,
            }
        )
    return layers


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
        "data": {"name": dataset.name, "checksums": dataset.checksums, "exact": dataset.exact},
        "started": _now(),
    }


def _end_line(status: str, message: str, seconds: float) -> Line:
    return {"kind": "end", "status": status, "message": message, "seconds": seconds, "time": _now()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
