"""The devices that scripts ask about, and the options that say where blobs lie."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, workspace
from cosnorm.caffe2.proto import caffe2_pb2


def test_what_there_is_is_what_torch_finds(monkeypatch):
    for there, count in ((True, 2), (False, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert (workspace.has_gpu_support, workspace.has_cuda_support) == (there, there)
        assert (workspace.NumGpuDevices(), workspace.NumCudaDevices()) == (count, count)
    assert workspace.has_hip_support is False
    assert workspace.GpuDeviceType == caffe2_pb2.CUDA
    with pytest.raises(AttributeError, match="no attribute 'has_tpu_support'"):
        _ = workspace.has_tpu_support


def test_importing_asks_no_gpu():
    program = (
        "import torch; torch.cuda.is_available = torch.cuda.device_count = None\n"
        "import cosnorm.caffe2; cosnorm.caffe2.install()\n"
        "from caffe2.python import core, workspace; print('done')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


def test_types_of_gpus():
    found = [core.IsGPUDeviceType(one) for one in (caffe2_pb2.CPU, caffe2_pb2.CUDA, caffe2_pb2.HIP, 2)]
    assert found == [False, True, True, False]


@pytest.mark.parametrize("device_type", ["CUDA", "HIP"])
def test_a_gpu_that_is_not_there_is_no_cpu(device_type):
    option = core.DeviceOption(getattr(caffe2_pb2, device_type), 99)
    with pytest.raises(RuntimeError, match="which torch does not find"):
        workspace.FeedBlob("X", np.zeros(1), option)
    assert workspace.Blobs() == []


def test_blobs_lie_where_their_operator_runs():
    gpu = core.DeviceOption(caffe2_pb2.CUDA, 1, node_name="node", extra_info=["a"])
    operator = core.CreateOperator("FC", ["X", "w", "b"], ["Y"], device_option=gpu)
    inputs, outputs = core.InferOpBlobDevices(operator)
    assert (inputs, outputs) == ([gpu] * 3, [gpu])
    inputs[0].device_id = 2  # copies: of the operator, and of one another
    assert (operator.device_option, inputs[1]) == (gpu, gpu)
    by_name = core.InferOpBlobDevicesAsDict(operator)
    assert by_name == ({"X": gpu, "w": gpu, "b": gpu}, {"Y": gpu})
    nothing = caffe2_pb2.DeviceOption()
    assert core.InferOpBlobDevicesAsDict(core.CreateOperator("Any", "X", "Y")) == (
        {"X": nothing},
        {"Y": nothing},
    )
    for wrong in ("FC", 3, core.Net("no operator")):
        with pytest.raises((TypeError, ValueError)):
            core.InferOpBlobDevices(wrong)


def test_engines_are_not_preferred():
    assert core.SetEnginePref({}, {}) is None
    for wrong in (([], {}), ({}, "CUDNN")):
        with pytest.raises(TypeError, match="must be a dict"):
            core.SetEnginePref(*wrong)


@pytest.mark.parametrize("keep", [False, True])
def test_the_mark_that_takes_the_device_from_a_sum(keep):
    marks = ["shard:1"] + [f"{core.IR.ONLY_KEEP_IS_AUTO_GEN_SUM_OPS_TAG}:1"] * keep
    option = core.DeviceOption(caffe2_pb2.CPU, 3, extra_info=marks)
    operators = [core.CreateOperator("Cos", "X", name, device_option=option) for name in ("A", "B")]
    operators.append(core.CreateOperator("Add", ["A", "B"], "C"))
    made, _ = core.GradientRegistry.GetBackwardPass(operators, {"C": "C_grad"})
    added = f"{core.IR.IS_AUTO_GEN_SUM_OPS_TAG}:1"
    expected = caffe2_pb2.DeviceOption(extra_info=[added])
    if not keep:
        expected = core.DeviceOption(caffe2_pb2.CPU, 3, extra_info=[*marks, added])
    assert (made[-1].type, made[-1].device_option) == ("Sum", expected)
