"""The public signatures, held by a committed snapshot: later work builds on these names.

Rewrite the snapshot with ``python tests/test_signatures.py`` when a change is meant.
"""

import difflib
import inspect
from pathlib import Path
from types import ModuleType

import cosnorm.caffe2.core
import cosnorm.caffe2.workspace
import cosnorm.cluster
import cosnorm.convert
import cosnorm.diagnostics
import cosnorm.functional
import cosnorm.losses
import cosnorm.metrics
import cosnorm.nn

MODULES = (
    cosnorm,
    cosnorm.caffe2,
    cosnorm.caffe2.core,
    cosnorm.caffe2.workspace,
    cosnorm.cluster,
    cosnorm.convert,
    cosnorm.diagnostics,
    cosnorm.functional,
    cosnorm.losses,
    cosnorm.metrics,
    cosnorm.nn,
)
SNAPSHOT = Path(__file__).with_name("signatures.txt")


def signatures(module: ModuleType) -> list[str]:
    """One line for each public function, constructor, own public method and property of a module."""
    lines = []
    for name in module.__all__:
        value = getattr(module, name)
        if not callable(value):
            continue
        lines.append(f"{module.__name__}.{name}{inspect.signature(value)}")
        if inspect.isclass(value):
            own = [base for base in value.__mro__ if base.__module__.startswith("cosnorm")]
            methods = {method for base in own for method in vars(base) if not method.startswith("_")}
            for method in sorted(methods):
                function = getattr(value, method)
                if inspect.isfunction(function) and function.__module__.startswith("cosnorm."):
                    lines.append(f"{module.__name__}.{name}.{method}{inspect.signature(function)}")
    return lines


def current() -> str:
    text = "\n".join(sorted(line for module in MODULES for line in signatures(module))) + "\n"
    return text.replace("pathlib._local.", "pathlib.")  # Python 3.13 alone says so


def difference(old: str, new: str) -> str:
    return "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), "snapshot", "now", lineterm=""))


def test_public_signatures_are_those_of_the_snapshot():
    changed = difference(SNAPSHOT.read_text(encoding="utf-8"), current())
    assert not changed, f"public signatures changed:\n{changed}\nIf meant: python tests/test_signatures.py"


def test_a_changed_signature_is_seen(monkeypatch):
    def cosine_linear(x, weight, *, centred=False): ...

    monkeypatch.setattr(cosnorm.functional, "cosine_linear", cosine_linear)
    assert "centred" in difference(SNAPSHOT.read_text(encoding="utf-8"), current())


def test_everything_public_is_documented():
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            text = inspect.getdoc(value)
            assert text, name
            # Caffe2's many short functions have one example for their module.
            if module.__name__ in ("cosnorm.caffe2.core", "cosnorm.caffe2.workspace"):
                text = inspect.getdoc(module)
            assert ">>>" in text or inspect.ismodule(value), f"{name} has no example"


if __name__ == "__main__":
    SNAPSHOT.write_text(current(), encoding="utf-8")
