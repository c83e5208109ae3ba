"""Freed memory stays in the process: seen by page faults, in a process of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from cosnorm_lab.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(20):  # the heap finds its form within some rounds
    faults()
print(sum(faults() for _ in range(4)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_the_second_tensor_takes_the_pages_of_the_first():
    found = {}
    for word in ("keep", "give back"):
        call = [sys.executable, "-c", PROGRAM, word]
        found[word] = int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    assert found["keep"] < 0.1 * found["give back"]
