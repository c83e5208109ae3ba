"""Who trains a list of runs: this process, worker processes beside each other, or Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import Run
from cosnorm_lab.sources import Source
from cosnorm_lab.train import Progress

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Machine:
    """What the runs are trained with.

    Attributes:
        executor: "local" or "ray".
        workers: processes that train runs side by side, each its own; 1: this process trains all. None: as
            many as the cores have room for; one on an accelerator.
        threads: CPU threads of a run; by default those there are, a worker's share of them, or 1 on Ray.
        device: Fabric's name of an accelerator.
        devices: processes that train one run together, on each machine.
        num_nodes: machines that train one run together.
    """

    executor: str = "local"
    workers: int | None = 1
    threads: int | None = None
    device: str = "cpu"
    devices: int = 1
    num_nodes: int = 1

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise LabError(f"--executor must be {' or '.join(EXECUTORS)}; got {self.executor!r}")
        if self.executor == "ray" and self.workers not in (None, 1):
            raise LabError("--workers is of --executor local; Ray runs as many as its machines have room for")
        if self.devices * self.num_nodes > 1 and (self.workers != 1 or self.executor != "local"):
            raise LabError(
                "several processes a run (--devices, --num-nodes) and several runs at a time (--sweep, "
                "--workers, --executor ray) exclude each other; give --workers 1, or leave --devices out"
            )


Execute = Callable[[Sequence[RunConfig], Progress | None], list[Run]]


@contextmanager
def executing(machine: Machine, source: Source, out: Path, precision: str) -> Iterator[tuple[Execute, bool]]:
    """A function that trains runs and returns their records, and whether this is the first process of all.

    Args:
        machine: what they are trained with.
        source: their data.
        out: folder of records.
        precision: of the runs; Fabric is told before it begins.

    Raises:
        LabError: what the data or the machine have not.
    """
    from cosnorm_lab.fabric import close_fabric, make_fabric, resolved

    device = resolved(machine.device)
    if machine.executor == "ray":
        from cosnorm_lab.on_ray import train_on_ray

        yield (
            lambda configs, progress: train_on_ray(
                configs, source, out, threads=machine.threads, device=device, progress=progress
            ),
            True,
        )
    elif machine.workers != 1:
        from cosnorm_lab.workers import train_side_by_side

        yield (
            lambda configs, progress: train_side_by_side(
                configs,
                source,
                out,
                workers=machine.workers if device == "cpu" else machine.workers or 1,
                threads=machine.threads,
                device=device,
                progress=progress,
            ),
            True,
        )
    else:
        import torch

        from cosnorm_lab.memory import keep_freed_memory
        from cosnorm_lab.train import train

        if machine.threads is not None:
            torch.set_num_threads(machine.threads)
        keep_freed_memory()
        dataset = source.load()
        fabric = make_fabric(machine.device, machine.devices, machine.num_nodes, precision)
        yield (
            lambda configs, progress: [
                train(config, dataset, out, fabric=fabric, progress=progress) for config in configs
            ],
            fabric.is_global_zero,
        )
        close_fabric(fabric)
