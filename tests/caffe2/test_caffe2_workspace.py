"""The workspace, as the executable original behaved: feeding, fetching, nets, errors."""

import gc
import weakref

import numpy as np
import pytest
import torch
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, scope, workspace
from cosnorm.caffe2.current import current
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.tensors import to_proto

DTYPES = ["bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16"]
ONE = np.ones(2, dtype=np.float32)


def cos_net(name="net"):
    net = core.Net(name)
    net.Cos("X", "Y")
    return net


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    assert workspace.FeedBlob("X", array) is True
    found = workspace.FetchBlob("X")
    assert (found.dtype, found.shape) == (array.dtype, (2, 3))
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "int32", "int64", "uint16"])
def test_big_endian_arrays_are_converted(dtype):
    array = np.arange(6, dtype=dtype)
    workspace.FeedBlob("X", array.astype(array.dtype.newbyteorder(">")))
    np.testing.assert_array_equal(workspace.FetchBlob("X"), array)
    assert workspace.FetchBlob("X").dtype == array.dtype


def test_blobs_are_copies():
    array = ONE.copy()
    workspace.FeedBlob("X", array)
    array[:] = 7
    fetched = workspace.FetchBlob("X")
    fetched[:] = 8
    assert workspace.FetchBlob("X").tolist() == [1, 1]
    tensor = torch.ones(2, requires_grad=True)
    workspace.FeedBlob("T", tensor)
    with torch.no_grad():
        tensor += 1
    assert workspace.FetchBlob("T").tolist() == [1, 1]


def test_arrays_that_are_not_contiguous():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (array.T, array[::2, ::-1], array[:, 1]):
        workspace.FeedBlob("X", view)
        np.testing.assert_array_equal(workspace.FetchBlob("X"), view)
    readonly = array.copy()
    readonly.flags.writeable = False
    workspace.FeedBlob("X", readonly)
    workspace.FeedBlob("X", torch.from_numpy(array).t())
    np.testing.assert_array_equal(workspace.FetchBlob("X"), array.T)


def test_strings_come_back_as_bytes():
    for given in ("abc", b"abc"):
        workspace.FeedBlob("X", given)
        assert workspace.FetchBlob("X") == b"abc"
    for array in (np.array(["ab", "c"]), np.array([b"ab", b"c"]), np.array(["ab", b"c"], dtype=object)):
        workspace.FeedBlob("X", array)
        found = workspace.FetchBlob("X")
        assert found.dtype == object
        assert found.tolist() == [b"ab", b"c"]


def test_tensor_protos_are_fed():
    workspace.FeedBlob("X", to_proto(torch.arange(6).reshape(2, 3)))
    assert workspace.FetchBlob("X").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("given", [[1, 2], 3, np.float32(3), None, object()])
def test_what_cannot_be_fed(given):
    with pytest.raises(RuntimeError, match="only numpy array or string are supported for feeding"):
        workspace.FeedBlob("X", given)
    assert not workspace.HasBlob("X")


@pytest.mark.parametrize("dtype", ["uint32", "uint64", "complex64", "datetime64[s]"])
def test_dtypes_that_caffe2_has_not(dtype):
    with pytest.raises(RuntimeError, match="This numpy data type is not supported"):
        workspace.FeedBlob("X", np.zeros(2, dtype=dtype))
    with pytest.raises(RuntimeError, match="torch data type is not supported"):
        workspace.FeedBlob("X", torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError, match="Unsupported python object type"):
        workspace.FeedBlob("X", np.array([1, b"c"], dtype=object))


def test_names_are_strings_bytes_or_references():
    for name in ("X", b"X", core.BlobReference("X")):
        workspace.FeedBlob(name, ONE)
        assert workspace.HasBlob(name)
        assert workspace.FetchBlob(name).tolist() == [1, 1]
    assert workspace.Blobs() == ["X"]
    for function in (lambda: workspace.FeedBlob(3, ONE), lambda: workspace.FetchBlob(3)):
        with pytest.raises(AssertionError, match="Expected a string or BlobReference"):
            function()


def test_missing_and_empty_blobs():
    with pytest.raises(RuntimeError, match="Can't find blob: nope"):
        workspace.FetchBlob("nope")
    assert workspace.CreateBlob("X") is True
    assert workspace.FetchBlob("X") == b"X, a C++ native class of type nullptr (uninitialized)."
    workspace.FeedBlob("X", ONE)
    workspace.CreateBlob("X")
    assert workspace.FetchBlob("X").tolist() == [1, 1]
    assert workspace.ResetBlob("X") is None
    assert workspace.Blobs() == ["X"]
    with pytest.raises(RuntimeError, match="wrong type for the Blob instance"):
        workspace.RunOperatorOnce(core.CreateOperator("Cos", "X", "Y"))
    with pytest.raises(RuntimeError, match="Can't find blob"):
        workspace.ResetBlob("nope")
    assert (workspace.RemoveBlob("X"), workspace.RemoveBlob("X")) == (True, False)
    assert not workspace.HasBlob("X")


def test_blobs_as_a_mapping():
    workspace.blobs["B"] = ONE
    workspace.blobs["A"] = ONE
    assert (len(workspace.blobs), list(workspace.blobs), "A" in workspace.blobs) == (2, ["A", "B"], True)
    assert workspace.blobs["A"].tolist() == [1, 1]
    del workspace.blobs["A"]
    assert "A" not in workspace.blobs
    with pytest.raises(RuntimeError, match="Can't find blob"):
        workspace.blobs["A"]
    with pytest.raises(RuntimeError, match="Can't find blob"):
        del workspace.blobs["A"]
    assert [one.tolist() for one in workspace.FetchBlobs(["B", "B"])] == [[1, 1], [1, 1]]


def test_several_workspaces():
    workspace.FeedBlob("X", ONE)
    assert workspace.CurrentWorkspace() == "default"
    with pytest.raises(RuntimeError, match="create_if_missing"):
        workspace.SwitchWorkspace("other")
    workspace.SwitchWorkspace("other", True)
    assert workspace.Workspaces() == ["default", "other"]
    assert workspace.Blobs() == []
    workspace.CreateBlob("Z")
    workspace.SwitchWorkspace("default")
    assert workspace.ResetWorkspace() is True
    assert workspace.Blobs() == []
    workspace.SwitchWorkspace("other")
    assert workspace.Blobs() == ["Z"]
    workspace.ResetWorkspace()


def test_the_root_folder(tmp_path):
    assert workspace.RootFolder() == "."
    (tmp_path / "kept").write_text("a file")
    for folder in (tmp_path, tmp_path / "made" / "deep"):
        workspace.ResetWorkspace(str(folder))
        assert workspace.RootFolder() == str(folder)
        assert folder.is_dir()
    workspace.ResetWorkspace()
    assert workspace.RootFolder() == str(tmp_path / "made" / "deep")
    assert (tmp_path / "kept").read_text() == "a file"


def test_running_operators():
    fill = core.CreateOperator("ConstantFill", [], "X", shape=[2], value=1.0)
    assert workspace.RunOperatorOnce(fill) is True
    assert workspace.RunOperatorOnce(fill.SerializeToString()) is True
    double = core.CreateOperator("Scale", "X", "X", scale=2.0)
    assert workspace.RunOperatorMultiple(double, 3) is True
    assert workspace.FetchBlob("X").tolist() == [8, 8]
    assert workspace.RunOperatorsOnce([fill, double]) is True
    assert workspace.FetchBlob("X").tolist() == [2, 2]
    with pytest.raises(TypeError):
        workspace.RunOperatorOnce("abc")
    with pytest.raises(RuntimeError, match="Cannot parse 3 bytes into a OperatorDef"):
        workspace.RunOperatorOnce(b"abc")
    with pytest.raises(ValueError, match="Unexpected argument to StringifyProto of type int"):
        workspace.RunOperatorOnce(3)


def test_errors_of_operators():
    with pytest.raises(RuntimeError, match="Encountered a non-existing input blob: X"):
        workspace.RunOperatorOnce(core.CreateOperator("Cos", "X", "Y"))
    with pytest.raises(RuntimeError, match="Cannot create operator of type 'Nope'"):
        workspace.RunOperatorOnce(core.CreateOperator("Nope", [], []))
    workspace.FeedBlob("X", np.ones(2))
    with pytest.raises(
        RuntimeError, match=r"Unsupported type of tensor: double[\s\S]*Error from operator[\s\S]*Cos"
    ):
        workspace.RunOperatorOnce(core.CreateOperator("Cos", "X", "Y"))
    workspace.FeedBlob("Y", ONE)
    with pytest.raises(
        RuntimeError,
        match=r"Tensor type mismatch, caller expects elements to be float, while tensor contains double",
    ):
        workspace.RunOperatorOnce(core.CreateOperator("DotProduct", ["Y", "X"], "Z"))
    for inputs, outputs in ((["X", "Y"], ["Z"]), ([], ["Z"]), (["Y"], ["Z", "W"]), (["Y"], ["Y"])):
        with pytest.raises(RuntimeError, match="Operator def did not pass schema checking"):
            workspace.RunOperatorOnce(core.CreateOperator("Cos", inputs, outputs))


def test_errors_of_the_criterion():
    workspace.FeedBlob("S", ONE)
    workspace.FeedBlob("Y", np.ones(2, dtype=np.int32))
    operator = core.CreateOperator("CosineEmbeddingCriterion", ["S", "Y"], "L", margin=1)
    with pytest.raises(RuntimeError, match="Argument margin does not have the right field: expected field f"):
        workspace.RunOperatorOnce(operator)
    operator = core.CreateOperator("CosineEmbeddingCriterion", ["S", "Y"], "L")
    workspace.FeedBlob("Y", np.ones(3, dtype=np.int32))
    with pytest.raises(RuntimeError, match=r"The embedding and label should have the same size."):
        workspace.RunOperatorOnce(operator)
    for labels in (np.ones(2, dtype=np.int64), ONE):
        workspace.FeedBlob("Y", labels)
        with pytest.raises(RuntimeError, match="caller expects elements to be int"):
            workspace.RunOperatorOnce(operator)


@pytest.mark.parametrize("kind", ["Cos", "Sin", "Tan", "Acos", "Asin", "Atan"])
def test_a_short_gradient_is_refused(kind):
    """The original reads beyond its end."""
    workspace.FeedBlob("X", np.zeros(3, dtype=np.float32))
    workspace.FeedBlob("dY", np.ones(1, dtype=np.float32))
    with pytest.raises(
        RuntimeError, match=r"must have the elements of the output, which has shape \[3\], got \[1\]"
    ):
        workspace.RunOperatorOnce(core.CreateOperator(f"{kind}Gradient", ["X", "dY"], "dX"))


def test_a_gradient_of_the_criterion_of_another_size_is_refused():
    for name, array in (("S", ONE), ("Y", np.ones(2, dtype=np.int32)), ("dL", np.ones(1, dtype=np.float32))):
        workspace.FeedBlob(name, array)
    operator = core.CreateOperator("CosineEmbeddingCriterionGradient", ["S", "Y", "dL"], "dS")
    with pytest.raises(RuntimeError, match="must have the elements of the output"):
        workspace.RunOperatorOnce(operator)


def test_blobs_that_hold_nothing_are_passed_on_by_no_operator():
    workspace.CreateBlob("X")
    for kind in ("Copy", "StopGradient", "ConstantFill"):
        with pytest.raises(RuntimeError, match="nullptr"):
            workspace.RunOperatorOnce(core.CreateOperator(kind, "X", "Y"))
    workspace.FeedBlob("X", np.array(["text"]))
    with pytest.raises(RuntimeError, match="the input must be a 1D tensor"):
        workspace.RunOperatorOnce(core.CreateOperator("ConstantFill", "X", "Y", input_as_shape=1))


def test_arguments_of_one_name():
    workspace.FeedBlob("X", ONE)
    operator = core.CreateOperator("Scale", "X", "Y", scale=2.0)
    operator.arg.add(name="scale", f=2.0)
    assert workspace.RunOperatorOnce(operator)
    operator.arg.add(name="scale", f=3.0)
    with pytest.raises(RuntimeError, match=r"Duplicated argument name \[scale\]"):
        workspace.RunOperatorOnce(operator)


def test_norms_of_one_leave_zeros():
    """The original leaves the rows of zeros unwritten."""
    workspace.FeedBlob("X", np.array([[0, 0], [1, -3]], dtype=np.float32))
    workspace.RunOperatorOnce(core.CreateOperator("NormalizeL1", "X", "Y"))
    assert workspace.FetchBlob("Y").tolist() == [[0, 0], [0.25, -0.75]]


def test_creating_and_running_nets():
    net = cos_net("running")
    with pytest.raises(RuntimeError, match="Encountered a non-existing input blob: X"):
        workspace.CreateNet(net)
    with pytest.raises(RuntimeError, match="Can't find net"):
        workspace.RunNet(net)
    workspace.FeedBlob("X", np.zeros(2, dtype=np.float32))
    assert workspace.CreateNet(net) is True
    assert workspace.HasBlob("Y")
    with pytest.raises(
        RuntimeError, match='I respectfully refuse to overwrite an existing net of the same name "'
    ):
        workspace.CreateNet(net)
    assert workspace.CreateNet(net, True) is True
    assert workspace.CreateNet(net.Proto().SerializeToString(), overwrite=True) is True
    for name in (net, net.Name()):
        assert workspace.RunNet(name) is True
    assert workspace.FetchBlob("Y").tolist() == [1, 1]
    with pytest.raises(AssertionError, match="Expected a string or Net"):
        workspace.RunNet(3)
    workspace.ResetWorkspace()
    with pytest.raises(RuntimeError, match="Can't find net"):
        workspace.RunNet(net)


def test_a_net_runs_so_many_times():
    net = core.Net("doubling")
    net.Scale("X", "X", scale=2.0)
    workspace.FeedBlob("X", ONE)
    workspace.CreateNet(net)
    workspace.RunNet(net, 5)
    assert workspace.FetchBlob("X").tolist() == [32, 32]


def test_input_blobs_are_made_and_must_be_fed():
    net = cos_net("late")
    workspace.CreateNet(net, input_blobs=["X"])
    for allow_fail in (False, True):
        with pytest.raises(RuntimeError, match="wrong type for the Blob instance"):
            workspace.RunNet(net, 1, allow_fail)
    workspace.FeedBlob("X", np.zeros(1, dtype=np.float32))
    workspace.RunNet(net)
    assert workspace.FetchBlob("Y").tolist() == [1]


def test_a_net_sees_blobs_that_are_fed_and_removed_after_it_was_created():
    net = cos_net("bound")
    workspace.FeedBlob("X", np.zeros(1, dtype=np.float32))
    workspace.CreateNet(net)
    workspace.RemoveBlob("X")
    with pytest.raises(RuntimeError, match="non-existing input blob"):
        workspace.RunNet(net)
    workspace.FeedBlob("X", np.full(3, np.pi, dtype=np.float32))
    workspace.RemoveBlob("Y")
    workspace.RunNet(net)
    assert workspace.FetchBlob("Y").tolist() == [-1, -1, -1]


@pytest.fixture
def no_collection():
    """What is freed in such a test is freed at once, not when Python looks for cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def run_cos_net(name):
    workspace.FeedBlob("X", ONE)
    net = cos_net(name)
    workspace.CreateNet(net)
    workspace.RunNet(net)
    return [weakref.ref(current().blobs[blob].value) for blob in "XY"]


def test_the_memory_of_removed_blobs_is_free(no_collection):
    values = run_cos_net("removed")
    workspace.RemoveBlob("X")
    assert (values[0](), values[1]() is None) == (None, False)
    workspace.RemoveBlob("Y")
    assert values[1]() is None


def test_the_memory_of_a_reset_workspace_is_free(no_collection):
    values = run_cos_net("reset")
    workspace.ResetWorkspace()
    assert [value() for value in values] == [None, None]


def test_seeded_fills_go_on_after_another_blob_was_removed():
    drawn = {}
    for removing in (False, True):
        net = core.Net("seeded")
        net.UniformFill([], "R", shape=[4], random_seed=3)
        workspace.CreateNet(net)
        drawn[removing] = []
        for _ in range(3):
            workspace.RunNet(net)
            drawn[removing].append(workspace.FetchBlob("R").tolist())
            workspace.CreateBlob("unrelated")
            if removing:
                workspace.RemoveBlob("unrelated")
    assert drawn[True] == drawn[False]
    assert drawn[True][0] != drawn[True][1] != drawn[True][2]


def test_what_scripts_begin_with():
    assert workspace.GlobalInit(["caffe2", "--caffe2_log_level=0"]) is None
    assert core.GlobalInit(["caffe2"]) is None
    with core.NameScope("tower"):
        assert workspace.GetNameScope() == scope.CurrentNameScope() == "tower/"
    net = cos_net("bytes")
    assert workspace.StringifyProto(net) == net.Proto().SerializeToString()
    assert workspace.StringifyProto(net.Proto()) == net.Proto().SerializeToString()
    assert (workspace.StringifyProto("text"), workspace.StringifyProto(b"bytes")) == ("text", b"bytes")
    with pytest.raises(ValueError, match="Unexpected argument to StringifyProto of type int"):
        workspace.StringifyProto(3)


def test_outputs_are_made_before_arguments_are_read():
    workspace.FeedBlob("X", ONE)
    with pytest.raises(RuntimeError, match="expected field i"):
        workspace.RunOperatorOnce(core.CreateOperator("Normalize", "X", "Y", axis=1.5))
    assert workspace.Blobs() == ["X", "Y"]


def test_declared_inputs_and_outputs():
    net = cos_net("declared")
    net.Proto().op.append(core.CreateOperator("Cos", "U", "V"))
    for name in "XU":
        workspace.FeedBlob(name, ONE)
    with pytest.raises(RuntimeError, match="Source for input U is unknown for net declared"):
        workspace.CreateNet(net)
    net = cos_net("outputs")
    net.Proto().external_output.append("W")
    with pytest.raises(
        RuntimeError, match="declared as output but never produced by the net outputs, the first one is W"
    ):
        workspace.CreateNet(net)
    undeclared = core.Net("undeclared")
    undeclared.Proto().op.append(core.CreateOperator("Cos", "U", "V"))
    assert workspace.RunNetOnce(undeclared)


def test_a_net_that_runs_in_a_circle():
    net = caffe2_pb2.NetDef(name="circle", external_input=["X"])
    net.op.extend([core.CreateOperator("Add", ["X", "B"], "A"), core.CreateOperator("Cos", "A", "B")])
    workspace.FeedBlob("X", ONE)
    with pytest.raises(RuntimeError, match="Source for input B is unknown for net circle"):
        workspace.RunNetOnce(net)
    del net.external_input[:]
    with pytest.raises(RuntimeError, match="non-existing input blob: B"):
        workspace.RunNetOnce(net)


def test_a_net_of_the_name_that_ran_once_is_not_kept():
    net = cos_net("once")
    workspace.FeedBlob("X", ONE)
    assert workspace.RunNetOnce(net) is True
    with pytest.raises(RuntimeError, match="Can't find net"):
        workspace.RunNet(net)
    with pytest.raises(RuntimeError, match="Net definition should have a name"):
        workspace.CreateNet(caffe2_pb2.NetDef())


def test_serialized_blobs_without_a_value_and_bytes_that_are_none():
    workspace.CreateBlob("X")
    with pytest.raises(RuntimeError, match="No known serializer for nullptr"):
        workspace.SerializeBlob("X")
    with pytest.raises(RuntimeError, match="Can't find blob"):
        workspace.SerializeBlob("Y")
    with pytest.raises(RuntimeError, match="Cannot parse content into a BlobProto"):
        workspace.DeserializeBlob("Y", b"abc")
    with pytest.raises(RuntimeError, match="No registered deserializer for type"):
        workspace.DeserializeBlob("Y", b"")
    assert workspace.Blobs() == ["X"]
    workspace.FeedBlob("X", "text")
    workspace.DeserializeBlob("Y", workspace.SerializeBlob("X"))
    assert workspace.FetchBlob("Y") == b"text"


def test_shapes_are_inferred_from_the_workspace_or_from_what_is_given():
    net = core.Net("inferred")
    net.CosineSimilarity(["X", "Y"], "S")
    net.CosineEmbeddingCriterion(["S", "labels"], "loss")
    float_, int_ = core.DataType.FLOAT, core.DataType.INT32
    assert workspace.InferShapesAndTypes([net]) == ({}, {})
    given = {"X": [3, 4], "Y": [3, 4], "labels": [3]}
    shapes, types = workspace.InferShapesAndTypes([net], given, blob_types={"labels": int_})
    assert shapes == {**given, "S": [3]}
    assert types == {"X": float_, "Y": float_, "labels": int_, "S": float_}
    workspace.FeedBlob("X", np.ones((2, 5), dtype=np.float32))
    workspace.FeedBlob("Y", np.ones((2, 5), dtype=np.float32))
    shapes, _ = workspace.InferShapesAndTypes([net.Proto()], nets_proto=True)
    assert shapes["S"] == [2]
    assert workspace.Blobs() == ["X", "Y"]
    huge = {"X": [2**40, 2**20], "Y": [2**40, 2**20]}
    assert workspace.InferShapesAndTypes([net], huge)[0]["S"] == [2**40]
