"""What README, CONTRIBUTING and the pages of docs print: code runs; commands, options, files, names exist."""

import ast
import datetime
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.history import newest
from benchmarks.tables import PAGES, filled
from typer.testing import CliRunner

from cosnorm_lab.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
}
README, CONTRIBUTING = DOCUMENTS["README.md"], DOCUMENTS["CONTRIBUTING.md"]
LABORATORY = DOCUMENTS["docs/laboratory.md"]
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


# ---- code


def _readme(names: dict[str, Any]) -> None:
    assert names["logits"].shape == (8, 10)
    assert names["similarity"].diagonal().min() > 0.999
    assert names["correlation"].shape == (8, 5)
    assert names["model"](torch.rand(2, 3, 8, 8)).shape == (2, 10)


def _caffe2(names: dict[str, Any]) -> None:
    workspace, gradients = names["workspace"], names["gradients"]
    assert workspace.FetchBlob(gradients["X"]).shape == (8, 5)


def _convert(names: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(names["deployed"](x), names["model"](x), rtol=1e-4, atol=1e-4)
    assert type(names["again"][0]) is torch.nn.Conv2d


def _deploy(names: dict[str, Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    found = onnxruntime.InferenceSession("model.onnx").run(None, {"input": names["images"].numpy()})[0]
    expected = names["model"](names["images"])
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def _index(names: dict[str, Any]) -> None:
    assert [type(layer).__name__ for layer in names["model"]][:2] == ["CosineLinear", "Identity"]


def _microbatch(names: dict[str, Any]) -> None:
    assert names["loss"].isfinite()
    assert names["criterion"].logit_scale.grad.any()
    assert names["trainer"].global_step == 2
    assert names["over_all"].isfinite()


def _metrics(names: dict[str, Any]) -> None:
    assert names["found"]["recall@1"] > 0.5
    assert names["negatives"].indices.shape == (64, 5)
    assert names["clusters"].cosines.mean() > 0.6
    assert {"uniformity", "norm/mean", "alignment"} <= set(names["line"])
    assert names["turned"]["angular_step/weight"] > 0


def _processes(names: dict[str, Any]) -> None:
    assert names["everything"].shape == (100, 16)
    assert names["everything"].isfinite().all()


def _scales(names: dict[str, Any]) -> None:
    assert names["paper"](names["x"]).var().item() == pytest.approx(1 / 1024, rel=0.1)
    assert names["unit"](names["x"]).var().item() == pytest.approx(1, rel=0.1)
    assert names["along"].abs().max() < 1e-5 * names["layer"].weight.grad.abs().max()


def _start(names: dict[str, Any]) -> None:
    assert (names["small"] - names["large"]).abs().max() < 1e-6
    assert names["right"].float().mean() > 0.9
    assert names["one"].grad.any()


# What is asked of the names that the blocks of a page leave behind.
LEFT_BEHIND: dict[str, Callable[[dict[str, Any]], None]] = {
    "README.md": _readme,
    "docs/caffe2.md": _caffe2,
    "docs/convert.md": _convert,
    "docs/deploy.md": _deploy,
    "docs/index.md": _index,
    "docs/microbatch.md": _microbatch,
    "docs/metrics.md": _metrics,
    "docs/processes.md": _processes,
    "docs/scales.md": _scales,
    "docs/start.md": _start,
}


def _run(name: str, text: str) -> dict[str, Any]:
    """The names that the blocks of Python leave, one after the other, as a reader would run them."""
    names: dict[str, Any] = {"__name__": name}
    for block in CODE.finditer(text):
        lines = "\n" * (text.count("\n", 0, block.start(1)))  # an error names the line of the page
        exec(compile(lines + block.group(1), name, "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore")  # what exporters have to say
@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if CODE.search(text)])
def test_the_code_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if "onnx" in DOCUMENTS[name]:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    if "pytorch_lightning" in DOCUMENTS[name]:
        pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    monkeypatch.chdir(tmp_path)  # what a block writes is not written into the repository
    meeting = {"init_method": f"file://{tmp_path}/meeting", "rank": 0, "world_size": 1}
    start = functools.partial(torch.distributed.init_process_group, **meeting)  # torchrun knows all this
    monkeypatch.setattr(torch.distributed, "init_process_group", start)
    names = _run(name, DOCUMENTS[name])
    if name in LEFT_BEHIND:
        LEFT_BEHIND[name](names)


def test_no_page_is_passed_over():
    fences = {name: len(re.findall(r"```py", text)) for name, text in DOCUMENTS.items()}
    assert fences == {name: len(CODE.findall(text)) for name, text in DOCUMENTS.items()}
    assert {name for name, number in fences.items() if number} >= set(LEFT_BEHIND)
    assert fences["docs/losses.md"] > 5
    with pytest.raises(ZeroDivisionError):
        _run("a page", "```python\nx = 0\n```\n\n```python\n1 / x\n```\n")


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
def test_the_program_of_the_page_on_processes_runs_on_two(tmp_path: Path):
    (block,) = CODE.findall(DOCUMENTS["docs/processes.md"])
    block = block.replace('init_process_group("gloo")', 'init_process_group("gloo", **meeting)')
    running = []
    for rank in range(2):
        meeting = {"init_method": f"file://{tmp_path}/meeting", "rank": rank, "world_size": 2}
        program = f"{meeting = }\n{block}\nprint('weight', *everything.shape)\n"
        command = [sys.executable, "-c", program]
        running.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
    try:
        found = [one.communicate(timeout=120)[0] for one in running]
    finally:
        for one in running:
            one.kill()
    assert found == ["weight 100 16\n"] * 2
    assert [one.returncode for one in running] == [0, 0]  # no abort at the exit


# ---- names


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/speed.md"])
def test_make_targets_exist(name: str):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", "\n".join(re.findall(r"`+[^`]+`+", DOCUMENTS[name]))))
    assert named
    assert named <= targets


def test_the_page_on_caffe2_names_all_operators():
    from cosnorm.caffe2 import workspace

    operators = set(workspace.RegisteredOperators())
    named = {
        name
        for line in DOCUMENTS["docs/caffe2.md"].splitlines()
        if line.startswith("| ")
        for name in re.findall(r"\b[A-Z]\w+", line)
    }
    assert named <= operators
    gradients_and_copies = {name for name in operators if name.endswith("Gradient")} | {"CopyOnDeviceLike"}
    kinds = {name for name in operators if name.startswith("GivenTensor")}
    assert operators - gradients_and_copies - kinds <= named


def test_commands_and_options_exist():
    everything = "\n\n".join(DOCUMENTS.values())
    found = re.findall(r"`cosnorm (caffe2 [a-z]+|[a-z]+)([^`]*)`", everything.replace("\n", " "))
    found += re.findall(r"^cosnorm (caffe2 [a-z]+|[a-z]+)([^#\n]*)", everything, flags=re.MULTILINE)
    assert {command for command, _ in found} >= {"run", "fetch", "report", "list", "caffe2 show"}
    for command, rest in found:
        help_text = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
        assert help_text.exit_code == 0
        for option in re.findall(r"--[\w-]+", rest):
            assert option in help_text.output


def test_every_recipe_is_documented():
    from cosnorm_lab.recipes import RECIPES

    table = LABORATORY.split("```")[0]
    assert set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))) == set(
        RECIPES
    )


def test_named_files_exist():
    found = {
        path
        for text in DOCUMENTS.values()
        for path in re.findall(r"`((?:benchmarks|docs|examples|results|src|tests)/[\w./-]+)", text)
    }
    missing = [path for path in found if not (ROOT / path).exists() and path != "results/report.html"]
    assert len(found) > 20
    assert not missing


def _tests_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    "name", [name for name, text in DOCUMENTS.items() if re.search(r"\btest_\w+\b", text)]
)
def test_named_tests_exist(name: str):
    text = DOCUMENTS[name]
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text):
        assert test in _tests_of(ROOT / path), f"{path} has no {test}"
    alone = set(re.findall(r"`(test_\w+)`", text))
    everywhere = (
        set().union(*(_tests_of(path) for path in ROOT.glob("tests/**/test_*.py"))) if alone else set()
    )
    assert alone <= everywhere


def test_every_clause_of_the_contract_names_its_tests():
    clauses = re.split(r"^## ", DOCUMENTS["docs/numerics.md"], flags=re.MULTILINE)[1:]
    assert [clause.partition(".")[0] for clause in clauses] == [str(number) for number in range(1, 11)]
    for clause in clauses:
        assert re.search(r"^Held by\n\n\* `tests/[\w/]+\.py::test_\w+`$", clause, flags=re.MULTILINE), clause


def test_names_of_the_table_are_public():
    import cosnorm

    for module, names in re.findall(r"^\| `(functional|losses|nn)\.(\w+)", README, flags=re.MULTILINE):
        assert hasattr(getattr(cosnorm, module), names)


def public_names() -> set[str]:
    """What the pages of the API have to show."""
    import importlib

    found = set()
    modules = ("functional", "nn", "losses", "metrics", "diagnostics", "cluster", "convert")
    for module in (*modules, "caffe2", "caffe2.core", "caffe2.workspace"):
        held = importlib.import_module(f"cosnorm.{module}")
        # Caffe2's modules hold others under its names, and a mapping.
        shown = [name for name in held.__all__ if callable(getattr(held, name)) or module == "caffe2"]
        found |= {f"cosnorm.{module}.{name}" for name in shown}
    # Not for calling: whatever has no underscore.
    tree = ast.parse((ROOT / "src/cosnorm/distributed.py").read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    own = {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}
    return found | {f"cosnorm.distributed.{name}" for name in own} | {"cosnorm.microbatch"}


def test_every_public_name_stands_on_a_page_of_the_api():
    pages = "\n".join(text for name, text in DOCUMENTS.items() if name.startswith("docs/api/"))
    entries = set(re.findall(r"^::: ([\w.]+)$", pages, flags=re.MULTILINE))
    names = public_names()
    assert len(names) > 80
    # A module's entry shows all of its names: `tests/test_site.py` looks.
    assert {name for name in names if name not in entries and name.rpartition(".")[0] not in entries} == set()


# ---- tables and figures


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if "<!-- /" in text])
def test_tables_are_those_of_the_records(name: str, tmp_path: Path):
    from cosnorm_lab.records import read_all
    from cosnorm_lab.report.readme import update_readme

    text = DOCUMENTS[name]
    blocks = set(re.findall(r"^<!-- /(?!speed:|versions)([\w-]+) -->$", text, flags=re.MULTILINE))
    if not blocks:
        return
    runs = read_all([ROOT / "results"])
    waiting = {"drop-in-text"} - {run.config.recipe for run in runs}  # its page says that it was not run yet
    copy = tmp_path / "copy.md"
    copy.write_text(text, encoding="utf-8")
    assert set(update_readme(runs, copy)) == blocks - waiting
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", PAGES)
def test_tables_of_speed_are_those_of_the_records(name: str):
    assert filled(DOCUMENTS[name], newest()) == DOCUMENTS[name]


# Numbers that are no results: of data sets, of settings, of names.
SETTINGS = {
    "000",
    "8,000",
    "0.1",
    "0.03",
    "0.05",
    "0.002",
    "1,000",
    "10,000",
    "255",
    "1e-4",
    "784-1000-1000-10",
    "1702.05870",
    "200",
}


@pytest.mark.parametrize("name", ["docs/does-it-work.md", "docs/laboratory.md", "docs/scales.md"])
def test_figures_stand_in_a_table_of_records(name: str):
    """What prose and hand-made tables say of runs is in a table that was written from records."""
    block = re.compile(r"^<!-- ([\w-]+) -->$.*?^<!-- /\1 -->$", re.DOTALL | re.MULTILINE)
    recorded = " ".join(found.group() for text in DOCUMENTS.values() for found in block.finditer(text))
    figures = set(re.findall(r"(?<![\w.,-])\d[\d,]*\.?\d+(?![\w-])", recorded)) | SETTINGS
    figures |= {figure.replace(",", "") for figure in figures}
    prose = CODE.sub("", block.sub("", DOCUMENTS[name]))
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`", "", prose)
    said = {number for number in re.findall(r"(?<![\w.,-])\d[\d,]*\.?\d+(?![\w-])", prose) if len(number) > 2}
    assert said <= figures, said - figures
    assert "141.7" not in figures


def test_what_the_readme_lets_expect_stands_in_records():
    """Each figure of the three points is in a table of docs, or in the record of the memory."""
    _, _, rest = README.partition("What to expect")
    points = re.sub(r"\]\([^)]*\)", "]", rest.partition("Two commands")[0])
    said = set(re.findall(r"(?<![\w.,×-])\d[\d,]*\.?\d+(?![\w×→-])", points))
    tables = "\n".join(
        re.findall(r"^\|.*", DOCUMENTS["docs/scales.md"] + DOCUMENTS["docs/speed.md"], re.MULTILINE)
    )
    record = json.loads((ROOT / "benchmarks/results/2026-11-21T025310.json").read_text(encoding="utf-8"))
    steps = record["cases"]["nt-xent-2x8192x128"]
    known = {f"{steps[name]['peak_mib']:,.0f}" for name in ("plain", "ours")}
    known |= set(re.findall(r"\d[\d,]*\.?\d+", tables)) | {"10", "8,000", "0.05"}
    assert {"52.6", "1.03", "2.13", "67", "3,098", "0.24"} <= said <= known, said - known


# ---- the log

LOG = {name.rpartition("/")[2]: text for name, text in DOCUMENTS.items() if name.startswith("docs/log/")}
OF_THE_INDEX = re.compile(r"\| ([\d-]+(?: to \d\d-\d\d)?) \| \[([^]]+)\]\(([^)]+)\) \| [^|]+ \|")


def _lines_of_the_index(text: str) -> list[tuple[str, str, str]]:
    """Days, title and page of each line."""
    _, _, lines = text.partition("|---|---|---|\n")
    found = [OF_THE_INDEX.fullmatch(line) for line in lines.splitlines()]
    assert all(found), lines.splitlines()[found.index(None)]
    return [line.groups() for line in found]


def test_every_page_of_the_log_is_in_its_index_and_has_its_date():
    lines = _lines_of_the_index(LOG["index.md"])
    assert sorted(page for _, _, page in lines) == sorted(set(LOG) - {"index.md"})
    assert [days[:10] for days, _, _ in lines] == sorted((days[:10] for days, _, _ in lines), reverse=True)
    for days, title, page in lines:
        assert datetime.date.fromisoformat(days[:10])
        assert re.fullmatch(rf"{days[:10]}(-[a-z0-9]+)+\.md", page)
        assert LOG[page].startswith(f"# {title}\n\n{days} · [log](index.md)\n\n"), page
        dated = re.findall(r"^## (\d{4}-\d\d-\d\d)$", LOG[page], flags=re.MULTILINE) or [days[:10]]
        assert dated == sorted(set(dated)), page
        assert days == (dated[0] if len(dated) == 1 else f"{dated[0]} to {dated[-1][5:]}"), page
        assert LOG[page].count("\n") <= 150, page


def test_a_line_of_the_index_that_is_no_line_is_seen():
    head = "| date | subject | decision |\n|---|---|---|\n"
    assert _lines_of_the_index(f"{head}| 2026-01-02 | [A](a.md) | b |\n") == [("2026-01-02", "A", "a.md")]
    with pytest.raises(AssertionError, match="no link"):
        _lines_of_the_index(f"{head}| 2026-01-02 | no link | b |\n")


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.startswith("docs/")])
def test_lines_are_short(name: str):
    lines = [line for line in DOCUMENTS[name].splitlines() if not line.startswith("|")]
    assert max(map(len, lines)) <= 110, max(lines, key=len)
