"""The site: it builds without a warning, reads without a network, and shows every public name."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_documents import ROOT, public_names

import cosnorm.caffe2.core
import cosnorm.caffe2.workspace

pytest.importorskip("mkdocs", reason="mkdocs is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[str, str]:
    """The pages by their place."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {page.relative_to(folder).as_posix(): page.read_text("utf-8") for page in folder.rglob("*.html")}


def test_every_page_is_there(site: dict[str, str]):
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for page in _sources()}
    assert pages <= set(site)
    assert "log.html" in site


def _sources() -> list[Path]:
    return sorted((ROOT / "docs").glob("**/*.md"))


def test_nothing_is_fetched(site: dict[str, str]):
    loaded = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(https?:[^\" >]+)")
    styles = re.compile(r"<link\b(?![^>]*rel=\"?canonical)[^>]*\bhref=\"?(https?:[^\" >]+)")
    found = {
        (name, url) for name, page in site.items() for url in loaded.findall(page) + styles.findall(page)
    }
    assert not found


def test_every_public_name_is_shown(site: dict[str, str]):
    shown = {
        one
        for name, page in site.items()
        if name.startswith("api/")
        for one in re.findall(r'id="?(cosnorm\.[\w.]+)', page)
    }
    # Modules, objects and numbers among the names have no signature that a page could show.
    modules = {"core": cosnorm.caffe2.core, "workspace": cosnorm.caffe2.workspace}
    plain = {
        f"cosnorm.caffe2.{place}.{name}"
        for place, module in modules.items()
        for name in module.__all__
        if not inspect.isfunction(getattr(module, name)) and not inspect.isclass(getattr(module, name))
    }
    plain |= {"cosnorm.caffe2.core.DataType"}
    assert public_names() - plain <= shown


def test_formulas_are_drawn(site: dict[str, str]):
    page = site["api/losses.html"]
    assert page.count("<math") > 3
    assert ".. math::" not in page
