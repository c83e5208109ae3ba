"""Where a program finds its data and writes its records: what a worker is told besides the runs."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
        """The data set; a process reads it once for each `Source`.

        Raises:
            LabError: unknown name; a file is missing, damaged, or not the official one.
        """
        return self._loaded

    @cached_property
    def _loaded(self) -> Dataset:
        options = self.__getstate__()
        return load(options.pop("dataset"), options.pop("data_dir"), **options)

    def __getstate__(self) -> dict[str, Any]:
        # What goes to another process is the name of the data, not the data.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
