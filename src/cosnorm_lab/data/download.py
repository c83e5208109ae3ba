"""Downloads: mirrors in turn, checksums of the unpacked bytes, and never half a file under its final name."""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch

from cosnorm_lab.data.archive import unpack
from cosnorm_lab.data.catalog import ARCHIVES, SHIPPED, Archive, DataFile, find
from cosnorm_lab.data.dataset import default_folder
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
    folder = Path(folder) if folder is not None else default_folder(dataset)
    if dataset in ARCHIVES:
        archive = ARCHIVES[dataset]
        wanted = archive.members if archive.file is None else {archive.file: archive.md5}
        for name, md5 in wanted.items():
            _obtain(folder / name, archive.mirrors, functools.partial(_fault, archive, md5))
        return folder
    files = find(dataset)
    for file in files.parts.values():
        there = folder / file.name
        target = there if there.exists() else folder / f"{file.name}.gz"
        _obtain(target, files.mirrors, functools.partial(_fault_of_unpacked, file))
    return folder


def _fault(archive: Archive, md5: str | None, path: Path) -> str | None:
    """What is wrong with a file, if anything: its checksum, or, where none is known, what it holds."""
    if md5 is None:
        try:
            unpack(archive, path)
        except LabError as error:
            return str(error)
        return None
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return None if found == md5 else f"expected md5 {md5}, got {found}"


def _fault_of_unpacked(file: DataFile, path: Path) -> str | None:
    md5 = _md5(path)
    return None if md5 == file.md5 else f"expected md5 {file.md5} of the unpacked bytes, got {md5}"


def _obtain(target: Path, mirrors: tuple[str, ...], fault: Callable[[Path], str | None]) -> None:
    """One file from the first mirror that serves the right bytes, unless it is there."""
    if target.exists():
        if wrong := fault(target):
            raise LabError(
                f"{target} is there but is not the official file: {wrong}; remove it and fetch again"
            )
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    failures = []
    try:
        for mirror in mirrors:
            url = f"{mirror}{target.name}"
            try:
                with _Bar(target.name) as bar:
                    pooch.HTTPDownloader(progressbar=bar, timeout=30)(url, str(partial), None)
                wrong = fault(partial)
            except (OSError, LabError) as error:  # the errors of requests are OSErrors
                failures.append(f"{url}: {error}")
                continue
            if wrong:
                failures.append(f"{url}: {wrong}")
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
