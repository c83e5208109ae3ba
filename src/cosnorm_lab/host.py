"""What a record says about where it was made: versions, commit, machine; no hosts, users or folders."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cosnorm_lab.records import Line


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the figures."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": version("numpy"),
        "cosnorm": _installed(),
    }


def _installed() -> str:
    try:
        return version("cosnorm")
    except PackageNotFoundError:  # run from a checkout that nobody installed
        return "checkout"


def host(device: torch.device, processes: int) -> Line:
    """The machine: processor, cores, threads, and the device that trains."""
    on_gpu = device.type == "cuda"
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "processes": processes,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def commit() -> tuple[str | None, bool]:
    """The commit this program was checked out at, and whether its sources were changed since.

    (None, False) where it does not run from its own git checkout.
    """
    root = Path(__file__).resolve().parents[2]
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, False  # installed, perhaps inside another project's checkout
    return _git(root, "rev-parse", "HEAD"), bool(_git(root, "status", "--porcelain", "--", "src"))


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
