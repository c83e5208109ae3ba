"""Running one operator, and checking its gradient by differences as Caffe2's own suite does."""

import numpy as np
import pytest

from cosnorm.caffe2 import core, workspace

STEP, THRESHOLD = 0.05, 0.005


def run(kind, inputs, **arguments):
    """The output of an operator."""
    names = [f"I{i}" for i in range(len(inputs))]
    for name, array in zip(names, inputs, strict=True):
        workspace.FeedBlob(name, array)
    workspace.RunOperatorOnce(core.CreateOperator(kind, names, "O", **arguments))
    return workspace.FetchBlob("O")


def check_gradient(kind, inputs, place, **arguments):
    """The gradient of ½ Σ y² in input `place`, against differences of the operator's own output."""
    output = run(kind, inputs, **arguments)
    names = [f"I{i}" for i in range(len(inputs))]
    operator = core.CreateOperator(kind, names, "O", **arguments)
    made, gradients = core.GradientRegistry.GetGradientForOp(operator, ["O_grad"])
    workspace.FeedBlob("O_grad", output)  # the derivative of ½ Σ y²
    workspace.RunOperatorsOnce(made)
    gradient = workspace.FetchBlob(gradients[place])
    assert gradient.shape == inputs[place].shape
    for index in np.ndindex(inputs[place].shape):
        halves = []
        for side in (STEP / 2, -STEP / 2):
            moved = [x.copy() for x in inputs]
            moved[place][index] += side
            halves.append(0.5 * np.square(run(kind, moved, **arguments).astype(np.float64)).sum())
        assert gradient[index] == pytest.approx((halves[0] - halves[1]) / STEP, abs=THRESHOLD)
