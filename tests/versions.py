"""Runs the library's tests with this Python and its torch, and writes what came out into a page's table.

make test-version TORCH=2.14.1 PYTHON=python3.13
"""

import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path

import torch

PAGE = Path("docs/versions.md")
BEGIN, END = "<!-- versions -->\n", "<!-- /versions -->"
HEADING = "| torch | Python | system | passed | skipped | failed | day |\n|---|---|---|--:|--:|--:|---|\n"
# The library alone: the laboratory and the pages are tested with the versions of constraints.txt.
LEFT_OUT = ("tests/lab", "tests/test_benchmarks.py", "tests/test_documents.py", "src/cosnorm_lab")


def counts(report: Path) -> tuple[int, int, int]:
    """Passed, skipped and failed tests of a JUnit report."""
    suite = next(ET.parse(report).getroot().iter("testsuite"))
    number, skipped, failures, errors = (
        int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors")
    )
    return number - skipped - failures - errors, skipped, failures + errors


def with_line(text: str, line: str) -> str:
    """The page with a line of its table, in place of the one of the same versions."""
    before, _, rest = text.partition(BEGIN)
    table, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} must hold {BEGIN.strip()} and, after it, {END}, each once")
    key = line.split("|")[1:4]
    lines = [one for one in table.splitlines()[2:] if one.split("|")[1:4] != key]

    def order(one: str) -> tuple[list[int], ...]:
        return tuple([int(part) for part in re.findall(r"\d+", cell)] for cell in one.split("|")[1:3])

    rows = "".join(f"{one}\n" for one in sorted([*lines, line], key=order))
    return f"{before}{BEGIN}{HEADING}{rows}{END}{after}"


def main() -> int:
    """The exit status of the tests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        ignored = [f"--ignore={name}" for name in LEFT_OUT]
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", f"--junitxml={report}", *ignored]
        status = subprocess.run([*command, "tests", "src/cosnorm"], check=False).returncode
        passed, skipped, failed = counts(report)
    system = f"{platform.system()} {platform.machine()}"
    cells = (torch.__version__, platform.python_version(), system, passed, skipped, failed, date.today())
    PAGE.write_text(with_line(PAGE.read_text("utf-8"), f"| {' | '.join(map(str, cells))} |"), "utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
