"""The compiled passes: that they are there, and what happens where they are not, or cannot be used."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cosnorm import installing
from cosnorm.backends.c import library as compiled
from cosnorm.backends.c import sources

ROOT = Path(__file__).parents[2]
WITH_COMPILER = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler here")
WITH_PASSES = pytest.mark.skipif(compiled.library() is None, reason="the passes in C were not compiled here")

# A layer twice, and a function: what a program sees of a library that cannot be used.
PROGRAM = """
import torch, cosnorm
layer, x = cosnorm.nn.CosineLinear(5, 3, impl="{impl}"), torch.randn(2, 5)
for _ in range(2):
    expected = torch.nn.functional.cosine_similarity(x[:, None], layer.weight, dim=2)
    assert torch.allclose(layer(x), expected, atol=1e-6)
cosnorm.functional.pairwise_cosine(x)
print(cosnorm.__file__)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library is looked for: nothing is there."""
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "library.py"))
    return tmp_path


def load():
    return compiled.library.__wrapped__()


def compile_to(path: Path, text: str) -> None:
    path.with_suffix(".c").write_text(text)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, path.with_suffix(".c")], check=True)


@WITH_COMPILER
def test_they_were_compiled_where_there_is_a_compiler():
    assert compiled.library() is not None


def test_where_nothing_was_compiled_there_is_no_warning(folder: Path):
    assert load() is None


def test_what_is_not_a_library(folder: Path):
    (folder / "_passes.so").write_bytes(b"not a library")
    with pytest.warns(
        RuntimeWarning, match=r"slower, for .*_passes\.so cannot be used: .*; mend it with: "
    ) as seen:
        assert load() is None
    assert f"CC=gcc {installing.command(options='--force-reinstall --no-deps')}" in str(seen[0].message)


def test_what_an_older_version_left(folder: Path):
    (folder / "_passes.cpython-311-x86_64-linux-gnu.so").touch()
    with pytest.warns(RuntimeWarning, match=r"_passes\.so cannot be used: .*; mend it with: "):
        assert load() is None


@WITH_COMPILER
def test_what_was_compiled_for_another_openmp(folder: Path):
    compile_to(folder / "_passes.so", "void __kmpc_fork_call(void); void whole(void) { __kmpc_fork_call(); }")
    with pytest.warns(RuntimeWarning, match="cannot be used: .*undefined symbol: __kmpc_fork_call"):
        assert load() is None


@WITH_COMPILER
def test_what_lacks_a_function(folder: Path):
    number = sources.checksum()
    compile_to(
        folder / "_passes.so", f"unsigned cosnorm_sources = {number}; void cosnorm_center_rows(void) {{}}"
    )
    with pytest.warns(RuntimeWarning, match="cannot be used: .*undefined symbol: cosnorm_finish_rows"):
        assert load() is None


@WITH_PASSES
def test_what_was_compiled_from_other_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    passes = tmp_path / "passes"
    shutil.copytree(ROOT / "src/cosnorm/backends/c/passes", passes)
    monkeypatch.setattr(sources, "FOLDER", passes)
    assert load() is not None
    with (passes / "fields.h").open("a") as text:
        text.write("\n")
    with pytest.warns(
        RuntimeWarning, match=f"cannot be used: it was compiled from other sources than .*{passes}"
    ):
        assert load() is None
    shutil.rmtree(passes)  # as where a wheel was installed
    assert load() is not None


def copy_of_the_package(folder: Path) -> Path:
    """Returns where its library belongs; none is there."""
    shutil.copytree(
        ROOT / "src/cosnorm", folder / "cosnorm", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    return folder / "cosnorm/backends/c/_passes.so"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result


def test_a_program_is_warned_once_and_computes(tmp_path: Path):
    copy_of_the_package(tmp_path).write_bytes(b"not a library")
    result = run("-W", "always", "-c", PROGRAM.format(impl="auto"), PYTHONPATH=str(tmp_path))
    assert result.stdout.startswith(str(tmp_path))
    assert result.stderr.count("RuntimeWarning: cosnorm computes with torch's operators") == 1


def clang(folder: Path) -> str:
    return shutil.which("clang") or pytest.skip("there is no clang here")


def like_clang(folder: Path) -> str:
    """GNU's compiler without its OpenMP: to a library that is built, it looks as clang does."""
    (folder / "compiler").write_text(
        '#!/bin/sh\nfor one; do shift; [ "$one" = -fopenmp ] || set -- "$@" "$one"; done\nexec gcc "$@"\n'
    )
    (folder / "compiler").chmod(0o755)
    return str(folder / "compiler")


@WITH_COMPILER
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the passes have no OpenMP")
@pytest.mark.parametrize("compiler", [clang, like_clang])
def test_a_compiler_with_another_openmp(tmp_path: Path, compiler: Callable[[Path], str]):
    places = ("--build-lib", tmp_path / "library", "--build-temp", tmp_path / "objects")
    built = run("setup.py", "build_ext", *places, CC=compiler(tmp_path))
    assert "this compiler's OpenMP is not torch's" in built.stderr
    shutil.copy(tmp_path / "library/cosnorm/backends/c/_passes.so", copy_of_the_package(tmp_path))
    result = run("-W", "error", "-c", PROGRAM.format(impl="c"), PYTHONPATH=str(tmp_path))
    assert result.stdout.startswith(str(tmp_path))
