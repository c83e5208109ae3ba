"""The two passes of an encoder over its batch: without graphs, and back through one part at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import TreeSpec, tree_unflatten

from cosnorm.microbatches.parts import Batch, joined
from cosnorm.microbatches.replay import Buffers, Restore, randomness
from cosnorm.microbatches.wrapped import held, modules_of, senders

Encoder = Callable[..., Any]


class Passes:
    """An encoder and its batch.

    Attributes:
        embeddings: after the first pass, the tensors of the whole batch; those that learn are leaves.
        senders: the modules of the encoder that send gradients to other processes.
    """

    def __init__(self, encoder: Encoder, batch: Batch, size: int, sends: Sequence[nn.Module]) -> None:
        modules = modules_of(encoder)
        self.embeddings: list[Any] = []
        self.senders = senders(modules)
        self._encoder, self._batch, self._rows = encoder, batch, batch.rows(size)
        self._modules, self._buffers, self._sends = modules, Buffers(modules), sends
        self._structure: TreeSpec | None = None
        self._learns: list[bool] = []
        self._found: list[tuple[Restore, list[Tensor]]] = []  # by the first pass, before each part
        self._kept: dict[int, list[Any]] = {}  # what a part gave, with its graph

    def __len__(self) -> int:
        """The number of parts."""
        return len(self._rows)

    @property
    def normalizes_parts(self) -> bool:
        """Whether a batch norm takes the statistics of parts for those of the batch."""
        norms = [one for module in self._modules for one in module.modules() if isinstance(one, _BatchNorm)]
        return len(self) > 1 and any(one.training or one.running_mean is None for one in norms)

    @property
    def has_gradient(self) -> bool:
        """Whether any of the embeddings has one."""
        return any(learns and tensor.grad is not None for tensor, learns in self._with_learns())

    def result(self) -> Any:
        """The embeddings as the encoder would return those of the whole batch."""
        assert self._structure is not None
        return tree_unflatten(self.embeddings, self._structure)

    def first(self, keep: bool) -> None:
        """Encode every part; keep the graph of the last or of none."""
        # Not of what sends: what it is to send must begin after the backward pass of the loss.
        last = len(self) - 1
        keep = keep and not (last == 0 and self._sends)
        made = [self._first_of(place, keep and place == last) for place in range(len(self))]
        self.embeddings = joined(made)
        for tensor, learns in zip(self.embeddings, self._learns, strict=True):
            if learns:
                tensor.requires_grad_()

    def second(self, check: bool) -> None:
        """Go back through every part, the last first: so torch goes back through the graph of all."""
        gradients = [tensor.grad if learns else None for tensor, learns in self._with_learns()]
        if not self.has_gradient:
            if not self._sends:
                return  # frozen, or nothing that the loss looks at
            # What other batches have left is sent with this one.
            gradients = [
                torch.zeros_like(tensor) if learns else None for tensor, learns in self._with_learns()
            ]
        torch.clear_autocast_cache()  # if no part has kept its graph
        for place in reversed(range(len(self))):
            self._second_of(place, gradients, check)

    @contextmanager
    def buffers_as_now(self) -> Iterator[None]:
        """In the end the buffers are as they are now: changed once, by the first pass."""
        values = self._buffers.copies()
        try:
            yield
        finally:
            self._buffers.put(values)

    def _first_of(self, place: int, keep: bool) -> list[Any]:
        random, buffers = randomness(), self._buffers.copies()
        if keep:
            torch.clear_autocast_cache()  # of weights cast without a graph: torch 2.6 takes them again
        # The first part shows what learns.
        with held(self.senders), torch.set_grad_enabled(keep or place == 0):
            made = self._encode(place)
        if place == 0:
            self._look_at_gradients(made)
            buffers = self._buffers.only_changed(buffers)
        self._found.append((random, buffers))
        if keep:
            self._kept[place] = made
        return [tensor.detach() if isinstance(tensor, Tensor) else tensor for tensor in made]

    def _second_of(self, place: int, gradients: Sequence[Tensor | None], check: bool) -> None:
        rows = self._rows[place]
        with held(self.senders, self._sends if place == 0 else ()):
            made = self._kept.pop(place, None)
            if made is None:
                random, buffers = self._found[place]
                random()
                self._buffers.put(buffers)
                made = self._encode(place)
                if check:
                    self._compare(made, rows)
            pairs = [
                (tensor, gradient[rows])
                for tensor, gradient in zip(made, gradients, strict=True)
                if gradient is not None and tensor.requires_grad
            ]
            if pairs:
                with without_autocast():
                    torch.autograd.backward([one for one, _ in pairs], [other for _, other in pairs])

    def _encode(self, place: int) -> list[Any]:
        made, self._structure = self._batch.encode(self._encoder, self._rows[place])
        return made

    def _with_learns(self) -> list[tuple[Any, bool]]:
        return list(zip(self.embeddings, self._learns, strict=True))

    def _look_at_gradients(self, made: Sequence[Any]) -> None:
        learns = any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in made)
        # Each that could: in another part a tensor may have a gradient that has none in the first.
        self._learns = [learns and isinstance(one, Tensor) and one.is_floating_point() for one in made]
        module = self._encoder
        frozen = isinstance(module, nn.Module) and not any(one.requires_grad for one in module.parameters())
        if not learns and not frozen:
            raise RuntimeError(
                f"microbatch: the encoder of {self._batch.name} must give embeddings with a gradient, got "
                "some without one; look for no_grad or detach in it; a frozen one must be a module whose "
                "parameters do not learn: requires_grad_(False)"
            )

    def _compare(self, made: Sequence[Any], rows: slice) -> None:
        for tensor, whole in zip(made, self.embeddings, strict=True):
            try:
                torch.testing.assert_close(tensor, None if whole is None else whole[rows], equal_nan=True)
            except AssertionError as error:
                raise RuntimeError(
                    f"microbatch: the encoder of {self._batch.name} must give the same twice, and gave "
                    "something else the second time; what it draws must come from the global generators of "
                    "torch, NumPy or Python, what it remembers must stand in buffers of a module that is the "
                    f"encoder, is named in it, or is held by an object that is. {error}"
                ) from error


@contextmanager
def without_autocast() -> Iterator[None]:
    """For backward passes, which take their dtypes from the forward passes."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "xpu", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
