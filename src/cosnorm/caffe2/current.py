"""The workspaces by their names, and which of them is the current one."""

import os
from pathlib import Path

from cosnorm.caffe2.checks import flag_of, text_of
from cosnorm.caffe2.runtime import Workspace

_workspaces: dict[str, Workspace] = {"default": Workspace()}
_current = "default"


def current() -> Workspace:
    """The current workspace."""
    return _workspaces[_current]


def CurrentWorkspace() -> str:
    """The name of the current workspace."""
    return _current


def Workspaces() -> list[str]:
    """The names of all workspaces, sorted."""
    return sorted(_workspaces)


def SwitchWorkspace(name: str, create_if_missing: bool | None = None) -> None:
    """Makes another workspace the current one, for the whole process.

    Args:
        name: of the workspace, as str or bytes.
        create_if_missing: whether to make it if there is none of the name.

    Raises:
        RuntimeError: there is no such workspace.
        TypeError: a name that is no text, or another answer than yes or no.
    """
    global _current
    name = text_of(name, "the name of a workspace")
    create_if_missing = create_if_missing is not None and flag_of(create_if_missing, "create_if_missing")
    if name not in _workspaces:
        if not create_if_missing:
            raise RuntimeError(
                f"create_if_missing. There is no workspace {name!r}; pass create_if_missing=True to make it"
            )
        _workspaces[name] = Workspace()
    _current = name


def ResetWorkspace(root_folder: str | bytes | os.PathLike[str] | None = None) -> bool:
    """Empties the current workspace of blobs and nets; a missing root folder is made. Deletes no file."""
    if root_folder is None:
        root_folder = RootFolder()
    else:
        root_folder = os.fsdecode(root_folder)
        Path(root_folder).mkdir(parents=True, exist_ok=True)
    _workspaces[_current] = Workspace(root_folder)
    return True


def RootFolder() -> str:
    """The root folder of the current workspace; "." at first."""
    return current().root_folder
