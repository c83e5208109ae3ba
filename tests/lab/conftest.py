import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lab_data import made_dataset, write_files

from cosnorm_lab.data import Dataset


@pytest.fixture
def write_idx(tmp_path: Path) -> Callable[..., Path]:
    """Writes small official-format files into a folder of the test's own."""
    return functools.partial(write_files, tmp_path / "data")


@pytest.fixture
def small_dataset() -> Dataset:
    """The made images as a data set."""
    return made_dataset()


@pytest.fixture
def one_thread():
    """Bit-for-bit results need one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
