"""Matryoshka: a loss at several prefixes of the embeddings."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from cosnorm.functional.checks import check_count, is_number
from cosnorm.losses.grouped import Grouped

_WHERE = "MatryoshkaLoss"
# Embeddings of another model.
_WHOLE = {"guide", "extra_guide"}


class MatryoshkaLoss(nn.Module):
    r"""A loss of the first d components of all embeddings, for several d: each prefix is an embedding, too.

    .. math:: \ell = \sum_d w_d \, \ell(x_{1 \ldots d}, y_{1 \ldots d}, \ldots)

    A weighted sum, as sentence-transformers has it, no mean. It takes what the loss takes, and cuts
    what are embeddings: dense floating tensors of two dimensions or more, `extra_keys`, `hard_negatives` and
    `negatives` among them; a guide and weights of positives stay whole. Of a loss with a row for each class,
    as heads and center losses have, the rows are cut, too: parameters of shape (·, D), whole in `state_dict`.
    The losses normalize each prefix anew. What else learns, such as a temperature, is one for all prefixes;
    what a margin remembers of former batches, and the step of a schedule, each prefix has for itself.

    Each prefix is a pass of its own. One pass over tiles for all of them was 12 % faster for NT-Xent of
    2×2,048×768 at (768, 256, 64) on a CPU, 8 % at half that width and no faster at a quarter: the products
    are shared, but not exponentials and norms.

    Args:
        loss: a module or a function of embeddings, such as `CLIPLoss()`, `ArcFaceLoss(…)` or `nt_xent_loss`.
        dims: d, whole numbers, of which none is larger than D.
        weights: w, positive numbers, one for each of `dims`; None: 1 each.

    Attributes:
        loss: as given; of a head `loss.predict(embeddings, dim=64)` looks at the first 64 components.
        memories: what the loss remembers of the second prefix, of the third, …; it has that of the first.

    A call gives the sum: a number, or with `reduction="none"` of the loss one for each row.

    Raises:
        TypeError: what is no loss, or no tensor of embeddings.
        ValueError: dims that are not different or larger than D, weights that do not fit, embeddings of
            different D.

    Source: Kusupati et al., "Matryoshka Representation Learning", arXiv 2205.13147, eq. 1.

    Example:
        >>> import torch
        >>> from cosnorm.losses import NTXentLoss
        >>> criterion = MatryoshkaLoss(NTXentLoss(temperature=1.0), dims=(4, 2), weights=(1.0, 0.5))
        >>> criterion(torch.eye(2, 4), torch.eye(2, 4))  # 1.5 · 0.5514: the last two components are 0
        tensor(0.8272)
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        dims: Sequence[int] = (768, 256, 64),
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not callable(loss):
            raise TypeError(f"{_WHERE}: loss must be a module or a function, got {type(loss).__name__}")
        dims = tuple(dims)
        for dim in dims:
            check_count(_WHERE, "each of dims", dim)
        if not dims or len(set(dims)) != len(dims):
            raise ValueError(f"{_WHERE}: dims must be different, one or more of them, got {dims}")
        weights = (1.0,) * len(dims) if weights is None else tuple(weights)
        if len(weights) != len(dims):
            raise ValueError(
                f"{_WHERE}: weights must be one for each of the {len(dims)} dims, got {len(weights)}"
            )
        for weight in weights:
            if not is_number(weight) or not 0 < weight < math.inf:
                raise ValueError(f"{_WHERE}: weights must be positive numbers, got {weight!r}")
        self.loss = loss
        self.dims, self.weights = tuple(map(int, dims)), tuple(map(float, weights))
        remembering = _remembering(loss) if isinstance(loss, nn.Module) else {}
        self._remembered = {path: names for path, (_, names) in remembering.items()}
        self.memories = nn.ModuleList(
            nn.ModuleList(_twin(module) for module, _ in remembering.values())
            for _ in dims[1:]
            if remembering
        )

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """The loss of embeddings (N, D) and what else the loss takes, summed over prefixes."""
        size = self._size([*inputs, *(one for name, one in options.items() if name not in _WHOLE)])
        first, *others = (
            weight * self._at(place, size, inputs, options) for place, weight in enumerate(self.weights)
        )
        return sum(others, first)

    def _size(self, given: Iterable[Any]) -> int:
        """D of the embeddings."""
        sizes = {one.shape[-1] for one in given if _is_embedding(one)}
        if not sizes:
            raise TypeError(f"{_WHERE}: takes embeddings, dense floating tensors (N, D); there are none")
        if len(sizes) > 1:
            raise ValueError(f"{_WHERE}: embeddings must have one size D, got {sorted(sizes)}")
        size = sizes.pop()
        if max(self.dims) > size:
            raise ValueError(
                f"{_WHERE}: dims must be at most D = {size}, the size of the embeddings, got {self.dims}"
            )
        return int(size)

    def _at(self, place: int, size: int, inputs: Sequence[Any], options: dict[str, Any]) -> Tensor:
        """The loss of one of the prefixes."""
        dim = self.dims[place]
        cut = tuple(one[..., :dim] if _is_embedding(one) else one for one in inputs)
        named = {
            name: one[..., :dim] if name not in _WHOLE and _is_embedding(one) else one
            for name, one in options.items()
        }
        if isinstance(self.loss, nn.Module):
            own = self._own(self.loss, place, size)
            if own:
                loss: Tensor = functional_call(self.loss, own, cut, named)
                return loss
        return self.loss(*cut, **named)

    def _own(self, loss: nn.Module, place: int, size: int) -> dict[str, Tensor]:
        """Tensors of the loss that a prefix has for itself: cut rows, and what is remembered."""
        dim, learned = self.dims[place], loss.named_parameters()
        own = {name: one[:, :dim] for name, one in learned if one.ndim == 2 and one.shape[1] == size}
        if place and self._remembered:
            twins: Any = self.memories[place - 1]
            for (path, names), twin in zip(self._remembered.items(), twins, strict=True):
                # Not |=, which graphs of torch 2.6 do not know.
                own.update({f"{path}.{name}" if path else name: getattr(twin, name) for name in names})
        return own

    def extra_repr(self) -> str:
        """The options, for `print`."""
        function = (
            "" if isinstance(self.loss, nn.Module) else f"{getattr(self.loss, '__name__', self.loss)}, "
        )
        return f"{function}dims={self.dims}, weights={self.weights}"


def _is_embedding(one: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.ndim >= 2 and one.dtype.kind == "f"
    if not isinstance(one, Tensor) or one.layout != torch.strided:
        return False
    return one.ndim >= 2 and one.is_floating_point()


def _remembering(loss: nn.Module) -> dict[str, tuple[nn.Module, list[str]]]:
    """The modules of a loss that are saved with more than what learns, by their paths, and the names of it.

    Our losses themselves have nothing that follows the batches: it is in their margins and schedules.
    """
    found = {}
    for path, module in loss.named_modules():
        if isinstance(module, Grouped):
            continue
        saved = module.state_dict().keys()
        names = [name for name, _ in module.named_buffers(recurse=False) if name in saved]
        if names:
            found[path] = module, names
    return found


def _twin(module: nn.Module) -> nn.Module:
    """A copy with the same parameters."""
    return copy.deepcopy(module, {id(one): one for one in module.parameters()})
