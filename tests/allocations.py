"""The memory that tensors take, below the wall too, where modes of the dispatcher do not look."""

import torch


class Allocations:
    """Allocations of tensors on the CPU while it is entered.

    Attributes:
        largest: bytes of the largest.
        peak: the most bytes that were alive at one time, beyond those before.
    """

    def __init__(self) -> None:
        self.largest = self.peak = 0
        self._profile = torch.autograd.profiler.profile(profile_memory=True, use_cpu=True)

    def __enter__(self) -> "Allocations":
        self._profile.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._profile.__exit__(*error)
        alive = 0
        events = [one for one in self._profile.kineto_results.events() if one.name() == "[memory]"]
        for event in sorted(events, key=lambda one: one.start_ns()):
            alive += event.nbytes()
            self.largest, self.peak = max(self.largest, event.nbytes()), max(self.peak, alive)
