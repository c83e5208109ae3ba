"""The report in a real browser, from disk."""

import urllib.parse
from pathlib import Path

import pytest
from report_records import config, every_method, write_record

from cosnorm_lab.methods import METHODS
from cosnorm_lab.report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),  # one browser
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason=f"needs {CHROMIUM} and {DRIVER} (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "runs"
    running = write_record(folder, config("batch", learning_rate=9.0), status=None, errors=[900] * 3)
    return [*every_method(folder, epochs=40), write_record(folder, config(epochs=40, seed=1)), running]


@pytest.fixture(scope="module")
def report(runs):
    out = runs[0].path.parents[2] / "report.html"
    write_report(runs, out)
    return out


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


def _open(browser, page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # On a busy machine the page of the test before, opened again, was once asked before it had its sections.
    browser.get("about:blank")
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(
        lambda _: browser.execute_script("return document.readyState") == "complete"
    )
    return browser


@pytest.fixture(params=[1200, 375], ids=["desktop", "phone"])
def opened(request, browser, report):
    return _open(browser, report, request.param)


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def hover(browser, plot, fraction):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    right = round(plot.rect["width"] * (fraction - 0.5))
    webdriver.ActionChains(browser).move_to_element_with_offset(plot, right, 0).perform()


def test_no_console_errors_and_no_sideways_scrolling(opened):
    assert opened.get_log("browser") == []
    width = opened.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0


def test_both_figures_are_drawn(opened):
    lines = all_of(opened, ".figure2 .plot g[data-line] path.line")
    assert len(lines) == 9
    width = all_of(opened, ".figure2 .plot")[0].rect["width"]
    assert sum(line.rect["width"] > 0.9 * width for line in lines) == 8  # the ninth stopped at epoch 3
    panels = all_of(opened, ".figure3 .plot")
    assert len(panels) == 9
    assert all(panel.rect["width"] > 90 and panel.rect["height"] > 100 for panel in panels)
    assert all(len(panel.find_elements("css selector", "path.line")) == 3 for panel in panels)


@pytest.mark.parametrize(("figure", "expected"), [(".figure2", "cosine"), (".figure3", "50 %")])
def test_hovering_shows_the_values_of_that_epoch(opened, figure, expected):
    plot = all_of(opened, f"{figure} .plot")[0]
    values = all_of(opened, f"{figure} .values")[0]
    assert not values.is_displayed()
    hover(opened, plot, 0.75)
    assert values.is_displayed()
    assert "epoch 30" in values.text
    assert expected in values.text
    box = values.rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= opened.execute_script("return window.innerWidth")


def test_hovering_shows_the_recorded_errors(opened, runs):
    hover(opened, all_of(opened, ".figure2 .plot")[0], 0.5)
    shown = dict(row.text.rsplit(" ", 1) for row in all_of(opened, ".figure2 .values tr"))
    for method in ("baseline", "max", "layer"):
        (recorded,) = (run.errors[19] for run in runs if run.method == method)
        assert shown[METHODS[method].title] == str(recorded)


def test_arrow_keys_do_what_the_pointer_does(opened):
    plot = all_of(opened, ".figure2 .plot")[0]
    opened.execute_script("arguments[0].focus()", plot)
    keys = webdriver.Keys
    webdriver.ActionChains(opened).send_keys(keys.ARROW_RIGHT, keys.ARROW_RIGHT).perform()
    assert "epoch 2" in all_of(opened, ".figure2 .values")[0].text
    webdriver.ActionChains(opened).send_keys(keys.ESCAPE).perform()
    assert not all_of(opened, ".figure2 .values")[0].is_displayed()


def test_a_name_in_the_legend_hides_its_line(opened):
    button = all_of(opened, ".legend button")[0]
    line = all_of(opened, f".figure2 g[data-line='{button.get_attribute('data-line')}']")[0]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    assert line.value_of_css_property("display") == "none"
    button.click()
    assert line.value_of_css_property("display") != "none"


def test_every_link_resolves(opened, report):
    links = [link.get_attribute("href") for link in all_of(opened, "a[href]")]
    assert len(links) == 2 * 10 + 2
    for link in links:
        parts = urllib.parse.urlsplit(link)
        assert parts.scheme == "file"
        path = Path(urllib.parse.unquote(parts.path))
        assert path.is_file()
        assert path.is_relative_to(report.parent)


COMMITTED = Path(__file__).parents[2] / "results" / "report.html"


@pytest.fixture(params=[1200, 375], ids=["desktop", "phone"])
def committed(request, browser):
    return _open(browser, COMMITTED, request.param)


def test_the_committed_report_draws_every_figure_and_every_link_resolves(committed):
    assert committed.get_log("browser") == []
    width = committed.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0
    plots = all_of(committed, "figure .plot")
    assert len(plots) >= 20
    for plot in plots:
        drawn = plot.find_elements("css selector", "path.line")
        assert drawn
        assert any(len(line.get_attribute("d")) > 8 for line in drawn), plot.get_attribute("aria-label")
        assert plot.rect["height"] > 60
    links = {link.get_attribute("href") for link in all_of(committed, "a[href]")}
    for link in links:
        assert Path(urllib.parse.unquote(urllib.parse.urlsplit(link).path)).is_file(), link


def test_convolutional_networks_count_steps(committed):
    # Not .text, which is empty for what the browser has not laid out yet.
    sections = all_of(committed, "section")
    figure = next(one for one in sections if "cifar10-table5" in one.get_attribute("textContent")[:200])
    plot = figure.find_element("css selector", ".figure7 .plot")
    hover(committed, plot, 0.5)
    assert figure.find_element("css selector", ".figure7 .values").text.startswith("step ")
