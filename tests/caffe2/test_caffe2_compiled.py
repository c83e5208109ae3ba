"""`workspace.C`: workspaces and blobs as objects, as the original's test helpers use them."""

import numpy as np
import pytest
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, workspace
from cosnorm.caffe2.registry import OPERATORS

ONE = np.zeros(2, dtype=np.float32)


def test_a_workspace_of_its_own():
    before = workspace.Workspaces()
    ws = workspace.C.Workspace()
    assert (ws.blobs, ws.nets) == ({}, {})
    assert ws.create_blob(core.BlobReference("X")).feed(ONE)
    assert ws.run(core.CreateOperator("Cos", "X", "Y"))
    assert ws.blobs["Y"].fetch().tolist() == [1, 1]
    net = core.Net("own")
    net.Sin("Y", "Z")
    assert ws.run(net)
    assert (ws.nets, sorted(ws.blobs)) == ({}, ["X", "Y", "Z"])
    assert workspace.Blobs() == []
    assert workspace.Workspaces() == before
    for wrong in (3, "X", core.DeviceOption(0)):
        with pytest.raises(ValueError, match=r"Don't know how to do Workspace\.run"):
            ws.run(wrong)


def test_nets_are_created_and_run():
    ws = workspace.C.Workspace()
    net = core.Net("kept")
    net.ConstantFill([], "Y", shape=[2], value=3.0)
    ws.create_net(net)
    with pytest.raises(RuntimeError, match="I respectfully refuse to overwrite"):
        ws.create_net(net)
    assert ws.create_net(net, overwrite=True).run()
    ws.blobs["Y"].feed(ONE)
    assert ws.nets[net.Name()].run()
    assert ws.blobs["Y"].fetch().tolist() == [3, 3]
    for wrong in ("...", core.CreateOperator("Cos", "X", "Y")):
        with pytest.raises(TypeError):
            ws.create_net(wrong)
    with pytest.raises(TypeError, match="overwrite must be True or False"):
        ws.create_net(net, "yes")


def test_the_current_one_is_asked_for_each_time():
    workspace.FeedBlob("X", ONE)
    assert list(workspace.C.Workspace.current.blobs) == ["X"]
    workspace.C.Workspace.current.create_blob("made").feed(b"text")
    assert workspace.FetchBlob("made") == b"text"
    workspace.ResetWorkspace()
    assert workspace.C.Workspace.current.blobs == {}


def test_blobs_are_written_and_read():
    ws = workspace.C.Workspace()
    first, second = ws.create_blob("first"), ws.create_blob("second")
    assert first.fetch().startswith(b"first, a C++ native class of type nullptr")
    for value in (ONE, b"text"):
        first.feed(value)
        second.deserialize(first.serialize("first"))
        np.testing.assert_array_equal(second.fetch(), value)
    for wrong in (3, None):
        with pytest.raises(TypeError, match="name of a blob"):
            ws.create_blob(wrong)
    with pytest.raises(RuntimeError, match="only numpy array or string"):
        first.feed([1])
    with pytest.raises(TypeError, match="expected a DeviceOption"):
        first.feed(ONE, core.CreateOperator("Cos", "X", "Y"))


def test_what_helpers_ask_about_operators():
    assert workspace.C.OpSchema.get("Cos") is OPERATORS["Cos"]
    assert workspace.C.OpSchema.get("Conv") is None
    assert "CosGradient" in workspace.C.nearby_opnames("CosGradien")
    assert workspace.C.use_mkldnn is False
    assert "Cos" in core._REGISTERED_OPERATORS
    assert "Conv" not in core._REGISTERED_OPERATORS


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool", "int8", "int64", "uint16"])
def test_bytes_of_a_blob(dtype):
    workspace.FeedBlob("X", np.ones((2, 3), dtype=dtype))
    assert workspace.GetBlobSizeBytes("X") == 6 * np.dtype(dtype).itemsize


def test_bytes_of_strings():
    workspace.FeedBlob("X", np.array([b"a", b"abc"]))
    assert workspace.GetBlobSizeBytes("X") == 2 * 32 + 4
    workspace.CreateBlob("nothing")
    for name in ("nothing", "missing"):
        with pytest.raises(RuntimeError, match=r"holds no tensor|Can't find blob"):
            workspace.GetBlobSizeBytes(name)
