"""The gradient cache: embeddings first, then their gradient, then the encoders part by part."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from cosnorm.functional.checks import is_whole
from cosnorm.microbatches.parts import Batch
from cosnorm.microbatches.passes import Encoder, Passes, without_autocast
from cosnorm.microbatches.replay import as_now
from cosnorm.microbatches.wrapped import held_for_loss, release, sending


def microbatch(
    encoders: Encoder | Sequence[Encoder],
    batches: Any,
    loss: Callable[..., Tensor],
    size: int = 64,
    *,
    backward: Callable[[Tensor], object] | None = None,
    sync: bool = True,
    check: bool = False,
) -> Tensor:
    r"""Forward and backward of a loss over whole batches, with the activations of `size` rows at a time.

    With Z_b = encoder_b(batch_b), the embeddings of all rows, and L = loss(Z_1, Z_2, …), it adds to the
    `grad` of every parameter what `L.backward()` would; for a parameter w of the encoders

    ∂L/∂w = Σ_b Σ_parts (∂L/∂Z_b of the part's rows) · (∂ encoder_b(part) / ∂w).

    All parts are encoded without a graph; the loss of all embeddings goes back as far as these; then each
    part is encoded once more, with its graph, and takes its rows of the gradient back through it. The second
    time finds what the first found: random states (CPU, accelerator, Python, NumPy), autocast, and buffers.
    The part that is encoded last keeps its graph, and all do where no batch has more than `size` rows (but
    for what sends gradients to other processes). The loss is any function of the embeddings, over processes
    too (`group=`), and what learns in it gets its gradient.

    An encoder must treat rows apart from each other. Batch norm in training does not: it normalizes each part
    by the statistics of the part, and a warning says so. Its running statistics are updated once a part.
    What remembers (running statistics, vectors of spectral norm) must be buffers of modules that are found:
    an encoder that is a module; those that a function, a method or an object names or holds, in attributes
    and in lists and dictionaries, too. One behind anything else (a registry, a call, a longer way) is
    changed by both passes, of which only `check` knows.

    Args:
        encoders: modules or functions: one for each batch, or one for all. Each returns embeddings (N, …), or
            a tuple or dict (any structure that torch's pytree knows) of such tensors, which the loss gets as
            it is. Encoders run twice, and so do their hooks.
        batches: a list or tuple with what each encoder gets: a tensor, a tuple of arguments, or a dict of
            arguments by name; what is no list or tuple is the only batch. All tensors of a batch, however
            nested, are split along dimension 0; all else goes to every part. Batches may differ in length.
        loss: takes the embeddings of each batch in turn, and returns one number.
        size: the most rows that an encoder gets at once. What it changes in the result is rounding, and what
            dropout draws for which row.
        backward: does the backward pass of the loss, where gradients are scaled or trainers want to know;
            None: `value.backward()`. Else `lambda value: scaler.scale(value).backward()`, Accelerate's
            `accelerator.backward`, Lightning's `self.manual_backward`.
        sync: whether DistributedDataParallel and FSDP2 send gradients, with the last part; False while
            gradients of several calls add up.
        check: whether to compare what the second pass gives with what the first gave.

    Returns:
        The loss, without its graph.

    Raises:
        ValueError, TypeError: for a size below 1, encoders and batches of different numbers, tensors of a
            batch of different lengths, an encoder that does not return a row for each row, a loss that is no
            number.
        RuntimeError: where there would be no gradient: under `torch.no_grad()`, or if an encoder gives
            embeddings without one and is not frozen (a module without parameters that learn). With `check`,
            if an encoder gives something else the second time.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, arXiv
    2101.06983.

    Example:
        >>> import torch
        >>> from cosnorm.losses import nt_xent_loss
        >>> encoder, views = torch.nn.Linear(8, 4), torch.randn(2, 100, 8)
        >>> value = microbatch(encoder, [views[0], views[1]], nt_xent_loss, size=16)
        >>> gradient = encoder.weight.grad.clone()
        >>> encoder.zero_grad()
        >>> nt_xent_loss(encoder(views[0]), encoder(views[1])).backward()
        >>> torch.testing.assert_close(encoder.weight.grad, gradient)
    """
    if not is_whole(size) or size < 1:
        raise ValueError(f"microbatch: size must be a positive int, the most rows of a part, got {size!r}")
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "microbatch: gradients must be on, and are off; call it outside of torch.no_grad()"
        )
    runs = _runs(encoders, batches, int(size), sync)
    if any(run.normalizes_parts for run in runs):
        warnings.warn(
            "microbatch: batch norm in training normalizes each part by the statistics of the part, so that "
            "the gradient is not that of the whole batch; call eval() on these layers, or take norms of rows "
            "(LayerNorm, GroupNorm)",
            stacklevel=2,
        )
    senders = list(dict.fromkeys(sender for run in runs for sender in run.senders))
    fits = all(len(run) == 1 for run in runs)
    try:
        for run in runs:
            run.first(keep=fits or run is runs[-1])
        value = loss(*(run.result() for run in runs))
        _check_loss(value)
        with held_for_loss(senders), without_autocast():
            (backward or Tensor.backward)(value)
        if not any(run.has_gradient for run in runs):
            raise RuntimeError(
                "microbatch: the embeddings must get a gradient, and got none; the loss must depend on them, "
                "and `backward` must go back from what it is given: value.backward()"
            )
        with as_now(), ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.buffers_as_now())
            for run in reversed(runs):
                run.second(check)
    finally:
        release(senders)
    return value.detach()


def _runs(encoders: Encoder | Sequence[Encoder], batches: Any, size: int, sync: bool) -> list[Passes]:
    given = list(batches) if isinstance(batches, list | tuple) else [batches]
    if not given:
        raise ValueError("microbatch: batches must hold at least one batch, got none")
    if isinstance(encoders, list | tuple | nn.ModuleList):
        each: list[Any] = list(encoders)
    else:
        each = [encoders] * len(given)
    if len(each) != len(given):
        raise ValueError(
            f"microbatch: there must be one encoder for each batch, or one for all, got {len(each)} encoders "
            f"and {len(given)} batches; one batch of several arguments is a tuple in a list: [(x, mask)]"
        )
    for encoder in each:
        if not callable(encoder):
            kind = type(encoder).__name__
            raise TypeError(f"microbatch: encoders must be modules or functions, got {kind}; define its call")
    sends = sending(each) if sync else [[] for _ in each]
    return [
        Passes(encoder, Batch(f"batches[{place}]", batch), size, modules)
        for place, (encoder, batch, modules) in enumerate(zip(each, given, sends, strict=True))
    ]


def _check_loss(value: Any) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"microbatch: the loss must be a tensor of one number, got {got}; reduce it by mean or sum"
        )
    if not value.requires_grad:
        raise RuntimeError(
            "microbatch: the loss must have a gradient, got one without; look for no_grad or detach in it"
        )
