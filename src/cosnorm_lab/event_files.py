"""Live curves: event files for TensorBoard, beside the records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosnorm import installing
from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import Line, Run
from cosnorm_lab.train import Progress


class EventFiles:
    """Writes loss, errors and weights of each epoch; follows `cosnorm_lab.train.Progress`.

    Args:
        folder: the event files of a run lie in `folder`/recipe/name; `tensorboard --logdir` takes `folder`.

    Raises:
        LabError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise LabError(f"--tensorboard needs TensorBoard: {installing.command('tensorboard')}") from None
        self.folder = folder
        self.new_writer: Any = SummaryWriter
        self.writers: dict[RunConfig, Any] = {}

    def run_started(self, config: RunConfig, epochs_done: int, record: str) -> None:
        """Opens the run's file; what a killed program wrote of later epochs is struck out."""
        place = self.folder / config.recipe / record
        self.writers[config] = self.new_writer(str(place), purge_step=epochs_done + 1)

    def epoch_finished(self, config: RunConfig, line: Line) -> None:
        """One number of each curve."""
        writer, epoch = self.writers[config], line["epoch"]
        writer.add_scalar("loss", line["loss"], epoch)
        writer.add_scalar("errors", line["errors"], epoch)
        writer.add_scalar("seconds", line["seconds"], epoch)
        for layer in line.get("layers", ()):
            for name in ("weight_norm", "effective_learning_rate"):
                writer.add_scalar(f"{name}/{layer['name']}", layer[name], epoch)
        writer.flush()

    def run_finished(self, run: Run) -> None:
        """Closes the run's file; of a run that nothing was told of, writes the whole of it."""
        config = run.config
        if config not in self.writers:
            if (self.folder / config.recipe / run.path.stem).exists():
                return
            self.run_started(config, 0, run.path.stem)
            for line in run.epochs:
                self.epoch_finished(config, line)
        self.writers.pop(config).close()


class Several:
    """Tells several of what it is told; follows `cosnorm_lab.train.Progress`."""

    def __init__(self, followers: Sequence[Progress]) -> None:
        self.followers = followers

    def run_started(self, config: RunConfig, epochs_done: int, record: str) -> None:
        """A run begins."""
        for follower in self.followers:
            follower.run_started(config, epochs_done, record)

    def epoch_finished(self, config: RunConfig, line: Line) -> None:
        """An epoch is on the disk."""
        for follower in self.followers:
            follower.epoch_finished(config, line)

    def run_finished(self, run: Run) -> None:
        """A run has ended."""
        for follower in self.followers:
            follower.run_finished(run)
