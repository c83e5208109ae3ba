"""Peak memory of one process of several: NT-Xent, forward and backward, in bytes of tensors that are alive.

Resident memory would be the truth, but it differs by megabytes from run to run.

Usage: python distributed_memory.py RANK PROCESSES FOLDER EMBEDDINGS
"""

import sys
from pathlib import Path

import torch
import torch.distributed
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from cosnorm.losses import nt_xent_loss


class Living(TorchDispatchMode):
    """The most bytes that the tensors made under it held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.storages = {key: pair for key, pair in self.storages.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return result


def main(rank: int, processes: int, folder: Path, embeddings: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    group = torch.distributed.group.WORLD if processes > 1 else None
    generator = torch.Generator().manual_seed(rank)
    views = torch.randn(2, embeddings // 2 // processes, 128, generator=generator).requires_grad_()
    with Living() as living:
        nt_xent_loss(views[0], views[1], group=group).backward()
    torch.save(living.peak, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
