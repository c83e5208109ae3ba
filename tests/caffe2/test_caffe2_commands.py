"""The command line on awkward files, and on those that Caffe2 itself wrote."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from fresh_workspace import fresh_workspace  # noqa: F401
from typer.testing import CliRunner

from cosnorm.caffe2 import core, load_net, save_net, workspace
from cosnorm_lab.cli import app
from cosnorm_lab.errors import LabError

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
