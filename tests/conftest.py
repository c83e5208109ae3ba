"""What every test runs under: one seed, and uninitialized memory that is NaN: nothing works by luck."""

import os
import sys
from collections.abc import Callable, Iterator

import pytest

# Two processes of two threads on two cores: threads that spin at a barrier wait for one that does not run.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch.utils import deterministic

from cosnorm.backends import choose

# Triton's kernels run in its interpreter; where a GPU is asked for (make test-gpu), tensors are made there.
DEVICE = os.environ.get("COSNORM_TEST_DEVICE", "cpu")
os.environ.setdefault("TRITON_INTERPRET", "1" if DEVICE == "cpu" else "0")
if DEVICE != "cpu":
    torch.set_default_device(DEVICE)

# Scripts that make golden files want packages that the tests do not.
collect_ignore_glob = ["*_oracle/*"]


@pytest.fixture(autouse=True, scope="session")
def uninitialized_memory_is_nan() -> Iterator[None]:
    # torch fills torch.empty with NaN under deterministic algorithms; warn_only lets all others run.
    torch.use_deterministic_algorithms(True, warn_only=True)
    filled = deterministic.fill_uninitialized_memory
    deterministic.fill_uninitialized_memory = True
    yield
    deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def same_numbers_each_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets COSNORM_IMPL as if the program had begun with it."""

    def set_to(name: str) -> None:
        monkeypatch.setenv("COSNORM_IMPL", name)
        choose._order.cache_clear()

    yield set_to
    choose._order.cache_clear()


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]) -> None:
    """Tensors of a CPU take the way of those on an accelerator, in torch's own operators."""
    force("torch")
    for name, module in list(sys.modules.items()):
        if name.startswith("cosnorm.") and hasattr(module, "is_accelerator"):
            monkeypatch.setattr(module, "is_accelerator", lambda device: True)


@pytest.fixture(autouse=True)
def without_the_passes_in_c(request: pytest.FixtureRequest) -> None:
    """Operations of the name "…-operators" run, backward too, as where the library was not compiled."""
    call = getattr(request.node, "callspec", None)
    operation = call.params.get("operation") if call else None
    if getattr(operation, "name", "").endswith("-operators"):
        request.getfixturevalue("force")("look")
