"""The site that `make docs` makes: built and read without a network, whole, and legible on a phone."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, IN_A_BROWSER, OPTIONS
from test_documents import ROOT, public_names

pytest.importorskip("mkdocs", reason="mkdocs is not installed")

# mkdocs where nothing can be reached.
OFFLINE = """
import socket, sys
def refuse(*_, **__):
    raise OSError("the site is built without a network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(sys.argv[1:])
"""
# What makes a browser load something by itself.
LOADING = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}


def build(out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", OFFLINE, "build", "--strict", "--site-dir", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    built = build(out)
    assert built.returncode == 0, built.stderr
    return out


class _Page(HTMLParser):
    """What a page loads from elsewhere, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded, self.anchors = [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors.append(found.get("id"))
        relation = found.get("rel") or ""
        if tag == "link" and relation not in ("canonical", "prev", "next"):
            self.loaded.append(found.get("href") or "")
        if tag in LOADING:
            self.loaded.append(found.get(LOADING[tag]) or "")
        self.loaded += re.findall(r"url\(([^)]*)\)", found.get("style") or "")

    def from_elsewhere(self) -> list[str]:
        return [place for place in self.loaded if re.match(r"\s*['\"]?(\w+:)?//", place)]


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        read = _Page(page.read_text(encoding="utf-8"))
        assert len(read.loaded) > 3
        assert not read.from_elsewhere(), page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", text), sheet


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img src="http://example.org/a.png">',
        '<p style="background: url(https://example.org/a.png)">',
    ],
)
def test_what_comes_from_elsewhere_is_seen(text: str):
    assert _Page(text).from_elsewhere()
    assert not _Page('<a href="https://example.org">a</a><script src="a.js"></script>').from_elsewhere()


@pytest.mark.slow
def test_every_page_is_there(site: Path):
    sources = (ROOT / "docs").glob("**/*.md")
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in sources}
    assert pages <= {page.relative_to(site) for page in site.rglob("*.html")}
    assert (site / "log" / "index.html").exists()


@pytest.mark.slow
def test_every_public_name_has_an_entry(site: Path):
    pages = [_Page(page.read_text(encoding="utf-8")) for page in site.glob("api/*.html")]
    anchors = {anchor for page in pages for anchor in page.anchors}
    missing = {name for name in public_names() if name not in anchors}
    assert missing == set()


@pytest.mark.slow
def test_formulas_are_drawn(site: Path):
    pages = {page.name: page.read_text(encoding="utf-8") for page in site.glob("api/*.html")}
    for text in pages.values():
        assert ".. math::" not in text
        assert "(<em>" not in text  # (*, N, D) is a shape
        assert not re.search(r"\\(frac|sqrt|cdot|log|sum)", text)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/cosnorm").rglob("*.py"))
    drawn = sum(text.count("<math") for text in pages.values())
    assert drawn == len(re.findall(r"^ *\.\. math::", sources, flags=re.MULTILINE)) > 10


def _formulas():
    pytest.importorskip("griffe", reason="griffe is not installed")
    place = importlib.util.spec_from_file_location("formulas", ROOT / "docs" / "formulas.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def test_a_formula():
    found = re.sub(r"</?(div|math)[^>]*>", "", _formulas().mathml(r"\frac1N \sum_{i} x_i^2"))
    fraction = "<mstyle><mfrac><mn>1</mn><mi>N</mi></mfrac></mstyle>"
    total = "<munder><mo>∑</mo><mrow><mi>i</mi></mrow></munder>"
    square = "<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>"
    assert found == f"<mrow>{fraction}{total}{square}</mrow>"


@pytest.mark.parametrize("formula", [r"\int x", r"\frac{a", r"a}", "x_"])
def test_a_formula_that_nobody_can_read_is_an_error(formula: str):
    with pytest.raises(ValueError, match=r"known|brace|missing"):
        _formulas().mathml(formula)


@pytest.mark.slow
def test_a_broken_link_is_an_error(tmp_path: Path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "index.md").write_text("[there](nowhere.md)\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text("site_name: broken\nplugins: []\n", encoding="utf-8")
    command = [sys.executable, "-c", OFFLINE, "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode != 0
    assert "nowhere.md" in built.stderr


# ---- in a browser, from disk

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def _resize(browser, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


# A page that scrolls sideways is too wide; so is a part of it that does not scroll in a box of its own.
TOO_WIDE = """
const wide = [], limit = arguments[0], parts = "table, pre, img, .formula";
if (document.documentElement.scrollWidth > limit) wide.push("the page");
for (const one of document.querySelector(".md-content")?.querySelectorAll(parts) ?? []) {
  const fits = (box) => box.getBoundingClientRect().right <= limit + 1;
  const scrolls = (box) => ["auto", "scroll"].includes(getComputedStyle(box).overflowX);
  let box = one;
  while (box && !(scrolls(box) && fits(box))) box = box.parentElement;
  if (!box && !fits(one)) wide.push(one.outerHTML.slice(0, 80));
}
return wide;
"""


class TestInABrowser:
    """Pages as a reader sees them who opened index.html from disk."""

    pytestmark = IN_A_BROWSER

    @pytest.mark.parametrize("width", [390, 1280])
    def test_nothing_is_cut_and_all_comes_from_disk(self, site: Path, browser, width: int):
        _resize(browser, width)
        for page in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # that one is for servers
            browser.get(page.as_uri())
            assert browser.execute_script(TOO_WIDE, width) == [], page
            loaded = browser.execute_script(
                "return performance.getEntriesByType('resource').map((e) => e.name)"
            )
            assert all(place.startswith("file:") for place in loaded), page
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not severe

    def test_what_is_too_wide_is_seen(self, site: Path, browser):
        _resize(browser, 390)
        browser.get((site / "index.html").as_uri())
        place = "document.querySelector('.md-content__inner')"
        browser.execute_script(
            f"{place}.insertAdjacentHTML('beforeend', '<pre style=\"width: 900px\">x</pre>')"
        )
        assert len(browser.execute_script(TOO_WIDE, 390)) == 2

    def test_pictures_are_there(self, site: Path, browser):
        for page, least in (("laboratory.html", 8), ("speed.html", 1)):
            browser.get((site / page).as_uri())
            script = "return [...document.querySelectorAll('.md-content img')].map((one) => one.naturalWidth)"
            widths = browser.execute_script(script)
            assert len(widths) >= least
            assert min(widths) > 100

    def test_the_search_finds_from_disk(self, site: Path, browser):
        _resize(browser, 1280)
        browser.get((site / "index.html").as_uri())
        field = browser.find_element("css selector", ".md-search__input")
        field.click()
        field.send_keys("to_cosine")
        results = WebDriverWait(browser, 20).until(
            lambda found: found.find_elements("css selector", ".md-search-result__link")
        )
        assert any("convert" in one.get_attribute("href") for one in results)
