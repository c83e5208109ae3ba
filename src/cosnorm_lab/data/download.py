"""Downloads: mirrors in turn, checksums of the unpacked bytes, and never half a file under its final name."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pooch

from cosnorm_lab.data import default_folder
from cosnorm_lab.data.catalog import SHIPPED, DataFile, find
from cosnorm_lab.data.idx import read_bytes
from cosnorm_lab.errors import LabError


def fetch(dataset: str, folder: str | Path | None = None) -> Path:
    """Downloads what is missing of a data set, with a progress bar, and checks all of it.

    Args:
        dataset: name of the data set.
        folder: where to put the files; by default `cosnorm_lab.data.default_folder`.

    Returns:
        The folder.

    Raises:
        LabError: unknown name, no mirror serves a file with the right checksum, or a file that is there
            already has the wrong one.
        OSError: the folder cannot be written.
    """
    if dataset in SHIPPED:
        raise LabError(f"{dataset}: {SHIPPED[dataset]}; there is nothing to fetch")
    files = find(dataset)
    folder = Path(folder) if folder is not None else default_folder(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files.parts.values():
        packed = folder / f"{file.name}.gz"
        present = next((path for path in (folder / file.name, packed) if path.exists()), None)
        if present is None:
            _download(file, files.mirrors, packed)
        elif (md5 := _md5(present)) != file.md5:
            raise LabError(
                f"{present} is there but is not the official file: expected md5 {file.md5} of the unpacked "
                f"bytes, got {md5}; remove it and fetch again"
            )
    return folder


def _download(file: DataFile, mirrors: tuple[str, ...], target: Path) -> None:
    """One file from the first mirror that serves the right bytes."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    failures = []
    try:
        for mirror in mirrors:
            url = f"{mirror}{target.name}"
            try:
                with _Bar(target.name) as bar:
                    pooch.HTTPDownloader(progressbar=bar, timeout=30)(url, str(partial), None)
                md5 = _md5(partial)
            except (OSError, LabError) as error:  # the errors of requests are OSErrors
                failures.append(f"{url}: {error}")
                continue
            if md5 != file.md5:
                failures.append(f"{url}: expected md5 {file.md5} of the unpacked bytes, got {md5}")
                continue
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(target)
            return
    finally:
        partial.unlink(missing_ok=True)
    raise LabError(
        f"no mirror serves {target.name} ({'; '.join(failures)}); check the network, "
        "or put the file there yourself and name the folder with --data-dir"
    )


def _md5(path: Path) -> str:
    return hashlib.md5(read_bytes(path), usedforsecurity=False).hexdigest()


class _Bar:
    """A rich progress bar with the methods that pooch calls on one."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(name, total=None)
        self.total = 0  # pooch sets it when the server has answered

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def update(self, count: int) -> None:
        """So many bytes more have come."""
        self._progress.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        """Pooch counts from the start again when all is there."""
        self._progress.reset(self._task, total=self.total or None)

    def close(self) -> None:
        """The block that opened the bar closes it."""
