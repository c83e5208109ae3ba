"""Operators, nets, scopes and gradients, as the executable original made them."""

import time

import numpy as np
import pytest
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, scope, utils, workspace
from cosnorm.caffe2.proto import caffe2_pb2


def types(net):
    return [(one.type, list(one.input), list(one.output)) for one in net.Proto().op]


def test_arguments_go_to_the_field_of_their_type():
    net = caffe2_pb2.NetDef(name="inner")
    given = {
        "none": None,
        "true": True,
        "integer": 3,
        "float": 2.5,
        "text": "é",
        "bytes": b"\xff",
        "number": np.float32(2),
        "empty": [],
        "floats": [1.0, 2.0],
        "ints": (1, 2),
        "bools": [True, False],
        "strings": ["a", b"b"],
        "array": np.arange(3),
        "matrix": np.ones((2, 2), dtype=np.float32),
        "net": net,
        "nets": [net],
    }
    arguments = {one.name: one for one in core.CreateOperator("Any", "a", "b", **given).arg}
    assert "none" not in arguments
    assert (arguments["true"].i, arguments["integer"].i, arguments["float"].f) == (1, 3, 2.5)
    assert (arguments["text"].s, arguments["bytes"].s, arguments["number"].f) == ("é".encode(), b"\xff", 2)
    assert arguments["empty"] == caffe2_pb2.Argument(name="empty")
    assert list(arguments["floats"].floats) == [1, 2]
    assert list(arguments["ints"].ints) == [1, 2]
    assert list(arguments["bools"].ints) == [1, 0]
    assert list(arguments["strings"].strings) == [b"a", b"b"]
    assert list(arguments["array"].ints) == [0, 1, 2]
    assert list(arguments["matrix"].floats) == [1] * 4
    assert arguments["net"].n.name == arguments["nets"].nets[0].name == "inner"
    for wrong in ([1, 2.0], object(), [object()]):
        with pytest.raises(ValueError, match="argument type"):
            core.CreateOperator("Any", "a", "b", wrong=wrong)


def test_an_operator_of_any_type_can_be_made():
    given = caffe2_pb2.Argument(name="given", i=2)
    option = core.DeviceOption(caffe2_pb2.CUDA, 1)
    operator = core.CreateOperator(
        "Zip",
        "a",
        ["b", core.BlobReference("c")],
        "name",
        ["d"],
        option,
        [given],
        "ENGINE",
        "info",
        random_seed=5,
    )
    assert (operator.type, list(operator.input), list(operator.output)) == ("Zip", ["a"], ["b", "c"])
    assert (operator.name, list(operator.control_input), operator.engine) == ("name", ["d"], "ENGINE")
    assert (operator.debug_info, list(operator.arg)) == ("info", [given])
    device = operator.device_option
    assert (device.device_type, device.device_id, device.random_seed) == (caffe2_pb2.CUDA, 1, 5)
    for inputs, message in ((3, "Unknown input/output type: 3"), ([3], "I/O blob #0 of unsupported type: 3")):
        with pytest.raises(TypeError, match=message):
            core.CreateOperator("Zip", inputs, ["b"])


def test_name_scopes_prefix_strings_and_not_references():
    with core.NameScope("outer"), core.NameScope("inner"):
        operator = core.CreateOperator("Cos", "X", core.BlobReference("Y"))
        assert str(core.ScopedBlobReference("Z")) == core.ScopedName(b"Z") == "outer/inner/Z"
        with core.NameScope("alone", reset=True):
            assert core.ScopedName("Z") == "alone/Z"
        with core.EmptyNameScope():
            assert core.ScopedName("Z") == "Z"
    assert (list(operator.input), list(operator.output)) == (["outer/inner/X"], ["Y"])
    with pytest.raises(AssertionError), core.NameScope(3):
        pass
    with pytest.raises(KeyError), core.NameScope("left"):
        raise KeyError


def test_device_scopes():
    gpu = core.DeviceOption(caffe2_pb2.CUDA, 2, node_name="node")
    with core.DeviceScope(gpu):
        assert core.CreateOperator("Cos", "X", "Y").device_option == gpu
        own = core.DeviceOption(caffe2_pb2.CPU)
        assert core.CreateOperator("Cos", "X", "Y", device_option=own).device_option == own
        with core.DeviceScope(own):
            assert core.CreateOperator("Cos", "X", "Y").device_option.node_name == "node"
        with core.EmptyDeviceScope():
            assert not core.CreateOperator("Cos", "X", "Y").HasField("device_option")
    assert not core.CreateOperator("Cos", "X", "Y").HasField("device_option")
    with pytest.raises(AssertionError), core.DeviceScope("gpu"):
        pass
    assert core.DeviceOption(caffe2_pb2.CPU, extra_info=["a", "b"]).extra_info == ["a", "b"]


def test_modules_that_scripts_reach_through_core():
    assert (core.workspace, core.scope, core.utils) == (workspace, scope, utils)


def test_messages_of_arrays():
    """As Caffe2's utils makes them: without the device and the segment of a serialized blob."""
    message = utils.NumpyArrayToCaffe2Tensor(np.array([[1, 2]], dtype=np.int16), "name")
    expected = caffe2_pb2.TensorProto(dims=[1, 2], data_type=9, int32_data=[1, 2], name="name")
    assert message == expected
    assert utils.Caffe2TensorToNumpyArray(message).tolist() == [[1, 2]]


def test_references_are_names():
    reference = core.BlobReference("tower/X")
    assert reference == "tower/X" == str(reference)
    assert reference == b"tower/X" == core.BlobReference(b"tower/X")
    assert reference != "X"
    assert reference != 3
    assert {reference: 1}["tower/X"] == 1
    assert (repr(reference), reference + "_a", "a_" + reference) == (
        'BlobReference("tower/X")',
        "tower/X_a",
        "a_tower/X",
    )
    assert (reference.GetNameScope(), reference.GetUnscopedName()) == ("tower/", "X")
    for wrong in (lambda: reference + 3, lambda: 3 + reference):
        with pytest.raises(RuntimeError, match="Cannot add"):
            wrong()
    with pytest.raises(AttributeError, match="does not have a net source"):
        reference.Cos([], "Y")


def test_names_of_nets_and_outputs_are_unique():
    net = core.Net("unique names")
    assert core.Net("unique names").Name() == "unique names_1"
    assert str(core.Net("unique names")) == "unique names_2"
    assert net.Cos("X") == "unique names/Cos"
    assert net.Cos("X") == "unique names/Cos_2"
    assert net.Cos("X", 1) == "unique names/Cos:0"
    assert net.Cos("X", ["A"]) == "A"
    assert net.Cos("X", outputs=2) == ("unique names/Cos_2:0", "unique names/Cos:1")
    assert net.external_inputs == ["X"]
    assert net.NextName() == "unique names_blob_0"
    assert net.NextName() == "unique names_blob_1"
    assert (net.NextBlob("A"), net.NextBlob("A"), net.NextBlob("B")) == ("A_auto_0", "A_auto_1", "B")
    with core.NameScope("scope"):
        assert (net.NextScopedBlob("B"), net.NextScopedBlob("B")) == ("scope/B", "scope/B_auto_0")


def test_what_is_defined_follows_the_message():
    net = core.Net("followed")
    net.Cos("X", "Y")
    assert net.BlobIsDefined("Y")
    net.Proto().op[0].output[0] = "Z"
    assert (net.BlobIsDefined("Y"), net.BlobIsDefined("Z"), net.BlobIsDefined("X")) == (False, True, True)
    net.Proto().op.append(core.CreateOperator("Sin", "Z", "W"))
    net.Proto().external_input.append("U")
    assert net.BlobIsDefined("W")
    assert net.BlobIsDefined("U")


def test_long_nets_are_built_in_linear_time():
    """Each operator looks at what is new; looking at all before it took 40 seconds for 4,000."""
    net = core.Net("long")
    blob = "X"
    start = time.perf_counter()
    for _ in range(4000):
        blob = net.Cos(blob)
    assert time.perf_counter() - start < 10
    assert blob == "long/Cos_4000"


def test_a_wrong_operator_is_answered_with_the_right_one():
    net = core.Net("wrong")
    with pytest.raises(
        AttributeError, match=r"Method Coss is not a registered operator. Did you mean: \[.*Cos"
    ):
        net.Coss("X")
    blob = net.Cos("X", "Y")
    with pytest.raises(AttributeError, match="not a registered operator"):
        blob.Sinn([], "Z")
    assert not hasattr(net, "__deepcopy__")


def test_references_of_a_net_make_operators():
    net = core.Net("sugar")
    x = net.AddExternalInput("X")
    y = x.Cos([], "Y")
    y.DotProduct("X", "Z")
    y.DotProduct([x], "W")
    assert types(net)[0] == ("Cos", ["X"], ["Y"])
    assert types(net)[1] == ("DotProduct", ["Y", "X"], ["Z"])
    assert types(net)[2] == ("DotProduct", ["Y", "X"], ["W"])


def test_inputs_and_outputs_of_nets():
    net = core.Net("edges")
    assert net.AddExternalInput("A") == "A"
    assert net.AddExternalInputs("B", "C") == ["B", "C"]
    with core.NameScope("s"):
        assert net.AddScopedExternalInputs("D") == ["s/D"]
    for names in (("A",), ("E", "E")):
        with pytest.raises(AssertionError, match="already contains an input"):
            net.AddExternalInput(*names)
    y = net.Cos("A", "Y")
    net.AddExternalOutput(y)
    assert net.external_outputs == ["Y"]
    with pytest.raises(AssertionError, match="Z is not defined"):
        net.AddExternalOutput(core.BlobReference("Z"))
    with pytest.raises(AssertionError, match="expected a BlobReference"):
        net.AddExternalOutput("Y")
    assert (net.BlobIsDefined("Y"), net.BlobIsDefined("Z"), net.UsesBlob("A"), net.UsesBlob("Y")) == (
        True,
        False,
        True,
        False,
    )
    assert net.UsedBlobNames() == {"A", "B", "C", "s/D", "Y"}
    assert net.GetBlobRef("Y").Net() is net
    with pytest.raises(KeyError):
        net.GetBlobRef("Z")


def test_nets_are_copied_and_joined():
    net = core.Net("first")
    net.Cos("X", "Y")
    net.Sin("Y", "Z")
    net.AddExternalOutput(core.BlobReference("Z"))
    net.AddArgument("note", "kept")
    clone = net.Clone("second", {"X": "U", "Z": "W"})
    assert types(clone) == [("Cos", ["U"], ["Y"]), ("Sin", ["Y"], ["W"])]
    assert (clone.external_inputs, clone.external_outputs, clone.Name()) == (["U"], ["W"], "second")
    assert clone.Proto().arg[0].s == b"kept"
    assert types(net.Clone("part", op_id_mask=[1])) == [("Sin", ["Y"], ["Z"])]
    renamed = []
    remap_funcs = {"Sin": lambda *given: renamed.append(given), "Cosh": None}
    third = net.Clone("third", {"X": "U"}, remap_funcs=remap_funcs, keep_schema=False)
    assert renamed == [(third.Proto().op[1], "third/", {"X": "U"})]
    gpu = core.DeviceOption(caffe2_pb2.CUDA)
    joined = core.Net("joined").AppendNet(net).AppendNet(clone, gpu)
    assert len(joined.Proto().op) == 4
    assert joined.external_inputs == ["X", "U"]
    assert [one.HasField("device_option") for one in joined.Proto().op] == [False, False, True, True]
    copy = core.Net(net.Proto())
    copy.Proto().op[0].type = "Sin"
    assert types(net)[0][0] == "Cos"
    copy.RunAllOnGPU(1, use_cudnn=True)
    assert (copy.Proto().device_option.device_id, copy.Proto().op[0].engine) == (1, "CUDNN")


def test_gradients_are_filled_or_given():
    net = core.Net("filled")
    y = net.Cos("X", "Y")
    assert net.AddGradientOperators([y]) == {"Y": "Y_autogen_grad", "X": "X_grad"}
    assert types(net)[1:] == [
        ("ConstantFill", ["Y"], ["Y_autogen_grad"]),
        ("CosGradient", ["X", "Y_autogen_grad"], ["X_grad"]),
    ]
    assert net.Proto().op[1].arg[0].f == 1
    net = core.Net("given")
    y = net.Cos("X", "Y")
    assert net.AddGradientOperators({y: "dY"}) == {"Y": "dY", "X": "X_grad"}
    assert types(net)[1:] == [("CosGradient", ["X", "dY"], ["X_grad"])]
    with pytest.raises(TypeError, match="ys should either be a list or a dict"):
        net.AddGradientOperators("Y")


def test_a_blob_that_is_used_again_has_the_sum_of_its_gradients():
    net = core.Net("again")
    net.Cos("X", "A")
    net.Sin("X", "B")
    net.Tan("X", "C")
    net.AddGradientOperators(["A", "B", "C"])
    assert types(net)[-4:] == [
        ("TanGradient", ["X", "C_autogen_grad"], ["X_grad"]),
        ("SinGradient", ["X", "B_autogen_grad"], ["_X_grad_autosplit_0"]),
        ("CosGradient", ["X", "A_autogen_grad"], ["_X_grad_autosplit_1"]),
        ("Sum", ["X_grad", "_X_grad_autosplit_0", "_X_grad_autosplit_1"], ["X_grad"]),
    ]


def test_labels_receive_no_gradient():
    net = core.Net("labels")
    loss = net.CosineEmbeddingCriterion(["S", "Y"], "L", margin=0.5)
    assert net.AddGradientOperators([loss]) == {"L": "L_autogen_grad", "S": "S_grad"}
    made, names = core.GradientRegistry.GetGradientForOp(net.Proto().op[0], ["L_grad"])
    assert (made[0].type, made[0].is_gradient_op, made[0].arg[0].f, names) == (
        "CosineEmbeddingCriterionGradient",
        True,
        0.5,
        ["S_grad", None],
    )


def test_arguments_engine_and_device_go_to_the_gradient():
    option = core.DeviceOption(caffe2_pb2.CUDA, 3)
    operator = core.CreateOperator("Normalize", "X", "Y", axis=1, engine="FAST", device_option=option)
    (made,), _ = core.GradientRegistry.GetGradientForOp(operator, ["Y_grad"])
    assert (made.engine, made.device_option, made.arg[0].i) == ("FAST", option, 1)


def test_an_overwritten_input_has_no_gradient():
    net = core.Net("overwritten")
    net.Cos("X", "Y")
    net.Sin("Z", "X")
    net.Add(["X", "Y"], "total")
    with pytest.raises(
        RuntimeError, match='Gradient operator needs input "X" at version 0, but currently we have version 1'
    ):
        net.AddGradientOperators(["total"])
    net = core.Net("overwritten output")
    net.Relu("X", "Y")
    net.Cos("Y", "Z")
    net.Sin("Z", "Y")
    with pytest.raises(RuntimeError, match=r'Gradient operator needs (in|out)put "Y"'):
        net.AddGradientOperators(["Z"])


def test_operators_without_a_gradient():
    net = core.Net("none")
    net.NormalizeL1("X", "Y")
    with pytest.raises(Exception, match=r"Exception when creating gradient for .NormalizeL1."):
        net.AddGradientOperators(["Y"])
    net = core.Net("second order")
    net.Cos("X", "Y")
    net.AddGradientOperators(["Y"])
    with pytest.raises(Exception, match=r"Exception when creating gradient for .CosGradient."):
        net.AddGradientOperators(["X_grad"])


def test_stopped_gradients():
    net = core.Net("stopped")
    net.Cos("X", "Y")
    net.StopGradient("Y", "Y")
    net.Sin("Y", "Z")
    gradients = net.AddGradientOperators(["Z"])
    assert "X" not in gradients
    assert "CosGradient" not in [kind for kind, *_ in types(net)]
    net = core.Net("orphan")
    net.StopGradient("X", "Y")
    with pytest.raises(ValueError, match="StopGradient's output 'Y' is orphan"):
        net.AddGradientOperators(["Y"])


def test_gradients_of_ones_own():
    assert (
        core.GradientRegistry.GetBackwardPass([core.CreateOperator("Cos", "X", "Y")], ["Y"])[1]["X"]
        == "X_grad"
    )

    @core.GradientRegistry.RegisterGradient("NormalizeL1")
    def gradient(operator, of_outputs):
        return core.CreateOperator("Copy", of_outputs[0], operator.input[0] + "_own"), [
            operator.input[0] + "_own"
        ]

    try:
        net = core.Net("own")
        net.NormalizeL1("X", "Y")
        assert net.AddGradientOperators(["Y"])["X"] == "X_own"
    finally:
        del core.GradientRegistry._registered["NormalizeL1"]


def test_a_gradient_in_python_is_tried_where_the_built_in_one_fails_and_raises_as_it_is():
    """A sum of weights whose number is odd has no gradient of its own."""

    @core.GradientRegistry.RegisterGradient("WeightedSum")
    def _(op, g_output):
        raise KeyError("mine")

    try:
        operator = core.CreateOperator("WeightedSum", ["A"], ["Y"])
        with pytest.raises(KeyError, match="mine"):
            core.GradientRegistry.GetGradientForOp(operator, ["Y_grad"])
    finally:
        del core.GradientRegistry._registered["WeightedSum"]
    with pytest.raises(Exception, match=r"Exception when creating gradient for \[WeightedSum\]"):
        core.GradientRegistry.GetGradientForOp(operator, ["Y_grad"])


def test_the_first_operators_can_be_skipped():
    net = core.Net("skipped")
    net.Cos("X", "Y")
    net.Sin("Y", "Z")
    assert net.AddGradientOperators(["Z"], skip=1) == {"Z": "Z_autogen_grad", "Y": "Y_grad"}


def test_a_net_learns():
    """100 steps of plain gradient descent make the cosines of two tensors what they are to be."""
    random = np.random.default_rng(0)
    net = core.Net("learning")
    similarity = net.CosineSimilarity(["X", "Y"], "similarity")
    error = net.Sqr(net.Sub([similarity, "target"], "difference"), "error")
    loss = net.AveragedLoss(error, "loss")
    gradients = net.AddGradientOperators([loss])
    net.WeightedSum(["X", "one", gradients["X"], "rate"], "X")
    for name, array in {
        "X": random.normal(size=(5, 3)),
        "Y": random.normal(size=(5, 3)),
        "target": np.linspace(-0.9, 0.9, 5),
        "one": np.ones(1),
        "rate": np.full(1, -2.0),
    }.items():
        workspace.FeedBlob(name, array.astype(np.float32))
    workspace.CreateNet(net)
    workspace.RunNet(net)
    before = workspace.FetchBlob("loss")
    workspace.RunNet(net, 100)
    assert workspace.FetchBlob("loss") < 1e-3 * before
    np.testing.assert_allclose(workspace.FetchBlob("similarity"), np.linspace(-0.9, 0.9, 5), atol=0.02)


def test_data_types():
    for name, value in caffe2_pb2.TensorProto.DataType.items():
        assert getattr(core.DataType, name) == value
    assert (core.DataType.FLOAT, core.DataType.DOUBLE) == (1, 13)
    assert core.IsOperator("Cos")
    assert not core.IsOperator("Conv")
