"""cosnorm.caffe2 against what Caffe2 itself answered, which make_golden.py keeps in golden.npz.

Run as a program this file writes the nets that Caffe2 is to read.
"""

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, load_net, save_net, workspace
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import OPERATORS

FOLDER = Path(__file__).parents[1] / "caffe2_oracle"
GOLDEN = np.load(FOLDER / "golden.npz")
META = json.loads(str(GOLDEN["meta"]))

# What the messages of errors have in common, to the letter.
MESSAGES = (
    r"Operator def did not pass schema checking",
    r"Unsupported type of tensor: [\w: ]+",
    r"Tensor type mismatch, caller expects elements to be \w+, while tensor contains [^.]+\.",
    r"Argument \w+ does not have the right field: expected field \w",
    r"The embedding and label should have the same size\.",
    r"X\.dim\(\) == Y\.dim\(\)\. \d+ vs \d+",
    r"X\.dim32\(i\) == Y\.dim32\(i\)\. \d+ vs \d+",
    r"Broadcast dimension mismatch\.",
    r"Expected axis_index (<|>=) -?ndims to be true, but got false",
    r"output->numel\(\) == values_\.numel\(\)\. \d+ vs \d+",
    r"Unexpected 'dtype' argument value: \d+",
    r"weight\d\.numel\(\) == 1\. \d+ vs 1",
    r"OutputSize\(\) == output_size\. \d vs \d",
    r"cur_X\.numel\(\) == size\. \d+ vs \d+",
    r"A\.dim\(\) >= B\.dim\(\)\. \d+ vs \d+",
    r"axis >= 0 && axis <= A\.dim\(\) - B\.dim\(\)\. .* but axis = -?\d+",
    r"Args axis and axis_str cannot be used simultaneously\.",
    r"In-place is allowed only with the first tensor when legacy-broadcasting",
    r"Max value should be bigger than min value\.",
    r"Cannot set \w+ when there is no input",
    r"Cannot set both min arg and min input blob",
    r"\w+ blob must be scalar",
    r"An input must be given if input_as_shape is true",
    r"Fill 'shape' argument was a scalar, list expected",
    r"constant fill string from tensor is not supported",
    r"value vector must have 1 element",
)
# Where Caffe2's inference is not what Caffe2 then makes: rows without elements, the shape of a third input, a
# vector of probabilities, an integer value, a dtype that is not looked at, a divisor that was broadcast, an
# extra shape.
INFERRED_WRONGLY = {
    "DotProduct-4",
    "MatMul-10",
    "MatMul-11",
    "LabelCrossEntropy-9",
    "ConstantFill-3",
    "GivenTensorIntFill-3",
}
INFERRED_WRONGLY |= {
    "DivGradient-36",
    "DivGradient-37",
    "DivGradient-38",
    "ConstantFill-51",
    "UniformFill-24",
}
INFERRED_WRONGLY |= {"GaussianFill-9", "XavierFill-7", "MSRAFill-8"}
# A least value above the greatest one makes nothing, which no shape foretells.
NOT_INFERRED = {"UniformFill-4"}
# Wrong definitions of operators without a gradient: ours are found wrong only when they are made.
WRONG_WITHOUT_GRADIENT = {"UniformFill-8", "GivenTensorFill-20", "GivenTensorIntFill-5"}
WRONG_WITHOUT_GRADIENT |= {f"GivenTensor{kind}Fill-3" for kind in ("Double", "Bool", "Int64", "String")}
# Lists of values of another type: Caffe2 takes them for empty ones, with an answer or a later error.
WRONG_LISTS = {"ConstantFill-64", "GivenTensorFill-16", "GivenTensorFill-17"}
RANDOM = {"UniformFill", "GaussianFill", "XavierFill", "MSRAFill"}
# MatMul with an axis that is not 1: Caffe2's gradient operators have 1 all the same, and fail.
WRONG_AXIS = {"MatMul-7", "MatMul-9"}


def decoded(text: str, kind=caffe2_pb2.OperatorDef):
    return kind.FromString(base64.b64decode(text))


def stored(name: str) -> np.ndarray:
    """An array of the file; strings come as bytes objects."""
    array = GOLDEN[name]
    return array.astype(object) if array.dtype.kind == "S" else array


def same(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-6) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(found, expected)


def _names() -> list[str]:
    """The type of each case, and which of its type it is: "Cos-1", "Cos-2", …"""
    counts: dict[str, int] = {}
    found = []
    for case in META["cases"]:
        kind = decoded(case["operator"]).type
        counts[kind] = counts.get(kind, 0) + 1
        found.append(f"{kind}-{counts[kind]}")
    return found


NAMES = _names()


every_case = pytest.mark.parametrize("number", range(len(META["cases"])), ids=NAMES.__getitem__)


def test_the_file_is_of_the_script_that_is_there():
    assert META["script"] == hashlib.sha256((FOLDER / "make_golden.py").read_bytes()).hexdigest()
    assert META["torch"].startswith("1.8.1")
    assert len(META["cases"]) > 1100


@every_case
def test_an_operator(number: int):
    case = META["cases"][number]
    operator = decoded(case["operator"])
    for name in case["inputs"]:
        workspace.FeedBlob(name, stored(f"{number}/{name}"))
    if NAMES[number] in WRONG_LISTS:
        with pytest.raises(RuntimeError, match="does not have the right field: expected field"):
            workspace.RunOperatorOnce(operator)
        return
    if "error" in case:
        assert case["error"][0] in ("RuntimeError", "IndexError")  # the latter for MSRAFill of a vector
        with pytest.raises(RuntimeError) as caught:
            workspace.RunOperatorOnce(operator)
        found = " ".join(str(caught.value).split())
        for phrase in filter(None, (re.search(message, case["error"][1]) for message in MESSAGES)):
            assert phrase[0] in found
        return
    assert workspace.RunOperatorOnce(operator) is True
    for name in case["outputs"]:
        found, expected = workspace.FetchBlob(name), stored(f"{number}/{name}!")
        if operator.type in RANDOM:  # other numbers of the same shape and type
            found, expected = np.zeros_like(found), np.zeros_like(expected)
        same(found, expected)


@every_case
def test_gradient_operators(number: int):
    case = META["cases"][number]
    operator = decoded(case["operator"])
    of_outputs = [f"{name}_grad" for name in operator.output]
    if case["gradient"] is None and NAMES[number] not in WRONG_WITHOUT_GRADIENT:
        with pytest.raises(Exception, match="Exception when creating gradient"):
            core.GradientRegistry.GetGradientForOp(operator, of_outputs)
        return
    made, names = core.GradientRegistry.GetGradientForOp(operator, of_outputs)
    if case["gradient"] is None:
        assert made == []
        return
    assert (made == [decoded(text) for text in case["gradient"]["operators"]]) == (
        NAMES[number] not in WRONG_AXIS
    )
    assert names == case["gradient"]["inputs"]


def answered(number: int) -> bool:
    """Whether Caffe2 infers shapes of this case without an error."""
    case = META["cases"][number]
    return case["inferred"] is not None and "error" not in case["inferred"] and "error" not in case


@pytest.mark.parametrize("number", filter(answered, range(len(META["cases"]))), ids=NAMES.__getitem__)
def test_inferred_shapes(number: int):
    case = META["cases"][number]
    for name in case["inputs"]:
        workspace.FeedBlob(name, stored(f"{number}/{name}"))
    net = core.Net("inference")
    net.Proto().op.append(decoded(case["operator"]))
    shapes, types = workspace.InferShapesAndTypes([net])
    found = {name: [shapes[name], types[name]] for name in case["outputs"] if name in shapes}
    assert case["inferred"].items() <= found.items() or NAMES[number] in INFERRED_WRONGLY | WRONG_LISTS
    # Where Caffe2 infers nothing, as of most gradient operators, ours is what the outputs are.
    wrong = NAMES[number] in WRONG_LISTS
    assert wrong or found or not OPERATORS[decoded(case["operator"]).type].inferred or not case["inferred"]
    for name, (shape, _) in found.items():
        assert NAMES[number] in NOT_INFERRED or shape == list(stored(f"{number}/{name}!").shape)


@pytest.mark.parametrize("net", META["nets"], ids=lambda net: net["name"])
def test_a_net(net: dict):
    definition = decoded(net["net"], caffe2_pb2.NetDef)
    for name in net["feeds"]:
        workspace.FeedBlob(name, stored(f"{net['name']}/{name}"))
    forward = decoded(net["forward"], caffe2_pb2.NetDef)
    shapes, types = workspace.InferShapesAndTypes([forward], nets_proto=True)
    found = {name: [shapes[name], types[name]] for name in shapes}
    # Caffe2 knows the shape of a mean, a single number, without that of what is averaged.
    expected = {name: shape for name, shape in net["shapes"].items() if name != "loss"}
    assert {name: found.get(name) for name in expected} == expected
    assert workspace.RunNetOnce(definition)
    assert workspace.Blobs() == net["blobs"]
    for name in net["blobs"]:
        same(workspace.FetchBlob(name), stored(f"{net['name']}/{name}!"), tolerance=1e-5)


@pytest.mark.parametrize("net", META["nets"], ids=lambda net: net["name"])
def test_the_gradient_operators_of_a_net(net: dict):
    copy = core.Net(decoded(net["forward"], caffe2_pb2.NetDef))
    gradients = copy.AddGradientOperators(net["losses"])
    assert {str(one): str(other) for one, other in gradients.items()} == net["gradients"]
    expected = decoded(net["net"], caffe2_pb2.NetDef)
    assert list(copy.Proto().op) == list(expected.op)


@pytest.mark.parametrize("number", range(len(META["blobs"])))
def test_a_serialized_blob(number: int):
    content = base64.b64decode(META["blobs"][number])
    workspace.DeserializeBlob("X", content)
    same(workspace.FetchBlob("X"), stored(f"blob/{number}"), tolerance=0)
    assert workspace.SerializeBlob("X") == content


def net_of_ours() -> tuple[core.Net, core.Net]:
    """A net that fills blobs and one with gradients, as they were saved for Caffe2 to run."""
    random = np.random.default_rng(0)
    init, net = core.Net("ours_init"), core.Net("ours")
    for name, shape in (("w", (4, 3)), ("b", (4,)), ("X", (2, 3))):
        values = random.normal(size=shape).astype(np.float32)
        init.GivenTensorFill([], name, shape=shape, values=values)
    init.ConstantFill([], "ones", shape=[2, 4], value=1.0)
    hidden = net.FC(["X", "w", "b"], "hidden")
    similarity = net.CosineSimilarity([hidden, "ones"], "similarity")
    loss = net.AveragedLoss(net.Sqr(net.Cos(similarity, "cos"), "squares"), "loss")
    net.AddGradientOperators([loss])
    net.AddExternalOutput(loss)
    return init, net


def test_a_net_that_was_saved_by_us_runs_in_caffe2():
    for name, net in zip(("ours_init", "ours"), net_of_ours(), strict=True):
        saved = load_net(FOLDER / f"{name}.pb")
        assert list(saved.op) == list(net.Proto().op)
        workspace.RunNetOnce(saved)
    assert workspace.Blobs() == META["ours"]
    for name in META["ours"]:
        same(workspace.FetchBlob(name), stored(f"ours/{name}!"))


if __name__ == "__main__":
    for net in net_of_ours():
        save_net(net, FOLDER / f"{net.Name()}.pb")
