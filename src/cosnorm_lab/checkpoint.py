"""Checkpoints: the state after an epoch, replaced in one step so that a half-written file is never read."""

import contextlib
import hashlib
import io
import os
import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from cosnorm_lab.errors import LabError
from cosnorm_lab.records import Line

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on after an epoch.

    Attributes:
        epoch: number of finished epochs.
        line: the epoch's line of the record. A run killed before the line was appended finds it here.
        seconds: time the run has taken so far, over all its sessions.
        model: state of the model, on the CPU.
        optimizer: state of the optimizer.
        precision: state of a mixed precision's gradient scaler, empty without one.
        random: states of torch's random generators, "cpu" and where there is one "cuda".
    """

    epoch: int
    line: Line
    seconds: float
    model: dict[str, Any]
    optimizer: dict[str, Any]
    precision: dict[str, Any]
    random: dict[str, torch.Tensor]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint beside its final name, then renames it: until it is whole, the old one stays.

    Raises:
        OSError: the disk is full or cannot be written; the old checkpoint is untouched.
    """
    temporary = path.with_name(path.name + ".partial")
    buffer = io.BytesIO()
    values = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    torch.save({"format": FORMAT, **values}, buffer)
    data = buffer.getvalue()
    try:
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(data).digest() + data)  # torch reads on over a changed byte
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder (a rename, a new file) survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path) -> Checkpoint | None:
    """Reads a checkpoint onto the CPU; None if there is none.

    Raises:
        LabError: the file is there but damaged or foreign; nothing is ever restarted silently.
    """
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
        digest, data = content[:32], content[32:]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("it is damaged: its checksum is wrong")
        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if values.pop("format") != FORMAT:
            raise ValueError("unknown format")
        return Checkpoint(**values)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LabError(
            f"the checkpoint {path} cannot be read ({reason}); expected one written by cosnorm. "
            "To begin the run again, remove it and the record of the same name"
        ) from error


def remove(path: Path) -> None:
    """Removes a checkpoint and what a killed writer left of one."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".partial").unlink(missing_ok=True)
