"""Triton versions of the cores: raw tensors in and out, no autograd; imported only when used.

Each has its readable form in `cosnorm.functional`, which the tests compare it with. Without a GPU they run in
Triton's interpreter (set TRITON_INTERPRET=1 before triton is imported), slowly and exactly.
"""
