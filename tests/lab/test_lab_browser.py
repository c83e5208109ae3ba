"""The report in a real browser, from disk."""

import urllib.parse
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, IN_A_BROWSER, OPTIONS
from report_records import config, every_method, write_record

from cosnorm_lab.methods import METHODS
from cosnorm_lab.report.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

pytestmark = IN_A_BROWSER


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


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
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
    assert len(lines) == 8  # the ninth series, another learning rate that stopped at epoch 3, folds away
    width = all_of(opened, ".figure2 .plot")[0].rect["width"]
    assert all(line.rect["width"] > 0.9 * width for line in lines)
    panels = all_of(opened, ".figure3 .plot")
    assert len(panels) == 8
    assert all(panel.rect["width"] > 90 and panel.rect["height"] > 80 for panel in panels)
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
    files = [link for link in links if "#" not in link]
    assert len(files) == 10 + 3  # records and pictures
    for link in files:
        parts = urllib.parse.urlsplit(link)
        assert parts.scheme == "file"
        path = Path(urllib.parse.unquote(parts.path))
        assert path.is_file()
        assert path.is_relative_to(report.parent)
    _places_are_there(opened, links)


def _places_are_there(browser, links):
    places = {link.partition("#")[2] for link in links if "#" in link}
    there = browser.execute_script("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(places) > 1
    assert places <= set(there)


CUT = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")].filter((one) => {
  const box = one.getBoundingClientRect();
  if (!box.width || one.closest("svg, nav, .values")) return false;
  const head = one.closest("thead");
  if (head && getComputedStyle(head).position === "absolute") return false; // for screen readers
  return box.right > wide + 0.5 || (one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0
    && getComputedStyle(one).display !== "inline");
}).map((one) => `${one.tagName} ${one.className}: ${one.textContent.slice(0, 60)}`);
"""


def _nothing_is_cut(browser):
    browser.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert browser.execute_script(CUT) == []
    width = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0


def _answers_first(browser, height):
    """What the first screen holds, and that the contents stay in sight."""
    seen = browser.execute_script(
        "return [...document.querySelectorAll('h1, .summary, .headline')]"
        ".filter((one) => one.getBoundingClientRect().bottom <= arguments[0]).map((one) => one.className)",
        height,
    )
    browser.execute_script("window.scrollTo(0, document.documentElement.scrollHeight / 2)")
    box = all_of(browser, "nav")[0].rect
    top = browser.execute_script("return document.querySelector('nav').getBoundingClientRect().top")
    assert -1 <= top < 1
    assert box["height"] > 20
    return seen


def test_the_first_screen_answers(opened):
    assert {"", "summary", "headline"} <= set(_answers_first(opened, 844))


def test_nothing_is_cut(opened):
    _nothing_is_cut(opened)


def test_rows_are_cards_on_a_phone(opened):
    cells = all_of(opened, "section table")[0].find_elements("css selector", "td")
    phone = opened.execute_script("return window.innerWidth") < 600
    shown = cells[0].value_of_css_property("display")
    assert shown == ("flex" if phone else "table-cell")
    assert cells[0].aria_role in ("cell", "gridcell")
    label = opened.execute_script("return getComputedStyle(arguments[0], '::before').content", cells[0])
    assert label == ('"learning rate"' if phone else "none")


def test_the_contents_follow(opened):
    link = all_of(opened, "nav a")[-1]
    opened.execute_script("document.querySelector('#not-run').scrollIntoView()")
    WebDriverWait(opened, 10).until(lambda _: link.get_attribute("aria-current") == "true")
    assert len(all_of(opened, "nav [aria-current]")) == 1


COMMITTED = Path(__file__).parents[2] / "results" / "report.html"


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def committed(request, browser):
    return _open(browser, COMMITTED, request.param)


def test_the_committed_report_draws_every_figure_and_every_link_resolves(committed):
    assert committed.get_log("browser") == []
    committed.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    plots = all_of(committed, "figure .plot")
    assert len(plots) >= 20
    for plot in plots:
        drawn = plot.find_elements("css selector", "path.line")
        assert drawn
        assert any(len(line.get_attribute("d")) > 8 for line in drawn), plot.get_attribute("aria-label")
        assert plot.rect["height"] > 60
    links = {link.get_attribute("href") for link in all_of(committed, "a[href]")}
    _places_are_there(committed, links)
    for link in links:
        assert Path(urllib.parse.unquote(urllib.parse.urlsplit(link).path)).is_file(), link


def test_the_committed_report_answers_first_and_cuts_nothing(committed):
    height = committed.execute_script("return document.documentElement.scrollHeight")
    phone = committed.execute_script("return window.innerWidth") < 600
    assert phone or height < 15_000
    seen = _answers_first(committed, 844)
    assert {"", "summary"} <= set(seen)
    assert seen.count("headline") >= (1 if phone else 6)
    _nothing_is_cut(committed)


def test_convolutional_networks_count_steps(committed):
    # Not .text, which is empty for what the browser has not laid out yet.
    sections = all_of(committed, "section")
    figure = next(one for one in sections if "cifar10-table5" in one.get_attribute("textContent")[:200])
    plot = figure.find_element("css selector", ".figure7 .plot")
    hover(committed, plot, 0.5)
    assert figure.find_element("css selector", ".figure7 .values").text.startswith("step ")
