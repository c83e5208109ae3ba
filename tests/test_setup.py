"""setup.py: the README as an index shows it, where its links have no files beside them."""

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip(
    "setuptools.command.bdist_wheel", reason="setuptools is older than what builds the package"
)

ROOT = Path(__file__).parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")  # what it defines; nothing is built
HOME = "https://example.invalid/tree/"


@pytest.mark.parametrize(
    ("text", "whole", "plain"),
    [
        ("see [a page](docs/a.md#part), too", f"see [a page]({HOME}docs/a.md#part), too", "see a page, too"),
        ("[`Code`](a.md) [b](c)", f"[`Code`]({HOME}a.md) [b]({HOME}c)", "`Code` b"),
        ("[there](https://x.invalid)", "[there](https://x.invalid)", "[there](https://x.invalid)"),
        ("[below](#below)", "[below](#below)", "[below](#below)"),
        (
            "```\nlayers[0](x)\n```\n[b](c)",
            f"```\nlayers[0](x)\n```\n[b]({HOME}c)",
            "```\nlayers[0](x)\n```\nb",
        ),
    ],
)
def test_links_on_an_index(text: str, whole: str, plain: str):
    assert SETUP["for_index"](text, HOME) == whole
    assert SETUP["for_index"](text, "") == plain


def test_the_readme_on_an_index():
    """All links are to files that there are; with a home all stay links, without one no dead one is left."""
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all((ROOT / link.partition("#")[0]).exists() for link in links if not link.startswith("https:"))
    whole = re.findall(r"\]\(([^)]+)\)", SETUP["for_index"](text, HOME))
    assert whole == [link if link.startswith("https:") else HOME + link for link in links]
    plain = re.findall(r"\]\(([^)]+)\)", SETUP["for_index"](text, ""))
    assert plain == [link for link in links if link.startswith("https:")]


def test_addresses_need_a_home():
    assert SETUP["addresses"]("") == {}
    assert SETUP["addresses"](HOME)["Changelog"] == f"{HOME}CHANGELOG.md"
