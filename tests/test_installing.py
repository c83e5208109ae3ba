"""What messages say to install: it works from where this package came, whether an index has it or not."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cosnorm import installing

ROOT = Path(__file__).parents[1]
WHEEL = "cosnorm-0.1.0-py3-none-any.whl"


class Installed:
    """What pip wrote down of the package."""

    def __init__(self, origin: dict | None):
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.origin and json.dumps(self.origin)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where the package was installed for good, not run from its checkout."""
    monkeypatch.setattr(installing, "__file__", str(tmp_path / "site-packages/cosnorm/installing.py"))


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pip install 'cosnorm[lab]'"),
        ({"url": "file:///a/check%20out", "dir_info": {}}, "pip install '/a/check out[lab]'"),
        ({"url": f"file:///a/{WHEEL}", "archive_info": {}}, f"pip install '/a/{WHEEL}[lab]'"),
        (
            {"url": "https://x.invalid/y.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            "pip install 'cosnorm[lab] @ git+https://x.invalid/y.git'",
        ),
        (
            {"url": f"https://x.invalid/{WHEEL}", "archive_info": {}},
            f"pip install 'cosnorm[lab] @ https://x.invalid/{WHEEL}'",
        ),
    ],
)
def test_it_names_what_pip_was_given(elsewhere, monkeypatch, origin, expected):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))
    assert installing.command("lab") == expected


def test_in_a_checkout_it_names_that(monkeypatch):
    monkeypatch.setattr(installing, "__file__", str(ROOT / "src/cosnorm/installing.py"))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(None))
    assert installing.command("lab") == f"pip install -e '{ROOT}[lab]'"
    assert installing.command(options="--no-deps") == f"pip install --no-deps -e {ROOT}"


def test_where_nothing_was_written_down(elsewhere, monkeypatch):
    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    assert installing.command("lab") == (
        "pip install 'CHECKOUT[lab]', where CHECKOUT is the folder of cosnorm's sources"
    )


MISSING = [
    ("lab", "jinja2", "from cosnorm_lab.__main__ import main; main()"),
    ("caffe2", "google.protobuf", "import cosnorm.caffe2"),
    ("ray", "ray", "from cosnorm_lab.on_ray import train_on_ray; train_on_ray([], None, None)"),
    (
        "tensorboard",
        "torch.utils.tensorboard",
        "from cosnorm_lab.event_files import EventFiles; EventFiles(None)",
    ),
    (
        "tables",
        "pandas",
        "from pathlib import Path; from cosnorm_lab.data.frames import read_table; read_table(Path('a.csv'))",
    ),
]


@pytest.mark.parametrize(("extra", "module", "program"), MISSING)
def test_every_message_about_an_extra_says_it(extra, module, program):
    if extra in ("ray", "tensorboard"):
        pytest.importorskip("lightning_fabric", reason="the laboratory is not installed")
    block = f"""
import importlib.abc, importlib.util, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {module!r} else real(name, *rest)
"""
    result = subprocess.run([sys.executable, "-c", block + program], capture_output=True, text=True)
    assert result.returncode != 0
    assert result.stderr.strip().endswith(installing.command(extra)), result.stderr


def test_no_text_names_an_index_that_may_not_have_it():
    """Each message calls `installing.command`, with an extra that there is; documents name the checkout."""
    files = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".jinja", ".html")]
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = {path: path.read_text("utf-8") for path in [*files, *documents]}
    assert [
        str(path) for path, text in texts.items() if re.search(r"pip install[^\n`]*cosnorm\[", text)
    ] == []
    called = {
        extra for text in texts.values() for extra in re.findall(r"installing\.command\(['\"](\w+)", text)
    }
    assert called == {extra for extra, _, _ in MISSING}
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    assert called <= set(re.findall(r"^(\w+) = \[", extras, flags=re.M))
