"""Freed memory is kept for the next step, as accelerators' allocators do."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names of the C library's malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory in the process; elsewhere it does nothing and returns False.

    By default each tensor above 32 MiB is given back to the system when it is freed, and each step pays for
    the same pages again: for a gradient of 86 MB more than for the arithmetic
    (docs/log/2026-11-21-freed-memory.md). Call it before tensors are made; within some steps the heap has
    the pages that the rest will need.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)])
