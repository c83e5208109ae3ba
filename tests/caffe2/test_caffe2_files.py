"""Nets in files, broken ones among them; the command line; the names of old scripts."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fresh_workspace import fresh_workspace  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cosnorm import caffe2
from cosnorm.caffe2 import core, load_net, save_net, workspace
from cosnorm.caffe2.messages import parse
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm_lab.cli import app
from cosnorm_lab.errors import LabError

EXAMPLE = Path(__file__).parents[2] / "examples" / "caffe2_script.py"


def nets():
    """A net that makes two parameters, and one that uses them."""
    random = np.random.default_rng(0)
    init, predict = core.Net("init"), core.Net("predict")
    for name, shape in (("w", (4, 3)), ("tower/b", (4,))):
        values = random.normal(size=shape)
        init.GivenTensorFill([], core.BlobReference(name), shape=shape, values=values.ravel())
    predict.FC(["X", "w", "tower/b"], "Y")
    predict.Normalize("Y", "tower/Z")
    predict.AddExternalOutput(core.BlobReference("tower/Z"))
    return init, predict


@pytest.mark.parametrize("suffix", [".pb", ".pbtxt"])
def test_a_net_is_read_as_it_was_written(suffix, tmp_path):
    for net in nets():
        save_net(net, tmp_path / f"net{suffix}")
        assert load_net(tmp_path / f"net{suffix}") == net.Proto()
        save_net(net.Proto(), str(tmp_path / f"again{suffix}"))
        assert (tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"net{suffix}").read_bytes()


def test_fields_that_are_not_known_are_kept():
    """Field 100 of a NetDef: 3, as a later version might write it."""
    content = nets()[1].Proto().SerializeToString() + b"\xa0\x06\x03"
    assert caffe2_pb2.NetDef.FromString(content).SerializeToString() == content


BROKEN = {
    "nothing but noise": b"\xff" * 100,
    "a length of two gigabytes": b"\x12\xff\xff\xff\xff\x07" + b"x" * 10,
    "a length beyond all numbers": b"\x12" + b"\xff" * 12,
    "a truncated net": nets()[1].Proto().SerializeToString()[:-7],
    "another message": caffe2_pb2.TensorShapes().SerializeToString() + b"\x1a\x03abc",
    "nets in nets": b"".join([b"\x32\x7f\x42\x7d"] * 500),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named(content, tmp_path):
    path = tmp_path / "broken.pb"
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"broken\.pb"):
        load_net(path)
    (tmp_path / "broken.pbtxt").write_bytes(content + b" {")
    with pytest.raises(RuntimeError, match=r"broken\.pbtxt"):
        load_net(tmp_path / "broken.pbtxt")
    with pytest.raises(FileNotFoundError):
        load_net(tmp_path / "missing.pb")


CONTENT = [nets()[0].Proto().SerializeToString(), nets()[1].Proto().SerializeToString()]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CONTENT), st.data())
def test_mangled_nets_fail_with_an_error_or_run(content, data):
    """Bytes changed, cut, doubled: whatever comes of it is an error of ours, or a net that runs."""
    mangled = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(mangled)))
        end = data.draw(st.integers(place, min(place + 4, len(mangled))))
        mangled[place:end] = data.draw(st.binary(max_size=4))
    workspace.ResetWorkspace()
    workspace.FeedBlob("X", np.ones((2, 3), dtype=np.float32))
    try:
        net = parse(bytes(mangled), caffe2_pb2.NetDef)
        workspace.InferShapesAndTypes([net], nets_proto=True)
        workspace.RunNetOnce(net)
    except RuntimeError:
        pass


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": [2**40, 2**40], "value": 1.0},
        {"shape": [-1]},
        {"shape": [2**62, 2**62, 0, 5]},
        {"shape": [0, 2**62, 2**62]},
        {"shape": [1] * 65},
        {"shape": [1] * 65, "dtype": 4},
        {"shape": [2**32], "value": 1.0},
        {"shape": [2**41], "values": [1.0]},
    ],
    ids=str,
)
def test_shapes_that_no_memory_holds(arguments):
    kind = "GivenTensorFill" if "values" in arguments else "ConstantFill"
    operator = core.CreateOperator(kind, [], "X", **arguments)
    with pytest.raises(RuntimeError, match=r"a shape has at most|sizes of a shape must be at least 0"):
        workspace.RunOperatorOnce(operator)


def test_tensors_that_promise_more_than_they_hold():
    proto = caffe2_pb2.TensorProto(dims=[2**40, 2**20], float_data=[1.0], name="big")
    with pytest.raises(RuntimeError, match=r"'big': a shape has at most 2147483648 elements"):
        workspace.FeedBlob("X", proto)
    for wrong, message in (
        (caffe2_pb2.TensorProto(dims=[-2]), "at least 0"),
        (caffe2_pb2.TensorProto(dims=[2, 3], float_data=[1]), "6 elements, 1 are there"),
        (caffe2_pb2.TensorProto(dims=[1] * 65, float_data=[1]), "at most 64 dimensions, got 65"),
        (caffe2_pb2.TensorProto(dims=[0, 2**62, 2**62]), "at most 2147483648 elements"),
        (caffe2_pb2.TensorProto(dims=[1], data_type=0), "data type 0 is not supported"),
        (caffe2_pb2.TensorProto(dims=[1], raw_data=b"123"), "no whole elements"),
        (caffe2_pb2.TensorProto(dims=[1], data_type=2, byte_data=b"123"), "no whole elements"),
        (caffe2_pb2.TensorProto(dims=[3], data_type=4, string_data=[b"a"]), "1 are there"),
    ):
        with pytest.raises(RuntimeError, match=message):
            workspace.FeedBlob("X", wrong)
    assert workspace.Blobs() == []
    blob = caffe2_pb2.BlobProto(name="X", type="Tensor", content_num_chunks=2)
    with pytest.raises(RuntimeError, match="one of 2 chunks"):
        workspace.DeserializeBlob("X", blob.SerializeToString())


def test_names_that_are_no_text():
    """Caffe2's strings are checked by nobody; protobuf gives those that are no UTF-8 as bytes."""
    operator = core.CreateOperator("ConstantFill", [], "XX", shape=[1])
    mangled = operator.SerializeToString().replace(b"XX", b"\xff\xfe")
    with pytest.raises(RuntimeError, match="no UTF-8"):
        workspace.RunOperatorOnce(mangled)
    assert workspace.Blobs() == []
    for name in "AB":
        workspace.FeedBlob(name, np.ones(2, dtype=np.float32))
    operator = core.CreateOperator("Add", ["A", "B"], "C", broadcast=1, axis_str="C", order=b"\xda")
    with pytest.raises(RuntimeError, match="Argument order is no UTF-8"):
        workspace.RunOperatorOnce(operator)
    string = core.CreateOperator(
        "ConstantFill", [], "S", shape=[1], value=b"\xff", dtype=core.DataType.STRING
    )
    workspace.RunOperatorOnce(string)
    assert workspace.FetchBlob("S").tolist() == [b"\xff"]


def test_raw_data_and_bytes():
    raw = caffe2_pb2.TensorProto(dims=[2], raw_data=np.array([1, 2], dtype="<f4").tobytes())
    workspace.FeedBlob("X", raw)
    assert workspace.FetchBlob("X").tolist() == [1, 2]
    workspace.FeedBlob("X", caffe2_pb2.TensorProto(dims=[2], data_type=3, byte_data=b"ab"))
    assert workspace.FetchBlob("X").tolist() == [97, 98]
    workspace.FeedBlob("X", caffe2_pb2.TensorProto(dims=[2], data_type=7, byte_data=b"\xff\x01"))
    assert workspace.FetchBlob("X").tolist() == [-1, 1]


# The command line.


@pytest.fixture
def files(tmp_path):
    init, predict = nets()
    save_net(init, tmp_path / "init_net.pb")
    save_net(predict, tmp_path / "predict_net.pb")
    np.save(tmp_path / "x.npy", np.ones((2, 3), dtype=np.float32))
    return tmp_path


def command(files, *arguments):
    result = CliRunner().invoke(app, ["caffe2", *map(str, arguments)])
    if isinstance(result.exception, LabError):
        raise result.exception
    return result


def test_a_net_is_run_from_its_files(files):
    result = command(
        files,
        *("run", "--init", files / "init_net.pb", "--predict", files / "predict_net.pb"),
        *("--feed", f"X={files / 'x.npy'}", "--fetch", "Y", "--fetch", "tower/Z", "-o", files / "out"),
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (files / "out").iterdir()) == ["Y.npy", "tower%2FZ.npy"]
    for net in nets():
        workspace.FeedBlob("X", np.ones((2, 3), dtype=np.float32))
        workspace.RunNetOnce(net)
    for name, file in (("Y", "Y"), ("tower/Z", "tower%2FZ")):
        np.testing.assert_array_equal(np.load(files / "out" / f"{file}.npy"), workspace.FetchBlob(name))
    assert workspace.CurrentWorkspace() == "default"
    result = command(
        files,
        *("run", "--init", files / "init_net.pb", "--predict", files / "predict_net.pb"),
        *("--feed", f"X={files / 'x.npy'}", "-o", files / "declared"),
    )
    assert [path.name for path in (files / "declared").iterdir()] == ["tower%2FZ.npy"]


def test_no_blob_is_written_outside_the_folder(files):
    net = core.Net("escaping")
    for name in ("../escaped", "/etc/escaped", "..", "a\x00b"):
        net.ConstantFill([], core.BlobReference(name), shape=[1], value=1.0)
        net.Proto().external_output.append(name)
    save_net(net, files / "escaping.pb")
    before = set(files.rglob("*"))
    assert command(files, "run", "--predict", files / "escaping.pb", "-o", files / "out").exit_code == 0
    assert {path.parent for path in set(files.rglob("*")) - before} == {files, files / "out"}
    assert len(list((files / "out").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--predict", "x.npy"], "x.npy: no NetDef can be read"),
        (["run", "--predict", "init_net.pb"], "declares no outputs"),
        (["run", "--predict", "init_net.pb", "--fetch", "nope"], "Can't find blob: nope"),
        (["run", "--predict", "predict_net.pb"], "Encountered a non-existing input blob"),
        (["run", "--predict", "predict_net.pb", "--feed", "X"], "--feed wants BLOB=FILE"),
        (
            ["run", "--predict", "predict_net.pb", "--feed", "X=init_net.pb"],
            "no array of numbers can be read",
        ),
        (["show", "x.npy"], "no NetDef can be read"),
        (["show", "predict_net.pb", "--shape", "X=a"], "--shape wants BLOB=SIZES"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_commands(arguments, message, files, monkeypatch):
    monkeypatch.chdir(files)
    with pytest.raises(LabError, match=message):
        command(files, *arguments)
    assert not (files / "out").exists()


def test_a_net_is_shown(files):
    unknown = load_net(files / "predict_net.pb")
    unknown.op.add(type="Conv", output=["C"])
    save_net(unknown, files / "unknown.pb")
    result = command(files, "show", files / "unknown.pb", "--init", files / "init_net.pb", "--shape", "X=2,3")
    assert result.exit_code == 0
    for text in (
        "net predict",
        "inputs: X, w, tower/b",
        "outputs: tower/Z",
        "w FLOAT [4, 3]",
        "Conv (unknown)",
    ):
        assert text in result.output
    assert "Y FLOAT [2, 4]" in result.output


# Old scripts.


def test_an_old_script_runs():
    """In a process of its own, where nothing has imported Caffe2."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=120, check=True
    )
    assert "loss after 100 steps" in done.stdout
    before, after = (float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("loss"))
    assert after < 0.01 * before


def test_install_and_uninstall():
    with pytest.raises(ImportError):
        importlib.import_module("caffe2.python")
    caffe2.install()
    caffe2.install()
    try:
        from caffe2.proto import caffe2_pb2 as messages
        from caffe2.python import core as their_core
        from caffe2.python import scope, utils
        from caffe2.python import workspace as their_workspace

        assert their_core is core
        assert their_workspace is workspace
        assert messages is caffe2_pb2
        assert scope.CurrentNameScope() == ""
        array = np.arange(3, dtype=np.int32)
        assert utils.Caffe2TensorToNumpyArray(utils.NumpyArrayToCaffe2Tensor(array)).tolist() == [0, 1, 2]
    finally:
        caffe2.uninstall()
    assert not any(name.startswith("caffe2.") for name in sys.modules)
    caffe2.uninstall()
    with pytest.raises(ImportError):
        importlib.import_module("caffe2.python")


def test_a_real_caffe2_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "caffe2").mkdir()
    (tmp_path / "caffe2" / "__init__.py").write_text("real = True\n")
    monkeypatch.delitem(sys.modules, "caffe2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="a real caffe2 is importable"):
        caffe2.install()
    real = importlib.import_module("caffe2")
    assert real.real
    with pytest.raises(RuntimeError, match="a real caffe2 is importable"):
        caffe2.install()
    caffe2.uninstall()
    assert sys.modules.pop("caffe2") is real
