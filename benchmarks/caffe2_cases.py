"""What running a Caffe2 net costs over calling torch, and what feeding and fetching cost over a copy."""

import numpy as np
import torch

from benchmarks.registry import Case, Step
from cosnorm.caffe2 import core, workspace

OPERATORS = 100


def _chain() -> dict[str, Step]:
    """100 Cos operators, one after the other, on 16 floats."""
    x = torch.linspace(-1, 1, 16)
    net = core.Net("chain")
    blob: object = "X"
    for _ in range(OPERATORS):
        blob = net.Cos(blob)
    workspace.FeedBlob("X", x)
    workspace.CreateNet(net, overwrite=True)
    name = net.Name()

    def plain() -> object:
        value = x
        for _ in range(OPERATORS):
            value = torch.cos(value)
        return [value]

    def run_net() -> object:
        workspace.RunNet(name)
        return [torch.from_numpy(workspace.FetchBlob(blob))]

    return {"plain": plain, "RunNet": run_net}


def _copies() -> dict[str, Step]:
    """16 MiB into a blob and out of it."""
    array = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
    workspace.FeedBlob("A", array)
    return {
        "plain": lambda: array.copy() is None,
        "FeedBlob": lambda: workspace.FeedBlob("A", array) is None,
        "FetchBlob": lambda: workspace.FetchBlob("A") is None,
    }


CASES = [Case("caffe2-100-cos-16", _chain), Case("caffe2-copies-16MiB", _copies)]
