"""Where a program finds its data and writes its records: what a worker is told besides the runs."""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cosnorm_lab.data import Dataset, load


@dataclass(frozen=True)
class Source:
    """A data set by name, as `cosnorm_lab.data.load` takes it."""

    dataset: str
    data_dir: Path | None = None
    allow_checksum_mismatch: bool = False
    label: str = ""
    group_by: str = ""
    size: int = 0

    def load(self) -> Dataset:
        """The data set; a process reads it once.

        Raises:
            LabError: unknown name; a file is missing, damaged, or not the official one.
        """
        return _load(self)


@lru_cache(maxsize=1)
def _load(source: Source) -> Dataset:
    options = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    return load(options.pop("dataset"), options.pop("data_dir"), **options)
