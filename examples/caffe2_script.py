"""A script as it was written for Caffe2; the first two lines are all that is new."""

import cosnorm.caffe2

cosnorm.caffe2.install()

import numpy as np  # noqa: E402
from caffe2.python import core, workspace  # noqa: E402

# One operator.
x = np.linspace(-np.pi, np.pi, 5).astype(np.float32)
workspace.FeedBlob("X", x)
workspace.RunOperatorOnce(core.CreateOperator("Cos", ["X"], ["Y"]))
assert np.allclose(workspace.FetchBlob("Y"), np.cos(x), atol=1e-6)

# A net with gradients: 100 steps until the cosines of two tensors are what they are to be.
workspace.ResetWorkspace()
random = np.random.RandomState(0)
workspace.FeedBlob("X", random.randn(8, 5).astype(np.float32))
workspace.FeedBlob("Y", random.randn(8, 5).astype(np.float32))
workspace.FeedBlob("target", np.linspace(-0.9, 0.9, 8).astype(np.float32))
workspace.FeedBlob("ONE", np.ones(1, dtype=np.float32))
workspace.FeedBlob("LR", np.array([-4.0], dtype=np.float32))

net = core.Net("fit")
similarity = net.CosineSimilarity(["X", "Y"], "similarity")
difference = net.Sub([similarity, "target"], "difference")
loss = net.AveragedLoss(net.Sqr(difference, "squares"), "loss")
gradients = net.AddGradientOperators([loss])
net.WeightedSum(["X", "ONE", gradients[core.BlobReference("X")], "LR"], "X")

workspace.CreateNet(net)
workspace.RunNet(net.Name())
print("loss before:", workspace.FetchBlob("loss"))
workspace.RunNet(net.Name(), 100)
print("loss after 100 steps:", workspace.FetchBlob("loss"))
print("cosines:", np.round(workspace.FetchBlob("similarity"), 2))
