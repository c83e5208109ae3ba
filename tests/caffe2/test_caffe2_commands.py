"""The command line on awkward files, and on those that Caffe2 itself wrote."""

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fresh_workspace import fresh_workspace  # noqa: F401
from typer.testing import CliRunner

import cosnorm_lab
from cosnorm.caffe2 import core, load_net, save_net, to_torch, workspace
from cosnorm_lab.cli import app
from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes import RECIPES

needs_laboratory = pytest.mark.skipif(
    importlib.util.find_spec("lightning_fabric") is None, reason="the laboratory's packages are not installed"
)
GOLDEN = np.load(Path(__file__).parents[1] / "caffe2_oracle" / "golden.npz")
NETS = json.loads(str(GOLDEN["meta"]))["nets"]


def command(*arguments):
    """The output; an error that is not for the user is raised, too."""
    result = CliRunner().invoke(app, ["caffe2", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = core.Net("cosine")
    net.Cos("X", "Y")
    net.AddExternalOutput(core.BlobReference("Y"))
    save_net(net, "net.pb")
    return tmp_path


@pytest.mark.parametrize("net", NETS, ids=lambda net: net["name"])
def test_files_that_caffe2_wrote(net, folder):
    """The very bytes of the original in a .pb file: read, run by the library, and from the command line."""
    Path("theirs.pb").write_bytes(base64.b64decode(net["net"]))
    feeds = []
    for number, name in enumerate(net["feeds"]):
        workspace.FeedBlob(name, GOLDEN[f"{net['name']}/{name}"])
        np.save(f"{number}.npy", GOLDEN[f"{net['name']}/{name}"])
        feeds += ["--feed", f"{name}={number}.npy"]
    made = [name for name in net["blobs"] if name not in net["feeds"]]
    assert workspace.RunNetOnce(load_net("theirs.pb"))
    assert workspace.Blobs() == net["blobs"]
    command("run", "--predict", "theirs.pb", *feeds, *(word for name in made for word in ("--fetch", name)))
    for name in made:
        expected = GOLDEN[f"{net['name']}/{name}!"]
        np.testing.assert_allclose(workspace.FetchBlob(name), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.load(f"out/{name}.npy"), workspace.FetchBlob(name))


def header(shape):
    """The beginning of a .npy file of such a shape, and nothing behind it."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("(1099511627776,)"), "no array of numbers can be read"),
        (header("(99999999999999999999999,)"), "no array of numbers can be read"),
        (header("((2"), "no array of numbers can be read"),
        (b"PK\x03\x04 no archive", "no array of numbers can be read"),
        (b"", "no array of numbers can be read"),
    ],
    ids=["4 TiB", "beyond all numbers", "an open bracket", "no archive", "nothing"],
)
def test_arrays_that_cannot_be_fed(content, message, folder):
    Path("x.npy").write_bytes(content)
    with pytest.raises(LabError, match=f"x.npy: {message}"):
        command("run", "--predict", "net.pb", "--feed", "X=x.npy")


def test_an_archive_is_no_array(folder):
    np.savez("x.npz", a=np.ones(3))
    with pytest.raises(LabError, match="is an archive of arrays; give the"):
        command("run", "--predict", "net.pb", "--feed", "X=x.npz")


def test_equals_signs_in_names(folder):
    array = np.zeros(3, dtype=np.float32)
    Path("lr=0.1").mkdir()
    for file in ("lr=0.1/x.npy", "x.npy"):
        np.save(file, array)
    net = core.Net("equals")
    net.Cos("a=b", "Y")
    save_net(net, "equals.pb")
    command("run", "--predict", "net.pb", "--feed", "X=lr=0.1/x.npy", "-o", "one")
    command("run", "--predict", "equals.pb", "--feed", "a=b=x.npy", "--fetch", "Y", "-o", "two")
    command("run", "--predict", "equals.pb", "--feed", "a=b=lr=0.1/x.npy", "--fetch", "Y", "-o", "three")
    for out in ("one", "two", "three"):
        assert np.load(f"{out}/Y.npy").tolist() == [1, 1, 1]
    with pytest.raises(FileNotFoundError, match=r"'lr=0\.2/x\.npy'"):
        command("run", "--predict", "net.pb", "--feed", "X=lr=0.2/x.npy")
    with pytest.raises(LabError, match="--feed wants BLOB=FILE"):
        command("run", "--predict", "net.pb", "--feed", "=x.npy")


def test_strings_are_written_whole_or_not_at_all(folder):
    net = core.Net("strings")
    net.GivenTensorStringFill([], "whole", shape=[2], values=[b"a\0b", b""])
    net.GivenTensorStringFill([], "cut", shape=[2], values=[b"ab\0\0", b"c"])
    save_net(net, "strings.pb")
    command("run", "--predict", "strings.pb", "--fetch", "whole")
    assert np.load("out/whole.npy").tolist() == [b"a\0b", b""]
    with pytest.raises(LabError, match=r"cut: strings of a \.npy file lose the zero bytes at their end"):
        command("run", "--predict", "strings.pb", "--fetch", "whole", "--fetch", "cut", "-o", "none")
    assert not Path("none").exists()


def test_names_that_cannot_be_printed_are_shown(folder):
    content = Path("net.pb").read_bytes()
    for old, new in ((b"X", b"\xff"), (b"Cos", b"\xfeos"), (b"cosine", b"\x1bosine")):
        content = content.replace(old, new)
    Path("strange.pb").write_bytes(content)
    shown = command("show", "strange.pb")
    for text in (r"\xff", r"\xfeos (unknown)", r"net \x1bosine", "outputs: Y"):
        assert text in shown
    with pytest.raises(LabError):
        command("run", "--predict", "strange.pb", "--fetch", "Y")


def test_text_nested_too_deep(folder):
    Path("deep.pbtxt").write_text("op { arg { n { " * 2000 + "} } } " * 2000)
    with pytest.raises(RuntimeError, match=r"deep\.pbtxt: no NetDef can be read: messages within messages"):
        load_net("deep.pbtxt")
    with pytest.raises(LabError, match="messages within messages"):
        command("show", "deep.pbtxt")


LONG = "towers/" + "a_name_that_does_not_end_/" * 8 + "logits"
TEXT = "read me, " * 30


@needs_laboratory
@pytest.mark.parametrize("width", ["40", "80", "200"])
def test_a_pipe_gets_whole_names(width, folder):
    """Tables were cut at 80 columns, whatever read them, and values of bytes had a b and quotes."""
    net = core.Net("whole names")
    made = net.Cos(f"{LONG}_input", f"{LONG}_cos")
    net.Normalize(made, core.BlobReference(f"{LONG}_out"), order="NCHW", kinds=["a", b"\xff"], text=TEXT)
    net.Proto().op.add(type="If").arg.add(name="then").n.name = "inner"
    net.Proto().op[2].arg.add(name="both").nets.add(name="inner")
    net.Proto().op[2].arg.add(name="filled").t.dims.extend([2, 3])
    net.AddExternalOutput(core.BlobReference(f"{LONG}_out"))
    save_net(net, "long.pb")
    done = subprocess.run(
        [sys.executable, "-m", "cosnorm_lab", "caffe2", "show", "long.pb", "--shape", f"{LONG}_input=2,3"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": width},
        timeout=120,
    )
    for name in (f"inputs: {LONG}_input\n", f"outputs: {LONG}_out\n", f" {LONG}_cos FLOAT [2, 3] "):
        assert name in done.stdout
    for value in ("order=NCHW ", r"kinds=[a, \xff] ", f"text={TEXT[:60]}… (270 bytes) "):
        assert value in done.stdout
    for value in ("then=net inner ", "both=[net inner] ", "filled=tensor [2, 3] "):
        assert value in done.stdout
    assert "b'" not in done.stdout


@needs_laboratory
def test_tables_of_all_commands_are_whole_in_a_pipe(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    listed = CliRunner().invoke(app, ["list"]).output
    for recipe in RECIPES.values():
        assert f" {recipe.name} " in listed
        assert recipe.description in listed
    sources = Path(cosnorm_lab.__file__).parent.rglob("*.py")
    unguarded = [
        one.name for one in sources if re.search(r"\bConsole\((?!stderr|\*\*)", one.read_text("utf-8"))
    ]
    assert unguarded == []  # who prints on the standard output asks console.py how wide it is


def test_a_terminal_cuts_no_name_either(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich this is a terminal
    net = core.Net("whole names")
    net.Cos("X" * 100, "Y")
    save_net(net, "long.pb")
    shown = command("show", "long.pb")
    assert "…" not in shown
    assert shown.count("X") == 200  # among the inputs, and in the table


def test_a_shape_that_is_asked_for_wins(folder):
    """Over what the init net makes, whose type stays."""
    init = core.Net("init")
    init.GivenTensorFill([], "X", shape=[4], values=[1.0] * 4)
    init.ConstantFill([], "labels", shape=[4], value=1, dtype=core.DataType.INT32)
    save_net(init, "init.pb")
    net = core.Net("net")
    net.Cos("X", "Y")
    net.Copy("labels", "copied")
    save_net(net, "net.pb")
    found = command("show", "net.pb", "--init", "init.pb", "--shape", "X=2,3", "--shape", "labels=5")
    for text in ("X FLOAT [2, 3]", "Y FLOAT [2, 3]", "labels INT32 [5]", "copied INT32 [5]"):
        assert text in found
    found = command("show", "net.pb", "--init", "init.pb")
    for text in ("X FLOAT [4]", "labels INT32 [4]"):
        assert text in found


def test_what_is_fed_wins_over_the_init_net(folder):
    init = core.Net("init")
    init.ConstantFill([], "X", shape=[4], value=1.0)
    save_net(init, "init.pb")
    np.save("x.npy", np.zeros(2, dtype=np.float32))
    command("run", "--init", "init.pb", "--predict", "net.pb", "--feed", "X=x.npy")
    assert np.load("out/Y.npy").tolist() == [1, 1]


def test_all_operators_that_are_missing_are_named(folder):
    """With their counts, before anything runs: what a net wants is known at once."""
    init, net = core.Net("init"), core.Net("net")
    for made, kinds in ((init, ["Load"]), (net, ["Conv", "MaxPool", "Conv", "Cos", "Conv"])):
        for kind in kinds:
            made.Proto().op.append(core.CreateOperator(kind, [], f"{kind}_out"))
    save_net(init, "init.pb")
    save_net(net, "net.pb")
    with pytest.raises(LabError, match=r"Conv \(3\), Load \(1\), MaxPool \(1\)$"):
        command("run", "--init", "init.pb", "--predict", "net.pb", "--fetch", "Y")
    for run in (workspace.CreateNet, workspace.RunNetOnce, to_torch):
        with pytest.raises(RuntimeError, match=r"operator of type 'Conv'.*: Conv \(3\), MaxPool \(1\)$"):
            run(net)
    assert workspace.Blobs() == []
    net.Proto().op[0].type = "\x1bConv"
    with pytest.raises(RuntimeError, match=r"\\x1bConv \(1\)"):
        to_torch(net)
