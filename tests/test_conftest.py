"""The surroundings of the tests do what they are for."""

import subprocess
import sys

import torch


def test_uninitialized_memory_is_nan():
    assert torch.empty(7).isnan().all()
    assert torch.ones(2).new_empty(3).isnan().all()
    assert torch.empty_like(torch.ones(5)).isnan().all()


def test_our_own_warnings_are_errors(pytestconfig, tmp_path):
    """A warning that names our code as its place fails a test; one of another library does not."""
    test = tmp_path / "test_warning.py"
    test.write_text(
        "import warnings\n"
        "def warn(module):\n"
        "    warnings.warn_explicit('x', UserWarning, 'file.py', 1, module=module)\n"
        "def test_ours():\n    warn('cosnorm.nn.linear')\n"
        "def test_lab():\n    warn('cosnorm_lab.train')\n"
        "def test_other():\n    warn('somebody.else')\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(pytestconfig.inipath),
        "--rootdir",
        str(tmp_path),
    ]
    result = subprocess.run([*command, str(test)], capture_output=True, text=True, check=False)
    assert "2 failed, 1 passed" in result.stdout, result.stdout
