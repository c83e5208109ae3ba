"""`from caffe2.python import core, workspace` for old scripts, where there is no Caffe2."""

import sys
from importlib.machinery import PathFinder
from types import ModuleType

from cosnorm.caffe2 import core, scope, utils, workspace
from cosnorm.caffe2.proto import caffe2_pb2

_MARK = "__cosnorm_stands_in__"
_MODULES = {
    "caffe2.proto.caffe2_pb2": caffe2_pb2,
    "caffe2.python.core": core,
    "caffe2.python.scope": scope,
    "caffe2.python.utils": utils,
    "caffe2.python.workspace": workspace,
}


def install() -> None:
    """Makes `caffe2.python.core`, `workspace`, `scope`, `utils` and `caffe2.proto.caffe2_pb2` importable.

    They are the modules of `cosnorm.caffe2`. `uninstall` undoes it; a second call does nothing.

    Raises:
        RuntimeError: a real Caffe2 is importable.

    Example:
        >>> import cosnorm.caffe2
        >>> cosnorm.caffe2.install()
        >>> from caffe2.python import core
        >>> core.CreateOperator("Cos", "X", "Y").type
        'Cos'
        >>> cosnorm.caffe2.uninstall()
    """
    if hasattr(sys.modules.get("caffe2"), _MARK):
        return
    if _real():
        raise RuntimeError(
            "a real caffe2 is importable; cosnorm.caffe2 does not take its place: uninstall it before"
        )
    for name in ("caffe2", "caffe2.proto", "caffe2.python"):
        package = ModuleType(name, "cosnorm.caffe2 under Caffe2's name.")
        package.__path__ = []
        setattr(package, _MARK, True)
        sys.modules[name] = package
    for name in ("caffe2.proto", "caffe2.python", *_MODULES):
        parent, _, child = name.rpartition(".")
        module = _MODULES.get(name) or sys.modules[name]
        sys.modules[name] = module
        setattr(sys.modules[parent], child, module)


def _real() -> bool:
    """Whether there is a Caffe2; a mere folder of that name on the path is none."""
    if getattr(sys.modules.get("caffe2"), "__file__", None) is not None:
        return True
    found = PathFinder.find_spec("caffe2")
    return found is not None and found.origin is not None


def uninstall() -> None:
    """Takes away what `install` made; without it nothing happens.

    Example:
        >>> import cosnorm.caffe2
        >>> cosnorm.caffe2.uninstall()
    """
    if hasattr(sys.modules.get("caffe2"), _MARK):
        for name in ("caffe2", "caffe2.proto", "caffe2.python", *_MODULES):
            sys.modules.pop(name, None)
