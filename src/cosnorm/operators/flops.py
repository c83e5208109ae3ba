"""Formulas for torch's `FlopCounterMode`, handed over once its module is imported: with it comes triton."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MODULE = "torch.utils.flop_counter"
_FORMULAS: list[tuple[Any, Callable[..., int]]] = []


def count_flops(packet: Any, formula: Callable[..., int]) -> None:
    """Let `FlopCounterMode` count an operator by a formula of the shapes of its arguments."""
    module = sys.modules.get(_MODULE)
    if module is not None:
        module.register_flop_formula(packet)(formula)
        return
    if not _FORMULAS:
        sys.meta_path.insert(0, _AfterImport())
    _FORMULAS.append((packet, formula))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds nothing; when torch's module has been imported it gives the formulas, and is gone."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            for packet, formula in _FORMULAS:
                module.register_flop_formula(packet)(formula)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec
