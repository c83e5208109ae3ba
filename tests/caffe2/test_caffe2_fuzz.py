"""Operators and tensors whose fields were changed at random: they run, or a RuntimeError says why not.

Bytes that were changed seldom parse; here messages stay messages, and say strange things. Run as a program
with a number of seconds this file goes on so long, and prints how many it tried.
"""

import base64
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
from fresh_workspace import fresh_workspace  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosnorm.caffe2 import core, workspace
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import OPERATORS

GOLDEN = np.load(Path(__file__).parents[1] / "caffe2_oracle" / "golden.npz")
OPERATORS_OF_CAFFE2 = [case["operator"] for case in json.loads(str(GOLDEN["meta"]))["cases"]]

Proto = caffe2_pb2.TensorProto
# No product of the sizes lies between what a test may take and what is refused.
INTEGERS = (-(2**63), -(2**31) - 1, -2, -1, 0, 1, 2, 3, 4, 64, 2**31 + 1, 2**62, 2**63 - 1)
NUMBERS = (0.0, -0.0, 1.0, -2.5, 1e-30, 3e38, float("inf"), float("-inf"), float("nan"))
STRINGS = (b"", b"C", b"NCHW", b"\xff\xfe", b"a\0", b"x" * 1000)
NAMES = ("axis", "axis_a", "axis_b", "axis_w", "axis_str", "broadcast", "dtype", "extra_shape", "grad_on_w")
NAMES += (
    "input_as_shape",
    "margin",
    "max",
    "mean",
    "min",
    "num_reduce_dim",
    "order",
    "scale",
    "shape",
    "std",
)
NAMES += ("trans_a", "trans_b", "value", "values", "nonsense")
SHAPES = (
    (),
    (0,),
    (1,),
    (2,),
    (3,),
    (6,),
    (1, 1),
    (2, 1),
    (2, 3),
    (3, 2),
    (0, 3),
    (2, 0),
    (1, 3, 1),
    (2, 3, 2),
)
KINDS = (np.float32,) * 6 + (np.float64, np.int32, np.int64, np.bool_, np.uint8, np.float16)


def feed(choice):
    """Blobs "I0" to "I3" with numbers of any type and shape, strings, text, or nothing."""
    for i in range(4):
        array = np.random.default_rng(choice.randrange(2**32)).integers(-2, 4, choice.choice(SHAPES))
        workspace.FeedBlob(f"I{i}", array.astype(choice.choice(KINDS)))
    other = choice.randrange(12)
    if other == 0:
        workspace.FeedBlob("I0", np.array([b"a", b""], dtype=object))
    elif other == 1:
        workspace.FeedBlob("I1", "text")
    elif other == 2:
        workspace.ResetBlob("I2")


def fill_argument(argument, choice):
    field = choice.choice(("f", "i", "i", "s", "floats", "ints", "ints", "strings", "n", "t"))
    if field == "n":
        argument.n.name = "inner"
    elif field == "t":
        argument.t.dims.append(choice.choice(INTEGERS))
    else:
        values = {"f": NUMBERS, "i": INTEGERS, "s": STRINGS}[field[0]]
        if len(field) == 1:
            setattr(argument, field, choice.choice(values))
        else:
            getattr(argument, field).extend(choice.choices(values, k=choice.choice((0, 1, 2, 3, 70))))


def change(operator, choice):
    """One field of an OperatorDef becomes another."""
    what = choice.randrange(9)
    blobs = choice.choice((operator.input, operator.output))
    if what == 0:
        operator.type = choice.choice((*sorted(OPERATORS), "", "Nope"))
    elif what == 1 and blobs:
        del blobs[choice.randrange(len(blobs))]
    elif what == 2:
        blobs.append(choice.choice(("I0", "I1", "I2", "I3", "O0", "O5", "missing", "")))
    elif what == 3 and blobs:
        blobs[choice.randrange(len(blobs))] = choice.choice(("I0", "I1", "O0", "../O"))
    elif what == 4 and operator.arg:
        del operator.arg[choice.randrange(len(operator.arg))]
    elif what == 5:
        operator.device_option.device_type = choice.choice((0, 1, 7, -1))
        operator.device_option.device_id = choice.choice((0, 3, -1))
        operator.device_option.random_seed = choice.choice((0, 2**32 - 1))
    elif what == 6 and operator.arg:
        argument = choice.choice(list(operator.arg))
        name = argument.name
        argument.Clear()
        argument.name = name
        fill_argument(argument, choice)
    else:
        fill_argument(operator.arg.add(name=choice.choice(NAMES)), choice)


def try_operator(choice):
    """A changed operator: its shapes inferred, run, what it made fetched and written, and differentiated."""
    workspace.ResetWorkspace()
    feed(choice)
    operator = caffe2_pb2.OperatorDef.FromString(base64.b64decode(choice.choice(OPERATORS_OF_CAFFE2)))
    for _ in range(choice.choice((0, 1, 1, 2, 4))):
        change(operator, choice)
    net = caffe2_pb2.NetDef(name="fuzzed", op=[operator])
    try:
        workspace.InferShapesAndTypes([net], nets_proto=True)
        workspace.RunNetOnce(net)
        for name in operator.output:
            workspace.FetchBlob(name)
            workspace.DeserializeBlob("again", workspace.SerializeBlob(name))
    except RuntimeError:
        pass
    try:
        core.GradientRegistry.GetGradientForOp(operator, [f"{name}_grad" for name in operator.output])
    except Exception as error:  # "Exception when creating gradient", because of another
        if not isinstance(error.__cause__, RuntimeError):
            raise


def try_tensor(choice):
    """A TensorProto or BlobProto with any of its fields, fed, fetched and written."""
    proto = Proto(data_type=choice.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13)))
    count = choice.choice((0, 1, 2, 6))
    proto.dims.extend(choice.choice(SHAPES) if choice.random() < 0.6 else choice.choices(INTEGERS, k=count))
    for field in choice.sample(("float", "double", "int32", "int64", "string", "byte", "raw"), k=2):
        if field in ("byte", "raw"):
            setattr(proto, f"{field}_data", choice.randbytes(count * choice.choice((1, 2, 4, 8))))
        else:
            values = {"float": NUMBERS, "double": NUMBERS, "string": STRINGS}.get(field, INTEGERS)
            if field == "int32":
                values = [one for one in values if abs(one) < 2**31]
            getattr(proto, f"{field}_data").extend(choice.choices(values, k=count))
    proto.segment.begin = proto.segment.end = choice.choice(INTEGERS)
    blob = caffe2_pb2.BlobProto(name="X", type=choice.choice(("Tensor", "Tensor", "std::string", "int", "")))
    blob.tensor.CopyFrom(proto)
    blob.content_num_chunks = choice.choice((0, 1, 2, -1))
    for give in (
        lambda: workspace.FeedBlob("X", proto),
        lambda: workspace.DeserializeBlob("X", blob.SerializeToString()),
    ):
        try:
            give()
            workspace.FetchBlob("X")
            workspace.SerializeBlob("X")
        except RuntimeError:
            pass


ATTEMPTS = (try_operator, try_operator, try_operator, try_tensor)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_changed_fields_are_run_or_refused(choice):
    choice.choice(ATTEMPTS)(choice)


if __name__ == "__main__":
    end, tried = time.monotonic() + float(sys.argv[1]), 0
    while time.monotonic() < end:
        choice = random.Random(tried)
        try:
            choice.choice(ATTEMPTS)(choice)
        except Exception:
            print(f"seed {tried}")
            raise
        tried += 1
    print(f"{tried} tried")
