"""One run's files on disk: its record and its checkpoint, kept in step.

A checkpoint is written first and carries its epoch's line; the line is appended to the record after it. So
whatever the moment of a kill, the record is at most one line behind, and that line is in the checkpoint.
"""

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path

from cosnorm_lab import checkpoint as checkpoints
from cosnorm_lab.checkpoint import Checkpoint
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import FINAL, Line, complete_size, read


class RunLog:
    """The record and the checkpoint of one run, open for writing.

    Opening it cuts off a line that a killed writer left unfinished, and appends the epoch's line if the
    checkpoint is one ahead.

    Args:
        path: the record's file; the checkpoint lies beside it.
        start: the start line, written if the record is new.

    Attributes:
        run: the record as it was found, or as just begun.
        begun: whether the run begins here and now.
        checkpoint: the checkpoint to go on from, or None at the beginning.
        seconds: time the run had taken when it was last saved.

    Raises:
        LabError: the record or the checkpoint is broken, they do not belong together, the data have changed
            since the run was begun, another process is writing the record, or the disk cannot be written.
    """

    def __init__(self, path: Path, start: Line) -> None:
        self.path = path
        self.checkpoint_path = path.with_suffix(".ckpt")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise LabError(f"cannot write the record {path}: {error.strerror}") from error
        try:
            self._open(start)
        except BaseException:
            self.close()
            raise

    def _open(self, start: Line) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LabError(
                f"another process is writing {self.path}; wait for it, or choose another --out"
            ) from error
        self._cut(complete_size(self.path.read_bytes()))
        self.begun = os.fstat(self._descriptor).st_size == 0
        if self.begun:
            if self.checkpoint_path.exists():
                raise LabError(
                    f"{self.checkpoint_path} has no record beside it; "
                    "put its record back, or remove it to begin the run again"
                )
            self.append(start)
            checkpoints.sync_folder(self.path.parent)
        self.run = read(self.path)
        self.checkpoint: Checkpoint | None = None
        self.seconds = 0.0
        if self.run.status in FINAL:
            return
        if self.run.start["data"]["checksums"] != start["data"]["checksums"]:
            raise LabError(
                f"{self.path} was begun on other data: expected checksums "
                f"{self.run.start['data']['checksums']}, got {start['data']['checksums']}; "
                "give the same data, or choose another --out"
            )
        self.checkpoint = checkpoints.load(self.checkpoint_path)
        saved = self.checkpoint.epoch if self.checkpoint else 0
        self.seconds = self.checkpoint.seconds if self.checkpoint else 0.0
        if self.checkpoint and saved == len(self.run.epochs) + 1:
            self.append(self.checkpoint.line)
            self.run = read(self.path)
        if saved != len(self.run.epochs):
            raise LabError(
                f"{self.path} holds {len(self.run.epochs)} epochs but its checkpoint holds {saved}; "
                f"put back the right {self.checkpoint_path.name}, or remove both to begin the run again"
            )

    def append(self, line: Line) -> None:
        """Appends one line and waits until it is on the disk; a line that does not fit leaves no trace.

        Raises:
            LabError: the disk is full or cannot be written.
        """
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, data)
            if written != len(data):  # what a disk does that fills up in the middle
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._cut(size)
            raise self._cannot_write(self.path, error) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Ends an epoch: checkpoint first, then its line.

        Raises:
            LabError: the disk is full or cannot be written; the run can go on from the epoch before.
        """
        try:
            checkpoints.save(self.checkpoint_path, checkpoint)
        except OSError as error:
            raise self._cannot_write(self.checkpoint_path, error) from error
        self.append(checkpoint.line)
        self.seconds = checkpoint.seconds

    def _cut(self, size: int) -> None:
        if os.fstat(self._descriptor).st_size > size:
            os.ftruncate(self._descriptor, size)
            os.fsync(self._descriptor)

    @staticmethod
    def _cannot_write(path: Path, error: OSError) -> LabError:
        return LabError(
            f"cannot write {path}: {error.strerror or error}. What is on the disk stays valid; "
            "make room and give the same command again"
        )

    def close(self, *, remove_checkpoint: bool = False) -> None:
        """Lets other processes write the record; a run that ended for good needs its checkpoint no more."""
        if remove_checkpoint:
            checkpoints.remove(self.checkpoint_path)
        os.close(self._descriptor)
