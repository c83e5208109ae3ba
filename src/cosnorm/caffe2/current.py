"""The workspaces by their names, and which of them is the current one."""

from pathlib import Path

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
    """Makes another workspace the current one. Raises a RuntimeError for one that is missing."""
    global _current
    if name not in _workspaces:
        if not create_if_missing:
            raise RuntimeError(
                f"create_if_missing. There is no workspace {name!r}; pass create_if_missing=True to make it"
            )
        _workspaces[name] = Workspace()
    _current = name


def ResetWorkspace(root_folder: str | None = None) -> bool:
    """Empties the current workspace of blobs and nets; a missing root folder is made. Deletes no file."""
    if root_folder is None:
        root_folder = RootFolder()
    else:
        Path(root_folder).mkdir(parents=True, exist_ok=True)
    _workspaces[_current] = Workspace(root_folder)
    return True


def RootFolder() -> str:
    """The root folder of the current workspace; "." at first."""
    return current().root_folder
