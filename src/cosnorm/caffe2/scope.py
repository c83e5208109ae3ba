"""The scopes under which operators are made: a prefix of blob names, and a device."""

import contextlib
import threading
from collections.abc import Iterator

from cosnorm.caffe2.proto import caffe2_pb2

SEPARATOR = "/"
_NAMESCOPE_SEPARATOR = SEPARATOR  # the name that scripts of the original use


class _Scopes(threading.local):
    name = ""
    device: caffe2_pb2.DeviceOption | None = None


_scopes = _Scopes()


def CurrentNameScope() -> str:
    """The prefix that plain blob names receive, such as "layer1/"; empty outside every scope."""
    return _scopes.name


def CurrentDeviceScope() -> caffe2_pb2.DeviceOption | None:
    """The device that operators receive, or None outside every scope."""
    return _scopes.device


@contextlib.contextmanager
def NameScope(prefix: str | None, reset: bool = False) -> Iterator[None]:
    """Within it blob names given as strings begin with `prefix/`; scopes nest unless `reset`.

    Example:
        >>> from cosnorm.caffe2 import core
        >>> with core.NameScope("tower"):
        ...     str(core.ScopedBlobReference("X"))
        'tower/X'
    """
    assert prefix is None or isinstance(prefix, str), "NameScope takes in a string as its argument."
    before = _scopes.name
    _scopes.name = ("" if reset else before) + (prefix + SEPARATOR if prefix else "")
    try:
        yield
    finally:
        _scopes.name = before


@contextlib.contextmanager
def DeviceScope(scope: caffe2_pb2.DeviceOption | int | None, node_name: str | None = None) -> Iterator[None]:
    """Within it operators that name no device of their own receive this one; the node's name is inherited.

    Args:
        scope: the device, or None or 0, as scripts write for the CPU, to name a node alone.
        node_name: of the machine that the operators are meant for.

    Raises:
        AssertionError: another device than a DeviceOption, or neither a device nor a node.

    Example:
        >>> from cosnorm.caffe2 import core
        >>> with core.DeviceScope(0, node_name="reader"):
        ...     core.CreateOperator("Cos", "X", "Y").device_option.node_name
        'reader'
    """
    device = caffe2_pb2.DeviceOption()
    if scope:  # a message is true, whatever it holds
        assert isinstance(scope, caffe2_pb2.DeviceOption), (
            "DeviceScope takes in a caffe2_pb2.DeviceOption as its argument."
        )
        device.CopyFrom(scope)
    else:
        assert node_name, "At least one argument should be non-null in DeviceScope"
    before = _scopes.device
    if node_name:
        device.node_name = node_name
    elif before is not None and before.HasField("node_name") and not device.HasField("node_name"):
        device.node_name = before.node_name
    if before is not None:
        device.extra_info.extend(before.extra_info)
    device.extra_info.sort()
    _scopes.device = device
    try:
        yield
    finally:
        _scopes.device = before


@contextlib.contextmanager
def EmptyNameScope() -> Iterator[None]:
    """Within it there is no prefix."""
    before = _scopes.name
    _scopes.name = ""
    try:
        yield
    finally:
        _scopes.name = before


@contextlib.contextmanager
def EmptyDeviceScope() -> Iterator[None]:
    """Within it operators receive no device."""
    before = _scopes.device
    _scopes.device = None
    try:
        yield
    finally:
        _scopes.device = before
