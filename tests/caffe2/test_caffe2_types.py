"""Arguments of the wrong type raise at once, wherever a name, a flag, a list or a message is wanted."""

import numpy as np
import pytest
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, current, save_net, scope, to_torch, workspace
from cosnorm.caffe2.proto import caffe2_pb2

NO_NAMES = [3, None, 2.5, ["X"], object(), np.zeros(1)]
COS = core.CreateOperator("Cos", "X", "Y")


def net():
    made = core.Net("types")
    made.Cos("X", "Y")
    return made


NAMES = {
    "SwitchWorkspace": lambda name: workspace.SwitchWorkspace(name, True),
    "FeedBlob": lambda name: workspace.FeedBlob(name, np.zeros(1)),
    "FetchBlob": workspace.FetchBlob,
    "FetchBlobs": lambda name: workspace.FetchBlobs([name]),
    "HasBlob": workspace.HasBlob,
    "CreateBlob": workspace.CreateBlob,
    "ResetBlob": workspace.ResetBlob,
    "RemoveBlob": workspace.RemoveBlob,
    "SerializeBlob": workspace.SerializeBlob,
    "DeserializeBlob": lambda name: workspace.DeserializeBlob(name, b"\x0a\x01X\x12\x0bstd::string"),
    "StringifyBlobName": workspace.StringifyBlobName,
    "StringifyNetName": workspace.StringifyNetName,
    "RunNet": workspace.RunNet,
    "blobs": lambda name: name in workspace.blobs,
    "Net": core.Net,
    "BlobReference": core.BlobReference,
    "ScopedBlobReference": core.ScopedBlobReference,
    "ScopedName": core.ScopedName,
    "IsOperator": core.IsOperator,
    "CreateOperator": lambda name: core.CreateOperator(name, "X", "Y"),
    "AddExternalInput": lambda name: net().AddExternalInput(name),
    "AddScopedExternalInputs": lambda name: net().AddScopedExternalInputs(name),
    "AddExternalOutput": lambda name: net().AddExternalOutput(name),
    "BlobIsDefined": lambda name: net().BlobIsDefined(name),
    "UsesBlob": lambda name: net().UsesBlob(name),
    "GetBlobRef": lambda name: net().GetBlobRef(name),
    "NextBlob": lambda name: net().NextBlob(name),
    "Clone": lambda name: net().Clone(name),
    "AddGradientOperators": lambda name: net().AddGradientOperators([name]),
    "NextName": lambda name: net().NextName(3 if name is None else name),
    "NameScope": lambda name: scope.NameScope(3 if name is None else name).__enter__(),
}


@pytest.mark.parametrize("wrong", NO_NAMES, ids=lambda wrong: type(wrong).__name__)
@pytest.mark.parametrize("call", NAMES.values(), ids=NAMES)
def test_what_is_no_name(call, wrong):
    """The original took what can be printed for a name in some of them, and so did we: "3", "b'X'"."""
    before = workspace.Workspaces()
    with pytest.raises((TypeError, AssertionError)):
        call(wrong)
    assert workspace.Workspaces() == before
    assert workspace.Blobs() == []


def test_names_as_bytes(monkeypatch):
    monkeypatch.setattr(current, "_workspaces", dict(current._workspaces))
    workspace.SwitchWorkspace(b"of bytes", True)
    assert (workspace.CurrentWorkspace(), "of bytes" in workspace.Workspaces()) == ("of bytes", True)
    workspace.SwitchWorkspace(b"default")
    made = net()
    assert made.AddExternalInput(b"Z") == core.BlobReference(b"Z") == "Z"
    assert made.BlobIsDefined(b"Y")


def test_the_root_folder_as_bytes(tmp_path):
    for folder in (tmp_path / "a", bytes(tmp_path / "b")):
        assert workspace.ResetWorkspace(folder)
    assert workspace.RootFolder() == str(tmp_path / "b")
    assert (tmp_path / "b").is_dir()


FLAGS = {
    "SwitchWorkspace": lambda flag: workspace.SwitchWorkspace("flagged", flag),
    "CreateNet": lambda flag: workspace.CreateNet(net(), flag),
    "RunNet": lambda flag: workspace.RunNet("types", 1, flag),
}


@pytest.mark.parametrize("wrong", ["yes", 2, 1.0, [], [True], np.ones(2)], ids=repr)
@pytest.mark.parametrize("call", FLAGS.values(), ids=FLAGS)
def test_what_is_no_flag(call, wrong):
    with pytest.raises(TypeError, match="must be True or False"):
        call(wrong)
    assert "flagged" not in workspace.Workspaces()


LISTS = {
    "FetchBlobs": workspace.FetchBlobs,
    "GlobalInit": core.GlobalInit,
    "input_blobs": lambda names: workspace.CreateNet(net(), input_blobs=names),
    "blob_dimensions": lambda sizes: workspace.InferShapesAndTypes([net()], {"X": sizes}),
    "g_output": lambda names: core.GradientRegistry.GetGradientForOp(COS, names),
    "inputs of to_torch": lambda names: to_torch(net(), inputs=names),
    "outputs of to_torch": lambda names: to_torch(net(), outputs=names),
}


@pytest.mark.parametrize("wrong", ["XY", b"XY", 3], ids=repr)
@pytest.mark.parametrize("call", LISTS.values(), ids=LISTS)
def test_what_is_no_list(call, wrong):
    """A text is none: its letters are no names."""
    with pytest.raises(TypeError, match="must be a list, got"):
        call(wrong)
    assert workspace.Blobs() == []


MESSAGES = {
    "RunOperatorOnce": (workspace.RunOperatorOnce, net().Proto()),
    "RunNetOnce": (workspace.RunNetOnce, COS),
    "CreateNet": (workspace.CreateNet, COS),
    "InferShapesAndTypes": (lambda one: workspace.InferShapesAndTypes([one]), COS),
    "save_net": (lambda one: save_net(one, "never.pb"), COS),
    "FeedBlob": (lambda one: workspace.FeedBlob("X", np.zeros(1), one), COS),
    "FeedBlob of text": (lambda one: workspace.FeedBlob("X", "text", one), COS),
}


@pytest.mark.parametrize(("call", "other"), MESSAGES.values(), ids=MESSAGES)
def test_messages_of_another_kind(call, other):
    """The bytes of an operator can be read as those of a net, which then holds what nobody wrote."""
    with pytest.raises(TypeError, match="expected a"):
        call(other)
    for wrong in ("text", 3, object()):
        with pytest.raises((TypeError, ValueError)):
            call(wrong)
    assert workspace.Blobs() == []


@pytest.mark.parametrize("wrong", [{"shape": [2.0, 3.0]}, {"shape": ["2"]}, {"shape": 3}, {"extra_shape": 2}])
def test_a_list_of_another_type_is_no_empty_one(wrong):
    workspace.FeedBlob("X", np.zeros(2, dtype=np.float32))
    inputs = ["X"] if "extra_shape" in wrong else []
    with pytest.raises(RuntimeError, match=r"expected field ints|list expected"):
        workspace.RunOperatorOnce(core.CreateOperator("ConstantFill", inputs, "Y", **wrong))


def test_data_types_that_there_are_not():
    with pytest.raises(ValueError, match="is no data type"):
        workspace.InferShapesAndTypes([net()], {"X": [2]}, blob_types={"X": 99})
    with pytest.raises(TypeError):
        workspace.InferShapesAndTypes([net()], {"X": [2.5]})
    with pytest.raises(TypeError, match="name of a blob"):
        workspace.InferShapesAndTypes([net()], {3: [2]})
    with pytest.raises(TypeError, match="an argument of GlobalInit"):
        workspace.GlobalInit([3])


def test_a_node_without_a_device():
    for nothing in (0, None, caffe2_pb2.CPU):
        with core.DeviceScope(nothing, node_name="node:0"):
            device = core.CreateOperator("Cos", "X", "Y").device_option
            assert device == caffe2_pb2.DeviceOption(node_name="node:0")
        with pytest.raises(AssertionError), core.DeviceScope(nothing):
            pass
    for wrong in (1, "gpu", caffe2_pb2.OperatorDef()):
        with pytest.raises(AssertionError), core.DeviceScope(wrong, node_name="node:0"):
            pass


def test_a_net_and_a_blob_may_be_called_nothing(tmp_path, monkeypatch):
    """Without a name a net cannot be created; "" is one, as it is for the original."""
    monkeypatch.setattr(core.Net, "_names_taken", set())
    made = core.Net("")
    made.ConstantFill([], "", shape=[1], value=2.0)
    assert workspace.CreateNet(made)
    with pytest.raises(RuntimeError, match="I respectfully refuse to overwrite"):
        workspace.CreateNet(made)
    assert workspace.RunNet("")
    assert workspace.FetchBlob("").tolist() == [2]
    save_net(core.Net(caffe2_pb2.NetDef(name="")), tmp_path / "empty.pb")
    with pytest.raises(RuntimeError, match="should have a name"):
        workspace.CreateNet(caffe2_pb2.NetDef())
