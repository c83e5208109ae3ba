"""What a device wants: the one place, beside the chooser of backends, that tells an accelerator from a CPU.

An accelerator pays for each launch, and most for each look at its numbers; a CPU for what leaves its caches.
"""

import torch

# Numbers of float32 that a launch on an accelerator may make for the time of a call: 256 MB.
AT_ONCE = 2**26


def is_accelerator(device: torch.device) -> bool:
    """Whether launches are what it costs there, and numbers are not to be looked at; meta stands for one."""
    return device.type != "cpu"


def at_once(device: torch.device, on_cpu: int) -> int:
    """How many numbers are worked on at a time; on a CPU what fits its caches, or what is given."""
    return AT_ONCE if is_accelerator(device) else on_cpu
