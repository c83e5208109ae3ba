"""The compiled passes: that they are there, and what happens where they are not."""

import importlib.machinery
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cosnorm.functional.norms import largest_norm
from cosnorm.kernels import compiled

_ASK = "from cosnorm.kernels.compiled import library; print(library() is not None)"


def _answer(environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", _ASK]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_they_were_compiled_where_there_is_a_compiler():
    if shutil.which("gcc") is None and compiled.library() is None:
        pytest.skip("there is no C compiler here")
    assert compiled.library() is not None


def test_the_environment_turns_them_off():
    assert _answer({**os.environ, "COSNORM_COMPILED": "0"}) == "False"


def test_a_broken_library_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    (tmp_path / f"_passes{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    assert compiled.library.__wrapped__() is None


def test_the_windows_are_those_of_the_plain_form():
    assert largest_norm(torch.float32) == compiled.LIMIT
    assert largest_norm(torch.float32, cotangent=True) == compiled.COTANGENT_LIMIT
