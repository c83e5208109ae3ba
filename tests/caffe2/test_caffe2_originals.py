"""The original's own tests, unmodified, through `install`: which pass, and why the others do not.

They are no part of this project. COSNORM_CAFFE2_ORIGINAL names the folder caffe2/python of an old torch, say
of the wheel of 1.8.1, which has them with their helpers and data.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import cosnorm

FOLDER = os.environ.get("COSNORM_CAFFE2_ORIGINAL")
PAGE = (Path(__file__).parents[2] / "docs" / "caffe2.md").read_text(encoding="utf-8")

PLANS, IMMEDIATE = r"no attribute '(Plan|ExecutionStep)'", "no attribute 'StartImmediate'"
CONV = "Conv is not a registered operator"
# Of each file: how many pass, how many are skipped (they want a GPU, MKL-DNN, the operators SparseFunHash or
# ScriptModule), and what the others fail with.
FILES = {
    "operator_test/cosine_embedding_criterion_op_test.py": (1, 0, {}),
    "operator_test/distance_op_test.py": (4, 0, {}),
    "operator_test/normalize_op_test.py": (2, 0, {}),
    "operator_test/trigonometric_op_test.py": (4, 0, {}),
    "core_gradients_test.py": (
        32,
        3,
        {
            "test_zero_gradient": "LSTMUnit is not a registered operator",
            "testAccumulationWithNoGradientBranch": "Print is not a registered operator",
            "testAddAndDynamicConstant": "SoftmaxWithLoss is not a registered operator",
            "testAddAndStaticConstant": "SoftmaxWithLoss is not a registered operator",
            "testDeviceOptionsPropagation": "Gather is not a registered operator",
        },
    ),
    "workspace_test.py": (
        26,
        12,
        {
            "testConstructPlanFromSteps": PLANS,
            "testRunPlan": PLANS,
            "testRunPlanInBackground": PLANS,
            "test_plan_run": PLANS,
            "testImmediateEnterExit": IMMEDIATE,
            "testImmediateRootFolder": IMMEDIATE,
            "testImmediateRunsCorrectly": IMMEDIATE,
            "testTensorAccess": "no attribute 'tensor'",
            "testTorchInterop": "no attribute 'FetchTorch'",
            "testGetOperatorCost": "no attribute 'GetOperatorCost'",
            "test_predictor_memory_model": "no attribute 'Predictor'",
            "test_apply_transform_if_faster": CONV,
            "test_registry_invalid": "no attribute 'ApplyTransform'",
            "test_simple_transform": CONV,
        },
    ),
}


@pytest.mark.skipif(not FOLDER, reason="COSNORM_CAFFE2_ORIGINAL names no folder with the original's tests")
@pytest.mark.parametrize("file", FILES)
def test_the_tests_of_the_original(file, tmp_path):
    folder = Path(FOLDER).resolve()
    here = [str(Path(__file__).parent), str(Path(cosnorm.__file__).parents[1])]
    environment = {"PYTHONPATH": os.pathsep.join(here), "COSNORM_CAFFE2_ORIGINAL": str(folder)}
    options = ["-q", "-p", "originals_plugin", "-p", "no:cacheprovider", "-c", os.devnull]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--junitxml=found.xml", "--rootdir=.", folder / file],
        cwd=tmp_path,
        env={**os.environ, **environment},
        check=False,
        timeout=600,
    )
    cases = list(ElementTree.parse(tmp_path / "found.xml").iter("testcase"))
    failed = {
        one.get("name"): "".join(part.itertext())
        for one in cases
        for part in (*one.findall("failure"), *one.findall("error"))
    }
    skipped = sum(one.find("skipped") is not None for one in cases)
    passed, expected_to_skip, reasons = FILES[file]
    assert failed.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(reason, failed[name]), failed[name]
    assert (len(cases) - len(failed) - skipped, skipped) == (passed, expected_to_skip)


def test_the_page_has_these_numbers():
    rows = re.findall(r"^\| `([\w/]+_test\.py)` \| (\d+) \| (\d+) \| (\d+) \|", PAGE, re.MULTILINE)
    found = {file: tuple(map(int, numbers)) for file, *numbers in rows}
    assert found == {file: (good, len(bad), skipped) for file, (good, skipped, bad) in FILES.items()}
