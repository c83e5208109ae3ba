"""What threads share: the workspaces and which is current; and what each has for itself: the scopes."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, current, runtime, workspace

THREADS = 8


def together(work):
    """The results of `work(number)` in threads that begin at once."""
    barrier = Barrier(THREADS)

    def begin(number):
        barrier.wait(timeout=60)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def test_the_current_workspace_is_that_of_all(monkeypatch):
    monkeypatch.setattr(current, "_workspaces", dict(current._workspaces))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(workspace.SwitchWorkspace, "of a thread", True).result()
    assert workspace.CurrentWorkspace() == "of a thread"
    workspace.SwitchWorkspace("default")


def test_scopes_are_each_thread_s_own():
    def name(number):
        with core.NameScope(str(number)), core.DeviceScope(None, node_name=str(number)):
            operators = [core.CreateOperator("Cos", "X", "Y") for _ in range(50)]
        return {(one.input[0], one.device_option.node_name) for one in operators}

    with core.NameScope("main"):
        assert together(name) == [{(f"{number}/X", str(number))} for number in range(THREADS)]


def test_nets_of_several_threads_in_one_workspace():
    """Each writes blobs of its own; all read one; blobs come and go meanwhile."""
    workspace.FeedBlob("X", np.zeros(3, dtype=np.float32))

    def work(number):
        net = core.Net(f"thread {number}")
        net.Scale(net.Add([net.Cos("X"), f"by {number}"]), f"Y {number}", scale=2.0)
        workspace.FeedBlob(f"by {number}", np.full(3, number, dtype=np.float32))
        workspace.CreateNet(net)
        for turn in range(100):
            workspace.FeedBlob(f"passing {number}", np.zeros(1))
            workspace.FeedBlob(f"by {number}", np.full(3, turn, dtype=np.float32))
            workspace.RunNet(net)
            workspace.RemoveBlob(f"passing {number}")
            assert workspace.FetchBlob(f"Y {number}").tolist() == [2.0 * (1 + turn)] * 3
        return True

    assert all(together(work))


def test_threads_that_make_a_blob_at_once_make_one(monkeypatch):
    """Else one of them would bind its net to a blob that the workspace has lost."""
    made = runtime.Blob

    def slow(name):
        time.sleep(0.05)  # the others look for the blob meanwhile, and find none
        return made(name)

    monkeypatch.setattr(runtime, "Blob", slow)
    found = together(lambda _: current.current().create_blob("one"))
    assert len(set(map(id, found))) == 1


def test_a_value_is_never_half_written():
    """Two threads write one blob: who reads it finds the value of one of them, whole."""
    size = 200_000

    def work(number):
        operator = core.CreateOperator("ConstantFill", [], "shared", shape=[size], value=float(number))
        found = set()
        for _ in range(20):
            workspace.RunOperatorOnce(operator)
            found.add(len(set(workspace.FetchBlob("shared").tolist())))
        return found

    assert together(work) == [{1}] * THREADS
