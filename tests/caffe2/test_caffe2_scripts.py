"""Old scripts: `install` beside a real Caffe2, its modules that are not there, other messages of its name."""

import importlib
import importlib.util
import pickle
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from fresh_workspace import fresh_workspace  # noqa: F401
from google.protobuf import text_format

from cosnorm import caffe2
from cosnorm.caffe2 import core, workspace
from cosnorm.caffe2.proto import caffe2_pb2


@pytest.fixture
def installed():
    caffe2.install()
    yield
    caffe2.uninstall()


@pytest.fixture(autouse=True)
def not_imported(monkeypatch):
    """Other tests may have imported this very folder as `caffe2`."""
    monkeypatch.delitem(sys.modules, "caffe2", raising=False)


class Editable:
    """A finder of one package, as an editable install has it: nothing of it is on the path."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return (
            ModuleSpec(name, None, origin="/elsewhere/caffe2", is_package=True) if name == "caffe2" else None
        )


def test_a_real_caffe2_behind_another_finder_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Editable, *sys.meta_path])
    with pytest.raises(RuntimeError, match="a real caffe2 is importable"):
        caffe2.install()
    monkeypatch.setitem(sys.modules, "caffe2", ModuleType("caffe2"))
    with pytest.raises(RuntimeError, match="a real caffe2 is importable"):
        caffe2.install()


def test_a_mere_folder_of_the_name_is_none(tmp_path, monkeypatch):
    (tmp_path / "caffe2").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    caffe2.install()
    assert sys.modules["caffe2.python.core"] is caffe2.core
    caffe2.uninstall()


def test_the_stand_ins_are_found_and_leave_nothing_behind():
    modules, finders = set(sys.modules), list(sys.meta_path)
    caffe2.install()
    for name in ("caffe2", "caffe2.proto", "caffe2.python", "caffe2.python.core", "caffe2.proto.caffe2_pb2"):
        assert importlib.util.find_spec(name) is not None
    caffe2.uninstall()
    assert (set(sys.modules), sys.meta_path) == (modules, finders)
    found = importlib.util.find_spec("caffe2")
    assert found is None or found.origin is None  # this very folder is called so
    assert importlib.util.find_spec("cosnorm.caffe2.core").name == "cosnorm.caffe2.core"


@pytest.mark.parametrize(
    "line",
    [
        "from caffe2.python import brew",
        "from caffe2.python import core, model_helper",
        "import caffe2.python.optimizer",
        "from caffe2.python.models import resnet",
    ],
)
def test_modules_that_are_not_there(line, installed):
    with pytest.raises(
        ModuleNotFoundError, match=r"there is no caffe2\.python\.\w+ in cosnorm.*caffe2.python.core"
    ):
        exec(line)
    assert not hasattr(sys.modules["caffe2.python"], "brew")


def test_files_of_the_original_beside_what_is_there(tmp_path, monkeypatch, installed):
    """Its Python modules that are not here come from its folder; those that are here stay ours."""
    (tmp_path / "helper.py").write_text(
        "from caffe2.python import core, workspace\n"
        "from caffe2.python.core import InferOpBlobDevicesAsDict, SetEnginePref, IsGPUDeviceType\n"
        "from caffe2.python.core import GradientSlice, IR\n"
        "from caffe2.python.workspace import has_gpu_support, has_cuda_support, has_hip_support\n"
        "from caffe2.python.workspace import NumGpuDevices, GpuDeviceType, C\n"
    )
    (tmp_path / "core.py").write_text("raise AssertionError('the original is imported')\n")
    importlib.import_module("caffe2.python").__path__.append(str(tmp_path))
    helper = importlib.import_module("caffe2.python.helper")
    monkeypatch.delitem(sys.modules, "caffe2.python.helper")
    assert (helper.core, helper.workspace) == (core, workspace)
    with pytest.raises(ModuleNotFoundError, match=r"there is no caffe2\.python\.brew in cosnorm"):
        importlib.import_module("caffe2.python.brew")


def test_other_messages_of_the_name():
    """Caffe2's own definitions, say tensorboardX's, in the same process."""
    program = """
from google.protobuf import descriptor_pb2, descriptor_pool
theirs = descriptor_pb2.FileDescriptorProto(name="caffe2/proto/caffe2.proto", package="caffe2")
theirs.message_type.add(name="NetDef")
descriptor_pool.Default().Add(theirs)
import cosnorm.caffe2
print(cosnorm.caffe2.core.Net("ours").Proto().name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "ours\n", done.stderr


@pytest.mark.parametrize("module", [core, workspace], ids=["core", "workspace"])
def test_the_page_names_what_there_is(module):
    page = (Path(__file__).parents[2] / "docs" / "caffe2.md").read_text(encoding="utf-8")
    (entry,) = re.findall(
        rf"^\* `{module.__name__.split('.')[-1]}`.*?\n(?=\*|\n)", page, re.DOTALL | re.MULTILINE
    )
    public = {name for name in module.__all__ if name[0].isupper()}
    assert public == set(re.findall(r"\b[A-Z]\w*", entry)) - {"AddGradientOperators"}


def test_messages_are_pickled_and_written_as_text():
    net = core.Net("kept").Proto()
    net.op.append(core.CreateOperator("Normalize", "X", "Y", axis=0))
    assert pickle.loads(pickle.dumps(net)) == net
    assert text_format.Parse(text_format.MessageToString(net), caffe2_pb2.NetDef()) == net
