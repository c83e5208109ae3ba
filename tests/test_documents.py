"""What README and CONTRIBUTING print: the code runs, the commands, options, files and names exist."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cosnorm_lab.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_code_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["logits"].shape == (8, 10)
    assert names["similarity"].diagonal().min() > 0.999
    assert names["correlation"].shape == (8, 5)
    assert names["model"](names["torch"].rand(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.filterwarnings("ignore")
def test_the_code_of_the_page_on_deployment_runs(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "docs/deploy.md", "exec"), names)
    found = onnxruntime.InferenceSession("model.onnx").run(None, {"input": names["images"].numpy()})[0]
    expected = names["model"](names["images"])
    names["torch"].testing.assert_close(names["torch"].from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_the_code_of_the_page_on_conversion_runs():
    names: dict = {}
    page = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "docs/convert.md", "exec"), names)
    x = names["torch"].randn(2, 3, 8, 8)
    names["torch"].testing.assert_close(names["deployed"](x), names["model"](x), rtol=1e-4, atol=1e-4)
    assert type(names["same"][0]) is names["nn"].Conv2d


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_make_targets_exist(document: str):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", "\n".join(re.findall(r"`+[^`]+`+", document))))
    assert named
    assert named <= targets


CAFFE2 = (ROOT / "docs" / "caffe2.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_on_caffe2_runs():
    names: dict = {}
    (block,) = re.findall(r"```python\n(.*?)```", CAFFE2, flags=re.DOTALL)
    exec(compile(block, "docs/caffe2.md", "exec"), names)
    workspace, gradients = names["workspace"], names["gradients"]
    assert workspace.FetchBlob(gradients["X"]).shape == (8, 5)
    operators = set(workspace.RegisteredOperators())
    named = {
        name
        for line in CAFFE2.splitlines()
        if line.startswith("| ")
        for name in re.findall(r"\b[A-Z]\w+", line)
    }
    assert named <= operators
    gradients_and_copies = {name for name in operators if name.endswith("Gradient")} | {"CopyOnDeviceLike"}
    kinds = {name for name in operators if name.startswith("GivenTensor")}
    assert operators - gradients_and_copies - kinds <= named


LABORATORY = (ROOT / "docs" / "laboratory.md").read_text(encoding="utf-8")


def test_commands_and_options_exist():
    found = re.findall(r"`cosnorm ([a-z]+)([^`]*)`", (README + LABORATORY + CAFFE2).replace("\n", " "))
    found += re.findall(r"^cosnorm ([a-z]+)([^#\n]*)", LABORATORY, flags=re.MULTILINE)
    assert {command for command, _ in found} >= {"run", "fetch", "report", "list"}
    for command, rest in found:
        help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert help_text.exit_code == 0
        for option in re.findall(r"--[\w-]+", rest):
            assert option in help_text.output


def test_every_recipe_is_documented():
    from cosnorm_lab.recipes import RECIPES

    table = LABORATORY.split("```")[0]
    assert set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))) == set(
        RECIPES
    )


@pytest.mark.parametrize("name", ["README.md", "docs/laboratory.md"])
def test_tables_are_those_of_the_records(name, tmp_path):
    from cosnorm_lab.readme import update_readme
    from cosnorm_lab.records import read_all

    copy = tmp_path / "copy.md"
    text = (ROOT / name).read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    written = update_readme(read_all([ROOT / "results"]), copy)
    assert len(written) == len(re.findall(r"^<!-- /(?!speed:)", text, flags=re.MULTILINE))
    assert copy.read_text(encoding="utf-8") == text


def test_named_files_exist():
    paths = re.findall(r"`((?:src|tests|benchmarks|results)/[\w./-]+)`", README + CONTRIBUTING)
    missing = [path for path in paths if not (ROOT / path).exists() and path != "results/report.html"]
    assert paths
    assert not missing


def test_names_of_the_table_are_public():
    import cosnorm

    for module, names in re.findall(r"^\| `(functional|losses|nn)\.(\w+)", README, flags=re.MULTILINE):
        assert hasattr(getattr(cosnorm, module), names)


PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted(ROOT.glob("docs/*.md"))}
CODE = {name: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for name, text in PAGES.items()}


def test_the_page_of_the_losses_has_code():
    assert len(CODE["losses"]) > 5


@pytest.mark.parametrize("page", [name for name, blocks in CODE.items() if blocks])
def test_the_code_of_a_page_runs(page: str):
    exec("\n".join(CODE[page]), {})
