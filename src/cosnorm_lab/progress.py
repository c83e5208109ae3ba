"""A progress bar for a list of runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cosnorm_lab.config import RunConfig
from cosnorm_lab.records import Line, Run


class RunBars:
    """One bar a run, over its epochs; follows `cosnorm_lab.train.Progress`."""

    def __init__(self, bars: Progress, runs: int) -> None:
        self.bars = bars
        self.runs = runs
        self.started = 0
        self.tasks: dict[RunConfig, TaskID] = {}

    def run_started(self, config: RunConfig, epochs_done: int, record: str) -> None:
        """Adds a bar."""
        self.started += 1
        # A bar of its own per run would fill the screen in a long comparison: finished ones become a line.
        self.tasks[config] = self.bars.add_task(
            f"{config.method} lr {config.learning_rate:g} seed {config.seed} ({self.started}/{self.runs})",
            total=config.epochs,
            completed=epochs_done,
            last="",
        )

    def epoch_finished(self, config: RunConfig, line: Line) -> None:
        """Moves the bar and shows loss and errors."""
        last = f"loss {line['loss']:.4f}  errors {line['errors']}/{line['count']}  {line['seconds']:.1f} s"
        self.bars.update(self.tasks[config], completed=line["epoch"], last=last)
        if not self.bars.console.is_terminal:  # a log file gets a line an epoch instead of a moving bar
            self.bars.console.print(f"{config.name()}  epoch {line['epoch']}/{config.epochs}  {last}")

    def run_finished(self, run: Run) -> None:
        """Leaves one line for the run."""
        config = run.config
        if config in self.tasks:
            self.bars.remove_task(self.tasks.pop(config))
        else:
            self.started += 1  # it had ended in an earlier session, or nothing was told of its epochs
        errors = f"{run.errors[-1]} errors" if run.errors else "no finished epoch"
        self.bars.console.print(f"{config.name()}  {run.status} after {len(run.epochs)} epochs, {errors}")


@contextmanager
def show_progress(runs: int, *, quiet: bool = False, console: Console | None = None) -> Iterator[RunBars]:
    """Shows the progress of so many runs while the block is executed.

    Args:
        runs: how many runs there will be.
        quiet: show nothing, for all processes but the first.
        console: where to show it; by default the standard error stream.
    """
    console = console or Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
        console=console,
        transient=True,
    )
    with bars:
        yield RunBars(bars, runs)
