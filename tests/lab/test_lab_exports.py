"""The report as Markdown and CSV."""

import csv
import io

import pytest
import scipy.stats
from report_records import config, write_record
from typer.testing import CliRunner

from cosnorm_lab.cli import app
from cosnorm_lab.errors import LabError
from cosnorm_lab.records import read_all
from cosnorm_lab.report.exports import COLUMNS, as_text
from cosnorm_lab.report.readme import update_readme


@pytest.fixture
def runs(tmp_path):
    figures = {"cosine": (140, 142, 144), "batch": (150, 151, 155), "baseline": (196, 197)}
    found = [
        write_record(tmp_path / "runs", config(method, epochs=4, seed=seed), errors=[value] * 4)
        for method, values in figures.items()
        for seed, value in enumerate(values)
    ]
    search = config("cosine", epochs=4, learning_rate=3.0, validation=100)
    return [*found, write_record(tmp_path / "runs", search, errors=[77] * 4)]


def test_a_row_a_series(runs):
    rows = list(csv.DictReader(io.StringIO(as_text(runs, "csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["method"], row["held_back"]) for row in rows] == [
        *(("baseline", "0"), ("cosine", "0"), ("batch", "0"), ("cosine", "100"))
    ]
    cosine = rows[1]
    assert {name: cosine[name] for name in ("recipe", "data", "learning_rate", "seeds", "count", "mean")} == {
        **{"recipe": "mnist-table1", "data": "mnist", "learning_rate": "10", "seeds": "0 1 2"},
        **{"count": "10000", "mean": "142"},
    }
    assert float(cosine["interval"]) == pytest.approx(4.302653 * 2 / 3**0.5, rel=1e-5)
    assert (cosine["percent"], cosine["variance"], cosine["paper_mean"]) == ("1.42", "0", "143.922")
    assert cosine["verdict"] == "reproduced"
    p = scipy.stats.ttest_1samp((140, 142, 144), 143.922).pvalue
    assert float(cosine["p_paper"]) == pytest.approx(p, rel=1e-4)
    assert (cosine["best"], cosine["p_best"]) == ("cosine", "")
    p = scipy.stats.ttest_rel((140, 142, 144), (150, 151, 155)).pvalue
    assert float(rows[2]["p_best"]) == pytest.approx(p, rel=1e-4)
    p = scipy.stats.ttest_ind((150, 151, 155), (196, 197), equal_var=False).pvalue
    assert float(rows[2]["p_baseline"]) == pytest.approx(p, rel=1e-4)
    assert rows[3]["paper_mean"] == ""


def test_what_was_not_completed_has_no_figure(tmp_path):
    run = write_record(tmp_path, config(), status="diverged", errors=[9])
    (row,) = csv.DictReader(io.StringIO(as_text([run], "csv")))
    assert (row["status"], row["completed"], row["mean"], row["verdict"]) == ("diverged", "0", "", "")


def test_markdown_says_what_the_page_says(runs):
    text = as_text(runs, "md")
    assert text.startswith("# Does cosine normalization work, and when?\n")
    assert "142.0 ± 5.0 reproduces the paper’s 143.9" in text.replace("\n  ", " ")
    assert "| Table 1: cosine has the fewest errors on MNIST | cosine 142.0 ± 5.0 (1.42 ± 0.05 %) |" in text
    assert "| cosine | 10 | 0, 1, 2 | 142.0 ± 5.0 |" in text
    assert "](" not in text  # no links to pages that a paper does not have
    assert "77" not in text


def test_the_command_prints_or_writes(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = CliRunner().invoke
    assert call(app, ["report", "runs", "--format", "csv"]).output.startswith("recipe,data,data_key,method")
    assert call(app, ["report", "runs", "--format", "md"]).output == as_text(read_all("runs"), "md")
    assert call(app, ["report", "runs", "--format", "csv", "-o", "a.csv"]).output == "wrote a.csv\n"
    assert (tmp_path / "a.csv").read_text() == as_text(read_all("runs"), "csv")
    assert not (tmp_path / "report.html").exists()
    assert call(app, ["report", "runs"]).output == "wrote report.html\n"
    found = call(app, ["report", "runs", "--format", "pdf"])
    assert isinstance(found.exception, LabError)
    assert str(found.exception) == "format must be one of html, md, csv; got 'pdf'"


def test_pages_have_blocks_for_headlines_and_verdicts(runs, tmp_path):
    page = tmp_path / "page.md"
    names = ("headlines", "behind", "said-mnist-table1")
    page.write_text("".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in names))
    assert update_readme(runs, page) == list(names)
    text = page.read_text()
    assert "old" not in text
    assert "[Table 1: cosine has the fewest errors on MNIST](laboratory.md#mnist-table1)" in text
    assert "Nowhere in these records." in text
    assert "* Table 1: cosine has the fewest errors on MNIST: ahead (p" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 110
    # A page that has the recipe's table links to itself.
    page.write_text(page.read_text() + "<!-- mnist-table1 -->\n<!-- /mnist-table1 -->\n")
    update_readme(runs, page)
    assert "on MNIST](#mnist-table1)" in page.read_text()
