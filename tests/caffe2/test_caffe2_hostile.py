"""Messages that ask for more than any machine has: a RuntimeError, at once and in little memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, workspace
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.tensors import serialize

# Run in a process of its own, with a GiB beside what it has when everything is imported. Prints what came of
# each attempt, and the seconds and MiB that it took.
SCRIPT = """
import json, pathlib, resource, sys, time
import numpy as np
from typer.testing import CliRunner
from cosnorm.caffe2 import core, save_net, workspace
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm_lab.cli import app

Proto = caffe2_pb2.TensorProto

def fill(kind="ConstantFill", **arguments):
    return core.CreateOperator(kind, [], "X", **arguments)

def net(operator):
    return caffe2_pb2.NetDef(name="hostile", op=[operator])

def infer(operator):
    return workspace.InferShapesAndTypes([net(operator)], {}, nets_proto=True)[0]["X"]

def show(operator):
    path = pathlib.Path(sys.argv[1]) / "hostile.pb"
    save_net(net(operator), path)
    return CliRunner().invoke(app, ["caffe2", "show", str(path)]).exit_code

def serialize():
    workspace.FeedBlob("S", np.ones(2**23, dtype=np.float32))
    return len(workspace.SerializeBlob("S"))

strings = fill(shape=[2**30], dtype=4, value="long" * 100)
attempts = {
    "run strings": lambda: workspace.RunOperatorOnce(strings),
    "infer strings": lambda: infer(strings),
    "show strings": lambda: show(strings),
    "infer numbers": lambda: infer(fill(shape=[2**31], dtype=13)),
    "run numbers": lambda: workspace.RunOperatorOnce(fill(shape=[2**31], dtype=13)),
    "many sizes of a fill": lambda: workspace.RunOperatorOnce(fill(shape=[2**62] * 40000)),
    "many sizes of a tensor": lambda: workspace.FeedBlob("Y", Proto(dims=[2**62] * 40000, float_data=[1])),
    "sizes beyond Python's numerals": lambda: workspace.FeedBlob("Y", Proto(dims=[2**62] * 260)),
    "serialize 32 MiB": serialize,
}

pages = lambda: int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
workspace.SerializeBlob("S") if workspace.FeedBlob("S", np.ones(9)) else None
show(fill(shape=[2]))
resource.setrlimit(resource.RLIMIT_AS, (pages() + 2**30, pages() + 2**30))
found = {}
for name, attempt in attempts.items():
    seconds, mebibytes = time.process_time(), most()
    try:
        answer = attempt()
    except Exception as error:
        answer = type(error).__name__
    found[name] = answer, time.process_time() - seconds, most() - mebibytes
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")
def test_neither_memory_nor_time_blow_up(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: answer for name, (answer, _, _) in found.items()} == {
        "run strings": True,
        "infer strings": [2**30],
        "show strings": 0,
        "infer numbers": [2**31],
        "run numbers": "RuntimeError",
        "many sizes of a fill": "RuntimeError",
        "many sizes of a tensor": "RuntimeError",
        "sizes beyond Python's numerals": "RuntimeError",
        "serialize 32 MiB": found["serialize 32 MiB"][0],
    }
    assert max(seconds for _, seconds, _ in found.values()) < 10
    assert max(found[name][2] for name in found if name != "serialize 32 MiB") < 50
    assert found["serialize 32 MiB"][0] > 2**25
    # The array, the blob's copy of it, the message twice (it grows), and its bytes.
    assert found["serialize 32 MiB"][2] < 6 * 32


@pytest.mark.parametrize("shape", [[2**70], [-1], [2**62, 2**62], [1] * 65], ids=str)
def test_shapes_that_are_given_to_inference(shape):
    for kind in (caffe2_pb2.TensorProto.FLOAT, caffe2_pb2.TensorProto.STRING):
        with pytest.raises(RuntimeError, match=r"X: (a shape has at most|sizes of a shape)"):
            workspace.InferShapesAndTypes([], {"X": shape}, blob_types={"X": kind})


def test_sizes_that_a_blob_holds():
    operator = core.CreateOperator("ConstantFill", ["sizes"], "X", input_as_shape=1, value=1.0)
    for sizes, message in (
        ([2**62, 2**62], "at most 2147483648 elements"),
        ([1] * 65, "at most 64 dimensions"),
        ([2, -1], "at least 0"),
    ):
        workspace.FeedBlob("sizes", np.array(sizes))
        with pytest.raises(RuntimeError, match=message):
            workspace.RunOperatorOnce(operator)
    workspace.FeedBlob("like", np.ones((2, 3), dtype=np.float32))
    grown = core.CreateOperator("ConstantFill", ["like"], "X", extra_shape=[2**30], value=1.0)
    with pytest.raises(RuntimeError, match="at most 2147483648 elements"):
        workspace.RunOperatorOnce(grown)


@pytest.mark.parametrize("kind", ["XavierFill", "MSRAFill"])
def test_random_fills_of_single_numbers(kind):
    operator = core.CreateOperator(kind, [], "X", shape=[])
    with pytest.raises(RuntimeError, match=r"no dimensions|two dimensions"):
        workspace.RunOperatorOnce(operator)
    net = core.Net("number")
    net.Proto().op.append(operator)
    assert workspace.InferShapesAndTypes([net]) == ({}, {})


def test_a_blob_that_no_message_holds():
    large = torch.ones(1).expand(2**29)  # which takes no memory
    with pytest.raises(RuntimeError, match="less than 2 GiB; blob X"):
        serialize("X", large)


@pytest.mark.parametrize("kind", ["ConstantFill", "UniformFill", "GivenTensorFill"])
def test_a_device_that_is_not_there(kind):
    device = core.DeviceOption(caffe2_pb2.PROTO_CUDA, 77)
    values = {"values": [1.0]} if kind == "GivenTensorFill" else {}
    operator = core.CreateOperator(kind, [], "out", shape=[1], device_option=device, **values)
    with pytest.raises(
        RuntimeError, match="Blob out is to lie on the device cuda:77, which torch does not find"
    ):
        workspace.RunOperatorOnce(operator)
    with pytest.raises(RuntimeError, match="Blob X is to lie on the device cuda:77"):
        workspace.FeedBlob("X", np.ones(1), device)
    assert "X" not in workspace.Blobs()
    # Other operators run where their inputs lie.
    workspace.FeedBlob("X", np.ones(1, dtype=np.float32))
    workspace.RunOperatorOnce(core.CreateOperator("Cos", "X", "Y", device_option=device))
    net = core.Net("shapes")
    net.Proto().op.append(operator)
    assert workspace.InferShapesAndTypes([net])[0]["out"] == [1]


def test_types_of_nets():
    for kind in ("", "simple", "dag", "async_scheduling"):
        net = core.Net("typed")
        net.Proto().type = kind
        assert workspace.CreateNet(net)
    net.Proto().type = "nope"
    for run in (workspace.RunNetOnce, lambda net: workspace.CreateNet(net, overwrite=True)):
        with pytest.raises(RuntimeError, match=r"Could not create net: .* of type nope"):
            run(net)
