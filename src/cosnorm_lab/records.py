"""Run records: one JSON-lines file a run, append-only; everything that is shown is read from here.

A record belongs to its configuration and to its data: the name of its file speaks of both, and runs of other
data never stand in one series.

The lines, by their "kind": one "start", then an "epoch" for each epoch, a "resume" wherever a run went on
after it was stopped, and an "end". A last line without its newline is what a killed writer leaves: no reader
sees it, and the next writer cuts it off.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError

FORMAT = 1
MOST_SHOWN = 12  # names of classes in one line
SAID = (("label", "classes by"), ("group_by", "grouped by"), ("size", "pictures of side"))
FINAL = ("completed", "diverged")  # how a run ends for good; after anything else it may go on

Line = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run as its record tells it.

    Attributes:
        start: the start line.
        epochs: the epoch lines, epoch 1 first.
        end: the end line, or None while the run is going on (or was stopped and can be resumed).
        path: the record's file.
    """

    start: Line
    epochs: list[Line] = field(default_factory=list)
    end: Line | None = None
    path: Path = Path()

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return RunConfig.from_dict(self.start["config"])

    @property
    def method(self) -> str:
        """The normalization, one of `cosnorm_lab.config.METHODS`."""
        return self.config.method

    @property
    def data_key(self) -> str:
        """Which data: see `data_key`."""
        return data_key(self.start["data"])

    @property
    def data_name(self) -> str:
        """The data in words: the data set's or the file's name, and how many samples, where that is noted."""
        data = self.start["data"]
        name = data.get("file") or data["name"]
        if "train" not in data:
            return str(name)
        parts = f"{data['train']:,} training and {data['test']:,} test samples"
        classes = data.get("classes", [])
        named = ", ".join(classes[:MOST_SHOWN]) + (", …" if len(classes) > MOST_SHOWN else "")
        said = "".join(f", {words} {data[key]}" for key, words in SAID if key in data)
        return f"{name} ({parts}{f' of {len(classes)} classes: {named}' if classes else ''}{said})"

    @property
    def at_chance(self) -> bool:
        """Whether the errors over the last epochs are not below those of always the most frequent class.

        "Below" is by more than 1.96 standard deviations of such a guess's errors on so many samples, or,
        where these are few, by half of them. Records of older versions do not hold what guessing would give;
        of them nothing is said.
        """
        chance = self.start.get("chance")
        if not chance or not self.epochs:
            return False
        count = self.epochs[-1]["count"]
        deviation = math.sqrt(chance * (1 - chance / count))
        return last_epochs(self)[0] >= max(chance - 1.96 * deviation, chance / 2)

    @property
    def status(self) -> str:
        """One of "running", "completed", "diverged", "failed" and "interrupted"."""
        return "running" if self.end is None else str(self.end["status"])

    @property
    def errors(self) -> list[int]:
        """Number of wrong answers after each epoch."""
        return [line["errors"] for line in self.epochs]


def data_key(data: Mapping[str, Any]) -> str:
    """Eight digits that tell data apart, from the checksums of what was read; "" for the official files.

    Args:
        data: "checksums" and "exact", as a start line's "data" has them.
    """
    if data["exact"]:
        return ""
    text = json.dumps(data["checksums"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def record_path(out: str | os.PathLike[str], config: RunConfig, data: Mapping[str, Any]) -> Path:
    """Where the record of a configuration on certain data lies below the folder `out`.

    Args:
        out: folder of records.
        config: the run.
        data: what the start line says of its data.
    """
    folder, key = Path(out) / config.recipe, data_key(data)
    bare = folder / f"{config.name()}.jsonl"
    if not key or _is_of(bare, key):  # names of older versions did not speak of the data
        return bare
    return folder / f"{config.name()}-{key}.jsonl"


def _is_of(path: Path, key: str) -> bool:
    """Whether a record is there, begun, and of certain data."""
    try:
        return complete_size(path.read_bytes()) > 0 and read(path).data_key == key
    except FileNotFoundError:
        return False


def of_other_data(folder: Path, data: Mapping[str, Any]) -> list[str]:
    """What records of a folder call their data, where these are others than `data`; not of broken ones."""
    others = []
    for path in folder.glob("*.jsonl"):
        with path.open("rb") as file:
            line = file.readline()
        with contextlib.suppress(LabError, KeyError):
            found = _parse(path, 1, line)["data"]
            if data_key(found) != data_key(data):
                others.append(str(found.get("file") or found["name"]))
    return others


def complete_size(data: bytes) -> int:
    """Number of bytes up to and with the last newline: what a killed writer had finished."""
    return data.rfind(b"\n") + 1


def read(path: str | os.PathLike[str]) -> Run:
    """Reads one record.

    Raises:
        LabError: the file cannot be read, holds no finished start line, is not a record of this format, or
            one of its lines is broken (the message names the line).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabError(f"cannot read the record {path}: {error.strerror}") from error
    lines = [
        _parse(path, number, text)
        for number, text in enumerate(data[: complete_size(data)].splitlines(), start=1)
    ]
    if not lines:
        raise LabError(f"{path} holds no finished line; a run that was just begun fills it, else remove it")
    start = lines[0]
    if start["kind"] != "start" or start.get("format") != FORMAT:
        raise LabError(
            f"{path}, line 1: expected a start line of format {FORMAT}, "
            f"got kind {start['kind']!r}, format {start.get('format')!r}; is it a record of cosnorm?"
        )
    try:
        RunConfig.from_dict(start["config"])
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise LabError(f"{path}, line 1: the start line holds no valid config ({error})") from error
    epochs: list[Line] = []
    end: Line | None = None
    for number, line in enumerate(lines[1:], start=2):
        match line["kind"]:
            case "epoch":
                if line.get("epoch") != len(epochs) + 1:
                    raise LabError(
                        f"{path}, line {number}: expected epoch {len(epochs) + 1}, got {line.get('epoch')}; "
                        "the file was edited, or two programs wrote into it"
                    )
                epochs.append(line)
                end = None
            case "resume":
                end = None
            case "end":
                end = line
            case kind:
                raise LabError(f"{path}, line {number}: unknown kind of line {kind!r}")
    return Run(start=start, epochs=epochs, end=end, path=path)


def _parse(path: Path, number: int, text: bytes) -> Line:
    """One line as a dictionary that has a kind."""
    try:
        line = json.loads(text)
    except ValueError as error:  # undecodable bytes are ValueErrors too
        raise LabError(f"{path}, line {number}: not JSON ({error}); the file is damaged") from error
    if not isinstance(line, dict) or "kind" not in line:
        raise LabError(f"{path}, line {number}: expected an object with a kind; is it a record of cosnorm?")
    return line


def read_all(places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Reads every record of some files and of some folders with all below them, in the order of names.

    Raises:
        LabError: a place does not exist, a record is broken, or there is no record at all.
    """
    places = [places] if isinstance(places, (str, os.PathLike)) else list(places)
    paths: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise LabError(f"no such file or folder: {place}; expected records (*.jsonl) or folders of them")
        paths += sorted(place.rglob("*.jsonl")) if place.is_dir() else [place]
    if not paths:
        raise LabError(f"no record (*.jsonl) in {', '.join(map(str, places))}; `cosnorm run` writes them")
    once: dict[Path, Path] = {}
    for path in paths:
        once.setdefault(path.resolve(), path)
    return [read(path) for path in once.values()]


def last_epochs(run: Run) -> tuple[float, float, int]:
    """Mean and variance of the errors over the last epochs of a run, as in the paper's tables.

    The last 50 epochs; of a run of fewer than 200 epochs the last quarter, at least one.

    Returns:
        mean, population variance over epochs, and the number of epochs they were taken over.

    Raises:
        LabError: the run has no finished epoch.
    """
    if not run.errors:
        raise LabError(f"{run.path} holds no finished epoch; run it on, or leave it out")
    number = 50 if len(run.errors) >= 200 else max(1, len(run.errors) // 4)
    last = run.errors[-number:]
    mean = sum(last) / number
    return mean, sum((errors - mean) ** 2 for errors in last) / number, number
