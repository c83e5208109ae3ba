import dataclasses
import html
import json
import re
import urllib.parse
from pathlib import Path

import pytest
from report_records import config, every_method, write_record

from cosnorm_lab import files
from cosnorm_lab.errors import LabError
from cosnorm_lab.files import write_whole
from cosnorm_lab.recipes import RECIPES, fair, mnist
from cosnorm_lab.recipes.search import GRID
from cosnorm_lab.report.page import write_report
from cosnorm_lab.report.readme import markdown_table, update_readme
from cosnorm_lab.report.rows import command, make_rows
from cosnorm_lab.report.series import group


def page(runs, out: Path) -> str:
    write_report(runs, out)
    return out.read_text(encoding="utf-8")


def plain(cell: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", cell)).strip()


def tables(text: str, heading: str) -> list[list[dict[str, str]]]:
    """The tables below a heading: a row is its cells by the names of their columns, and the note below it."""
    after = re.split(r"</section>|<h3>(?!Learning)", text.split(f"<h3>{heading}</h3>")[1])[0]
    found = []
    for table in re.findall(r"<table.*?</table>", after, re.DOTALL):
        head, body = table.split("</thead>")
        names = [plain(cell) for cell in re.findall(r"<th [^>]*>(.*?)</th>", head, re.DOTALL)]
        rows: list[dict[str, str]] = []
        for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL):
            cells = [plain(cell) for cell in re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
            if 'class="note"' in row:
                rows[-1]["note"] = cells[0]
            else:
                assert len(cells) == len(names)
                rows.append(dict(zip(names, cells, strict=True)))
        found.append(rows)
    return found


def cells(text: str, heading: str) -> list[dict[str, str]]:
    """The rows that matter."""
    return tables(text, heading)[0]


def test_table_holds_the_records_figures_and_the_papers(tmp_path):
    flat = [150] * 150 + [140, 142] * 25
    runs = [
        write_record(tmp_path / "runs", config("cosine"), errors=flat),
        write_record(tmp_path / "runs", config("layer"), errors=flat),
    ]
    text = page(runs, tmp_path / "report.html")
    rows = cells(text, "Test errors")
    settings = {"method": "cosine", "learning rate": "10", "seeds": "0"}
    ours = {"errors": "141.0", "%": "1.41", "variance": "1"}
    theirs = {"paper’s errors": "143.9", "paper’s variance": "0.074", "beside the paper": "reproduced"}
    assert rows[0] == settings | ours | theirs
    nothing = dict.fromkeys(theirs, "–")
    assert rows[1] == {"method": "layer norm", "learning rate": "1", "seeds": "0"} | ours | nothing
    assert text.count("Mean and variance over last 50 of 200 epochs") == 2
    missing = rows[2:]
    assert [row["method"] for row in missing] == ["baseline", "batch norm", "weight norm", "max norm"]
    assert {(row["errors"], row["%"], row["variance"]) for row in missing} == {("not run", "–", "–")}
    assert (missing[0]["paper’s errors"], missing[0]["paper’s variance"]) == ("196.6", "0.887")


def test_the_paper_does_not_speak_of_other_files_where_the_official_ones_are_known(tmp_path):
    mine = {"exact": False, "checksums": {"train": "aa"}}
    runs = [write_record(tmp_path / "runs", config(method), data=mine) for method in ("cosine", "batch")]
    text = page(runs, tmp_path / "report.html")
    rows = cells(text, "Test errors")
    assert not any("reproduced" in value for row in rows for value in row.values())
    assert "paper’s errors" not in text
    assert "143.9" not in text
    assert [row["method"] for row in rows] == ["cosine", "batch norm"]  # none is missing
    assert "other files than the official ones" in text
    (row, _) = make_rows(group(runs))
    assert (row.paper_mean, row.verdict) == ("–", "–")
    news = config("max", recipe="news-table3", dataset="20news", learning_rate=0.1, epochs=60)
    (row,) = make_rows(group([write_record(tmp_path / "news", news, data=mine, errors=[1600] * 60)]))
    assert (row.paper_mean, row.verdict) == ("2242.5", "better")  # its author publishes no checksums


def test_rows_of_other_settings_fold_away(tmp_path):
    runs = [
        write_record(tmp_path, config("cosine", epochs=4), errors=[150] * 4),
        write_record(tmp_path, config("cosine", epochs=8), errors=[160] * 8),
        write_record(tmp_path, config("cosine", epochs=9), status="diverged", errors=[99] * 3),
        write_record(tmp_path, config("batch", epochs=4), errors=[152] * 4),
    ]
    kept, folded = tables(page(runs, tmp_path / "report.html"), "Test errors")
    assert [row["errors"] for row in kept][:2] == ["160.0", "152.0"]  # the longest that came to its end
    assert sorted(row["errors"] for row in folded) == ["150.0", "not run"]


def test_a_method_that_only_guesses_is_at_chance(tmp_path):
    run = write_record(tmp_path, config(recipe="own", epochs=4), errors=[8990] * 4)
    guessing = dataclasses.replace(run, start={**run.start, "chance": 9000})
    other = write_record(tmp_path, config("batch", recipe="own", epochs=4), errors=[4000] * 4)
    text = page([guessing, other], tmp_path / "report.html")
    rows = cells(text, "Test errors")
    assert [row["verdict"] for row in rows] == ["at chance", "–"]
    assert rows[0]["note"] == "Not below the errors of always guessing the most frequent class."
    assert "At chance: cosine." in text
    assert "at chance" in markdown_table([guessing, other])


def test_short_runs_say_that_the_last_quarter_was_taken(tmp_path):
    run = write_record(tmp_path, config(epochs=8), errors=[50, 40, 30, 20, 10, 10, 6, 4])
    text = page([run], tmp_path / "report.html")
    row = cells(text, "Test errors")[0]
    assert (row["errors"], row["variance"]) == ("5.0", "1")
    assert "Mean and variance over last 2 of 8 epochs" in text


def test_seeds_share_a_row_and_only_completed_ones_count(tmp_path):
    runs = [
        write_record(tmp_path, config(epochs=4, seed=0), errors=[9, 9, 9, 100]),
        write_record(tmp_path, config(epochs=4, seed=1), errors=[9, 9, 9, 110]),
        write_record(tmp_path, config(epochs=4, seed=2), errors=[9, 7000], status="diverged", message="NaN"),
    ]
    (row,) = make_rows(group(runs))
    assert (row.seeds, row.mean, row.variance) == ("0, 1, 2", "105.0 ± 63.5", "0")
    assert row.status == "2 of 3 completed; seed 2 diverged (epoch 2 of 4: NaN)"


@pytest.mark.parametrize(
    ("method", "errors", "verdict"),
    [
        ("baseline", 196, "reproduced"),
        ("baseline", 206, "reproduced"),
        ("baseline", 207, "not reproduced"),
        ("baseline", 186, "better"),
        ("max", 140, "better"),
        ("layer", 100, "–"),
    ],
)
def test_verdicts(tmp_path, method, errors, verdict):
    run = write_record(tmp_path, config(method, epochs=4), errors=[errors] * 4)
    row = make_rows(group([run]))[0]
    assert row.verdict == verdict
    assert row.note == (mnist.NOTES_TABLE1["max"] if method == "max" else "")
    held_back = write_record(tmp_path, config(method, epochs=4, validation=100), errors=[errors] * 4)
    assert make_rows(group([held_back]))[0].verdict == "–"


def test_depth_is_judged_by_its_least_errors(tmp_path):
    runs = [
        write_record(tmp_path, config(recipe="mnist-depth", epochs=4, hidden=(1000,) * hidden), errors=errors)
        for hidden, errors in ((1, [200, 155, 180, 190]), (4, [150, 140, 138, 139]))
    ]
    rows = cells(page(runs, tmp_path / "report.html"), "Test errors")
    shown = ("errors", "least", "paper’s least", "beside the paper")
    found = {row["layers"]: tuple(row[name] for name in shown) for row in rows}
    assert found == {
        "2": ("190.0", "155 (epoch 2)", "155", "reproduced"),
        "3": ("not run", "–", "143", "–"),
        "4": ("not run", "–", "140", "–"),
        "5": ("139.0", "138 (epoch 3)", "129", "not reproduced"),
    }


@pytest.mark.parametrize(
    ("status", "message", "shown"),
    [
        (None, "", "running (epoch 3 of 200)"),
        ("diverged", "the loss is NaN", "diverged (epoch 3 of 200: the loss is NaN)"),
        ("failed", "disk full", "failed (epoch 3 of 200: disk full)"),
        ("interrupted", "", "interrupted (epoch 3 of 200)"),
    ],
)
def test_what_did_not_end_has_no_figure(tmp_path, status, message, shown):
    run = write_record(tmp_path, config(), status=status, message=message, errors=[431, 321, 211])
    row = cells(page([run], tmp_path / "report.html"), "Test errors")[0]
    assert (row["errors"], row["variance"]) == ("not run", "–")
    assert row["note"] == f"{shown[0].upper()}{shown[1:]}."
    assert "211.0" not in markdown_table([run])
    assert shown in markdown_table([run])


def test_searches_on_held_back_images_never_reach_the_main_table(tmp_path):
    runs = [
        write_record(tmp_path, config("batch"), errors=[150] * 200),
        write_record(tmp_path, config("batch", learning_rate=1.0, validation=10_000), errors=[1777] * 200),
    ]
    text = page(runs, tmp_path / "report.html")
    assert [row["errors"] for row in cells(text, "Test errors") if row["errors"] != "not run"] == ["150.0"]
    assert [row["errors"] for row in cells(text, "Learning-rate search")] == ["1777.0"]
    assert "1777" not in markdown_table(runs)
    assert "1777" not in text.split("Figure 2:")[1].split("</figure>")[0]


def test_two_learning_rates_of_a_method_are_two_rows_with_names_of_their_own(tmp_path):
    runs = [write_record(tmp_path, config("batch", learning_rate=rate)) for rate in (5.0, 0.5)]
    series = group(runs)
    assert [one.label for one in series] == ["batch norm, lr 0.5", "batch norm, lr 5"]
    assert series[0].colour == series[1].colour
    assert series[0].dashes != series[1].dashes
    runs = [write_record(tmp_path, config("max", hidden_bias=bias)) for bias in (True, False)]
    assert [one.label for one in group(runs)] == ["max norm, hidden bias", "max norm, no hidden bias"]


def test_record_links_are_relative_and_resolve(tmp_path):
    runs = every_method(tmp_path / "my runs #1", epochs=4)
    out = tmp_path / "pages" / "report.html"
    links = re.findall(r'class="record" href="([^"]*)"', page(runs, out))
    assert len(links) == len(runs)
    targets = {(out.parent / urllib.parse.unquote(html.unescape(link))).resolve() for link in links}
    assert targets == {run.path.resolve() for run in runs}
    assert str(tmp_path) not in out.read_text()


def test_page_needs_no_network(tmp_path):
    text = page(every_method(tmp_path, epochs=4), tmp_path / "report.html")
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", text)
    assert '<link rel="stylesheet"' not in text
    assert text.count("http") == text.count('"http://www.w3.org/2000/svg"') == 1


def test_what_comes_from_records_is_escaped(tmp_path):
    evil = "</script><script>alert(1)</script><b>&"
    run = write_record(tmp_path, config(recipe="mnist-table1"), status="failed", message=evil, errors=[9])
    run.start["host"]["cpu"] = evil
    run.start["commit"] = "<i>" + "0" * 9
    run.epochs[0]["layers"][0]["name"] = evil
    text = page([run], tmp_path / "report.html")
    assert "<script>alert" not in text
    assert "<i>" not in text
    assert "<b>&" not in text
    assert html.escape(evil) in text
    assert "<script>" not in markdown_table([run])
    assert "a\\|b" in markdown_table([write_record(tmp_path, config(), status="failed", message="a|b")])


def test_hover_data_are_json_and_hold_every_epoch(tmp_path):
    text = page(every_method(tmp_path, epochs=6), tmp_path / "report.html")
    blocks = [json.loads(block) for block in re.findall(r'type="application/json">(.*?)</script>', text)]
    assert len(blocks) == 1 + 8
    assert all(len(line["points"]) == 6 for block in blocks for line in block["lines"])


def test_two_recipes_have_a_section_and_pictures_each(tmp_path):
    runs = [write_record(tmp_path, config(recipe=recipe, epochs=4)) for recipe in ("mnist-table1", "digits")]
    text = page(runs, tmp_path / "all.html")
    assert text.index("<h2>mnist-table1</h2>") < text.index("<h2>digits</h2>")
    made = sorted(path.name for path in tmp_path.glob("*.png"))
    assert made == [
        "all-answer.png",
        "all-digits-errors.png",
        "all-digits-pre-activations.png",
        "all-mnist-table1-figure2.png",
        "all-mnist-table1-figure3.png",
    ]
    assert all(f'href="{name}"' in text for name in made)


def test_the_papers_recipes_without_records_are_named_as_not_run(tmp_path):
    text = page([write_record(tmp_path, config(epochs=4))], tmp_path / "report.html")
    missing = text.split("<h2>Not run</h2>")[1]
    assert "cosnorm run cifar10-table5" in missing
    assert "cosnorm run mnist-table1" not in missing
    assert "cosnorm run faces" not in missing  # not the paper's
    own = page([write_record(tmp_path, config(recipe="digits", epochs=4))], tmp_path / "own.html")
    assert "Not run" not in own


def test_pictures_lie_beside_the_report_and_nothing_else_does(tmp_path):
    runs = every_method(tmp_path / "runs", epochs=4)
    write_report(runs, tmp_path / "out" / "report.html")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["report-answer.png", "report-figure2.png", "report-figure3.png", "report.html"]
    assert (tmp_path / "out" / "report-figure2.png").read_bytes().startswith(b"\x89PNG")


def test_no_runs_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(LabError, match="at least one record"):
        write_report([], tmp_path / "report.html")


def test_command_gives_back_the_configuration():
    assert command(config("cosine"), 1) == "cosnorm run mnist-table1 --methods cosine --epochs 200"
    changed = config("batch", learning_rate=0.5, epochs=20, init_std=0.316, validation=10_000, seed=2)
    assert command(changed, 3) == (
        "cosnorm run mnist-table1 --methods batch --epochs 20 --lr batch=0.5 "
        "--validation 10000 --set init_std=0.316 --seeds 3"
    )
    assert command(config("max", learning_rate=1.0, hidden_bias=False), 1) == (
        "cosnorm run mnist-table1 --methods max --epochs 200 --set hidden_bias=false"
    )
    assert command(config(hidden=(7, 8)), 1) == (
        "cosnorm run mnist-table1 --methods cosine --epochs 200 --set hidden=7-8"
    )
    assert command(config(dataset="digits"), 1) == (
        "cosnorm run mnist-table1 --methods cosine --epochs 200 --set dataset=digits"
    )
    assert command(config(recipe="no such recipe"), 1) is None


def test_commands_of_other_networks_data_and_stages(tmp_path):
    own = RECIPES["own"].configs(["cosine"], network="cnn", epochs=7, filters=(8,))[0]
    assert command(own, 3) == (
        "cosnorm run own --methods cosine --epochs 7 --lr cosine=10 --set network=cnn --set filters=8 "
        "--seeds 3"
    )
    options = {"dataset": "cifar100-coarse", "augmentation": False}
    (coarse,) = RECIPES["cifar100"].configs(["cosine"], **options)
    assert command(coarse, 1) == (
        "cosnorm run cifar100 --methods cosine --epochs 44 --lr cosine=10 "
        "--set dataset=cifar100-coarse --set augmentation=false"
    )
    search = RECIPES["fair"].configs(["cosine"])
    assert command(search[2], 1) == ("cosnorm run fair --methods cosine --epochs 5 --lr cosine=0.3")
    found = [write_record(tmp_path, one, errors=[900 + abs(number - 5)]) for number, one in enumerate(search)]
    final = fair.final(found, ["cosine"], seeds=2)
    assert [one.learning_rate for one in final] == [GRID[5]] * 2
    assert command(final[0], 2) == "cosnorm run fair --methods cosine --epochs 20 --seeds 2"
    for change in ({"init_std": 0.5}, {"learning_rate": 0.05}, {"validation": 7}):
        assert command(dataclasses.replace(final[0], **change), 2) is None


def test_steps_and_when_the_goal_was_reached(tmp_path):
    configs = RECIPES["cifar10-table5"].configs(["baseline", "cosine"], epochs=4)
    baseline, cosine = configs
    runs = [
        write_record(tmp_path, baseline, errors=[6000, 5000, 4400, 4000]),
        write_record(tmp_path, cosine, errors=[4000, 3400, 3000, 3100]),
    ]
    text = page(runs, tmp_path / "report.html")
    rows = {row["method"]: row for row in cells(text, "Test errors")}
    shown = ("least", "paper’s least", "down to 3,510", "in the paper")
    found = {method: [row[name] for name in shown] for method, row in rows.items()}
    assert found["cosine"] == ["3000 (step 750)", "2700", "step 500", "step 2,000"]
    assert found["baseline"] == ["4000 (step 1,000)", "3510", "–", "step 66,000"]
    assert "down to 3,510" in text
    assert "against step" in text
    assert "| 3000 (step 750) | 2700 | step 500 | step 2,000 |" in markdown_table(runs)


def test_readme_block_is_rewritten_and_the_rest_kept(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# é\n<!-- mnist-table1 -->\nold\n<!-- /mnist-table1 -->\nafter\n", encoding="utf-8")
    runs = [write_record(tmp_path, config(), errors=[150] * 150 + [140, 142] * 25)]
    update_readme(runs, readme)
    update_readme(runs, readme)
    lines = readme.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# é", "<!-- mnist-table1 -->"]
    assert lines[-2:] == ["<!-- /mnist-table1 -->", "after"]
    assert lines[4] == "| cosine | 10 | 0 | 141.0 | 1 | 143.9 | 0.074 | last 50 of 200 |"
    assert len(lines) == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- mnist-table1 -->",
        "<!-- /mnist-table1 --><!-- mnist-table1 -->",
        2 * "<!-- mnist-table1 --><!-- /mnist-table1 -->",
    ],
)
def test_readme_without_its_block_is_an_error_and_stays(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(LabError, match=r"<!-- mnist-table1 --> and.* <!-- /mnist-table1 -->"):
        update_readme([write_record(tmp_path, config(epochs=4))], readme)
    assert readme.read_text() == text


def test_readme_has_a_block_for_each_recipe_that_it_wants(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- b --><!-- /b --> and <!-- mnist-table1 -->old<!-- /mnist-table1 -->")
    runs = [write_record(tmp_path, config(recipe=recipe, epochs=4)) for recipe in ("a", "b", "mnist-table1")]
    assert update_readme(runs, readme) == ["b", "mnist-table1"]
    assert readme.read_text().count("| cosine | 10 | 0 |") == 2
    assert "old" not in readme.read_text()
    with pytest.raises(LabError, match="no block for these records: add <!-- a --> and <!-- /a -->"):
        update_readme(runs[:1], readme)


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
