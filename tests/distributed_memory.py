"""Peak memory of one process of several: NT-Xent, forward and backward, beyond what the process held before.

Usage: python distributed_memory.py RANK PROCESSES FOLDER EMBEDDINGS
"""

import sys
from pathlib import Path

import torch
import torch.distributed

from cosnorm.losses import nt_xent_loss


def resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


def main(rank: int, processes: int, folder: Path, embeddings: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    group = torch.distributed.group.WORLD if processes > 1 else None
    generator = torch.Generator().manual_seed(rank)

    def step(count: int) -> int:
        views = torch.randn(2, count // 2 // processes, 128, generator=generator).requires_grad_()
        before = resident("VmRSS")
        nt_xent_loss(views[0], views[1], group=group).backward()
        return resident("VmHWM") - before

    step(256 * processes)  # libraries, threads and connections are there before the measurement
    torch.save(step(embeddings), folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
