"""Peak memory of one process of several: NT-Xent, forward and backward, in bytes of tensors that are alive.

Resident memory would be the truth, but it differs by megabytes from run to run.

Usage: python distributed_memory.py RANK PROCESSES FOLDER EMBEDDINGS [gather | ring]
"""

import sys
from pathlib import Path

import torch
import torch.distributed
from allocations import Allocations

from cosnorm.losses import nt_xent_loss


def main(rank: int, processes: int, folder: Path, embeddings: int, exchange: str = "gather") -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    group = torch.distributed.group.WORLD if processes > 1 else None
    generator = torch.Generator().manual_seed(rank)
    views = torch.randn(2, embeddings // 2 // processes, 128, generator=generator).requires_grad_()
    with Allocations() as made:
        nt_xent_loss(views[0], views[1], group=group, exchange=exchange).backward()
    torch.save(made.peak, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
