"""The compiled passes: that they are there, and what happens where they are not."""

import importlib.machinery
import shutil
from pathlib import Path

import pytest

from cosnorm.backends.c import library as compiled


def test_they_were_compiled_where_there_is_a_compiler():
    if shutil.which("gcc") is None and compiled.library() is None:
        pytest.skip("there is no C compiler here")
    assert compiled.library() is not None


def test_a_broken_library_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "library.py"))
    (tmp_path / f"_passes{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    assert compiled.library.__wrapped__() is None
