"""The demo: all methods on scikit-learn's digits, in about a minute and without a download."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cosnorm_lab import records
from cosnorm_lab.config import RunConfig
from cosnorm_lab.console import console
from cosnorm_lab.data import Dataset, load
from cosnorm_lab.progress import show_progress
from cosnorm_lab.recipes.digits import digits
from cosnorm_lab.report.page import write_report
from cosnorm_lab.tables import print_results
from cosnorm_lab.train import train


def run_demo(out: Path, *, epochs: int = 40) -> None:
    """Train every method, print the comparison, and write `out/report.html` with the curves.

    Each method has the learning rate that did best on held-back training images: of the 1,297 training
    images 297 were set aside, every method was trained for 20 epochs, with two seeds, at the rates 0.02,
    0.05, 0.1, ... 20, and the rate with the fewest errors over the last epochs was taken; the test images
    were not looked at (`cosnorm run digits --validation 297 --epochs 20 --seeds 2 --lr cosine=2 ...`).
    The differences among the better methods are a few images of 500: the demo shows that
    all of them train, not which one is best.

    A demo that was stopped goes on where it was. One that had come to its end is trained anew, in place of
    its old records.

    Args:
        out: Folder for the report and, in `runs`, the records.
        epochs: Passes over the training images.
    """
    configs = digits(epochs=epochs)
    folder = out / "runs"
    dataset = load("digits")
    _clear_if_finished(folder, configs, dataset)
    with _one_thread(), show_progress(len(configs)) as progress:
        runs = [train(config, dataset, folder, progress=progress) for config in configs]
    report = out / "report.html"
    write_report(runs, report)
    output = console(highlight=False)
    print_results(runs, console=output)
    output.print(f"Curves, tables and records: {report}", soft_wrap=True, markup=False)


def _clear_if_finished(folder: Path, configs: list[RunConfig], dataset: Dataset) -> None:
    """Remove the demo's own records if all of them have ended; nothing else in the folder is touched."""
    paths = [records.record_path(folder, config, dataset.described()) for config in configs]
    if all(path.exists() and records.read(path).status in records.FINAL for path in paths):
        for path in paths:
            path.unlink()


@contextmanager
def _one_thread() -> Iterator[None]:
    """The matrices are so small that a second thread costs more than it does; and one repeats bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
