"""A fixture for the test modules to import: every test begins with the default workspace, empty."""

import pytest

from cosnorm.caffe2 import scope, workspace


@pytest.fixture(autouse=True)
def fresh_workspace():
    workspace.SwitchWorkspace("default")
    workspace.ResetWorkspace(".")
    yield
    assert scope.CurrentNameScope() == ""
    assert scope.CurrentDeviceScope() is None
