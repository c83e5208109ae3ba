"""A dispatch mode that raises where results of our operators share memory, which torch forbids."""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def memories(value: object) -> list[int]:
    return [one.untyped_storage()._cdata for one in tree_leaves(value) if isinstance(one, Tensor)]


class Apart(TorchDispatchMode):
    """Keeps the names of the operators that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        results = function(*args, **(kwargs or {}))
        if function.namespace == "cosnorm":
            found = memories(results)
            assert len(set(found)) == len(found), f"{function}: two results are one tensor"
            assert not set(found) & set(memories((args, kwargs))), f"{function}: a result is an argument"
        return results
