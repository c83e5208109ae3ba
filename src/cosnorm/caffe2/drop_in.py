"""`from caffe2.python import core, workspace` for old scripts, where there is no Caffe2."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

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
_PACKAGES = ("caffe2", "caffe2.proto", "caffe2.python")


class _Missing:
    """The last of Python's finders: it finds nothing, and says what there is."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Raises a ModuleNotFoundError for other modules of Caffe2."""
        if name.startswith("caffe2."):
            raise ModuleNotFoundError(
                f"there is no {name} in cosnorm.caffe2, which stands in for Caffe2; there are "
                + ", ".join(_MODULES)
            )


def install() -> None:
    """Makes `caffe2.python.core`, `workspace`, `scope`, `utils` and `caffe2.proto.caffe2_pb2` importable.

    They are the modules of `cosnorm.caffe2`; importing another of Caffe2's is an error that says which there
    are. `uninstall` undoes it; a second call does nothing.

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
    for name in _PACKAGES:
        package = importlib.util.module_from_spec(ModuleSpec(name, None, is_package=True))
        package.__doc__ = "cosnorm.caffe2 under Caffe2's name."
        setattr(package, _MARK, True)
        sys.modules[name] = package
    sys.modules.update(_MODULES)
    for name in (*_PACKAGES[1:], *_MODULES):
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, sys.modules[name])
    sys.meta_path.append(_Missing)


def _real() -> bool:
    """Whether there is a Caffe2, found in whatever way; a mere folder of that name on the path is none."""
    try:
        found = importlib.util.find_spec("caffe2")
    except ValueError:  # one that was imported, or made, without a specification
        return True
    return found is not None and found.origin is not None


def uninstall() -> None:
    """Takes away what `install` made; without it nothing happens.

    Example:
        >>> import cosnorm.caffe2
        >>> cosnorm.caffe2.uninstall()
    """
    if hasattr(sys.modules.get("caffe2"), _MARK):
        for name in (*_PACKAGES, *_MODULES):
            sys.modules.pop(name, None)
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not _Missing]
